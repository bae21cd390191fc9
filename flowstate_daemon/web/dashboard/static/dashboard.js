// What pages do beyond HTML: local times, questions before what destroys, the way back, and a first page that says
// when it no longer knows the state.
"use strict";

const SILENT_MS = 12000; // the live part comes every two seconds
const RECONNECT_MS = 4000;
let lastMessage = 0;
let lastHealth = "";

function localTimes(root) {
  const language = document.documentElement.lang === "en" ? "en-GB" : document.documentElement.lang;
  const thisYear = new Date().getFullYear();
  for (const element of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(element.getAttribute("datetime"));
    if (!Number.isNaN(at.getTime())) {
      element.title = element.textContent;
      const format = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
      if (at.getFullYear() !== thisYear) {
        format.year = "numeric";
      }
      element.textContent = at.toLocaleString(language, format);
    }
  }
}

function rememberPage() {
  for (const field of document.querySelectorAll("input[data-current]")) {
    field.value = location.pathname + location.search;
  }
}

function chooseAll() {
  for (const box of document.querySelectorAll("input[data-choose-all]")) {
    box.hidden = false;
    box.addEventListener("change", () => {
      for (const one of box.form.querySelectorAll("input[name^='job:']")) {
        one.checked = box.checked;
      }
    });
  }
}

// Without this, a page whose daemon has stopped would go on saying that it is healthy.
function showConnection(isLost) {
  const warning = document.getElementById("connection-lost");
  if (warning) {
    warning.hidden = !isLost;
    document.body.classList.toggle("lost", isLost);
  }
}

// A screen reader says a change once, not the whole part every two seconds.
function announceHealth() {
  const health = document.querySelector("[data-health]");
  const place = document.getElementById("health-changed");
  if (health && place && health.dataset.health !== lastHealth) {
    place.textContent = lastHealth ? health.dataset.health : "";
    lastHealth = health.dataset.health;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  localTimes(document);
  rememberPage();
  chooseAll();
  announceHealth();
});
document.addEventListener("htmx:afterSettle", (event) => localTimes(event.target));
document.addEventListener("htmx:sseOpen", (event) => {
  const source = event.detail.source;
  source.addEventListener("expired", () => {
    source.close();
    location.reload();
  });
});
document.addEventListener("htmx:sseError", () => {
  const before = lastMessage; // a proxy may end a stream, and the browser connects again at once
  setTimeout(() => showConnection(lastMessage === before), RECONNECT_MS);
});
document.addEventListener("htmx:sseMessage", (event) => {
  lastMessage = Date.now();
  localTimes(event.target);
  showConnection(false);
  announceHealth();
});
setInterval(() => {
  if (lastMessage && Date.now() - lastMessage > SILENT_MS) {
    showConnection(true);
  }
}, 2000);
document.addEventListener("submit", (event) => {
  const question = event.submitter && event.submitter.dataset.confirm;
  if (question && !window.confirm(question)) {
    event.preventDefault();
  }
});
