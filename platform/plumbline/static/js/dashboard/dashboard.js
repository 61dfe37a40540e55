// Keeps a page up to date without a reload. An element with data-live="milliseconds" fetches its own page again that
// often; each [data-part] whose HTML changed on the server is replaced, and parts that appear or go are handled too.
// What someone is using (a field, opened details, an explanation, selected text) waits for the next time; the focus stays.

import { drawCharts } from "./charts.js";

const FASTEST = 1000;

// As the server sent them: what a script changed since is no difference.
const sent = new Map();
for (const part of parts(document)) sent.set(part.dataset.part, part.outerHTML);

function parts(root) {
  return root.querySelectorAll("[data-part]");
}

function isInUse(part) {
  const active = document.activeElement;
  return (
    (active?.matches("input, select, textarea") && part.contains(active)) ||
    part.querySelector("details[open], :popover-open, dialog[open]") !== null ||
    (getSelection()?.isCollapsed === false && part.contains(getSelection().anchorNode))
  );
}

function scrollBottomOf(part) {
  const log = part.querySelector(".log");
  return log && log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
}

const FOCUSABLE = "a[href], button, summary, [tabindex]";

function replace(part, fresh) {
  const followed = scrollBottomOf(part);
  const focused = [...part.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  part.replaceWith(fresh);
  if (focused >= 0) fresh.querySelectorAll(FOCUSABLE)[focused]?.focus({ preventScroll: true });
  if (followed) fresh.querySelector(".log").scrollTop = 1e9;
  fresh.dispatchEvent(new CustomEvent("part:load", { bubbles: true })); // relative times, see base.js
}

function insert(fresh, live, incoming) {
  // A part that was not there: after the part that precedes it on the new page.
  const order = [...parts(incoming)];
  const before = order
    .slice(0, order.indexOf(fresh))
    .map((part) => live.querySelector(`[data-part="${part.dataset.part}"]`))
    .filter(Boolean)
    .at(-1);
  if (before) before.after(fresh);
  else live.prepend(fresh);
}

function update(live, incoming) {
  const names = new Set();
  for (const fresh of [...parts(incoming)]) {
    const name = fresh.dataset.part;
    names.add(name);
    const html = fresh.outerHTML;
    if (sent.get(name) === html) continue;
    const part = live.querySelector(`[data-part="${name}"]`);
    if (part && isInUse(part)) continue;
    sent.set(name, html);
    const adopted = document.importNode(fresh, true);
    if (part) replace(part, adopted);
    else insert(fresh, live, incoming);
  }
  for (const part of parts(live)) {
    if (!names.has(part.dataset.part) && !isInUse(part)) {
      sent.delete(part.dataset.part);
      part.remove();
    }
  }
  if (incoming.dataset.live) live.dataset.live = incoming.dataset.live;
  else delete live.dataset.live;
  drawCharts();
}

async function refresh(live) {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
  // Signed out, or the page went: the next click will say so.
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const incoming = page.querySelector(".live");
  if (incoming) update(live, incoming);
}

function notice(live) {
  return live.querySelector(":scope > .notice--offline");
}

async function keepFresh(live) {
  while (live.dataset.live) {
    await new Promise((done) => setTimeout(done, Math.max(FASTEST, Number(live.dataset.live))));
    if (document.hidden) continue;
    try {
      await refresh(live);
      notice(live)?.remove();
    } catch {
      // The next turn tries again.
      if (!notice(live)) live.prepend(live.querySelector("[data-offline]").content.cloneNode(true));
    }
  }
}

for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
drawCharts();
const live = document.querySelector(".live[data-live]");
if (live) keepFresh(live);
