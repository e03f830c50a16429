// The page holds a secret once: this copies it on request, and takes it away when the page is left, so that the browser's
// “back” does not bring it again.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) {
      continue; // only on HTTPS or localhost; without it the text can be marked by hand
    }
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
});
window.addEventListener("pagehide", () => {
  for (const id of ["secret", "commands"]) {
    const element = document.getElementById(id);
    if (element !== null) {
      element.textContent = "It was shown once.";
    }
  }
});
