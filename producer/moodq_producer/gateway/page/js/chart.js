/** Charts: shares of labels as bars, and a line of the last minutes. Every figure is also there as text. */

import { h, svg } from "./dom.js";
import { number, percent, t } from "./i18n.js";
import { labelName, labelsOf, labelTone, taskName } from "./labels.js";
import { taskOf } from "./tasks.js";

/**
 * The shares of a task's labels. `counts` by label; `whole`: what 100 % is, when labels do not exclude one
 * another (else their sum). With `pick`, labels are buttons; `picked` is the chosen one.
 */
export function shares(task, counts, { whole, pick, picked } = {}) {
  const order = labelsOf(taskOf(task));
  const found = Object.entries(counts).filter(([, n]) => n > 0).sort((one, other) => other[1] - one[1]);
  const sum = whole ?? found.reduce((all, [, n]) => all + n, 0);
  const name = taskName(taskOf(task));
  const tone = (label) => labelTone(label, order.indexOf(label));
  const parts = [];
  if (!whole && found.length) {
    const spoken = found.map(([label, n]) => t("chart.part", { label: labelName(label), percent: percent(n / sum) })).join(t("list.comma"));
    parts.push(stacked(found, sum, tone, t("chart.spoken", { task: name, parts: spoken })));
  }
  const rows = found.map(([label, n]) => {
    const share = n / sum;
    const inside = [
      h("span", { class: "share-swatch", "aria-hidden": "true" }),
      h("span", { class: "share-name" }, labelName(label)),
      h("span", { class: "share-count" }, number(n)),
      h("span", { class: "share-percent" }, percent(share)),
    ];
    const row = { data: { tone: tone(label), label }, style: { "--share": share } };
    if (!pick) return h("li", { ...row, class: "share" }, inside);
    const spoken = t("chart.filter", { label: labelName(label), n: number(n), percent: percent(share) });
    return h("li", {}, h("button", {
      ...row, type: "button", class: "share", "aria-pressed": String(picked === label), "aria-label": spoken,
      on: { click: () => pick(picked === label ? null : label) },
    }, inside));
  });
  const list = rows.length ? h("ul", { class: "share-list" }, rows) : h("p", { class: "quiet" }, t("chart.empty"));
  return h("figure", { class: "shares", data: { task } }, h("figcaption", {}, name), ...parts, list);
}

function stacked(found, sum, tone, label) {
  let left = 0;
  const bars = found.map(([name, n]) => {
    const width = (100 * n) / sum;
    const bar = svg("rect", { x: left, y: 0, width: Math.max(0, width - 0.35), height: 10, "data-tone": tone(name) });
    left += width;
    return bar;
  });
  return svg("svg", { class: "stacked", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label }, ...bars);
}

/** A line of `values` (null where there is none), oldest first, of `capacity` at most; `label` tells it in words. */
export function sparkline(values, capacity, label) {
  const top = Math.max(1e-9, ...values.filter((value) => value !== null));
  const x = (n) => (100 * (capacity - values.length + n)) / (capacity - 1);
  const y = (value) => 27 - (24 * value) / top;
  const points = values.map((value, n) => (value === null ? null : `${x(n).toFixed(2)},${y(value).toFixed(2)}`)).filter(Boolean);
  const first = x(values.findIndex((value) => value !== null));
  const chart = { class: "spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", role: "img", "aria-label": label };
  if (points.length < 2) return svg("svg", chart);
  return svg("svg", chart,
    svg("polygon", { points: `${first.toFixed(2)},28 ${points.join(" ")} 100,28` }),
    svg("polyline", { points: points.join(" ") }));
}
