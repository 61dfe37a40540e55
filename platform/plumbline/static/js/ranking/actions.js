// What a key or a button does to the task on the page: {name: act(digit)}, by the names in keys.js.

import { page, words, byId, url } from "./page.js";
import * as State from "./state.js";
import { fill } from "./view.js";
import { changeStrength } from "./fields.js";

export function actionsOf({ desk, sending, view, reading, compare, guidelines, question }) {
  function strengthen(step) {
    const radio = changeStrength(desk.current.element, step);
    if (!radio) return;
    desk.keep();
    view.announce(fill(words.strength, { strength: radio.nextElementSibling.textContent }));
  }

  function setNone(none) {
    if (page.objective === "worst") return;
    desk.update(State.setNone(desk.current.state, none));
    view.announce(none ? words.none_on : words.none_off);
  }

  return {
    place: (digit) => {
      const id = desk.current.state.cards[digit - 1];
      if (id) desk.change((state) => State.place(state, id));
    },
    tie: () => {
      desk.change(State.toggleTie);
      if (desk.current.state.tie) view.announce(words.tie_next);
    },
    earlier: () => desk.change((state) => State.moveEarlier(state)),
    later: () => desk.change((state) => State.moveLater(state)),
    remove: () => {
      const { selected } = desk.current.state;
      if (!selected) return;
      desk.change((state) => State.remove(state, selected));
      view.announce(fill(words.removed, { number: view.number(desk.current.state, selected) }));
    },
    undo: () => {
      const { state } = desk.current;
      if (state.history.length === 0 && !state.tie) return view.toastUndo?.();
      desk.update(State.undo(state));
      return view.announce(words.undone);
    },
    none: () => setNone(!desk.current.state.none),
    raw: () => view.announce(reading.togglePlain() ? words.plain_on : words.plain_off),
    compare: () => {
      const { assignment, state } = desk.current;
      compare.open(assignment, state.cards, State.neighbours(state));
    },
    height: () => reading.toggle("opened"),
    stack: () => reading.toggle("stacked"),
    stronger: () => strengthen(1),
    weaker: () => strengthen(-1),
    uncover: () => {
      const isOpen = reading.toggleCovers();
      if (isOpen !== null) view.announce(isOpen ? words.uncovered : words.covered);
    },
    flag: () => {
      const id = desk.current.state.selected ?? desk.current.state.cards[0];
      const flags = desk.current.element.querySelector(`[data-completion="${id}"] .flags`);
      if (!flags) return;
      flags.open = !flags.open;
      (flags.open ? flags.querySelector("input") : flags.querySelector("summary")).focus();
    },
    guidelines: () => guidelines.toggle(),
    help: () => byId("keys").showModal(),
    question: () => question.open(url(desk.current.assignment, "question/")),
    skip: () => sending.skip(),
    submit: () => sending.submit(),
  };
}
