/** The page in Chinese and English: what is said again when the language changes, and how figures are written. */

import { WORDS } from "./words.js";
import { lasting } from "./store.js";

const said = new WeakMap();

/** `zh` or `en`. */
export const language = () => document.documentElement.dataset.language;

export function setLanguage(chosen) {
  lasting.set("language", chosen);
  document.documentElement.dataset.language = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  translate(document);
  document.dispatchEvent(new CustomEvent("moodq:language"));
}

/** The sentence `key` with `{name}` replaced by `params.name`; a function is asked each time. */
export function t(key, params = {}) {
  const sentence = WORDS[key]?.[language()] ?? key;
  return sentence.replace(/\{(\w+)\}/g, (_, name) => {
    const value = params[name];
    return String(typeof value === "function" ? value() : (value ?? ""));
  });
}

/** Lets `element` say `key`, now and after every change of the language. */
export function say(element, key, params = {}) {
  said.set(element, params);
  element.dataset.i18n = key;
  element.textContent = t(key, params);
  return element;
}

/** Says everything under `root` in the language of the moment. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-i18n]")) {
    element.textContent = t(element.dataset.i18n, said.get(element));
  }
  for (const element of root.querySelectorAll("[data-i18n-label]")) {
    const text = t(element.dataset.i18nLabel, said.get(element));
    element.setAttribute("aria-label", text);
    if (element.matches("button, a")) element.title = text;
  }
  for (const element of root.querySelectorAll("[data-i18n-placeholder]")) {
    element.placeholder = t(element.dataset.i18nPlaceholder);
  }
}

/** 0.974 as 97%; what is only almost certain is not written as 100%. */
export function percent(share) {
  const rounded = Math.round(share * 100);
  if (rounded === 100 && share < 1) return ">99%";
  if (rounded === 0 && share > 0) return "<1%";
  return `${rounded}%`;
}

const locale = () => (language() === "zh" ? "zh-CN" : "en-GB");

/** A number with its thousands apart and at most `digits` decimals. */
export const number = (value, digits = 0) =>
  new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);

/** Milliseconds as people say them: 84 ms, 1.3 s, 2 min. */
export function duration(ms) {
  if (ms < 1_000) return t("time.ms", { n: number(ms < 10 ? ms : Math.round(ms), 1) });
  if (ms < 90_000) return t("time.s", { n: number(ms / 1_000, ms < 10_000 ? 1 : 0) });
  return ms < 5_400_000 ? t("time.min", { n: number(ms / 60_000) }) : t("time.h", { n: number(ms / 3_600_000, 1) });
}
