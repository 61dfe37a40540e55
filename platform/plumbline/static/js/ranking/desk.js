// The task on the page and the one after it: fetched, shown, drawn anew, kept reserved, given back.

import { page, words, byId } from "./page.js";
import { fill } from "./view.js";
import { postForHtml } from "./net.js";
import { dropDraft, readDraft } from "./drafts.js";
import * as State from "./state.js";
import { open, keepDraft, isWaitingForNote } from "./task.js";

export class Desk {
  /** hasUnsent(): whether a ranking waits to be sent; onUnsent() sends it. */
  constructor({ view, reading, leases, hasUnsent, onUnsent }) {
    Object.assign(this, { view, reading, leases, hasUnsent, onUnsent });
    this.current = null; // a task, or null
    this.ahead = null; // element of the next task, or null
    this.isFetchingAhead = false;
    this.retryTimer = null;
    this.handled = new Set(); // assignments sent or skipped on this page
    this.refusals = new Map(); // assignment -> why the server did not take what was sent of it
  }

  /** With the task that came with the page, if it can be shown at once. */
  begin() {
    const first = byId("task").querySelector(".task");
    // A task that waits for a note comes without its answers, which are for scripts to ask for.
    if (first?.querySelector(".answers") && !this.handled.has(first.dataset.assignment)) {
      this.leases.hold(first);
      this.start(open(first));
      this.fetchAhead();
    } else {
      if (first) this.view.showLoading();
      this.fetchCurrent();
    }
  }

  start(task) {
    this.current = task;
    clearTimeout(this.retryTimer);
    this.view.show(task.element);
    this.view.drawFlags(task.element);
    this.view.draw(task.state);
    this.reading.show(task.element);
    task.element.querySelector(".answers").scrollLeft = 0;
    if (isWaitingForNote(task)) task.element.querySelector("[name=note]").focus({ preventScroll: true });
    if (Number(task.element.dataset.guideline) > page.guideline_version) this.view.noticeGuideline();
    if (this.refusals.has(task.assignment)) this.view.notice(this.refusals.get(task.assignment));
  }

  /** The next task: the one loaded ahead if it is there, else from the server. */
  advance() {
    this.view.notice(null);
    this.current = null;
    if (this.ahead) {
      const element = this.ahead;
      this.setAhead(null);
      this.start(open(element));
      this.arrive();
    } else {
      this.view.showLoading();
      this.fetchCurrent();
    }
  }

  arrive() {
    scrollTo(0, 0);
    const heading = this.current.element.querySelector(".conversation");
    if (!isWaitingForNote(this.current)) heading.focus({ preventScroll: true });
    this.view.announce(words.new_task);
  }

  async fetchTask(isForLater) {
    const answer = await postForHtml(page.urls.task + (isForLater ? "?ahead=1" : ""));
    if (answer.status !== 200) return { status: answer.status, element: null };
    const template = document.createElement("template");
    template.innerHTML = answer.data; // our own server's, made by annotation/rendering.py
    this.view.showTest(template.content.querySelector("#test"));
    const element = template.content.querySelector(".task");
    if (!element) return { status: 204, element: null };
    const { assignment } = element.dataset;
    const isKnown = this.handled.has(assignment) || assignment === this.current?.assignment;
    if (!isKnown) this.leases.hold(element);
    return { status: 200, element: isKnown ? null : element };
  }

  async fetchCurrent() {
    clearTimeout(this.retryTimer);
    if (this.current) return;
    // What is still to be sent would come back as the task that one holds.
    if (this.hasUnsent()) {
      this.onUnsent();
      return;
    }
    const { status, element } = await this.fetchTask(false);
    if (this.current) return;
    if (element) {
      this.view.notice(null);
      this.start(open(element));
      this.arrive();
      this.fetchAhead();
      return;
    }
    if (status === 204) this.view.showEmpty();
    else if (status === 401) this.view.notice(words.signed_out);
    else if (status !== 200) this.view.notice(words.load_failed);
    this.retryTimer = setTimeout(() => this.fetchCurrent(), status === 204 ? page.poll_seconds * 1000 : 3000);
  }

  async fetchAhead() {
    if (this.isFetchingAhead || this.ahead || !this.current || this.current.isEdit || this.hasUnsent()) return;
    this.isFetchingAhead = true;
    const { element } = await this.fetchTask(true);
    this.isFetchingAhead = false;
    if (element && !this.ahead && this.current) this.setAhead(element);
  }

  /** The page says that the next task is there: whoever measures or tests it need not guess. */
  setAhead(element) {
    this.ahead = element;
    document.documentElement.toggleAttribute("data-ahead", Boolean(element));
  }

  /** Whatever the connection last lacked. */
  fetchMissing() {
    return this.current ? this.fetchAhead() : this.fetchCurrent();
  }

  // The order ---------------------------------------------------------------------------------------------------

  update(state) {
    this.current.state = state;
    this.view.draw(state);
    this.keep();
  }

  /** step: a state to the next one; a card that it moved is said aloud. */
  change(step) {
    const before = this.current.state;
    this.update(step(before));
    const { state } = this.current;
    const rank = State.ranks(state)[state.selected];
    if (before.groups !== state.groups && rank) {
      const number = this.view.number(state, state.selected);
      this.view.announce(fill(words.placed, { number, rank: this.view.rankName(rank) }));
    }
  }

  showAnswers() {
    const { element, state } = this.current;
    const box = element.querySelector("[name=note]");
    if (!box.value.trim()) {
      this.view.announce(words.note_first);
      box.focus();
      return;
    }
    element.toggleAttribute("data-noted", true);
    this.view.draw(state);
    this.reading.show(element);
    this.keep();
    element.querySelector(".conversation").focus({ preventScroll: true });
    this.view.announce(words.shown);
  }

  // Keeping and giving back -------------------------------------------------------------------------------------

  keep() {
    if (this.current && !this.handled.has(this.current.assignment)) keepDraft(this.current);
  }

  /** On its way, sent or skipped. Its draft stays until the server has it. */
  settle(task) {
    keepDraft(task);
    this.handled.add(task.assignment);
    this.leases.forget(task.assignment);
    this.refusals.delete(task.assignment);
  }

  /** The server has it. Another draft has begun where it was taken back meanwhile. */
  forget(assignment) {
    if (this.handled.has(assignment)) dropDraft(assignment);
  }

  /** It is not settled after all: the server hands it out again, and its draft is still here. */
  reopen(assignment, sentence) {
    this.handled.delete(assignment);
    if (sentence) this.refusals.set(assignment, sentence);
    if (sentence) this.view.notice(sentence);
    this.fetchMissing();
  }

  /** A task that was sent is on the page again; the one that was there comes after it. */
  putBack(task, { isUnsent }) {
    this.handled.delete(task.assignment);
    if (isUnsent) this.leases.hold(task.element);
    if (this.current) {
      this.keep();
      this.setAhead(this.current.element);
    }
    this.start(task);
    this.keep();
  }

  /** What nobody has begun goes to whoever comes next; what one has begun stays reserved until its time is over. */
  leave() {
    this.keep();
    this.leases.giveBack((assignment) => readDraft(assignment)?.isBegun);
  }

  async beat() {
    const { current: task, leases, view } = this;
    if (!task || !leases.has(task.assignment) || document.hidden) return;
    if (this.ahead) leases.renew(this.ahead.dataset.assignment);
    const state = await leases.renew(task.assignment);
    if (task !== this.current || state === null) return;
    if (state !== "leased") view.notice(words.expired);
    else if (task.isExpired) view.notice(null);
    task.isExpired = state !== "leased";
  }
}
