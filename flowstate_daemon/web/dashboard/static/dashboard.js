// What pages do beyond HTML: times in the operator's own zone, questions before what destroys, and the way back.
"use strict";

function localTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.getAttribute("datetime"));
    if (!Number.isNaN(at.getTime())) {
      element.title = element.textContent;
      element.textContent = at.toLocaleString(document.documentElement.lang, { dateStyle: "short", timeStyle: "medium" });
      element.removeAttribute("datetime");
    }
  }
}

function rememberPage() {
  for (const field of document.querySelectorAll("input[data-current]")) {
    field.value = location.pathname + location.search;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  localTimes(document);
  rememberPage();
});
document.addEventListener("htmx:afterSettle", (event) => localTimes(event.target));
document.addEventListener("htmx:sseMessage", (event) => localTimes(event.target));
document.addEventListener("submit", (event) => {
  const question = event.submitter && event.submitter.dataset.confirm;
  if (question && !window.confirm(question)) {
    event.preventDefault();
  }
});
