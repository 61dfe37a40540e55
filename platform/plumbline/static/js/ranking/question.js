// A question to the project's lead about the task on the page.

import { postJson, errorMessage } from "./net.js";

export class QuestionDialog {
  /** onSent() once the server has the question. */
  constructor(dialog, words, { onSent }) {
    this.dialog = dialog;
    this.words = words;
    this.onSent = onSent;
    this.text = dialog.querySelector("textarea");
    this.problem = dialog.querySelector("[role=alert]");
    this.sending = dialog.querySelector("[data-send]");
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
  }

  open(url) {
    if (url !== this.url) this.text.value = ""; // begun about another task
    this.url = url;
    this.problem.hidden = true;
    this.dialog.showModal();
    this.text.focus();
  }

  async send() {
    if (!this.text.value.trim()) {
      this.text.focus();
      return;
    }
    this.sending.disabled = true;
    const answer = await postJson(this.url, { text: this.text.value });
    this.sending.disabled = false;
    if (answer.status >= 200 && answer.status < 300) {
      this.text.value = "";
      this.dialog.close();
      this.onSent();
      return;
    }
    // What was typed stays where it is.
    this.problem.textContent = errorMessage(answer) ?? this.words.question_lost;
    this.problem.hidden = false;
  }
}
