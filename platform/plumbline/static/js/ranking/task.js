// One task as it stands: its element, the order so far, the seconds spent; and its draft in this browser.

import * as State from "./state.js";
import { saveDraft, readDraft } from "./drafts.js";
import { readFields, fillIn } from "./fields.js";

/**
 * {element, assignment, isEdit, state, seconds, initialFields} of a task element: with a draft of this browser, or with the
 * order that the server sent.
 */
export function open(element) {
  const assignment = element.dataset.assignment;
  const cards = [...element.querySelectorAll(".answer")].map((card) => card.dataset.completion);
  const groups = JSON.parse(element.querySelector("script[type='application/json']").textContent);
  const task = {
    element,
    assignment,
    isEdit: "edit" in element.dataset,
    state: State.create(cards, { groups, none: "none" in element.dataset }),
    seconds: 0,
    initialFields: JSON.stringify(readFields(element)),
  };
  const draft = readDraft(assignment);
  if (draft && draft.groups.flat().every((id) => cards.includes(id))) {
    task.state = { ...task.state, groups: draft.groups, none: draft.none };
    task.seconds = draft.seconds;
    fillIn(element, draft.fields);
    element.toggleAttribute("data-noted", draft.isNoted ?? false);
  }
  return task;
}

export function keepDraft(task) {
  const { assignment, state, seconds, element } = task;
  const fields = readFields(element);
  const isNoted = "noted" in element.dataset;
  const kept = { groups: state.groups, none: state.none, seconds, isNoted, fields };
  saveDraft(assignment, { ...kept, isBegun: isBegun(task, fields) });
}

/** Whether anything has changed since the server sent it. */
export function isBegun(task, fields = readFields(task.element)) {
  return !State.isUntouched(task.state) || JSON.stringify(fields) !== task.initialFields;
}

/** Whether a note is to be written before the answers are shown. */
export function isWaitingForNote(task) {
  return "note" in task.element.dataset && !("noted" in task.element.dataset);
}
