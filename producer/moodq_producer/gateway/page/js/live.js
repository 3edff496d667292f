/** The third view: queues, workers, speed and what the labels are, as they are now. */

import { shares, sparkline } from "./chart.js";
import { $, h } from "./dom.js";
import { duration, number, say, t } from "./i18n.js";
import { health, listen } from "./status.js";

/** Readings kept for the lines: two minutes of one every two seconds. */
const KEPT = 60;
const MINUTES = 2;

const history = { rate: [], waiting: [] };

export function startLive() {
  listen(() => {
    if (document.body.dataset.view !== "live") {
      // Readings are rarer elsewhere; a line of both would lie about time.
      for (const values of Object.values(history)) values.length = 0;
      return;
    }
    remember(health.state === "lost" || !health.status ? null : health.status);
    draw();
  });
  for (const event of ["moodq:language", "moodq:tasks"]) document.addEventListener(event, draw);
  draw();
}

function remember(status) {
  const add = (values, value) => {
    values.push(value);
    if (values.length > KEPT) values.shift();
  };
  add(history.rate, status?.items_per_s ?? null);
  add(history.waiting, status ? waiting(status) : null);
}

const waiting = (status) => status.queues.reduce((sum, queue) => sum + queue.length, 0);

function draw() {
  const { status } = health;
  const model = status?.model?.id ?? status?.model;
  say($("live-text"), model ? "live.model" : "live.every", { model });
  document.body.dataset.stale = String(health.state === "lost" || health.state === "trouble");
  drawFigures(status);
  drawQueues(status?.queues ?? []);
  const mixes = Object.entries(status?.labels ?? {}).filter(([, counts]) => Object.values(counts).some(Boolean));
  $("live-mix").replaceChildren(...(mixes.length ? mixes.map(([task, counts]) => shares(task, counts)) : [h("p", { class: "quiet" }, t("chart.empty"))]));
}

function drawFigures(status) {
  const ages = (status?.queues ?? []).map((queue) => queue.oldest_age_s).filter((age) => age !== null && age !== undefined);
  const none = t("live.nothing");
  const figures = [
    figure("live.workers", status ? number(status.workers) : none, { tone: status?.workers === 0 ? "bad" : undefined }),
    figure("live.waiting", status ? number(waiting(status)) : none, { spark: history.waiting }),
    figure("live.rate", Number.isFinite(status?.items_per_s) ? number(status.items_per_s, status.items_per_s < 100 ? 1 : 0) : none, { spark: history.rate }),
    figure("live.oldest", ages.length ? duration(1_000 * Math.max(...ages)) : none),
  ];
  const latency = status?.queues[0]?.latency_s; // the queue of those who wait
  const note = latency ? t("live.p95", { value: duration(1_000 * latency.p95) }) : undefined;
  figures.push(figure("live.latency", latency ? duration(1_000 * latency.p50) : none, { note }));
  $("live-figures").replaceChildren(...figures);
}

function figure(key, value, { spark, note, tone } = {}) {
  const parts = [h("p", { class: "figure-name" }, t(key)), h("p", { class: "figure-value", data: tone ? { tone } : {} }, value)];
  if (note) parts.push(h("p", { class: "figure-note" }, note));
  if (spark?.some((one) => one !== null)) {
    const top = number(Math.max(...spark.map((one) => one ?? 0)), 1);
    parts.push(sparkline(spark, KEPT, t("live.spark", { minutes: MINUTES, top })));
  }
  return h("div", { class: "card figure" }, parts);
}

function drawQueues(queues) {
  const longest = Math.max(1, ...queues.map((queue) => queue.length));
  const rows = queues.map((queue) => {
    const key = `queue.${queue.name}`;
    const name = t(key) === key ? queue.name : t(key);
    const told = [];
    if (queue.oldest_age_s) told.push(t("live.oldest_age", { age: duration(1_000 * queue.oldest_age_s) }));
    if (queue.latency_s) told.push(t("live.of_minute", { p50: duration(1_000 * queue.latency_s.p50), p95: duration(1_000 * queue.latency_s.p95) }));
    return h("li", { class: "queue", style: { "--share": queue.length / longest } },
      h("span", { class: "queue-name" }, name),
      h("span", { class: "queue-bar", "aria-hidden": "true" }),
      h("span", { class: "queue-length" }, queue.length ? number(queue.length) : t("live.empty")),
      h("span", { class: "queue-age quiet" }, told.join(" · ")));
  });
  $("live-queues").replaceChildren(rows.length ? h("ul", { class: "queues" }, rows) : h("p", { class: "quiet" }, t("live.no_queue")));
}
