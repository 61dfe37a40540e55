// How the texts are shown: formatted or as written, stacked or in columns, in columns of equal height that scroll together
// or in full, covered or open. Choices stay in this browser.

import { readChoice, keepChoice } from "./drafts.js";
import { fill } from "./view.js";
import { byId } from "./page.js";

const SPARE = 48; // px: less than this beyond its column, and a text is shown in full

export class Reading {
  constructor(words) {
    this.words = words;
    this.task = null;
    this.isPlain = false;
    byId("task").addEventListener("scroll", (event) => this.follow(event.target), { capture: true, passive: true });
    byId("task").addEventListener("toggle", (event) => event.target.matches(".cover") && this.measure(), true);
    addEventListener("resize", () => this.measure());
    this.drawChoices();
  }

  show(task) {
    this.task = task;
    this.drawPlain();
    this.measure();
  }

  get texts() {
    return this.task ? [...this.task.querySelectorAll(".answer__text")] : [];
  }

  togglePlain() {
    this.isPlain = !this.isPlain;
    this.drawPlain();
    this.measure();
    return this.isPlain;
  }

  toggle(choice) {
    keepChoice(choice, !readChoice(choice));
    this.drawChoices();
    this.measure();
  }

  /** Opens all covered texts, or covers all again. Whether they are open now; null where nothing is covered. */
  toggleCovers() {
    const covers = [...(this.task?.querySelectorAll(".cover") ?? [])];
    if (covers.length === 0) return null;
    const isOpen = covers.some((cover) => !cover.open);
    for (const cover of covers) cover.open = isOpen;
    return isOpen;
  }

  drawPlain() {
    byId("raw").setAttribute("aria-pressed", String(this.isPlain));
    for (const part of this.task.querySelectorAll("[data-plain]")) part.hidden = !this.isPlain;
    for (const part of this.task.querySelectorAll("[data-rendered]")) part.hidden = this.isPlain;
  }

  drawChoices() {
    for (const choice of ["stacked", "opened"]) {
      const isChosen = readChoice(choice);
      byId(choice).setAttribute("aria-pressed", String(isChosen));
      byId("task").toggleAttribute(`data-${choice}`, isChosen);
    }
  }

  /** Columns of equal height, where a text is longer than the page has room for. */
  measure() {
    if (!this.task) return;
    const { task, texts } = this;
    task.toggleAttribute("data-columns", true);
    // The style sheet knows whether there are columns at all: not on a phone, not stacked.
    const isLong = texts.some((text) => text.scrollHeight > text.clientHeight + SPARE);
    task.toggleAttribute("data-columns", isLong);
    byId("opened").hidden = !isLong && !readChoice("opened");
    for (const text of texts) {
      const scrolls = isLong && text.scrollHeight > text.clientHeight;
      if (scrolls) {
        text.tabIndex = 0;
        text.setAttribute("role", "region");
        const { number } = text.closest(".answer").dataset;
        text.setAttribute("aria-label", fill(this.words.text_of, { number }));
      } else {
        text.removeAttribute("tabindex");
        text.removeAttribute("role");
        text.removeAttribute("aria-label");
      }
    }
  }

  /** One column scrolled: the others stand at the same line. */
  follow(text) {
    if (!text.matches?.(".answer__text")) return;
    for (const other of this.texts) if (other !== text && other.scrollTop !== text.scrollTop) other.scrollTop = text.scrollTop;
  }

  /** Scrolls the columns together. False where there are none, so that the page scrolls as ever. */
  scroll(pages) {
    if (!this.task?.hasAttribute("data-columns")) return false;
    const longest = this.texts.reduce((one, other) => (other.scrollHeight > one.scrollHeight ? other : one));
    const top = longest.scrollTop;
    longest.scrollTop += pages * longest.clientHeight;
    return longest.scrollTop !== top;
  }
}
