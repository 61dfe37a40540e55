// What one has begun, kept in this browser by assignment until it is sent. Forgotten after a week.

const PREFIX = "plumbline-draft:";
const KEPT_MS = 7 * 24 * 3600 * 1000;

export function saveDraft(assignment, draft) {
  try {
    localStorage.setItem(PREFIX + assignment, JSON.stringify({ ...draft, savedAt: Date.now() }));
  } catch {
    // No storage: the draft lives as long as the page.
  }
}

export function readDraft(assignment) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + assignment));
  } catch {
    return null;
  }
}

export function dropDraft(assignment) {
  try {
    localStorage.removeItem(PREFIX + assignment);
  } catch {
    // Nothing was kept.
  }
}

/** How this person likes the page, in this browser. */
export function readChoice(name) {
  try {
    return JSON.parse(localStorage.getItem(`plumbline-choice:${name}`)) ?? false;
  } catch {
    return false;
  }
}

export function keepChoice(name, value) {
  try {
    localStorage.setItem(`plumbline-choice:${name}`, JSON.stringify(value));
  } catch {
    // The choice lasts for this page.
  }
}

export function forgetOldDrafts() {
  try {
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(PREFIX)) continue;
      const savedAt = JSON.parse(localStorage.getItem(key))?.savedAt ?? 0;
      if (Date.now() - savedAt > KEPT_MS) localStorage.removeItem(key);
    }
  } catch {
    // Storage is closed to us.
  }
}
