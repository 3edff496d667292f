/** The table of many lines: one page at a time, filtered and sorted, however many there are. */

import { brief, kindOf, toneOf } from "./answers.js";
import { h } from "./dom.js";
import { sentence } from "./errors.js";
import { number, say, t } from "./i18n.js";
import { taskName } from "./labels.js";
import { taskOf } from "./tasks.js";

const PAGE = 50;

export class ResultTable {
  /** `batch` is a `Batch`; `keeps(result)` tells the rows to show. */
  constructor(place, pages, batch, tasks) {
    Object.assign(this, { place, pages, batch, tasks });
    this.keeps = () => true;
    this.page = 0;
    this.sort = { by: "line", down: false };
  }

  show(keeps) {
    this.keeps = keeps;
    this.page = 0;
    this.draw();
  }

  draw() {
    const found = this.found();
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    this.page = Math.min(this.page, last);
    const from = this.page * PAGE;
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset.sort : null;
    const rows = found.slice(from, from + PAGE).map((n) => this.row(n));
    const table = h("table", {}, h("thead", {}, this.head()), h("tbody", {}, rows));
    this.place.replaceChildren(table, rows.length ? "" : h("p", { class: "quiet table-empty" }, t("table.empty")));
    if (focused) this.place.querySelector(`[data-sort="${CSS.escape(focused)}"]`)?.focus();
    this.drawPages(from, found.length, last);
  }

  found() {
    const all = this.batch.texts.map((_, n) => n).filter((n) => this.keeps(this.batch.results[n]));
    const { by, down } = this.sort;
    const sign = down ? -1 : 1;
    if (by === "line") return down ? all.reverse() : all;
    const value = (n) => {
      const answer = this.batch.results[n]?.results?.[by];
      return [answer ? 0 : 1, rank(answer), answer?.probability ?? 0, n];
    };
    const values = new Map(all.map((n) => [n, value(n)]));
    return all.sort((one, other) => {
      const [a, b] = [values.get(one), values.get(other)];
      if (a[0] !== b[0]) return a[0] - b[0]; // what has no answer stays at the end
      const place = typeof a[1] === "number" ? a[1] - b[1] : String(a[1]).localeCompare(String(b[1]));
      return sign * (place || a[2] - b[2]) || a[3] - b[3];
    });
  }

  head() {
    const columns = [["line", t("table.line")], ["text", t("table.text")], ...this.tasks.map((task) => [task, taskName(taskOf(task))])];
    return h("tr", {}, columns.map(([by, name]) => {
      if (by === "text") return h("th", { scope: "col" }, name);
      const sorted = this.sort.by === by ? (this.sort.down ? "descending" : "ascending") : "none";
      const turn = () => {
        this.sort = { by, down: this.sort.by === by && !this.sort.down };
        this.draw();
      };
      return h("th", { scope: "col", "aria-sort": sorted }, h("button", {
        type: "button", title: t("table.sort", { column: name }), data: { sort: by }, on: { click: turn },
      }, name, h("span", { class: "sort-mark", "aria-hidden": "true" })));
    }));
  }

  row(n) {
    const { line, text } = this.batch.texts[n];
    const result = this.batch.results[n];
    const cells = this.tasks.map((task, at) => h("td", { class: "answer-cell" }, this.cell(task, at, result)));
    return h("tr", {}, h("td", { class: "line-cell" }, number(line)), h("td", { class: "text-cell" }, h("span", { title: text }, text)), cells);
  }

  cell(task, at, result) {
    if (!result) return h("span", { class: "quiet" }, this.batch.stopped ? t("live.nothing") : t("table.waiting"));
    if (result.status !== "done") return at ? "" : say(h("span", { class: "tag", data: { tone: "bad" } }), ...sentence(result.error));
    const answer = result.results[task];
    if (!answer) return t("live.nothing");
    const prose = ["text", "data"].includes(kindOf(answer));
    return h("span", { class: prose ? "prose-cell" : "tag", data: prose ? {} : { tone: toneOf(task, answer) }, title: prose ? brief(answer) : undefined }, brief(answer));
  }

  drawPages(from, all, last) {
    const go = (page) => () => {
      this.page = page;
      this.draw();
    };
    const button = (key, page) => say(h("button", {
      type: "button", class: "button", disabled: page < 0 || page > last, data: { go: key }, on: { click: go(page) },
    }), key);
    const focused = this.pages.contains(document.activeElement) ? document.activeElement.dataset.go : null;
    const shown = { from: number(all ? from + 1 : 0), to: number(Math.min(all, from + PAGE)), all: number(all) };
    this.pages.replaceChildren(h("span", { class: "quiet" }, t("table.pages", shown)), button("table.previous", this.page - 1), button("table.next", this.page + 1));
    if (focused) this.pages.querySelector(`[data-go="${focused}"]`)?.focus();
    this.pages.hidden = !last && this.page === 0 && all <= PAGE && all > 0 && last === 0;
  }
}

function rank(answer) {
  const kind = kindOf(answer);
  return kind === "score" ? answer.score : kind === "label" ? answer.label : brief(answer ?? {});
}
