// Light or dark: as the system says, until somebody chooses. Runs before the page is painted.
"use strict";

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
}

try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
} catch {
  // Storage is forbidden: the choice lasts as long as the page.
}

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // As above.
    }
  });
  system.addEventListener("change", show);
  show();
});
