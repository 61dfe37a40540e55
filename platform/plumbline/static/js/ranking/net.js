// Calls to the server. Every answer is {status, data}; status 0 means that no answer came, 401 that this person is not
// signed in, also where somebody else is by now.

import { page } from "./page.js";

const TIMEOUT_MS = 15_000;

function csrfToken() {
  const cookie = document.cookie.match(/(?:^|; )csrftoken=([^;]+)/);
  return cookie ? cookie[1] : document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "";
}

async function call(url, { body = null, accept, keepalive = false }) {
  const headers = { "X-CSRFToken": csrfToken(), "X-Plumbline-Person": page.person, Accept: accept };
  if (body !== null) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(url, {
      method: "POST",
      headers,
      body: body === null ? null : JSON.stringify(body),
      credentials: "same-origin",
      redirect: "manual",
      keepalive,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    // A redirect is the sign-in page: the session is over.
    if (answer.type === "opaqueredirect") return { status: 401, data: null };
    const isJson = (answer.headers.get("Content-Type") ?? "").includes("json");
    return { status: answer.status, data: isJson ? await answer.json() : await answer.text() };
  } catch {
    return { status: 0, data: null };
  }
}

/** keepalive: the call goes on when the page is left. */
export function postJson(url, body = {}, { keepalive = false } = {}) {
  return call(url, { body, accept: "application/json", keepalive });
}

export function postForHtml(url) {
  return call(url, { accept: "text/html" });
}

/** The server's own sentence, or null. */
export function errorMessage(answer) {
  return answer.data?.error?.message ?? null;
}
