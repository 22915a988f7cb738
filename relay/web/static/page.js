// Shows what has changed: fetches the page again every few seconds while somebody looks at it, and puts in the parts
// that differ. Without it the page works all the same.
"use strict";

const SECONDS = 5;
let timer = 0;

function schedule() {
  clearTimeout(timer);
  if (!document.hidden && document.querySelector("[data-live]")) {
    timer = setTimeout(refresh, SECONDS * 1000);
  }
}

async function refresh() {
  try {
    const response = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
    if (response.redirected) {
      location.reload(); // the login is over
      return;
    }
    if (response.ok) {
      show(new DOMParser().parseFromString(await response.text(), "text/html"));
    }
    document.body.classList.toggle("stale", !response.ok);
  } catch {
    document.body.classList.add("stale"); // the relay does not answer just now
  }
  schedule();
}

function show(fresh) {
  document.title = fresh.title;
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (other && other.innerHTML !== part.dataset.shown) {
      part.dataset.shown = other.innerHTML;
      replace(part, other);
    }
  }
}

function replace(part, other) {
  const active = part.contains(document.activeElement) ? document.activeElement : null;
  const open = [...part.querySelectorAll("details[open]")].map((details) => details.id);
  part.replaceChildren(...other.childNodes);
  part.className = other.className;
  part.hidden = other.hidden;
  for (const id of open) {
    const details = document.getElementById(id);
    if (details) {
      details.open = true;
    }
  }
  if (active) {
    counterpart(active, part)?.focus({ preventScroll: true });
  }
}

// Returns what stands in a part now for a link, a button or the head of a <details> that was focused there.
function counterpart(active, part) {
  if (active.matches("a")) {
    return [...part.querySelectorAll("a")].find((link) => link.href === active.href);
  }
  if (active.matches("summary")) {
    return document.getElementById(active.parentElement.id)?.querySelector("summary");
  }
  return document.getElementById(active.id);
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
if (location.search.includes("did=")) {
  // What was done is said once: reloading does not say it again.
  const place = new URL(location.href);
  place.searchParams.delete("did");
  place.searchParams.delete("count");
  history.replaceState(null, "", place);
}
schedule();
