// Requests to the gateway: the token, streams of events, acts. Nothing here leaves the page's own origin.

const KEPT = "peerfabric.token";

/** Take the token out of the address: a fragment is in no log, and here in no history either. */
export function takeToken() {
  const found = /^#(?:.*&)?token=([^&]*)/.exec(location.hash);
  if (!found) return false;
  sessionStorage.setItem(KEPT, decodeURIComponent(found[1]));
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

export function keepToken(token) {
  sessionStorage.setItem(KEPT, token);
}

function headers(more) {
  const token = sessionStorage.getItem(KEPT);
  return token ? { authorization: `Bearer ${token}`, ...more } : { ...more };
}

/** The gateway said no; `status` is HTTP's, the text its reason. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  let text = `${answer.status} ${answer.statusText}`;
  try {
    const problem = await answer.json();
    text = problem.detail || problem.title || text;
  } catch {
    /* no problem document: the status has to do */
  }
  throw new Refused(answer.status, text);
}

export async function get(path, signal) {
  return (await checked(await fetch(path, { headers: headers(), signal, cache: "no-store" }))).json();
}

export async function post(path, body) {
  const type = { "content-type": "application/json" };
  const answer = await fetch(path, { method: "POST", headers: headers(type), body: JSON.stringify(body) });
  return (await checked(answer)).json();
}

/**
 * Read server-sent events of `path` until it ends or `signal` aborts; `take(event, data)` may return a promise, for
 * which reading waits. EventSource cannot send the header that has the token.
 */
export async function events(path, signal, take, opened) {
  const answer = await checked(await fetch(path, { headers: headers(), signal, cache: "no-store" }));
  if (opened) opened();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let lines = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = value.split("\n");
    parts[0] = rest + parts[0];
    rest = parts.pop();
    for (const line of parts) {
      if (line !== "") {
        lines.push(line);
        continue;
      }
      let event = "message";
      let data = "";
      for (const each of lines) {
        if (each.startsWith("data: ")) data += (data && "\n") + each.slice(6);
        else if (each.startsWith("event: ")) event = each.slice(7);
      }
      lines = [];
      if (data) await take(event, data);
    }
  }
}
