// The ranking page: one task on the page, one loaded ahead, rankings leaving through the outbox.
// state.js decides, view.js draws, this file connects them with the keyboard, the server and the clock.

import * as State from "./state.js";
import { View, fill } from "./view.js";
import { listen } from "./keys.js";
import { Outbox } from "./outbox.js";
import { QuestionDialog } from "./question.js";
import { postJson, postForHtml, errorMessage } from "./net.js";
import { saveDraft, readDraft, dropDraft, forgetOldDrafts } from "./drafts.js";
import { readFields, fillIn, changeStrength } from "./fields.js";
import { Reading } from "./reading.js";
import { Compare } from "./compare.js";
import { Guidelines } from "./guidelines.js";
import { Leases } from "./leases.js";

const page = JSON.parse(document.getElementById("page-data").textContent);
const { words, progress } = page;
const byId = (id) => document.getElementById(id);

let current = null; // {element, assignment, state, seconds, isEdit}
let ahead = null; // element of the next task, or null
let sent = null; // what undo can take back: {task, clientId}
let isAhead = false; // a task is being fetched to be shown later
let retryTimer = null;
const handled = new Set(); // assignments sent or skipped on this page

const view = new View(words, {
  place: (id) => change((state) => State.place(state, id)),
  select: (id) => update({ ...current.state, selected: current.state.selected === id ? null : id }),
  arrange: (groups, id) => change((state) => State.arrange(state, groups, id)),
});

const reading = new Reading(words);
const guidelines = new Guidelines({ onResize: () => reading.measure() });
const compare = new Compare((assignment) => page.urls.difference.replace("ASSIGNMENT", assignment), words);

const outbox = new Outbox(`plumbline-outbox:${page.key}`, {
  onChange: drawOutbox,
  onSent: afterSent,
  onRefused: (item, message) => {
    view.notice(fill(words.refused, { message: message ?? words.refused_unknown }));
    fetchAhead();
  },
  // A better answer names the ranking that it came with, whose id the server gives.
  followUps: (item, answer) =>
    (item.rewrites ?? []).map(({ completion, text }) => ({
      clientId: `${item.clientId}:${completion}`,
      assignment: item.assignment,
      url: page.urls.demonstrations,
      body: { ranking: answer.data.id, message: { role: "assistant", content: text } },
    })),
});

const question = new QuestionDialog(byId("ask-lead"), words, {
  onSent: () => view.toast(words.question_sent, null, 4000),
});

const url = (assignment, call) => page.urls.assignment.replace("ASSIGNMENT", assignment) + call;
const leases = new Leases(url);

// Tasks ------------------------------------------------------------------------------------------------------

/** A task element with its state: a draft of this browser, or the order that the server sent with it. */
function open(element) {
  const assignment = element.dataset.assignment;
  const cards = [...element.querySelectorAll(".answer")].map((card) => card.dataset.completion);
  const groups = JSON.parse(element.querySelector("script[type='application/json']").textContent);
  const task = {
    element,
    assignment,
    isEdit: "edit" in element.dataset,
    state: State.create(cards, { groups, none: "none" in element.dataset }),
    seconds: 0,
    initialFields: JSON.stringify(readFields(element)),
  };
  const draft = readDraft(assignment);
  if (draft && draft.groups.flat().every((id) => cards.includes(id))) {
    task.state = { ...task.state, groups: draft.groups, none: draft.none };
    task.seconds = draft.seconds;
    fillIn(element, draft.fields);
    element.toggleAttribute("data-noted", draft.isNoted ?? false);
  }
  return task;
}

function start(task) {
  current = task;
  view.show(task.element);
  view.drawFlags(task.element);
  view.draw(task.state);
  reading.show(task.element);
  task.element.querySelector(".answers").scrollLeft = 0;
  if (isWaitingForNote()) task.element.querySelector("[name=note]").focus({ preventScroll: true });
  if (Number(task.element.dataset.guideline) > page.guideline_version) view.noticeGuideline();
}

/** Whether a note is to be written before the answers are shown. */
function isWaitingForNote() {
  return "note" in current.element.dataset && !("noted" in current.element.dataset);
}

function showAnswers() {
  const box = current.element.querySelector("[name=note]");
  if (!box.value.trim()) {
    view.announce(words.note_first);
    box.focus();
    return;
  }
  current.element.toggleAttribute("data-noted", true);
  view.draw(current.state);
  reading.show(current.element);
  keepDraft();
  current.element.querySelector(".conversation").focus({ preventScroll: true });
  view.announce(words.shown);
}

/** The next task: the one loaded ahead if it is there, else from the server. */
function advance() {
  view.notice(null);
  current = null;
  if (ahead) {
    const element = ahead;
    setAhead(null);
    start(open(element));
    arrive();
  } else {
    view.showLoading();
    fetchCurrent();
  }
}

function arrive() {
  scrollTo(0, 0);
  const heading = current.element.querySelector(".conversation");
  if (!isWaitingForNote()) heading.focus({ preventScroll: true });
  view.announce(words.new_task);
}

async function fetchTask(isForLater) {
  const answer = await postForHtml(page.urls.task + (isForLater ? "?ahead=1" : ""));
  if (answer.status !== 200) return { status: answer.status, element: null };
  const template = document.createElement("template");
  template.innerHTML = answer.data; // our own server's, made by annotation/rendering.py
  view.showTest(template.content.querySelector("#test"));
  const element = template.content.querySelector(".task");
  if (!element) return { status: 204, element: null };
  const isKnown = handled.has(element.dataset.assignment) || element.dataset.assignment === current?.assignment;
  if (!isKnown) leases.hold(element);
  return { status: 200, element: isKnown ? null : element };
}

async function fetchCurrent() {
  clearTimeout(retryTimer);
  if (current) return;
  // What is still in the outbox would come back as the task that one holds.
  if (outbox.items().length > 0) {
    outbox.flush();
    return;
  }
  const { status, element } = await fetchTask(false);
  if (current) return;
  if (element) {
    view.notice(null);
    start(open(element));
    arrive();
    fetchAhead();
    return;
  }
  if (status === 204) view.showEmpty();
  else if (status === 401) view.notice(words.signed_out);
  else if (status !== 200) view.notice(words.load_failed);
  retryTimer = setTimeout(fetchCurrent, status === 204 ? page.poll_seconds * 1000 : 3000);
}

async function fetchAhead() {
  if (isAhead || ahead || !current || current.isEdit || outbox.items().length > 0) return;
  isAhead = true;
  const { element } = await fetchTask(true);
  isAhead = false;
  if (element && !ahead && current) setAhead(element);
}

/** The page says that the next task is there: whoever measures or tests it need not guess. */
function setAhead(element) {
  ahead = element;
  document.documentElement.toggleAttribute("data-ahead", Boolean(element));
}

// What the person does ---------------------------------------------------------------------------------------

function update(state) {
  current.state = state;
  view.draw(state);
  keepDraft();
}

function change(step) {
  const before = current.state;
  update(step(before));
  const { selected } = current.state;
  const ranks = State.ranks(current.state);
  if (before.groups !== current.state.groups && selected && ranks[selected]) {
    const number = view.number(current.state, selected);
    view.announce(fill(words.placed, { number, rank: view.rankName(ranks[selected]) }));
  }
}

const ACTIONS = {
  place: (digit) => {
    const id = current.state.cards[digit - 1];
    if (id) change((state) => State.place(state, id));
  },
  tie: () => {
    change(State.toggleTie);
    if (current.state.tie) view.announce(words.tie_next);
  },
  earlier: () => change((state) => State.moveEarlier(state)),
  later: () => change((state) => State.moveLater(state)),
  remove: () => {
    const { selected } = current.state;
    if (!selected) return;
    change((state) => State.remove(state, selected));
    view.announce(fill(words.removed, { number: view.number(current.state, selected) }));
  },
  undo: () => {
    const isFresh = current.state.history.length === 0 && !current.state.tie;
    if (isFresh) return view.toastUndo?.();
    update(State.undo(current.state));
    return view.announce(words.undone);
  },
  none: () => setNone(!current.state.none),
  raw: () => view.announce(reading.togglePlain() ? words.plain_on : words.plain_off),
  compare: () => compare.open(current.assignment, current.state.cards, State.neighbours(current.state)),
  height: () => reading.toggle("opened"),
  stronger: () => strengthen(1),
  weaker: () => strengthen(-1),
  uncover: () => {
    const isOpen = reading.toggleCovers();
    if (isOpen !== null) view.announce(isOpen ? words.uncovered : words.covered);
  },
  flag: () => {
    const id = current.state.selected ?? current.state.cards[0];
    const flags = current.element.querySelector(`[data-completion="${id}"] .flags`);
    if (!flags) return;
    flags.open = !flags.open;
    (flags.open ? flags.querySelector("input") : flags.querySelector("summary")).focus();
  },
  guidelines: () => guidelines.toggle(),
  help: () => byId("keys").showModal(),
  question: () => question.open(url(current.assignment, "question/")),
  skip: () => skip(),
  submit: () => submit(),
};

function strengthen(step) {
  const radio = changeStrength(current.element, step);
  if (!radio) return;
  keepDraft();
  view.announce(fill(words.strength, { strength: radio.nextElementSibling.textContent }));
}

function setNone(none) {
  if (page.objective === "worst") return;
  update(State.setNone(current.state, none));
  view.announce(none ? words.none_on : words.none_off);
}

/** Sent or skipped: nothing of it is left to this page. */
function settle(task) {
  handled.add(task.assignment);
  leases.forget(task.assignment);
  dropDraft(task.assignment);
}

async function skip() {
  if (current.isEdit) return;
  const task = current;
  const reason = await view.askSkipReason();
  if (!reason || current !== task) return;
  settle(task);
  sent = null;
  view.toast(words.skipped, null, 3000);
  const skipping = postJson(url(task.assignment, "skip/"), { reason });
  // Without one loaded ahead, the server must know first: else it hands out the same task again.
  if (!ahead) await skipping;
  if (current === task) advance();
  const answer = await skipping;
  if (answer.status >= 400) view.notice(errorMessage(answer));
  fetchAhead();
}

async function submit() {
  const task = current;
  if (isWaitingForNote()) return showAnswers();
  const order = await orderToSend(task);
  if (order === null || current !== task) return undefined;
  view.hideToast();
  const fields = readFields(task.element);
  const item = {
    clientId: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`,
    assignment: task.assignment,
    url: url(task.assignment, "ranking/"),
    rewrites: fields.rewrites,
    seconds: task.seconds,
  };
  item.body = {
    client_id: item.clientId,
    // Stored best first, whatever comes first on the page.
    ranking: page.objective === "worst" ? [...order].reverse() : order,
    none_acceptable: task.state.none,
    seconds: Math.round(task.seconds * 10) / 10,
    flags: fields.flags,
    ratings: fields.ratings,
    rationale: fields.rationale,
    note: fields.note,
    strength: State.isPair(task.state) ? fields.strength : null,
    guideline_version: page.guideline_version,
  };
  outbox.add(item);
  settle(task);
  if (task.isEdit) return undefined;
  const isNew = !task.wasSent;
  task.wasSent = true;
  sent = { task, clientId: item.clientId };
  if (isNew) count(task.seconds);
  advance();
  return view.toast(navigator.onLine ? words.saved : words.kept, takeBack);
}

/** The order to send, or null if the person goes on ranking. */
async function orderToSend(task) {
  const { state } = task;
  const placed = state.groups.flat().length;
  const left = state.cards.length - placed;
  if (task.isEdit && !isBegun(task, readFields(task.element))) {
    const choice = await view.ask(words.ask_unchanged, words.ask_unchanged_text, [
      { label: words.keep_ranking, value: "" },
      { label: words.save_anyway, value: "save", primary: true },
    ]);
    return choice ? state.groups : null;
  }
  if (placed === 0 && !state.none) {
    const choice = await view.ask(words.ask_untouched, words.ask_untouched_text, [
      { label: words.all_equal, value: "equal" },
      { label: words.keep_ranking, value: "", primary: true },
    ]);
    return choice ? [state.cards] : null;
  }
  if (placed > 0 && left > 1) {
    const choices = [{ label: words.keep_ranking, value: "" }];
    if (placed > 1 || state.none) choices.push({ label: words.rest_out, value: "out" });
    choices.push({ label: words.rest_last, value: "last", primary: true });
    const choice = await view.ask(fill(words.ask_rest, { count: left }), words.ask_rest_text, choices);
    return choice ? State.order(state, choice) : null;
  }
  return State.order(state);
}

/** Undo of the ranking just sent: the task is on the page again, and sending it once more is a new version. */
function takeBack() {
  if (!sent) return;
  const { task, clientId } = sent;
  sent = null;
  if (outbox.withdraw(clientId)) {
    task.wasSent = false;
    leases.hold(task.element);
  }
  if (!task.wasSent) count(-task.seconds, -1);
  // The server has the time until here, and adds what follows.
  else task.seconds = 0;
  if (current) {
    keepDraft();
    setAhead(current.element);
  }
  clearTimeout(retryTimer);
  start(task);
  keepDraft();
  view.hideToast();
  view.announce(words.taken_back);
}

function keepDraft() {
  if (!current) return;
  const { assignment, state, seconds, element } = current;
  const fields = readFields(element);
  const isNoted = "noted" in element.dataset;
  const kept = { groups: state.groups, none: state.none, seconds, isNoted, fields };
  saveDraft(assignment, { ...kept, isBegun: isBegun(current, fields) });
}

/** Whether anything of a task has changed since the server sent it. */
function isBegun(task, fields) {
  return !State.isUntouched(task.state) || JSON.stringify(fields) !== task.initialFields;
}

/** What nobody has begun goes to whoever comes next; what one has begun stays reserved until its time is over. */
function leave() {
  keepDraft();
  leases.giveBack((assignment) => readDraft(assignment)?.isBegun);
}

// The server and the clock -------------------------------------------------------------------------------------

function drawOutbox(box) {
  const count = box.items().length;
  if (box.signedOut) view.notice(words.signed_out);
  else if (box.offline && count === 1) view.notice(words.waiting_one);
  else if (box.offline && count > 1) view.notice(fill(words.waiting_many, { count }));
  else if (count === 0 && box.wasWaiting) view.notice(null);
  box.wasWaiting = box.signedOut || box.offline;
}

function afterSent(item) {
  if (current?.isEdit && current.assignment === item.assignment) {
    if (!outbox.items().some((other) => other.assignment === item.assignment)) location.assign(page.urls.work);
  } else if (current) fetchAhead();
  else fetchCurrent();
}

/** The server's median until now, moved by each ranking; the next page load has the exact one. */
function count(seconds, by = 1) {
  const total = (progress.median_seconds ?? 0) * progress.done + seconds;
  progress.done = Math.max(0, progress.done + by);
  progress.median_seconds = progress.done > 0 ? total / progress.done : null;
  view.drawProgress(progress);
}

async function beat() {
  if (!current || !leases.has(current.assignment) || document.hidden) return;
  const task = current;
  if (ahead) leases.renew(ahead.dataset.assignment);
  const state = await leases.renew(task.assignment);
  if (task !== current || state === null) return;
  if (state !== "leased") view.notice(words.expired);
  else if (task.isExpired) view.notice(null);
  task.isExpired = state !== "leased";
}

/** Seconds on task: those in which the page was seen. */
let lastTick = Date.now();
setInterval(() => {
  const now = Date.now();
  // A longer step is a machine that slept.
  if (current && !document.hidden && now - lastTick < 5000) current.seconds += (now - lastTick) / 1000;
  lastTick = now;
}, 500);

// Beginning ----------------------------------------------------------------------------------------------------

function isReadingClick(event) {
  const inert = "a, button, summary, details:not(.cover), input, label, select, textarea, fieldset";
  if (event.target.closest(inert)) return true;
  return !getSelection().isCollapsed;
}

byId("task").addEventListener("click", (event) => {
  if (current && event.target.closest(".before__show button")) showAnswers();
  const card = event.target.closest(".answer");
  if (!card || !current) return;
  if (event.target.closest(".answer__key") || !isReadingClick(event)) {
    change((state) => State.place(state, card.dataset.completion));
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
  if (!current) return; // a field that loses its focus with its task
  view.drawFlags(current.element);
  keepDraft();
});
byId("task").addEventListener("input", () => keepDraft());
// An opened "Improve" is there to be written in.
byId("task").addEventListener(
  "toggle",
  (event) => {
    const rewrite = event.target.querySelector?.(":scope.improve textarea");
    if (rewrite && event.target.open) rewrite.focus();
  },
  true,
);
// After a click with the mouse, Enter submits; a button reached by Tab keeps its own Enter.
document.addEventListener("click", (event) => {
  if (event.detail > 0) event.target.closest?.(".answer__key, .chip")?.blur();
});
byId("none").addEventListener("change", (event) => setNone(event.target.checked));
byId("undo").addEventListener("click", () => ACTIONS.undo());
byId("raw").addEventListener("click", () => ACTIONS.raw());
byId("ask").addEventListener("click", (event) => {
  event.preventDefault();
  if (current) ACTIONS.question();
});
byId("stacked").addEventListener("click", () => reading.toggle("stacked"));
byId("opened").addEventListener("click", () => reading.toggle("opened"));
byId("compare").addEventListener("click", () => ACTIONS.compare());
byId("uncover")?.addEventListener("click", () => ACTIONS.uncover());
byId("skip")?.addEventListener("click", () => skip());
byId("ranking-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (current) submit();
});
const WITHOUT_ANSWERS = new Set(["help", "guidelines", "question", "raw", "skip", "submit", "uncover"]);
listen({
  act(name, digit) {
    const isReady = current && (!isWaitingForNote() || WITHOUT_ANSWERS.has(name));
    if (isReady || name === "help" || name === "guidelines") ACTIONS[name](digit);
    else if (name === "undo") view.toastUndo?.();
  },
  scroll: (pages) => reading.scroll(pages),
});
document.addEventListener("visibilitychange", beat);
addEventListener("online", () => (current ? fetchAhead() : fetchCurrent()));
addEventListener("pagehide", leave);
// Out of the browser's memory, a page has tasks that it gave back.
addEventListener("pageshow", (event) => event.persisted && location.reload());
setInterval(beat, page.heartbeat_seconds * 1000);

forgetOldDrafts();
view.drawProgress(progress);
const first = byId("task").querySelector(".task");
for (const item of outbox.items()) handled.add(item.assignment);
outbox.flush();
// A task that waits for a note comes without its answers, which are for scripts to ask for.
if (first?.querySelector(".answers") && !handled.has(first.dataset.assignment)) {
  leases.hold(first);
  start(open(first));
  fetchAhead();
} else {
  if (first) view.showLoading();
  fetchCurrent();
}
document.documentElement.dataset.ready = "";
