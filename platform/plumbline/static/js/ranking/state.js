// The order being made, as plain values: every function takes a state and returns another. No document, no network.
//
//   cards     completion ids in the order shown (the digits 1…9)
//   groups    tie groups of ids, best first
//   tie       the next card joins the last group
//   none      "none acceptable"
//   selected  the card that the arrow keys move
//   history   earlier groups, for undo

export function create(cards, { groups = [], none = false } = {}) {
  return { cards, groups, tie: false, none, selected: null, history: [], initial: JSON.stringify([groups, none]) };
}

function change(state, groups, selected = state.selected) {
  const kept = groups.filter((group) => group.length > 0);
  if (JSON.stringify(kept) === JSON.stringify(state.groups)) return { ...state, selected, tie: false };
  return { ...state, groups: kept, selected, tie: false, history: [...state.history, state.groups] };
}

export function isPlaced(state, id) {
  return state.groups.some((group) => group.includes(id));
}

export function unplaced(state) {
  return state.cards.filter((id) => !isPlaced(state, id));
}

/** The card goes next in the order, or beside the last one after "=". A placed card is only selected. */
export function place(state, id) {
  if (!state.cards.includes(id)) return state;
  if (isPlaced(state, id)) return { ...state, selected: id, tie: false };
  const groups = state.groups.map((group) => [...group]);
  if (state.tie && groups.length > 0) groups.at(-1).push(id);
  else groups.push([id]);
  return change(state, groups, id);
}

/** "=": the next card ties with the last. When none is left, the selected one ties with the one before it. */
export function toggleTie(state) {
  if (state.groups.length === 0) return state;
  if (unplaced(state).length > 0) return { ...state, tie: !state.tie };
  const id = state.selected ?? state.groups.at(-1)[0];
  const index = state.groups.findIndex((group) => group.includes(id));
  return state.groups[index].length === 1 ? moveEarlier(state, id) : state;
}

/** One step towards the best: out of a tie, then into the group before, and so on. */
export function moveEarlier(state, id = state.selected) {
  const index = state.groups.findIndex((group) => group.includes(id));
  if (index < 0) return state;
  const groups = state.groups.map((group) => group.filter((other) => other !== id));
  if (state.groups[index].length > 1) groups.splice(index, 0, [id]);
  else if (index > 0) groups[index - 1].push(id);
  else return state;
  return change(state, groups, id);
}

export function moveLater(state, id = state.selected) {
  const index = state.groups.findIndex((group) => group.includes(id));
  if (index < 0) return state;
  const groups = state.groups.map((group) => group.filter((other) => other !== id));
  if (state.groups[index].length > 1) groups.splice(index + 1, 0, [id]);
  else if (index < state.groups.length - 1) groups[index + 1].unshift(id);
  else return state;
  return change(state, groups, id);
}

export function remove(state, id = state.selected) {
  if (!isPlaced(state, id)) return state;
  return change(state, state.groups.map((group) => group.filter((other) => other !== id)), null);
}

/** The order as the strip shows it after a drag. */
export function arrange(state, groups, selected = null) {
  return change(state, groups, selected);
}

export function undo(state) {
  if (state.tie) return { ...state, tie: false };
  if (state.history.length === 0) return state;
  return { ...state, groups: state.history.at(-1), history: state.history.slice(0, -1), selected: null };
}

export function setNone(state, none) {
  return { ...state, none };
}

/** The card that is last because every other one has its place; null while more, or none, are left. */
export function implied(state) {
  const left = unplaced(state);
  return left.length === 1 && state.groups.length > 0 ? left[0] : null;
}

/** Two cards, one better than the other: only then is the strength of the preference asked. */
export function isPair(state) {
  const groups = order(state);
  return state.cards.length === 2 && groups.length === 2;
}

/** The two cards to compare first: the marked one and its neighbour in the order, else the first two. */
export function neighbours(state) {
  const { cards, selected } = state;
  const ordered = [...state.groups.flat(), ...unplaced(state)];
  const index = ordered.indexOf(selected);
  if (index < 0) return cards.slice(0, 2);
  return index > 0 ? [ordered[index - 1], selected] : [selected, ordered[1]];
}

/** {id: {rank, tied}}, ranks from 1; tied cards share one. */
export function ranks(state) {
  const found = {};
  state.groups.forEach((group, index) => {
    for (const id of group) found[id] = { rank: index + 1, tied: group.length > 1 };
  });
  return found;
}

export function isUntouched(state) {
  return JSON.stringify([state.groups, state.none]) === state.initial;
}

/** The order to send. One card without a place is last; rest = "last" ties several there, "out" leaves them out. */
export function order(state, rest = "out") {
  const left = unplaced(state);
  if (state.groups.length > 0 && (left.length === 1 || (left.length > 1 && rest === "last"))) {
    return [...state.groups, left];
  }
  return state.groups;
}
