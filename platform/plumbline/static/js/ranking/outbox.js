// Rankings on their way, and what follows from them. Each waits in this browser until the server has answered, so that
// neither a lost connection nor a closed tab loses one. The client id makes a repeated send the same row on the server.

import { postJson, errorMessage } from "./net.js";

const FIRST_WAIT_MS = 1_500;
const LONGEST_WAIT_MS = 30_000;

export class Outbox {
  /**
   * onChange(outbox) after every step; onSent(item, answer); onRefused(item, message). followUps(item, answer): items
   * that could not be written before the answer, to be sent next; their client ids must follow from the item's.
   */
  constructor(key, { onChange, onSent, onRefused, followUps }) {
    this.key = key;
    this.onChange = onChange;
    this.onSent = onSent;
    this.onRefused = onRefused;
    this.followUps = followUps;
    this.sending = null;
    this.wait = FIRST_WAIT_MS;
    this.timer = null;
    this.offline = false;
    this.signedOut = false;
    this.memory = [];
    addEventListener("online", () => this.flush());
    addEventListener("storage", (event) => event.key === this.key && this.onChange(this));
  }

  items() {
    try {
      return JSON.parse(localStorage.getItem(this.key) ?? "[]");
    } catch {
      return this.memory;
    }
  }

  store(items) {
    this.memory = items;
    try {
      localStorage.setItem(this.key, JSON.stringify(items));
    } catch {
      // Storage is full or closed: it lives as long as the page.
    }
  }

  add(item) {
    this.store([...this.items(), item]);
    this.flush();
  }

  /** Takes back a ranking that has not left yet. False if it is under way or gone. */
  withdraw(clientId) {
    if (this.sending === clientId || !this.items().some((item) => item.clientId === clientId)) return false;
    this.replace(clientId, []);
    return true;
  }

  /** Another tab may have sent the same item and put down the same that follow: those are not put down twice. */
  replace(clientId, followers) {
    const rest = this.items().filter((item) => item.clientId !== clientId);
    const known = new Set(rest.map((item) => item.clientId));
    this.store([...followers.filter((item) => !known.has(item.clientId)), ...rest]);
  }

  async flush() {
    if (this.sending) return;
    clearTimeout(this.timer);
    for (let item = this.items()[0]; item; item = this.items()[0]) {
      this.sending = item.clientId;
      this.onChange(this);
      const answer = await postJson(item.url, item.body);
      this.sending = null;
      if (!this.settle(item, answer)) return;
    }
    this.onChange(this);
  }

  /** True when the item is out of the box and the next may go. */
  settle(item, answer) {
    this.signedOut = answer.status === 401 || answer.status === 403;
    this.offline = answer.status === 0;
    if (answer.status === 0 || answer.status >= 500 || answer.status === 429 || this.signedOut) {
      this.timer = setTimeout(() => this.flush(), this.wait);
      this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
      this.onChange(this);
      return false;
    }
    this.wait = FIRST_WAIT_MS;
    const isSent = answer.status < 300;
    // One write for both: a tab closed between them would lose what follows.
    this.replace(item.clientId, isSent ? this.followUps(item, answer) : []);
    if (isSent) this.onSent(item, answer);
    else this.onRefused(item, errorMessage(answer));
    return true;
  }
}
