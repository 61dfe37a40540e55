// The ranking page: makes its parts, and connects them with the keyboard, the pointer, the network and the clock.
// state.js decides, view.js draws, desk.js holds the tasks, sending.js lets rankings go.

import { page, words, byId, url } from "./page.js";
import * as State from "./state.js";
import { View } from "./view.js";
import { listen } from "./keys.js";
import { QuestionDialog } from "./question.js";
import { forgetOldDrafts } from "./drafts.js";
import { Reading } from "./reading.js";
import { Compare } from "./compare.js";
import { Guidelines } from "./guidelines.js";
import { Leases } from "./leases.js";
import { Desk } from "./desk.js";
import { Sending } from "./sending.js";
import { actionsOf } from "./actions.js";
import { isWaitingForNote } from "./task.js";

const WITHOUT_TASK = new Set(["help", "guidelines"]);
const WITHOUT_ANSWERS = new Set([...WITHOUT_TASK, "question", "raw", "skip", "submit", "uncover"]);

const view = new View(words, {
  place: (id) => desk.change((state) => State.place(state, id)),
  select: (id) => {
    const { state } = desk.current;
    desk.update({ ...state, selected: state.selected === id ? null : id });
  },
  arrange: (groups, id) => desk.change((state) => State.arrange(state, groups, id)),
});
const reading = new Reading(words);
const sending = new Sending({ view, progress: page.progress });
const { outbox } = sending;
const desk = new Desk({
  view,
  reading,
  leases: new Leases(url),
  hasUnsent: () => outbox.items().length > 0,
  onUnsent: () => outbox.flush(),
});
sending.desk = desk;
const actions = actionsOf({
  desk,
  sending,
  view,
  reading,
  compare: new Compare((assignment) => page.urls.difference.replace("ASSIGNMENT", assignment), words),
  guidelines: new Guidelines({ onResize: () => reading.measure() }),
  question: new QuestionDialog(byId("ask-lead"), words, {
    onSent: () => view.toast(words.question_sent, null, 4000),
  }),
});

// The keyboard -------------------------------------------------------------------------------------------------

listen({
  act(name, digit) {
    const isReady = desk.current && (!isWaitingForNote(desk.current) || WITHOUT_ANSWERS.has(name));
    if (isReady || WITHOUT_TASK.has(name)) actions[name](digit);
    else if (name === "undo") view.toastUndo?.();
  },
  scroll: (pages) => reading.scroll(pages),
});

// The pointer --------------------------------------------------------------------------------------------------

function isReadingClick(event) {
  const inert = "a, button, summary, details:not(.cover), input, label, select, textarea, fieldset";
  if (event.target.closest(inert)) return true;
  return !getSelection().isCollapsed;
}

byId("task").addEventListener("click", (event) => {
  if (!desk.current) return;
  if (event.target.closest(".before__show button")) desk.showAnswers();
  const card = event.target.closest(".answer");
  if (!card) return;
  if (event.target.closest(".answer__key") || !isReadingClick(event)) {
    desk.change((state) => State.place(state, card.dataset.completion));
  }
});
// A list of flags floats: it closes when one goes on elsewhere.
document.addEventListener("pointerdown", (event) => {
  for (const flags of document.querySelectorAll(".flags[open]")) if (!flags.contains(event.target)) flags.open = false;
});
byId("task").addEventListener("keydown", (event) => {
  const flags = event.key === "Escape" && event.target.closest(".flags[open]");
  if (!flags) return;
  flags.open = false;
  flags.querySelector("summary").focus();
});
byId("task").addEventListener("change", () => {
  if (!desk.current) return; // a field that loses its focus with its task
  view.drawFlags(desk.current.element);
  desk.keep();
});
byId("task").addEventListener("input", () => desk.keep());
// An opened "Improve" or "Say why" is there to be written in: elsewhere letters are keys.
byId("task").addEventListener(
  "toggle",
  (event) => {
    const text = event.target.querySelector?.(":scope:is(.improve, .rationale) textarea");
    if (text && event.target.open && desk.current) text.focus();
  },
  true,
);
// After a click with the mouse, Enter submits; a button reached by Tab keeps its own Enter.
document.addEventListener("click", (event) => {
  if (event.detail > 0) event.target.closest?.(".answer__key, .chip")?.blur();
});
for (const [id, name] of [
  ["tie", "tie"],
  ["undo", "undo"],
  ["raw", "raw"],
  ["ask", "question"],
  ["stacked", "stack"],
  ["opened", "height"],
  ["compare", "compare"],
  ["uncover", "uncover"],
  ["skip", "skip"],
]) {
  byId(id)?.addEventListener("click", (event) => {
    event.preventDefault();
    if (desk.current) actions[name]();
  });
}
byId("none").addEventListener("change", () => desk.current && actions.none());
byId("ranking-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (desk.current) sending.submit();
});

// The network and the clock ------------------------------------------------------------------------------------

addEventListener("online", () => desk.fetchMissing());
addEventListener("pagehide", () => desk.leave());
// Out of the browser's memory, a page has tasks that it gave back.
addEventListener("pageshow", (event) => event.persisted && location.reload());
document.addEventListener("visibilitychange", () => desk.beat());
setInterval(() => desk.beat(), page.heartbeat_seconds * 1000);

/** Seconds on task: those in which the page was seen. */
let lastTick = Date.now();
setInterval(() => {
  const now = Date.now();
  // A longer step is a machine that slept.
  if (desk.current && !document.hidden && now - lastTick < 5000) desk.current.seconds += (now - lastTick) / 1000;
  lastTick = now;
}, 500);

// Beginning ----------------------------------------------------------------------------------------------------

forgetOldDrafts();
view.drawProgress(page.progress);
for (const item of outbox.items()) desk.handled.add(item.assignment);
outbox.flush();
desk.begin();
document.documentElement.dataset.ready = "";
