// Charts look again by themselves. Without scripts they are what they were when the page was opened.
"use strict";

// Not while nobody can see them; at once when somebody can again.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.detail.elt.hasAttribute("data-refresh")) {
    event.preventDefault();
  }
});
const refresh = () => {
  const charts = document.querySelector("[data-refresh]");
  if (charts !== null && !document.hidden) {
    htmx.trigger(charts, "refresh");
  }
};
document.addEventListener("visibilitychange", refresh);
// The server drew by another clock than the one here.
document.addEventListener("recsite:zone", refresh);

// What was open stays open, and as far down as it was.
const open = new Map();
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target.hasAttribute?.("data-refresh")) {
    open.clear();
    for (const details of event.detail.target.querySelectorAll("details[open]")) {
      open.set(details.id, details.querySelector(".scroll")?.scrollTop ?? 0);
    }
  }
});
document.addEventListener("htmx:afterSwap", () => {
  for (const [id, top] of open) {
    const details = document.getElementById(id);
    if (details !== null) {
      details.open = true;
      details.querySelector(".scroll").scrollTop = top;
    }
  }
});
