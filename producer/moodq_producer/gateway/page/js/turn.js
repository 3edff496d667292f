/** One exchange of the talk: what was said, the verdict on it, and the reply as it is written. */

import { isJudged, verdict, verdictText, writing } from "./answers.js";
import { h, svg } from "./dom.js";
import { sentence } from "./errors.js";
import { duration, say, t } from "./i18n.js";
import { taskName } from "./labels.js";
import { taskOf } from "./tasks.js";

/** The element of one exchange. `on`: `{stop, again}`, what its buttons do. */
export class Turn {
  constructor(text, on) {
    this.text = text;
    this.on = on;
    this.started = performance.now();
    this.answers = {};
    this.streams = new Map();
    this.phase = "waiting"; // waiting, writing, lost, no_worker, done, failed
    this.body = h("div", { class: "answer-body" });
    this.element = h("article", { class: "turn" },
      h("div", { class: "said" }, say(h("span", { class: "unseen" }), "answer.you"), h("p", { class: "bubble" }, text)),
      h("div", { class: "answered" }, mark(), this.body));
    this.draw();
  }

  /** The verdicts that came before the reply, by task. */
  judged(labels) {
    this.labelAfter ??= performance.now() - this.started;
    Object.assign(this.answers, labels);
    this.phase = "writing";
    this.draw();
  }

  /** A piece of the reply of `task`. */
  wrote(task, piece) {
    this.labelAfter ??= null;
    const stream = this.streams.get(task);
    if (!stream) {
      const element = h("p", { class: "prose writing" });
      this.streams.set(task, { element, empty: true });
      this.phase = "writing";
      this.draw();
      return this.wrote(task, piece);
    }
    const shown = stream.empty ? piece.trimStart() : piece;
    if (!shown) return undefined;
    stream.empty = false;
    stream.element.append(h("span", { class: "piece" }, shown));
    return undefined;
  }

  ended(result) {
    this.result = result;
    this.total = performance.now() - this.started;
    if (result.status === "done") {
      Object.assign(this.answers, result.results);
      this.phase = "done";
    } else {
      this.failed(result.error);
      return;
    }
    this.draw();
  }

  failed(error) {
    this.error = error;
    this.phase = "failed";
    this.draw();
  }

  /** `waiting`, `writing`, `lost` or `no_worker`, while it is not over. */
  turnTo(phase) {
    if (this.over || this.phase === phase) return;
    this.phase = phase;
    this.draw();
  }

  get over() {
    return this.phase === "done" || this.phase === "failed";
  }

  /** Phase to go back to when a trouble is over. */
  get usual() {
    return Object.keys(this.answers).length || this.streams.size ? "writing" : "waiting";
  }

  /** What a screen reader is told: the verdicts, or the replies. */
  spoken(judged) {
    const found = Object.entries(this.answers).filter(([, answer]) => isJudged(answer) === judged);
    return found
      .map(([task, answer]) => (judged ? verdictText(task, answer) : t("spoken.reply", { text: answer.text ?? JSON.stringify(answer.data) })))
      .join(". ");
  }

  draw() {
    const answers = Object.entries(this.answers);
    const written = new Set([...this.streams.keys(), ...answers.filter(([, answer]) => !isJudged(answer)).map(([task]) => task)]);
    const titled = (task, element) =>
      written.size > 1 ? h("div", { class: "titled" }, h("h3", {}, taskName(taskOf(task))), element) : element;
    const parts = answers.filter(([, answer]) => isJudged(answer)).map(([task, answer]) => verdict(task, answer));
    for (const [task, { element }] of this.streams) if (!this.answers[task]) parts.push(titled(task, element));
    for (const [task, answer] of answers) if (!isJudged(answer)) parts.push(titled(task, writing(task, answer)));
    this.body.replaceChildren(say(h("span", { class: "unseen" }), "answer.moodq"), ...parts, ...this.state());
    this.element.dataset.phase = this.phase;
    this.element.setAttribute("aria-busy", String(!this.over));
  }

  state() {
    if (this.phase === "done") return [this.foot()];
    if (this.phase === "failed") {
      const stopped = this.error.code === "cancelled";
      const notice = h("p", { class: stopped ? "quiet" : "notice", data: { tone: "bad" } });
      if (!stopped) notice.setAttribute("role", "alert");
      say(notice, ...sentence(this.error));
      return [h("div", { class: "state" }, notice, this.button("answer.again", this.on.again))];
    }
    const words = { waiting: "answer.waiting", writing: "answer.thinking", lost: "answer.lost", no_worker: "answer.no_worker" };
    const tone = this.phase === "lost" || this.phase === "no_worker" ? "warning" : undefined;
    const pulse = h("span", { class: "pulse", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    const line = h("p", { class: tone ? "notice" : "quiet pulse-line", data: tone ? { tone } : {} },
      tone ? null : pulse, say(h("span"), words[this.phase]));
    return [h("div", { class: "state" }, line, this.button("answer.stop", this.on.stop))];
  }

  foot() {
    const notes = [this.labelAfter && !isOnlyJudged(this.answers)
      ? t("answer.took", { label: duration(this.labelAfter), total: duration(this.total) })
      : t("answer.total", { total: duration(this.total) })];
    if (this.result.cached) notes.push(t("verdict.cached"));
    if (this.result.truncated) notes.push(t("verdict.truncated"));
    if (this.result.silenced) notes.push(t("answer.silenced"));
    if (Object.values(this.answers).some((answer) => answer.finish_reason === "length")) notes.push(t("answer.length"));
    return h("p", { class: "foot" }, notes.join(" · "));
  }

  button(key, run) {
    return say(h("button", { type: "button", class: "plain", on: { click: run } }), key);
  }
}

/** A line that somebody said or wrote before, or that a person writes now. `role`: `user`, `person`, else moodq. */
export function pastTurn({ role, text, by }) {
  if (role === "user") {
    return h("article", { class: "turn" },
      h("div", { class: "said" }, say(h("span", { class: "unseen" }), "answer.you"), h("p", { class: "bubble" }, text)));
  }
  const person = role === "person";
  const who = say(h("span", { class: person ? "who" : "unseen" }), person ? "answer.person" : "answer.moodq", { by });
  return h("article", { class: "turn" },
    h("div", { class: "answered" }, person ? h("span", { class: "mark", "aria-hidden": "true" }, "🧑‍💼") : mark(),
      h("div", { class: "answer-body" }, who, h("p", { class: "prose" }, text))));
}

const isOnlyJudged = (answers) => Object.values(answers).every(isJudged);

function mark() {
  return svg("svg", { class: "mark", viewBox: "0 0 32 32", "aria-hidden": "true" },
    svg("circle", { cx: 15, cy: 15, r: 10 }),
    svg("path", { d: "M21.4 21.6l5 5.2" }),
    svg("path", { class: "thin", d: "M10.8 16.8c1.2 2 2.6 2.9 4.3 2.9s3.1-.9 4.2-2.9" }),
    svg("circle", { class: "dot", cx: 11.6, cy: 12.4, r: 1.5 }),
    svg("circle", { class: "dot", cx: 18.5, cy: 12.4, r: 1.5 }));
}
