// Runs before the first paint: the language and the theme that were chosen last, so that nothing flashes.
(() => {
  const root = document.documentElement;
  let stored = {};
  try {
    stored = { language: localStorage.getItem("moodq.language"), theme: localStorage.getItem("moodq.theme") };
  } catch {
    // A browser that keeps nothing: its own preferences count.
  }
  const preferred = (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
  const language = stored.language === "zh" || stored.language === "en" ? stored.language : preferred;
  root.lang = language === "zh" ? "zh-CN" : "en";
  root.dataset.language = language;
  if (stored.theme === "light" || stored.theme === "dark") root.dataset.theme = stored.theme;
})();
