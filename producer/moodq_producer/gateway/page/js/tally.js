/** What came out of many lines: counts for the charts, and files to keep. */

import { brief, kindOf } from "./answers.js";

/** The labels an answer counts for. */
export function labelsIn(answer) {
  switch (kindOf(answer)) {
    case "label":
      return [answer.label];
    case "labels":
      return answer.labels;
    case "score": // the most probable of its values
      return Object.entries(answer.scores).sort((one, other) => other[1] - one[1]).slice(0, 1).map(([label]) => label);
    default:
      return [];
  }
}

/** By task, its count by label. */
export function tally(results) {
  const counts = {};
  for (const result of results) {
    if (result?.status !== "done") continue;
    for (const [task, answer] of Object.entries(result.results)) {
      for (const label of labelsIn(answer)) {
        counts[task] ??= {};
        counts[task][label] = (counts[task][label] ?? 0) + 1;
      }
    }
  }
  return counts;
}

/** The lines as CSV for a spreadsheet: the columns that came, then two for every task, then the error. */
export function toCsv({ texts, results }, columns, tasks) {
  const added = tasks.flatMap((task) => [task, `${task}_probability`]);
  const lines = [["line", ...columns, ...added, "error"]];
  for (const [n, { line, row }] of texts.entries()) {
    const answers = tasks.flatMap((task) => written(results[n]?.results?.[task]));
    lines.push([line, ...columns.map((column) => row[column] ?? ""), ...answers, results[n]?.error?.code ?? ""]);
  }
  return `\uFEFF${lines.map((line) => line.map(csvField).join(",")).join("\r\n")}\r\n`; // the mark tells Excel: UTF-8
}

function written(answer) {
  switch (kindOf(answer)) {
    case "label":
      return [answer.label, answer.probability ?? ""];
    case "labels":
      return [answer.labels.join(" "), ""];
    case "score":
      return [answer.score, ""];
    default:
      return [answer ? brief(answer) : "", ""];
  }
}

function csvField(value) {
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  // A spreadsheet would run a text that begins like a formula.
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** One JSON object a line: the row as it came, and what was answered. */
export function toJsonLines({ texts, results }) {
  const lines = texts.map(({ line, row }, n) => {
    const { status = "unanswered", results: answers = {}, error } = results[n] ?? {};
    return JSON.stringify({ line, row, status, results: answers, error });
  });
  return `${lines.join("\n")}\n`;
}
