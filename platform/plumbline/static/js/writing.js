// A text that one writes is kept in this browser until it is saved.
//   <form data-draft="NAME">   NAME changes with each text: what is kept under it never comes back after a save.

const PREFIX = "plumbline-text:";
const form = document.querySelector("form[data-draft]");

if (form) {
  const box = form.querySelector("textarea");
  const key = PREFIX + form.dataset.draft;
  try {
    if (!box.value) box.value = localStorage.getItem(key) ?? "";
    box.addEventListener("input", () => {
      if (box.value) localStorage.setItem(key, box.value);
      else localStorage.removeItem(key);
    });
    // Others are saved by now, or for requests that one passed over.
    const old = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX) && name !== key);
    for (const name of old.slice(20)) localStorage.removeItem(name);
  } catch {
    // Storage is closed to us: the text lives as long as the page.
  }
  // Ctrl+Enter saves, as on the ranking page.
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}
