// Dragging on the order strip. A chip dropped into a slot ties with what is there; between two slots it stands alone;
// back in the tray it has no place.

export function attach(strip, tray, onArranged) {
  const lists = [...strip.querySelectorAll("[data-drop]"), tray];
  for (const list of lists) {
    window.Sortable.create(list, {
      group: "order",
      draggable: ".chip",
      animation: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 120,
      forceFallback: true,
      fallbackOnBody: true,
      fallbackTolerance: 4,
      delay: 120,
      delayOnTouchOnly: true,
      emptyInsertThreshold: 10,
      ghostClass: "chip--ghost",
      dragClass: "chip--dragged",
      onStart: () => strip.closest(".bar").setAttribute("data-dragging", ""),
      onEnd: (event) => {
        strip.closest(".bar").removeAttribute("data-dragging");
        onArranged(readGroups(strip), event.item.dataset.completion);
      },
    });
  }
}

export function detach(strip, tray) {
  for (const list of [...strip.querySelectorAll("[data-drop]"), tray]) window.Sortable?.get(list)?.destroy();
}

function readGroups(strip) {
  return [...strip.querySelectorAll("[data-drop]")]
    .map((list) => [...list.querySelectorAll(".chip")].map((chip) => chip.dataset.completion))
    .filter((group) => group.length > 0);
}
