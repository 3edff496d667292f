/** The second view: many lines in, a table, charts and files out. */

import { ApiError } from "./api.js";
import { Batch } from "./batch.js";
import { shares } from "./chart.js";
import { $, h, save } from "./dom.js";
import { sentence } from "./errors.js";
import { duration, language, number, say, t } from "./i18n.js";
import { labelName, taskName } from "./labels.js";
import { MAX_TEXTS, Unreadable, readFile, readTexts, textsOf } from "./reading.js";
import { health, listen } from "./status.js";
import { ResultTable } from "./table.js";
import { labelsIn, tally, toCsv, toJsonLines } from "./tally.js";
import { TaskPicker, taskOf } from "./tasks.js";

const DRAW_MS = 250;

const SAMPLE = {
  zh: ["味道很好，下次还来！", "等了一个小时，菜还是凉的。", "包装很用心，物流也快。", "客服态度太差，问三次都不回。", "价格实惠，分量足。",
    "质量和图片不一样，很失望。", "孩子特别喜欢，谢谢店家。", "订单又取消了，也没有任何解释。", "第二次买了，一如既往地好。", "用了两天就坏了，差评。"],
  en: ["Great flight, friendly crew, thank you!", "You lost my bag and nobody answers the phone.", "Delivery was quick and the box was neat.",
    "Charged twice and still no refund.", "The new headphones sound amazing.", "Stopped working after two days.",
    "Finally got through, and the agent was wonderful.", "Delayed three hours again with no explanation.", "Good value, I would buy it again.",
    "The colour is nothing like the picture, very disappointed."],
};

let picker;
let read = null; // what came from a file; pasted lines are read when needed
let batch = null;
let table = null;
let picked = null; // {task, label}, {failed: true}, or null for all
let drawTimer;

export function startLines() {
  picker = new TaskPicker($("lines-tasks"), { name: "lines", chosen: ["sentiment"], offers: (task) => task.kind !== "rerank" });
  $("pasted").addEventListener("input", () => take(null));
  $("lines-sample").addEventListener("click", () => {
    $("pasted").value = SAMPLE[language()].join("\n");
    take(null);
  });
  $("lines-clear").addEventListener("click", () => {
    $("pasted").value = "";
    take(null);
    $("pasted").focus();
  });
  $("file").addEventListener("change", () => open($("file").files[0]));
  $("column").addEventListener("change", () => {
    read.column = $("column").value;
    tellRead();
  });
  startDrop($("drop"));
  $("lines-form").addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  $("lines-stop").addEventListener("click", () => batch?.stop());
  $("filter").addEventListener("change", () => pick(JSON.parse($("filter").value)));
  $("download-csv").addEventListener("click", () => save("moodq.csv", "text/csv;charset=utf-8", [toCsv(batch, batch.columns, batch.fields.tasks)]));
  $("download-jsonl").addEventListener("click", () => save("moodq.jsonl", "application/x-ndjson", [toJsonLines(batch)]));
  document.addEventListener("moodq:language", () => {
    tellRead();
    if (batch) draw();
  });
  listen(() => batch && !batch.ended && draw());
}

function startDrop(place) {
  const mark = (over) => place.classList.toggle("over", over);
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  place.addEventListener("dragleave", () => mark(false));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    const file = event.dataTransfer.files[0];
    if (file) open(file);
    else {
      $("pasted").value = event.dataTransfer.getData("text");
      take(null);
    }
  });
}

async function open(file) {
  if (!file) return;
  try {
    const found = readTexts(await readFile(file), file.name);
    if (!textsOf(found).length) throw new Unreadable("lines.no_text");
    take({ ...found, name: file.name });
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    take(null);
    say($("lines-error"), ...error.sentence);
  } finally {
    $("file").value = ""; // the same file can be chosen again
  }
}

/** From now on `found` (of a file) is what will be sent, or with null what is pasted. */
function take(found) {
  read = found;
  if (found) $("pasted").value = textsOf(found).slice(0, 200).map(({ text }) => text.replaceAll("\n", " ")).join("\n");
  $("pasted").readOnly = Boolean(found);
  $("column-place").hidden = !found || found.columns.length < 2;
  if (found) $("column").replaceChildren(...found.columns.map((name) => h("option", { value: name, selected: name === found.column }, name)));
  say($("lines-error"), "nothing");
  tellRead();
}

function tellRead() {
  const empty = !read && !$("pasted").value.trim();
  $("lines-clear").hidden = empty;
  if (empty) return say($("lines-read"), "nothing");
  let texts;
  try {
    texts = textsOf(read ?? readTexts($("pasted").value));
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    return say($("lines-read"), ...error.sentence);
  }
  if (read) $("pasted").value = texts.slice(0, 200).map(({ text }) => text.replaceAll("\n", " ")).join("\n");
  return say($("lines-read"), read ? "lines.read_file" : "lines.read", { n: () => number(texts.length), name: read?.name });
}

function refuse(key, params) {
  say($("lines-error"), key, params);
}

async function start() {
  say($("lines-error"), "nothing");
  let source;
  try {
    source = read ?? readTexts($("pasted").value);
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    return refuse(...error.sentence);
  }
  const texts = textsOf(source);
  if (!texts.length) return refuse("lines.none");
  if (texts.length > MAX_TEXTS) return refuse("lines.too_many", { n: () => number(texts.length), limit: () => number(MAX_TEXTS) });
  const fields = picker.fields;
  if (fields.error) return refuse(...fields.error);
  batch = new Batch(texts, fields, drawSoon);
  batch.columns = source.columns;
  picked = null;
  table = new ResultTable($("table"), $("pages"), batch, fields.tasks);
  $("lines-run").hidden = false;
  draw();
  $("lines-run").scrollIntoView({ block: "start", behavior: "auto" });
  try {
    await batch.go();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    refuse(...sentence(error));
  }
  return draw();
}

function pick(what) {
  picked = what;
  table.show(keeps(what));
  drawCharts();
  drawFilter();
}

function keeps(what) {
  if (!what) return () => true;
  if (what.failed) return (result) => result !== null && result.status !== "done";
  return (result) => result?.status === "done" && labelsIn(result.results[what.task]).includes(what.label);
}

function drawSoon() {
  drawTimer ??= setTimeout(draw, DRAW_MS);
}

function draw() {
  clearTimeout(drawTimer);
  drawTimer = undefined;
  const running = !batch.ended;
  $("lines-start").hidden = running;
  $("lines-stop").hidden = !running;
  $("progress").max = batch.texts.length;
  $("progress").value = batch.done;
  drawProgress(running);
  drawCharts();
  drawFilter();
  table.draw();
}

function drawProgress(running) {
  const said = { done: () => number(batch.done), all: () => number(batch.texts.length), failed: () => number(batch.failed) };
  const key = running ? "lines.running" : batch.stopped ? "lines.stopped" : batch.failed ? "lines.ended_failed" : "lines.ended";
  say($("progress-text"), key, said);
  const rate = batch.rate;
  const left = (1_000 * (batch.texts.length - batch.done)) / Math.max(rate, 0.001);
  if (!batch.done) say($("progress-rate"), "nothing");
  else say($("progress-rate"), running ? "lines.left" : "lines.rate", { rate: () => number(rate, rate < 10 ? 1 : 0), left: () => duration(left) });
  const notice = troubleKey(running);
  $("progress-notice").hidden = !notice;
  if (notice) say($("progress-notice"), notice);
}

function troubleKey(running) {
  if (!running) return null;
  if (batch.trouble?.status === 0 || health.state === "lost") return "lines.waits_lost";
  if (batch.trouble?.code === "rate_limited") return "lines.waits_rate";
  if (batch.trouble) return "lines.waits_full";
  return health.state === "no_worker" && batch.pending.size ? "lines.waits_worker" : null;
}

function drawCharts() {
  const counts = tally(batch.results);
  const focused = document.activeElement?.closest?.("#charts .share");
  const at = focused && { task: focused.closest("figure").dataset.task, label: focused.dataset.label };
  const judged = batch.fields.tasks.filter((task) => counts[task]);
  $("charts").replaceChildren(...judged.map((task) => h("div", { class: "card" }, shares(task, counts[task], {
    whole: taskOf(task).kind === "multilabel" ? batch.done - batch.failed : undefined,
    picked: picked?.task === task ? picked.label : undefined,
    pick: (label) => pick(label === null ? null : { task, label }),
  }))));
  if (at) $("charts").querySelector(`[data-task="${CSS.escape(at.task)}"] [data-label="${CSS.escape(at.label)}"]`)?.focus();
}

function drawFilter() {
  const options = [[null, t("table.all", { n: number(batch.texts.length) })]];
  for (const [task, counts] of Object.entries(tally(batch.results))) {
    for (const [label, n] of Object.entries(counts)) {
      options.push([{ task, label }, t("table.label", { task: taskName(taskOf(task)), label: labelName(label), n: number(n) })]);
    }
  }
  if (batch.failed) options.push([{ failed: true }, t("table.failed", { n: number(batch.failed) })]);
  if ($("filter") === document.activeElement && !batch.ended) return; // an open list stays as it is
  $("filter").replaceChildren(...options.map(([what, name]) =>
    h("option", { value: JSON.stringify(what), selected: JSON.stringify(what) === JSON.stringify(picked) }, name)));
}
