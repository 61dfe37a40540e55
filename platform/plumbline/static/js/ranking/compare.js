// The word-level difference of any two answers, which the server marks. Digits choose the answers.

import { postForHtml } from "./net.js";
import { fill } from "./view.js";
import { byId } from "./page.js";

export class Compare {
  constructor(urlOf, words) {
    this.urlOf = urlOf;
    this.words = words;
    this.dialog = byId("difference");
    this.selects = [byId("difference-first"), byId("difference-second")];
    for (const select of this.selects) select.addEventListener("change", () => this.load());
    this.dialog.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** cards: the task's ids in the order shown. pair: the two to begin with. */
  open(assignment, cards, pair) {
    this.assignment = assignment;
    for (const [index, select] of this.selects.entries()) {
      select.replaceChildren(
        ...cards.map((id, number) => new Option(fill(this.words.answer, { number: number + 1 }), id)),
      );
      select.value = pair[index];
    }
    this.dialog.showModal();
    this.load();
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key.toLowerCase() === "d") {
      event.preventDefault();
      this.dialog.close();
    }
    const option = /^[1-9]$/.test(event.key) && this.selects[0].options[Number(event.key) - 1];
    if (!option) return;
    event.preventDefault();
    // The two digits typed last are compared: the answer chosen longer ago makes room.
    const [first, second] = this.selects;
    if (second.value === option.value) return;
    first.value = second.value;
    second.value = option.value;
    this.load();
  }

  async load() {
    const [first, second] = this.selects.map((select) => select.value);
    const answer = await postForHtml(`${this.urlOf(this.assignment)}?first=${first}&second=${second}`);
    if (this.selects[0].value !== first || this.selects[1].value !== second) return;
    const body = byId("difference-body");
    if (answer.status === 200) body.innerHTML = answer.data; // our own server's, made by annotation/rendering.py
    else body.textContent = this.words.no_difference;
  }
}
