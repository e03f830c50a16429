// Weights: slider and number say the same, and the sum is told while somebody types. The effect comes from the server.
"use strict";

(() => {
  const form = document.getElementById("weights-form");
  const sum = document.getElementById("sum");
  if (form === null || sum === null) {
    return;
  }
  const rows = [...form.querySelectorAll("[data-weight]")].map((row) => ({
    slider: row.querySelector("input[type=range]"),
    number: row.querySelector("input[type=text]"),
    fit: row.querySelector("[data-fit]"),
    name: row.closest("tr").querySelector("th").textContent.trim(),
  }));
  const WHOLE = 10000; // basis points

  // What the server takes: a number from 0 to 100 with two places at most. NaN for anything else, so that no sum is told of it.
  const NUMBER = /^(\d+\.?\d{0,2}|\.\d{1,2})$/;
  const read = (row) => {
    const typed = row.number.value.trim().replace(",", ".");
    const bp = NUMBER.test(typed) ? Math.round(Number(typed) * 100) : NaN;
    return bp <= WHOLE ? bp : NaN;
  };
  const percent = (bp) => `${(bp / 100).toFixed(2).replace(/\.?0+$/, "")} %`;
  const write = (row, bp) => {
    row.number.value = (bp / 100).toFixed(2);
    row.slider.value = bp / 100;
  };
  const ask = () => form.dispatchEvent(new CustomEvent("weights"));

  // What the others leave.
  const fittingOf = (index, weights) => WHOLE - weights.reduce((a, b, other) => (other === index ? a : a + b), 0);

  const tell = () => {
    const weights = rows.map(read);
    const total = weights.reduce((a, b) => a + b, 0);
    const isWhole = total === WHOLE;
    const output = sum.querySelector("output");
    output.textContent = Number.isNaN(total) ? "–" : `${percent(total)}${isWhole ? " ✓" : ""}`;
    output.className = `num strong ${isWhole ? "ok" : "bad"}`;
    let rest = "";
    if (Number.isNaN(total)) {
      const wrong = rows.filter((row, index) => Number.isNaN(weights[index])).map((row) => row.name);
      rest = `${wrong.join(", ")}: type 0 to 100, in steps of 0.01`;
    } else if (total < WHOLE) {
      rest = `${percent(WHOLE - total)} is missing`;
    } else if (total > WHOLE) {
      rest = `${percent(total - WHOLE)} too much`;
    }
    sum.querySelector(".rest").textContent = isWhole ? "" : `· ${rest}`;
    rows.forEach((row, index) => {
      const fitting = fittingOf(index, weights);
      row.fit.classList.toggle("idle", isWhole || !(fitting >= 0 && fitting <= WHOLE));
      row.fit.title = `Set to ${percent(fitting)}, so that the sum is 100 %`;
    });
  };

  // Of two versions the other one gets the rest.
  const complete = (row) => {
    const bp = read(row);
    if (rows.length === 2 && bp >= 0 && bp <= WHOLE) {
      write(rows.find((other) => other !== row), WHOLE - bp);
    }
  };

  for (const row of rows) {
    row.slider.hidden = false;
    row.fit.hidden = false;
    row.slider.addEventListener("input", () => {
      row.number.value = Number(row.slider.value).toFixed(2);
      complete(row);
      tell();
      ask();
    });
    // What is typed takes the place of what was there. At once: a frame later it would take that of the first key.
    row.number.addEventListener("focus", () => row.number.select());
    row.number.addEventListener("mousedown", (event) => {
      if (document.activeElement !== row.number) {
        event.preventDefault(); // it would set the caret, and undo the selection
        row.number.focus();
      }
    });
    row.number.addEventListener("input", () => {
      const bp = read(row);
      if (!Number.isNaN(bp)) {
        row.slider.value = bp / 100;
      }
      tell();
      ask();
    });
    row.number.addEventListener("change", () => {
      complete(row);
      tell();
      ask();
    });
    row.number.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault(); // Enter shows the effect; only the button saves
        row.number.dispatchEvent(new Event("change"));
      }
    });
    row.fit.addEventListener("click", () => {
      write(row, fittingOf(rows.indexOf(row), rows.map(read)));
      tell();
      ask();
    });
  }
  tell();
})();
