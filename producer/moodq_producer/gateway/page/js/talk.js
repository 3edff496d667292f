/** The first view: a message, its verdict at once, and the reply word by word. */

import { ApiError, call, follow } from "./api.js";
import { conversationId, handedOver, isOld, newConversation, readConversation, tell } from "./conversation.js";
import { $, h } from "./dom.js";
import { sentence } from "./errors.js";
import { language, say, t } from "./i18n.js";
import { health, listen, readNow } from "./status.js";
import { TaskPicker } from "./tasks.js";
import { Turn, pastTurn } from "./turn.js";

const EXAMPLES = {
  zh: ["今天的实验终于成功了，太棒了！", "这个订单又延迟了，我真的很生气", "请问怎么修改收货地址？"],
  en: ["The experiment finally worked today, this is great!", "My order is late again and I am really angry.", "How do I change my delivery address?"],
};

/** How often a person's answers are looked for while one has the conversation. */
const PERSON_MS = 3_000;

/** How long without a verdict before it is worth saying that no worker is there. */
const PATIENCE_MS = 1_500;

const turns = [];
let picker;
let shownTurns = 0;
let personTimer;
let awaited = false; // a message went to a person, and none has taken over yet

export function startTalk() {
  picker = new TaskPicker($("talk-tasks"), {
    name: "talk",
    chosen: ["sentiment", "reply"],
    offers: (task) => task.kind !== "rerank",
  });
  const old = isOld();
  tell();
  drawExamples();
  document.addEventListener("moodq:language", () => {
    drawExamples();
    for (const turn of turns) turn.draw();
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  const message = $("message");
  message.addEventListener("input", grow);
  message.addEventListener("keydown", (event) => {
    // Enter of an input method chooses a candidate; it sends nothing.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    submit();
  });
  $("new-conversation").addEventListener("click", () => {
    for (const turn of turns.splice(0)) if (!turn.over) turn.on.stop();
    $("thread").replaceChildren();
    shownTurns = 0;
    awaited = false;
    clearTimeout(personTimer);
    newConversation();
    welcome();
    message.focus();
  });
  listen(() => {
    if (health.state === "no_worker" || health.state === "ready") for (const turn of turns) lookForWorker(turn);
  });
  if (old) restore();
}

function drawExamples() {
  const buttons = EXAMPLES[language()].map((text) => h("li", {}, h("button", {
    type: "button",
    class: "example",
    "aria-label": t("example.label", { text }),
    on: { click: () => submit(text) },
  }, text)));
  $("examples").replaceChildren(...buttons);
}

function welcome() {
  $("welcome").hidden = $("thread").childElementCount > 0;
}

function grow() {
  const message = $("message");
  message.style.height = "auto";
  message.style.height = `${Math.min(message.scrollHeight, 200)}px`;
  $("message-error").textContent = "";
  message.removeAttribute("aria-invalid");
}

function refuse(key, params) {
  say($("message-error"), key, params);
  $("message").setAttribute("aria-invalid", "true");
  $("message").focus();
}

function submit(given) {
  const message = $("message");
  const text = given ?? message.value;
  if (!text.trim()) return refuse("message.empty");
  const fields = picker.fields;
  if (fields.error) return refuse(...fields.error);
  if (given === undefined) message.value = "";
  grow();
  return exchange(text, fields);
}

function exchange(text, fields) {
  const stop = new AbortController();
  const turn = new Turn(text, {
    stop: () => cancel(turn, stop),
    again: () => {
      turns.splice(turns.indexOf(turn), 1);
      turn.element.remove();
      exchange(text, picker.fields.error ? fields : picker.fields);
    },
  });
  turns.push(turn);
  $("thread").append(turn.element);
  welcome();
  reveal();
  run(turn, fields, stop.signal).catch((error) => {
    if (stop.signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    if (error.code === "text_too_long") {
      // The text goes back to where it can be shortened.
      turns.splice(turns.indexOf(turn), 1);
      turn.element.remove();
      welcome();
      $("message").value = text;
      grow();
      refuse(...sentence(error));
      return;
    }
    turn.failed(error);
    if (error.code === "connection" || error.code === "key") readNow();
  });
}

async function run(turn, fields, signal) {
  const body = { text: turn.text, ...fields, conversation: conversationId() };
  const { id } = await call("POST", "v1/jobs", { body, signal });
  turn.id = id;
  setTimeout(() => lookForWorker(turn), PATIENCE_MS);
  const lost = () => {
    turn.turnTo("lost");
    readNow();
  };
  for await (const { event, data } of follow(id, { signal, onLost: lost, onBack: () => turn.turnTo(turn.usual) })) {
    const near = atEnd();
    if (event === "label") {
      turn.judged(data);
      $("spoken").textContent = turn.spoken(true);
    } else if (event === "token") {
      turn.wrote(data.task, data.text);
    } else if (event === "route") {
      routed();
    } else if (event === "done") {
      const judgedBefore = Object.keys(turn.answers).length > 0;
      turn.ended(data);
      $("spoken").textContent = [judgedBefore ? "" : turn.spoken(true), turn.spoken(false)].filter(Boolean).join(". ");
      await afterwards(data);
    }
    if (near) reveal();
  }
}

async function cancel(turn, stop) {
  stop.abort();
  turn.failed({ code: "cancelled" });
  if (turn.id) await call("DELETE", `v1/jobs/${encodeURIComponent(turn.id)}`).catch(() => {}); // it may have ended
}

function lookForWorker(turn) {
  if (turn.over || !turn.id) return;
  if (health.state === "no_worker" && turn.phase === "waiting" && performance.now() - turn.started > PATIENCE_MS) {
    turn.turnTo("no_worker");
  } else if (health.state === "ready" && turn.phase === "no_worker") {
    turn.turnTo(turn.usual);
  }
}

/** Keeps the end of the thread in view for somebody who reads there. */
function atEnd() {
  return window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 160;
}

function reveal() {
  window.scrollTo({ top: document.documentElement.scrollHeight });
}

/** A rule has sent a message of this conversation to a person, who may take over any time. */
function routed() {
  awaited = true;
  handedOver({});
}

async function afterwards(result) {
  if (result.route) routed();
  const conversation = await readConversation();
  if (!conversation) return;
  shownTurns = conversation.turns.length;
  tellPerson(conversation);
}

function tellPerson({ taken_over: taken }) {
  if (taken) handedOver(taken);
  else if (!awaited) handedOver(null);
  clearTimeout(personTimer);
  if (taken || awaited) personTimer = setTimeout(hearPerson, PERSON_MS);
}

/** Shows what a person writes in this conversation, while one has it or is waited for. */
async function hearPerson() {
  const conversation = await readConversation();
  if (!conversation) {
    personTimer = setTimeout(hearPerson, PERSON_MS);
    return;
  }
  if (conversation.taken_over) awaited = false;
  const near = atEnd();
  for (const said of conversation.turns.slice(shownTurns).filter(({ role }) => role === "person")) {
    $("thread").append(pastTurn(said));
    $("spoken").textContent = said.text;
  }
  shownTurns = conversation.turns.length;
  if (near) reveal();
  tellPerson(conversation);
}

/** What was said in this tab's conversation before the page was loaded again. */
async function restore() {
  const conversation = await readConversation();
  if (!conversation || turns.length) return;
  $("thread").append(...conversation.turns.map(pastTurn));
  shownTurns = conversation.turns.length;
  tellPerson(conversation);
  welcome();
}
