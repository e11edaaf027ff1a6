// Requests to the gateway, with the token, and streams of events.

const KEPT = "peerfabric.token";

export const passed = (ms) => new Promise((done) => setTimeout(done, ms));
export const keepToken = (token) => sessionStorage.setItem(KEPT, token);
export const keptToken = () => sessionStorage.getItem(KEPT);

/** Take the token out of the address, so that it is in no history. */
export function takeToken() {
	const found = /^#(?:.*&)?token=([^&]*)/.exec(location.hash);
	if (!found) return false;
	keepToken(decodeURIComponent(found[1]));
	history.replaceState(null, "", location.pathname + location.search);
	return true;
}

/** Raises what the gateway said if it refused; `status` is HTTP's. */
async function ask(path, options) {
	const token = keptToken();
	const headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
	const answer = await fetch(path, { cache: "no-store", headers, ...options });
	if (answer.ok) return answer;
	const { status, statusText } = answer;
	const problem = await answer.json().catch(() => null);
	throw Object.assign(new Error(problem?.detail || problem?.title || `${status} ${statusText}`), { status });
}

export const get = async (path) => (await ask(path)).json();
export const post = async (path, body) => (await ask(path, { method: "POST", body: JSON.stringify(body) })).json();

/** Server-sent events; `take(event, data)` is awaited. EventSource cannot send the token. */
export async function events(path, signal, take, opened) {
	const answer = await ask(path, { signal });
	opened?.();
	const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	let [event, data] = ["message", ""];
	for (;;) {
		const { value, done } = await reader.read();
		if (done) return;
		const lines = value.split("\n");
		lines[0] = rest + lines[0];
		rest = lines.pop();
		for (const line of lines) {
			if (line.startsWith("event: ")) event = line.slice(7);
			else if (line.startsWith("data: ")) data += (data && "\n") + line.slice(6);
			else if (line === "") {
				if (data) await take(event, data);
				[event, data] = ["message", ""];
			}
		}
	}
}
