// The guidelines: beside the task where there is room, over it where there is not. One goes on ranking while they stand
// beside it; whether they do is remembered in this browser. Who has ranked nothing here yet sees them first.

import { readChoice, keepChoice } from "./drafts.js";
import { byId, page } from "./page.js";

const CHOICE = "guidelines";
const wide = matchMedia("(min-width: 72rem)"); // as in guidelines.css

export class Guidelines {
  /** Only where the project has some. onResize(): the task has more room now, or less. */
  constructor({ onResize }) {
    this.panel = byId("guidelines");
    this.button = byId("guide");
    this.onResize = onResize;
    if (!this.panel) return;
    this.button.addEventListener("click", () => this.toggle());
    this.panel.addEventListener("close", () => this.closed());
    this.panel.addEventListener("keydown", (event) => this.onKey(event));
    wide.addEventListener("change", () => this.settle());
    this.settle();
    this.greet();
  }

  /** Once a person and project: what a good answer is cannot be guessed. */
  greet() {
    const seen = `${CHOICE}-seen:${page.key}`;
    if (!page.is_new || readChoice(seen)) return;
    keepChoice(seen, true);
    if (!this.panel.open) this.toggle();
  }

  toggle() {
    if (!this.panel) return;
    if (this.panel.open) {
      this.panel.close();
      return;
    }
    if (wide.matches) {
      keepChoice(CHOICE, true);
      this.stand();
    } else this.panel.showModal();
    byId("guidelines-title").focus();
  }

  /** On a wide page as one left it, on a narrow one away: nothing covers the task unasked. */
  settle() {
    if (this.panel.open) this.panel.close();
    if (wide.matches && readChoice(CHOICE)) this.stand();
  }

  /** Beside the task. Not by show(), which would take the focus. */
  stand() {
    this.panel.open = true;
    this.draw();
  }

  closed() {
    if (this.panel.open) return; // open again since: the event comes late
    if (wide.matches) keepChoice(CHOICE, false);
    // Back to the task, where Enter submits.
    const focused = document.activeElement;
    if (focused === document.body || this.panel.contains(focused)) {
      document.querySelector(".conversation")?.focus({ preventScroll: true });
    }
    this.draw();
  }

  draw() {
    this.button.setAttribute("aria-expanded", String(this.panel.open));
    this.onResize();
  }

  onKey(event) {
    // The browser closes what covers the page; what stands beside it is ours to close.
    if (event.key !== "Escape" || this.panel.matches(":modal")) return;
    event.preventDefault();
    this.panel.close();
  }
}
