// What every page of a studio shares. Nothing here is needed to read or to save: without it links open pages, not dialogs.
"use strict";

// An open menu closes on Escape and on a click elsewhere.
const closing = () => document.querySelectorAll("details[data-closes][open]");
document.addEventListener("click", (event) => {
  for (const details of closing()) {
    if (!details.contains(event.target)) {
      details.open = false;
    }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const details of closing()) {
      details.open = false;
      details.querySelector("summary").focus();
    }
  }
});

// What htmx puts into the dialog is shown; a link marked data-cancel closes it instead of leaving the page.
document.addEventListener("htmx:afterSwap", (event) => {
  const dialog = document.getElementById("dialog");
  if (event.detail.target === dialog && !dialog.open) {
    const heading = dialog.querySelector("h1, h2");
    dialog.setAttribute("aria-label", heading?.textContent ?? "Please confirm");
    dialog.showModal();
    // It is read from its beginning: the browser would go to its first field, below all that is to be known before.
    heading?.setAttribute("tabindex", "-1");
    heading?.focus();
    dialog.scrollTop = 0;
  }
});
// A click beside it closes it: not one in its padding, which belongs to what is in it, nor one that began in a field.
let pressed = null;
document.addEventListener("pointerdown", (event) => { pressed = event.target; });
document.addEventListener("click", (event) => {
  const dialog = event.target.closest("dialog");
  const isBeside = event.target === dialog && pressed === dialog;
  if (dialog !== null && (isBeside || event.target.closest("[data-cancel]"))) {
    event.preventDefault();
    dialog.close();
  }
});

// A form is sent once: what the second press of a double tap would make again is ignored. Its button is not disabled, since
// its name and value are sent. Whoever comes back to the page, or waits for an answer that never comes, may send it again.
const PATIENCE_MS = 20_000;
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") {
    return;
  }
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "true";
  setTimeout(() => { delete form.dataset.sent; }, PATIENCE_MS);
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) {
    delete form.dataset.sent;
  }
});

// Copying, where the browser lets a page do it (on HTTPS or localhost); elsewhere the text can be marked by hand.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button === null) {
    return;
  }
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  const words = (button.dataset.words ??= button.innerHTML);
  const told = document.getElementById("told");
  button.textContent = told.textContent = "Copied";
  setTimeout(() => {
    button.innerHTML = words;
    told.textContent = "";
  }, 2000);
});

// What is shown once is not brought again by the browser's “back”.
window.addEventListener("pagehide", () => {
  for (const element of document.querySelectorAll("[data-once]")) {
    element.textContent = "This was shown once.";
  }
});

// What was refused has the focus: the first field that is wrong, or else what is said of the form as a whole.
const seen = (element) => element.checkVisibility?.() ?? true;
const wrong = [...document.querySelectorAll('main [aria-invalid="true"]')].find(seen);
(wrong ?? document.querySelector("main [data-problem]"))?.focus();

// On a narrow screen the tabs scroll: the open one is in sight. Only they do: the page itself may be further down, at what
// was refused.
const tab = document.querySelector(".tabs [aria-current]");
if (tab !== null) {
  const [open, row] = [tab.getBoundingClientRect(), tab.parentElement.getBoundingClientRect()];
  tab.parentElement.scrollLeft += open.left - row.left - (row.width - open.width) / 2;
}

// Where htmx gets no answer: a link is followed as without scripts, so that the server says on a page what is wrong; weights
// say that their effect is not known; a button says that nothing happened. What asks by itself asks again.
for (const failure of ["htmx:responseError", "htmx:sendError"]) {
  document.addEventListener(failure, ({ detail: { elt } }) => {
    if (elt.matches("a[href]")) {
      location.href = elt.href;
    } else if (elt.id === "effect") {
      say(elt, "This can't be worked out just now; Save will show it before anything changes.");
      document.getElementById("peek")?.replaceChildren();
    } else if (elt.matches("button")) {
      elt.parentElement.querySelector(":scope > .failed")?.remove();
      const place = document.createElement("div");
      place.className = "failed";
      elt.after(place);
      say(place, "That did not work just now. Nothing you typed is lost: try again.");
    }
  });
}
const say = (place, words) => {
  const note = document.createElement("p");
  note.className = "note bad";
  note.setAttribute("role", "alert");
  note.textContent = words;
  place.replaceChildren(note);
};
// While the effect of weights is asked for, what stands there is of other ones.
document.addEventListener("htmx:beforeRequest", ({ detail: { elt } }) => {
  if (elt.id === "effect") {
    elt.setAttribute("aria-busy", "true");
  }
});
document.addEventListener("htmx:afterRequest", ({ detail: { elt } }) => {
  if (elt.id === "effect") {
    elt.removeAttribute("aria-busy");
  }
});

// What only scripts make useful appears, what only their absence needs goes; also in what htmx brings later.
const dress = () => {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard;
  }
  for (const element of document.querySelectorAll("[data-script]")) {
    element.hidden = element.dataset.script !== "with";
  }
};
dress();
document.addEventListener("htmx:afterSwap", dress);

// The server draws clocks: it is told which one this is. A page drawn by another looks again (recsite:zone).
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone && !document.cookie.split("; ").includes(`recsite_zone=${zone}`)) {
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `recsite_zone=${zone}; path=/; max-age=31536000; samesite=lax${secure}`;
  document.addEventListener("DOMContentLoaded", () => document.dispatchEvent(new Event("recsite:zone")));
}
