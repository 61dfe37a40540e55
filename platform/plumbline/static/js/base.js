// What every page shares: the theme switch, menus, dialogs, relative times, copying, questions before a form is sent.
//   <button data-theme-switch>             switches dark and light
//   <button data-dialog-open="ID">         opens <dialog id="ID">; [data-dialog-close] inside closes it
//   <time datetime="…" data-relative>      reads "3 minutes ago", the exact time on hover
//   <button data-copy="#ID">               copies that element's text; data-copied holds the label that confirms it
//   <form data-confirm="Question?">        asks before it is sent
// Parts that arrive later say so by a "part:load" event, and are enhanced too.

const language = document.documentElement.lang || "en";

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("plumbline-theme", root.dataset.theme);
  } catch {
    // The choice lasts for this page.
  }
  document.dispatchEvent(new CustomEvent("plumbline:theme"));
}

const UNITS = [
  ["year", 31536000],
  ["month", 2592000],
  ["week", 604800],
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const exact = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });

function relativeTime(date, now = Date.now()) {
  const seconds = Math.round((date.getTime() - now) / 1000);
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) return relative.format(Math.trunc(seconds / length), unit);
  }
  return Math.abs(seconds) < 10 ? relative.format(0, "second") : relative.format(seconds, "second");
}

function refreshTimes(root = document) {
  for (const time of root.querySelectorAll("time[data-relative]")) {
    const date = new Date(time.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    time.title = exact.format(date);
    const text = relativeTime(date);
    if (time.textContent !== text) time.textContent = text;
  }
}

async function copyText(button) {
  const target = document.querySelector(button.dataset.copy);
  await navigator.clipboard.writeText(target.value ?? target.textContent.trim());
  if (!button.dataset.copied) return;
  const label = button.textContent;
  button.textContent = button.dataset.copied;
  setTimeout(() => (button.textContent = label), 2000);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-theme-switch], [data-dialog-open], [data-dialog-close], [data-copy]");
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
  if (!target) return;
  if (target.matches("[data-theme-switch]")) switchTheme();
  else if (target.matches("[data-dialog-open]")) document.getElementById(target.dataset.dialogOpen)?.showModal();
  else if (target.matches("[data-dialog-close]")) target.closest("dialog")?.close();
  else copyText(target);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// A click on the dimmed page beside a dialog closes it.
document.addEventListener("click", (event) => {
  if (!(event.target instanceof HTMLDialogElement)) return;
  const box = event.target.getBoundingClientRect();
  const inside =
    event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
  if (!inside && event.detail) event.target.close();
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset?.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// On a narrow screen the current tab may lie outside the row of tabs.
for (const row of document.querySelectorAll(".nav, .tabs")) {
  const tab = row.querySelector("[aria-current]");
  if (tab) row.scrollLeft = tab.offsetLeft - row.offsetLeft - (row.clientWidth - tab.offsetWidth) / 2;
}

document.addEventListener("part:load", (event) => refreshTimes(event.target.parentNode ?? document));
refreshTimes();
setInterval(refreshTimes, 20_000);
