// Speaking with the server. The key of the session is this tab's alone, and goes along in a header.

const KEY = "xfrmi-key";

export class Refusal extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
  }
}

// A link that was opened has a token behind its #. It is exchanged for a key, and taken out of the address bar.
export async function enter() {
  const token = location.hash.slice(1);
  if (token) {
    history.replaceState(null, "", location.pathname);
    const answer = await ask("/api/login", { method: "POST", body: { token } });
    sessionStorage.setItem(KEY, answer.key);
  }
}

function request(path, { method = "GET", body = undefined, signal = undefined } = {}) {
  return fetch(path, {
    method,
    signal,
    headers: { Authorization: `Bearer ${sessionStorage.getItem(KEY) || ""}` },
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "omit",
    cache: "no-store",
  });
}

export async function ask(path, options) {
  const response = await request(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Refusal(response.status, answer);
  return answer;
}

// Server-sent events, read with fetch, since EventSource can send no header. Returns when the server hangs up.
export async function listen(path, signal, opened, told) {
  const response = await request(path, { signal });
  if (!response.ok) throw new Refusal(response.status, await response.json());
  opened();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ")) told(JSON.parse(event.slice(6)));
  }
}
