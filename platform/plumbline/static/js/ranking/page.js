// What the server gave the page besides its tasks: addresses, sentences, settings, the day's progress.

export const page = JSON.parse(document.getElementById("page-data").textContent);
export const { words } = page;

export const byId = (id) => document.getElementById(id);

/** Where to call the server about a task. */
export const url = (assignment, call) => page.urls.assignment.replace("ASSIGNMENT", assignment) + call;
