// The page holds the secret once; this puts it into the commands too, and copies on request.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const secret = document.getElementById("secret").textContent;
  for (const slot of document.querySelectorAll("[data-secret]")) {
    slot.textContent = secret;
  }
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
