// The API's reference: opening what an address points at, copying commands, sending requests. Reading needs none of it.
"use strict";

// An address that names an operation opens it, also in browsers that do not do so by themselves.
const openTarget = () => {
  const target = document.getElementById(location.hash.slice(1));
  const details = target?.closest("details");
  if (details) {
    details.open = true;
    details.scrollIntoView({ block: "start" });
  }
};
window.addEventListener("hashchange", openTarget);
openTarget();

// The menu on a phone closes when it has led somewhere, and on Escape.
const drawer = document.querySelector(".drawer");
drawer.addEventListener("click", (event) => {
  if (event.target.closest("a")) {
    drawer.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drawer.open) {
    drawer.open = false;
    drawer.querySelector("summary").focus();
  }
});

for (const button of document.querySelectorAll("[data-copy]")) {
  if (navigator.clipboard) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

// --- Trying it -------------------------------------------------------------------------------------------------------

const csrfToken = () => document.cookie.match(/(?:^|; )csrftoken=([^;]*)/)?.[1] ?? "";

const addressOf = (form) => {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  for (const input of form.querySelectorAll("[data-where]")) {
    if (input.dataset.where === "in the path") {
      path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
    } else if (input.dataset.where === "in the query" && input.value) {
      query.append(input.name, input.value);
    }
  }
  return query.size ? `${path}?${query}` : path;
};

const headersOf = (form) => {
  const headers = { "X-CSRFToken": csrfToken() };
  const studio = document.getElementById("studio").value.trim();
  if (studio) {
    headers["Recsite-Studio"] = studio;
  }
  for (const input of form.querySelectorAll('[data-where="header"]')) {
    if (input.value) {
      headers[input.name] = input.value;
    }
  }
  return headers;
};

const send = async (form) => {
  const headers = headersOf(form);
  const body = form.elements.body?.value;
  if (body) {
    headers["Content-Type"] = "application/json";
  }
  const response = await fetch(addressOf(form), { method: form.dataset.method, headers, body });
  const text = await response.text();
  try {
    return `${response.status}\n${JSON.stringify(JSON.parse(text), null, 2)}`;
  } catch {
    return `${response.status}\n${text}`;
  }
};

document.getElementById("try")?.removeAttribute("hidden");
for (const form of document.querySelectorAll("form.try")) {
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    const answer = form.querySelector("[role=status]");
    button.disabled = true;
    try {
      answer.querySelector("pre").textContent = await send(form);
    } catch (error) {
      answer.querySelector("pre").textContent = `No answer: ${error.message}`;
    }
    answer.hidden = false;
    button.disabled = false;
  });
}
