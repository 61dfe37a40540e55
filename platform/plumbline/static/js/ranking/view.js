// Draws a state onto the page. Cards stay where they are: only badges and the order strip change.

import * as State from "./state.js";
import { attach, detach } from "./drag.js";
import { byId } from "./page.js";

export function fill(sentence, values) {
  return sentence.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export class View {
  /** actions: {place(id), select(id), arrange(groups, id)} */
  constructor(words, actions) {
    this.words = words;
    this.actions = actions;
    this.strip = byId("strip");
    this.tray = byId("tray");
    this.task = null;
    this.toastTimer = null;
  }

  /** Shows a task; its element carries the answers' ids in the order shown. */
  show(task) {
    this.task = task;
    byId("task").replaceChildren(task);
    byId("bar").hidden = false;
    byId("tools").hidden = false;
    byId("empty").hidden = true;
    byId("loading").hidden = true;
  }

  showEmpty() {
    this.task = null;
    byId("task").replaceChildren();
    byId("bar").hidden = true;
    byId("tools").hidden = true;
    byId("loading").hidden = true;
    byId("empty").hidden = false;
  }

  showLoading() {
    this.task = null;
    byId("task").replaceChildren();
    byId("bar").hidden = true;
    byId("tools").hidden = true;
    byId("empty").hidden = true;
    byId("loading").hidden = false;
  }

  number(state, id) {
    return state.cards.indexOf(id) + 1;
  }

  rankName({ rank, tied }) {
    const name = this.words.ranks[rank - 1];
    return tied ? fill(this.words.tied, { rank: name }) : name;
  }

  draw(state) {
    const ranks = State.ranks(state);
    for (const card of this.task.querySelectorAll(".answer")) {
      const found = ranks[card.dataset.completion];
      card.toggleAttribute("data-placed", Boolean(found));
      card.toggleAttribute("data-selected", card.dataset.completion === state.selected);
      if (found) card.dataset.rank = found.rank;
      else delete card.dataset.rank;
      card.querySelector(".answer__rank").textContent = found ? this.rankName(found) : "";
    }
    this.drawStrip(state, ranks);
    this.drawBeside(state);
    byId("none").checked = state.none;
    byId("order-hint").hidden = state.groups.length > 0;
    byId("undo").disabled = state.history.length === 0 && !state.tie;
    byId("tie").disabled = state.groups.length === 0;
    byId("tie").setAttribute("aria-pressed", String(state.tie));
  }

  /** What depends on how far one is: the strength of a preference, and a note that comes before the answers. */
  drawBeside(state) {
    const strength = this.task.querySelector(".strength");
    if (strength) strength.hidden = !State.isPair(state);
    const isWaiting = "note" in this.task.dataset && !("noted" in this.task.dataset);
    byId("bar").toggleAttribute("data-waiting", isWaiting);
    byId("compare").hidden = isWaiting;
    const note = this.task.querySelector("[name=note]");
    if (note && !isWaiting) note.readOnly = true;
  }

  drawStrip(state, ranks) {
    const focused = document.activeElement?.closest(".order .chip")?.dataset.completion;
    detach(this.strip, this.tray);
    const parts = [];
    state.groups.forEach((group, index) => {
      parts.push(this.gap(index > 0));
      const slot = this.slot(group.map((id) => this.chip(state, id, ranks[id])));
      slot.dataset.rank = index + 1;
      if (state.tie && index === state.groups.length - 1) slot.querySelector(".order__ties").append(element("span", "chip-space"));
      parts.push(slot);
    });
    const left = State.unplaced(state);
    const implied = State.implied(state);
    if (left.length > 0 && !state.tie) {
      parts.push(this.gap(state.groups.length > 0));
      parts.push(this.slot(implied ? [this.chip(state, implied, null, "chip--implied")] : [], "order__slot--next"));
    } else {
      parts.push(this.gap(false));
    }
    this.strip.replaceChildren(...parts);
    const waiting = implied && !state.tie ? [] : left;
    this.tray.replaceChildren(...waiting.map((id) => this.chip(state, id, null, "chip--waiting")));
    attach(this.strip, this.tray, this.actions.arrange);
    if (focused) document.querySelector(`.order .chip[data-completion="${focused}"]`)?.focus();
  }

  /** Between two slots: dropped here, a chip stands alone. */
  gap(withArrow) {
    const gap = element("li", withArrow ? "order__gap order__gap--arrow" : "order__gap");
    gap.dataset.drop = "";
    return gap;
  }

  slot(chips, kind = "") {
    const slot = element("li", `order__slot ${kind}`);
    const list = element("div", "order__ties");
    list.dataset.drop = "";
    for (const chip of chips) list.append(chip);
    slot.append(list);
    return slot;
  }

  chip(state, id, rank, kind = "") {
    const chip = element("button", `chip ${kind}`);
    chip.type = "button";
    chip.dataset.completion = id;
    const number = this.number(state, id);
    chip.textContent = number;
    if (rank) {
      chip.setAttribute("aria-label", fill(this.words.chip, { number, rank: this.rankName(rank) }));
      chip.setAttribute("aria-pressed", String(id === state.selected));
      chip.addEventListener("click", () => this.actions.select(id));
    } else {
      chip.setAttribute("aria-label", fill(this.words.tray_chip, { number }));
      chip.addEventListener("click", () => this.actions.place(id));
    }
    return chip;
  }

  /** The answers' flags, how many are set. */
  drawFlags(task) {
    for (const flags of task.querySelectorAll(".flags")) {
      const count = flags.querySelectorAll("input:checked").length;
      flags.querySelector(".flags__count").textContent = count ? ` ${count}` : "";
      flags.toggleAttribute("data-set", count > 0);
    }
  }

  drawProgress({ done, goal, median_seconds: seconds }) {
    byId("progress-done").textContent = fill(this.words.done_today, { done, goal });
    byId("progress-pace").textContent = seconds >= 1 ? fill(this.words.pace, { seconds: Math.round(seconds) }) : "";
  }

  announce(sentence) {
    byId("announcer").textContent = sentence;
  }

  /** A sentence above the task; null takes it away. */
  notice(sentence) {
    byId("notice").hidden = !sentence;
    byId("notice").textContent = sentence ?? "";
  }

  /** Where one stands in the test before real work; the server sends it with each task, null where there is none. */
  showTest(made) {
    const isOver = byId("test").firstElementChild && made && !made.firstElementChild;
    if (made) byId("test").replaceWith(made);
    if (isOver) this.toast(this.words.test_passed);
  }

  /** The guidelines are newer than those on the page: the ranking names the version that was read. */
  noticeGuideline() {
    const link = element("a", "");
    link.href = location.href;
    link.textContent = this.words.reload;
    byId("notice").replaceChildren(`${this.words.guideline_changed} `, link);
    byId("notice").hidden = false;
  }

  /** A short confirmation; onUndo, if given, is offered for as long as it shows. */
  toast(sentence, onUndo = null, milliseconds = 7000) {
    clearTimeout(this.toastTimer);
    byId("toast-text").textContent = sentence;
    byId("toast-undo").hidden = !onUndo;
    byId("toast-undo").onclick = onUndo;
    byId("toast").hidden = false;
    this.toastTimer = setTimeout(() => this.hideToast(), milliseconds);
  }

  /** What the toast says has turned out otherwise; nothing where it no longer says so. */
  amendToast(said, sentence) {
    if (byId("toast-text").textContent === said) byId("toast-text").textContent = sentence;
  }

  hideToast() {
    clearTimeout(this.toastTimer);
    byId("toast").hidden = true;
  }

  get toastUndo() {
    return byId("toast").hidden || byId("toast-undo").hidden ? null : byId("toast-undo").onclick;
  }

  /** Asks a question; choices [{label, value, primary}]. Resolves to a value, or null for none. */
  ask(title, text, choices) {
    const dialog = byId("ask-dialog");
    byId("ask-title").textContent = title;
    byId("ask-text").textContent = text;
    byId("ask-actions").replaceChildren(
      ...choices.map(({ label, value, primary }) => {
        const button = element("button", primary ? "button button--primary" : "button");
        button.value = value;
        button.textContent = label;
        button.autofocus = Boolean(primary);
        return button;
      }),
    );
    return answerOf(dialog);
  }

  askSkipReason() {
    const dialog = byId("skip-dialog");
    const choose = (event) => {
      const button = /^[1-9]$/.test(event.key) && dialog.querySelectorAll(".reasons button")[Number(event.key) - 1];
      if (button) dialog.close(button.value);
    };
    dialog.addEventListener("keydown", choose);
    return answerOf(dialog).finally(() => dialog.removeEventListener("keydown", choose));
  }
}

/** Shows the dialog; resolves to the value of the button that closed it, or null. */
function answerOf(dialog) {
  return new Promise((resolve) => {
    const listening = new AbortController();
    const settle = (value) => {
      listening.abort();
      resolve(value || null);
    };
    const { signal } = listening;
    dialog.addEventListener("submit", (event) => settle(event.submitter?.value), { signal });
    // "close" comes late: by then the same dialog may be open with the next question.
    dialog.addEventListener("close", () => dialog.open || settle(dialog.returnValue), { signal });
    dialog.returnValue = "";
    dialog.showModal();
  });
}

function element(name, className) {
  const made = document.createElement(name);
  made.className = className.trim();
  return made;
}
