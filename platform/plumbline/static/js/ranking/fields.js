// What goes with the order: flags, ratings, reasons, a note, strength, better answers. Read from a task, or put back.

export function readFields(element) {
  const flags = {};
  const ratings = {};
  const rewrites = [];
  for (const card of element.querySelectorAll(".answer")) {
    const id = card.dataset.completion;
    const set = [...card.querySelectorAll(".flags input:checked")].map((input) => input.value);
    if (set.length > 0) flags[id] = set;
    for (const input of card.querySelectorAll(".rating input:checked")) {
      ratings[id] = { ...ratings[id], [input.dataset.axis]: Number(input.value) };
    }
    const rewrite = card.querySelector(".improve textarea");
    const text = rewrite?.value.trim();
    if (text && text !== rewrite.defaultValue.trim()) rewrites.push({ completion: id, text });
  }
  const strength = element.querySelector(".strength input:checked");
  return {
    flags,
    ratings,
    rewrites,
    strength: strength ? Number(strength.value) : null,
    rationale: element.querySelector("[name=rationale]")?.value ?? "",
    note: element.querySelector("[name=note]")?.value ?? "",
  };
}

export function fillIn(element, fields) {
  if (!fields) return;
  for (const card of element.querySelectorAll(".answer")) {
    const id = card.dataset.completion;
    for (const input of card.querySelectorAll(".flags input")) input.checked = !!fields.flags[id]?.includes(input.value);
    for (const input of card.querySelectorAll(".rating input")) {
      input.checked = fields.ratings[id]?.[input.dataset.axis] === Number(input.value);
    }
  }
  for (const { completion, text } of fields.rewrites) {
    const rewrite = element.querySelector(`[data-completion="${completion}"] .improve textarea`);
    if (rewrite) rewrite.value = text;
  }
  for (const input of element.querySelectorAll(".strength input")) input.checked = fields.strength === Number(input.value);
  for (const name of ["rationale", "note"]) {
    const box = element.querySelector(`[name=${name}]`);
    if (box && !box.readOnly) box.value = fields[name] ?? "";
  }
  if (fields.rationale) element.querySelector(".rationale")?.setAttribute("open", "");
}

/** "+" and "−": how much better the better of two is, one step more or less. The radio that is now set, or null. */
export function changeStrength(element, step) {
  const scale = element.querySelector(".strength:not([hidden])");
  if (!scale) return null;
  const radios = [...scale.querySelectorAll("input")];
  const at = radios.findIndex((radio) => radio.checked);
  const radio = radios[Math.max(0, Math.min(radios.length - 1, at + step))];
  radio.checked = true;
  return radio;
}
