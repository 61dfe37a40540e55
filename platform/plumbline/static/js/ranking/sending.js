// What leaves the page: rankings through the outbox, skipped tasks, and rankings taken back.

import { page, words, url } from "./page.js";
import * as State from "./state.js";
import { fill } from "./view.js";
import { Outbox } from "./outbox.js";
import { postJson, errorMessage } from "./net.js";
import { readFields } from "./fields.js";
import { isBegun, isWaitingForNote } from "./task.js";

export class Sending {
  constructor({ view, progress }) {
    this.view = view;
    this.progress = progress; // {done, goal, median_seconds}
    this.desk = null; // set by main.js: it asks here whether a ranking is still to be sent
    this.sent = null; // what undo can take back: {task, clientId}
    this.wasWaiting = false;
    this.outbox = new Outbox(`plumbline-outbox:${page.key}`, {
      onChange: () => this.drawOutbox(),
      onSent: (item) => this.afterSent(item),
      onRefused: (item, message) => this.afterRefused(item, message ?? words.refused_unknown),
      followUps,
    });
  }

  async submit() {
    const { desk, view } = this;
    const task = desk.current;
    if (isWaitingForNote(task)) return desk.showAnswers();
    const order = await this.orderToSend(task);
    if (order === null || desk.current !== task) return undefined;
    view.hideToast();
    const item = itemOf(task, order);
    this.outbox.add(item);
    desk.settle(task);
    if (task.isEdit) return undefined;
    const isNew = !task.wasSent;
    task.wasSent = true;
    this.sent = { task, clientId: item.clientId };
    if (isNew) this.count(task.seconds);
    desk.advance();
    const isAway = !navigator.onLine || this.outbox.offline;
    return view.toast(isAway ? words.kept : words.saved, () => this.takeBack());
  }

  /** The order to send, or null if the person goes on ranking. */
  async orderToSend(task) {
    const { view } = this;
    const { state } = task;
    const placed = state.groups.flat().length;
    const left = state.cards.length - placed;
    if (task.isEdit && !isBegun(task)) {
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
  takeBack() {
    if (!this.sent) return;
    const { task, clientId } = this.sent;
    this.sent = null;
    const isUnsent = this.outbox.withdraw(clientId);
    if (isUnsent) task.wasSent = false;
    if (!task.wasSent) this.count(-task.seconds, -1);
    // The server has the time until here, and adds what follows.
    else task.seconds = 0;
    this.desk.putBack(task, { isUnsent });
    this.view.hideToast();
    this.view.announce(words.taken_back);
  }

  async skip() {
    const { desk, view } = this;
    const task = desk.current;
    if (task.isEdit) return;
    const reason = await view.askSkipReason();
    if (!reason || desk.current !== task) return;
    desk.settle(task);
    this.sent = null;
    const skipping = postJson(url(task.assignment, "skip/"), { reason });
    // Without one loaded ahead, the server must know first: else it hands out the same task again.
    if (desk.ahead || isOver(await skipping)) {
      view.toast(words.skipped, null, 3000);
      if (desk.current === task) desk.advance();
    }
    const answer = await skipping;
    if (answer.status >= 400) view.notice(errorMessage(answer));
    if (isOver(answer)) desk.forget(task.assignment);
    else {
      desk.leases.hold(task.element);
      desk.reopen(task.assignment, errorMessage(answer) ?? words.not_skipped);
    }
    desk.fetchAhead();
  }

  afterSent(item) {
    const { current } = this.desk;
    this.desk.forget(item.assignment);
    if (current?.isEdit && current.assignment === item.assignment) {
      if (!this.outbox.items().some((other) => other.assignment === item.assignment)) location.assign(page.urls.work);
    } else this.desk.fetchMissing();
  }

  afterRefused(item, message) {
    if (this.sent?.clientId === item.clientId) {
      this.count(-this.sent.task.seconds, -1);
      this.sent = null;
      this.view.hideToast();
    }
    this.desk.reopen(item.assignment, fill(words.refused, { message }));
  }

  drawOutbox() {
    const { outbox, view } = this;
    const count = outbox.items().length;
    if (outbox.offline) view.amendToast(words.saved, words.kept);
    if (outbox.signedOut) view.notice(words.signed_out);
    else if (outbox.offline && count === 1) view.notice(words.waiting_one);
    else if (outbox.offline && count > 1) view.notice(fill(words.waiting_many, { count }));
    else if (count === 0 && this.wasWaiting) view.notice(null);
    this.wasWaiting = outbox.signedOut || outbox.offline;
  }

  /** The server's median until now, moved by each ranking; the next page load has the exact one. */
  count(seconds, by = 1) {
    const { progress } = this;
    const total = (progress.median_seconds ?? 0) * progress.done + seconds;
    progress.done = Math.max(0, progress.done + by);
    progress.median_seconds = progress.done > 0 ? total / progress.done : null;
    this.view.drawProgress(progress);
  }
}

/** Whether the task is no longer this person's to skip: skipped now, or submitted or gone before. */
function isOver({ status }) {
  return status === 200 || status === 404 || status === 409;
}

/** What the outbox keeps and sends of a task. */
function itemOf(task, order) {
  const { flags, ratings, rationale, note, strength, rewrites } = readFields(task.element);
  const clientId = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  return {
    clientId,
    assignment: task.assignment,
    url: url(task.assignment, "ranking/"),
    rewrites,
    body: {
      client_id: clientId,
      // Stored best first, whatever comes first on the page.
      ranking: page.objective === "worst" ? [...order].reverse() : order,
      none_acceptable: task.state.none,
      seconds: Math.round(task.seconds * 10) / 10,
      flags,
      ratings,
      rationale,
      note,
      strength: State.isPair(task.state) ? strength : null,
      guideline_version: page.guideline_version,
    },
  };
}

/** A better answer names the ranking that it came with, whose id the server gives. */
function followUps(item, answer) {
  return (item.rewrites ?? []).map(({ completion, text }) => ({
    clientId: `${item.clientId}:${completion}`,
    assignment: item.assignment,
    url: page.urls.demonstrations,
    body: { ranking: answer.data.id, message: { role: "assistant", content: text } },
  }));
}
