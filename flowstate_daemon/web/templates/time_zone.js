// Fills in the browser's time zone for a recipient who has not chosen one; the page works without it.
try {
  const field = document.querySelector("[data-prefill]");
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (field && zone && [...document.querySelectorAll("#zones option")].some((option) => option.value === zone)) {
    field.value = zone;
  }
} catch {
  // The field keeps the zone that the page was sent with.
}
