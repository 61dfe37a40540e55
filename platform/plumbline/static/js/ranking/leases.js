// The tasks reserved for this page: kept while it is seen, given back when one leaves it.

import { postJson } from "./net.js";

export class Leases {
  /** url(assignment, call): where to call the server about a task. */
  constructor(url) {
    this.url = url;
    this.ends = new Map(); // assignment -> when its lease ends, in the server's own words
  }

  /** A task that the server has just handed out; a ranking that is changed is reserved for nobody. */
  hold(element) {
    if (!("edit" in element.dataset)) this.ends.set(element.dataset.assignment, element.dataset.lease);
  }

  has(assignment) {
    return this.ends.has(assignment);
  }

  /** Sent or skipped. */
  forget(assignment) {
    this.ends.delete(assignment);
  }

  /** "leased"; another word for a lease that is lost; null without an answer. */
  async renew(assignment) {
    const answer = await postJson(this.url(assignment, "heartbeat/"));
    if (answer.status === 404 || answer.status === 409) return "lost";
    if (answer.status !== 200) return null;
    const { state } = answer.data.assignment;
    if (state === "leased" && this.has(assignment)) this.ends.set(assignment, answer.data.lease_expires_at);
    return state;
  }

  /**
   * Gives back all but those of isKept(assignment), by calls that outlive the page. Each names the lease that this page
   * knows: one renewed since belongs to the same page, loaded again, or to another tab, and stays.
   */
  giveBack(isKept) {
    for (const [assignment, end] of this.ends) {
      if (!isKept(assignment)) postJson(this.url(assignment, "release/"), { lease_expires_at: end }, { keepalive: true });
    }
  }
}
