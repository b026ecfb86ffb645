// Looks again every ten seconds, and puts in what is new. What the reader has stays: focus, selection, scrolling.
"use strict";
const EVERY = 10000;
const page = document.getElementById("page");
const live = document.getElementById("live");
const pause = document.getElementById("pause");

function paused() {
  return pause.getAttribute("aria-pressed") === "true" || document.hidden || !getSelection().isCollapsed;
}

function put(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const focused = page.contains(document.activeElement) && document.activeElement.id;
  const open = [...page.querySelectorAll("details[open]")].map((details) => details.id);
  const scrolled = [...page.querySelectorAll(".scroll")].map((region) => [region.id, region.scrollLeft]);
  document.title = fresh.title;
  page.replaceChildren(...fresh.getElementById("page").childNodes);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  for (const [id, left] of scrolled) document.getElementById(id)?.scrollTo(left, 0);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

async function look() {
  let said = "";
  try {
    if (!paused()) {
      const answer = await fetch(location.href, { signal: AbortSignal.timeout(60000) });
      const text = await answer.text();
      if (!paused()) put(text);
    }
  } catch {
    said = "The server does not answer. What is shown is older.";
  }
  if (live.textContent !== said) live.textContent = said;
  setTimeout(look, EVERY);
}

pause.hidden = false;
pause.addEventListener("click", () => {
  const now = pause.getAttribute("aria-pressed") !== "true";
  pause.setAttribute("aria-pressed", String(now));
});
setTimeout(look, EVERY);
