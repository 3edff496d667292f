/** What a task answered, as elements: one form per kind, as in the protocol's "Results by kind". */

import { h } from "./dom.js";
import { percent, number, t } from "./i18n.js";
import { labelFace, labelName, labelsOf, labelTone, taskName } from "./labels.js";
import { taskOf } from "./tasks.js";

/** The kind of an answer by its fields: `label`, `labels`, `score`, `text`, `data` or `other`. */
export function kindOf(answer) {
  for (const kind of ["label", "labels", "score", "text", "data"]) if (answer?.[kind] !== undefined) return kind;
  return "other";
}

export const isJudged = (answer) => ["label", "labels", "score"].includes(kindOf(answer));

/** The answer in a few words: "负面 97%", "物流, 价格", "0.82". */
export function brief(answer) {
  switch (kindOf(answer)) {
    case "label": {
      const { label, probability } = answer;
      return Number.isFinite(probability) ? `${labelName(label)} ${percent(probability)}` : labelName(label);
    }
    case "labels":
      return answer.labels.map(labelName).join(t("list.comma")) || t("verdict.none");
    case "score":
      return number(answer.score, 2);
    case "text":
      return answer.text;
    case "data":
      return JSON.stringify(answer.data);
    default:
      return JSON.stringify(answer);
  }
}

export const face = (answer) => {
  if (kindOf(answer) === "label") return labelFace(answer.label);
  return kindOf(answer) === "score" ? "📊" : "🏷️";
};

export function toneOf(task, answer) {
  return kindOf(answer) === "label" ? labelTone(answer.label, labelsOf(taskOf(task)).indexOf(answer.label)) : "blue";
}

/** 😟 LLM 情感判断: 负面 97% */
export function verdictText(task, answer) {
  const said = { answer: brief(answer), task: taskName(taskOf(task)) };
  return `${face(answer)} ${t(task === "sentiment" ? "verdict.sentiment" : "verdict.other", said)}`;
}

/** The verdict with the probability of every label below it. */
export function verdict(task, answer) {
  const [emoji, ...words] = verdictText(task, answer).split(" ");
  const line = h("p", { class: "verdict-line" }, h("span", { class: "face" }, emoji), " ", h("span", {}, words.join(" ")));
  return h("div", { class: "verdict", data: { tone: toneOf(task, answer), task } }, line, scores(task, answer));
}

function scores(task, answer) {
  const found = Object.entries(answer.scores ?? {});
  if (found.length < 2) return null;
  const order = labelsOf(taskOf(task));
  const alone = kindOf(answer) === "labels";
  const rows = found
    .sort((one, other) => other[1] - one[1])
    .slice(0, 8)
    .map(([label, share]) => h("li", { data: { tone: labelTone(label, order.indexOf(label)) }, style: { "--share": share } },
      h("span", { class: "score-name" }, labelName(label)),
      h("span", { class: "score-bar", "aria-hidden": "true" }),
      h("span", { class: "score-value" }, percent(share))));
  return h("ul", { class: alone ? "scores scores-alone" : "scores", "aria-label": t("verdict.scores") }, rows);
}

/** What was written: prose, or the fields of JSON. */
export function writing(task, answer) {
  if (kindOf(answer) !== "data") return h("p", { class: "prose" }, brief(answer));
  const rows = Object.entries(answer.data ?? {}).map(([name, value]) => [h("dt", {}, name), h("dd", {}, plain(value))]);
  return rows.length ? h("dl", { class: "data" }, rows.flat()) : h("p", { class: "prose" }, brief(answer));
}

function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(t("list.comma"));
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}
