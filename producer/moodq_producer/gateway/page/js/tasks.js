/** The service's tasks, and choosing among them with chips. */

import { call } from "./api.js";
import { h } from "./dom.js";
import { say, t } from "./i18n.js";
import { taskName } from "./labels.js";
import { session } from "./store.js";

/** Chips shown before "more", and which tasks go first where the service has them. */
const FIRST = 5;
const ORDER = ["sentiment", "reply", "intent", "emotion", "urgency"];

let known = [];

/** The task of that name, if the service has told of it. */
export const taskOf = (name) => known.find((task) => task.name === name) ?? { name };

export async function loadTasks() {
  known = (await call("GET", "v1/tasks")).tasks;
  document.dispatchEvent(new CustomEvent("moodq:tasks"));
}

/**
 * Chips in `place` for the tasks that `offers(task)` allows, those in `chosen` pressed until the user chooses
 * otherwise. Kinds that need labels of the user's get a field for them.
 */
export class TaskPicker {
  constructor(place, { name, chosen, offers }) {
    Object.assign(this, { place, name, offers });
    this.chosen = new Set(JSON.parse(session.get(`tasks.${name}`) ?? "null") ?? chosen);
    this.open = false;
    this.labels = new Map();
    for (const event of ["moodq:tasks", "moodq:language"]) document.addEventListener(event, () => this.draw());
    this.draw();
  }

  /** The names of the chosen tasks that the service has, in its order. */
  get names() {
    return this.all.filter((task) => this.chosen.has(task.name)).map((task) => task.name);
  }

  get all() {
    const rank = ({ name }) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
    return known.filter(this.offers).sort((one, other) => rank(one) - rank(other));
  }

  /** The fields of an item that the chosen tasks need: `{tasks, labels?}`; or `{error: [key, params]}`. */
  get fields() {
    const names = this.names;
    if (!names.length) return { error: ["tasks.none", {}] };
    const chooser = names.find((name) => taskOf(name).kind === "choose");
    if (!chooser) return { tasks: names };
    const labels = [...new Set((this.labels.get(chooser) ?? "").split(/[,，、;；\n]/).map((label) => label.trim()))];
    const found = labels.filter(Boolean);
    if (found.length < 2 || found.length > 32) return { error: ["tasks.labels_few", { task: () => taskName(chooser) }] };
    return { tasks: names, labels: found };
  }

  draw() {
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const all = this.all;
    const shown = this.open ? all : all.filter((task, n) => n < FIRST || this.chosen.has(task.name));
    const chips = shown.map((task) => this.chip(task));
    if (all.length > FIRST) chips.push(this.moreButton());
    const group = h("div", { class: "chips", role: "group", "aria-label": t("tasks.label") }, chips);
    this.place.replaceChildren(group, ...all.filter((task) => this.needsLabels(task)).map((task) => this.labelsField(task)));
    if (focused) this.place.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
  }

  chip(task) {
    const toggle = () => {
      if (!this.chosen.delete(task.name)) this.chosen.add(task.name);
      session.set(`tasks.${this.name}`, JSON.stringify([...this.chosen]));
      this.draw();
    };
    return h("button", {
      type: "button",
      class: "chip",
      "aria-pressed": String(this.chosen.has(task.name)),
      title: task.description ?? task.title,
      data: { name: task.name },
      on: { click: toggle },
    }, taskName(task));
  }

  moreButton() {
    const turn = () => {
      this.open = !this.open;
      this.draw();
    };
    return h("button", {
      type: "button", class: "chip chip-more", "aria-expanded": String(this.open), data: { name: "…" }, on: { click: turn },
    }, t(this.open ? "tasks.fewer" : "tasks.more"));
  }

  needsLabels(task) {
    return task.kind === "choose" && this.chosen.has(task.name);
  }

  labelsField(task) {
    const id = `${this.name}-labels-${task.name}`;
    const input = h("input", {
      id, type: "text", value: this.labels.get(task.name) ?? "", placeholder: t("tasks.labels_hint"), data: { name: id },
      on: { input: () => this.labels.set(task.name, input.value) },
    });
    return h("div", { class: "labels-field" }, say(h("label", { for: id }), "tasks.labels", { task: () => taskName(task) }), input);
  }
}
