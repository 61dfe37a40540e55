// The keyboard. One table: the help dialog and this file name the same keys.

const ACTIONS = {
  "=": "tie",
  u: "undo",
  Backspace: "undo",
  ArrowLeft: "earlier",
  ArrowRight: "later",
  Delete: "remove",
  "+": "stronger",
  "-": "weaker",
  n: "none",
  d: "compare",
  h: "height",
  o: "uncover",
  s: "skip",
  f: "flag",
  r: "raw",
  g: "guidelines",
  q: "question",
  "?": "help",
  Enter: "submit",
};

// Of the height of a column. Where nothing scrolls by itself these keys are the browser's.
const SCROLLS = { ArrowDown: 0.15, ArrowUp: -0.15, PageDown: 0.9, PageUp: -0.9 };

function isTyping(target) {
  return target.matches("textarea, select, input:not([type=checkbox], [type=radio]), [contenteditable]");
}

/** Calls act(name, digit), or scroll(columns), for each key that means something where the focus is. */
export function listen({ act, scroll }) {
  document.addEventListener("keydown", (event) => {
    const withControl = event.ctrlKey || event.metaKey;
    if (event.defaultPrevented || event.isComposing || event.altKey || document.querySelector("dialog:modal")) return;
    if (event.key === "Enter" && withControl) return run("submit");
    if (withControl || isTyping(event.target)) return undefined;
    if (event.key in SCROLLS && !event.target.closest("input, .answer__text, dialog")) {
      return scroll(SCROLLS[event.key]) ? event.preventDefault() : undefined;
    }
    if (/^[1-9]$/.test(event.key)) return run("place", Number(event.key));
    const action = ACTIONS[event.key] ?? ACTIONS[event.key.toLowerCase()];
    if (!action) return undefined;
    // A focused control keeps its own Enter (not one in a dialog that just closed), and a radio button its arrows.
    const control = event.target.closest("a, summary, button");
    if (action === "submit" && control && !control.closest("dialog:not([open])")) return undefined;
    if (action === "submit" && event.repeat) return undefined;
    if ((action === "earlier" || action === "later") && event.target.matches("input")) return undefined;
    return run(action);

    function run(name, digit) {
      event.preventDefault();
      act(name, digit);
    }
  });
}
