/** The page's frame: the three views by the address's hash, language, theme, key, and the state of the service. */

import { ApiError, key, setKey } from "./api.js";
import { $, h } from "./dom.js";
import { language, say, setLanguage, t, translate } from "./i18n.js";
import { startLines } from "./lines.js";
import { startLive } from "./live.js";
import { health, listen, readEvery, readNow, watch } from "./status.js";
import { lasting } from "./store.js";
import { startTalk } from "./talk.js";
import { loadTasks } from "./tasks.js";

const VIEWS = ["talk", "lines", "live"];
const THEMES = ["auto", "light", "dark"];
const LIVE_MS = 2_000;
const IDLE_MS = 10_000;

function showView(moveFocus) {
  const asked = location.hash.slice(1);
  const view = VIEWS.includes(asked) ? asked : VIEWS[0];
  for (const name of VIEWS) {
    $(`view-${name}`).hidden = name !== view;
    const link = document.querySelector(`.tabs a[href="#${name}"]`);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.view = view;
  say(document.querySelector("title"), "title", { view: () => t(view) });
  readEvery(view === "live" ? LIVE_MS : IDLE_MS);
  if (moveFocus) {
    window.scrollTo({ top: 0 });
    $("main").focus({ preventScroll: true });
  }
}

function drawTools() {
  const switcher = $("language");
  switcher.textContent = t("language.short");
  switcher.lang = language() === "zh" ? "en" : "zh-CN";
  switcher.title = t("language.switch");
  switcher.setAttribute("aria-label", t("language.switch"));
  const theme = document.documentElement.dataset.theme ?? "auto";
  $("theme").dataset.theme = theme;
  $("theme").title = t(`theme.${theme}`);
  $("theme").setAttribute("aria-label", t(`theme.${theme}`));
  $("key").dataset.set = String(Boolean(key()));
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "auto";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  lasting.set("theme", next === "auto" ? null : next);
  drawTools();
}

/** Told once for each change, not for each reading. */
let told = "";

function tellHealth() {
  $("health").dataset.state = health.state;
  say($("health-text"), `health.${health.state}`);
  if (health.state === "ready" && !tasksKnown) knowTasks();
  if (told === health.state) return;
  told = health.state;
  const place = $("banner");
  if (["wait", "ready"].includes(health.state)) return place.replaceChildren();
  const words = say(h("span"), `banner.${health.state}`, { detail: health.error?.detail ?? "" });
  const tone = health.state === "key" ? "info" : "warning";
  const button = health.state !== "key" ? null
    : say(h("button", { type: "button", class: "plain", on: { click: openKey } }), "banner.key_button");
  return place.replaceChildren(h("div", { class: "banner", data: { tone } }, words, button));
}

let tasksKnown = false;

async function knowTasks() {
  try {
    await loadTasks();
    tasksKnown = true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // the banner says what is wrong; asked again when it is over
  }
}

function openKey() {
  $("key-value").value = key();
  say($("key-error"), "nothing");
  $("key-dialog").showModal();
  $("key-value").focus();
}

/** Takes the key if the service does; else the dialog stays and says so. */
async function tryKey() {
  setKey($("key-value").value.trim());
  drawTools();
  try {
    await loadTasks();
    tasksKnown = true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code === "key" && key()) {
      setKey("");
      drawTools();
      say($("key-error"), "key.refused");
      $("key-value").select();
      return;
    }
  }
  $("key-dialog").close();
  readNow();
}

function startKey() {
  $("key").addEventListener("click", openKey);
  $("key-cancel").addEventListener("click", () => $("key-dialog").close());
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    tryKey();
  });
}

window.addEventListener("hashchange", () => showView(true));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the view's
  $("main").focus();
});
document.addEventListener("moodq:language", drawTools);
$("language").addEventListener("click", () => setLanguage(language() === "zh" ? "en" : "zh"));
$("theme").addEventListener("click", nextTheme);

translate(document);
drawTools();
listen(tellHealth);
tellHealth();
startKey();
startTalk();
startLines();
startLive();
showView(false);
knowTasks();
watch();
