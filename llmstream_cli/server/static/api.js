// The server, as the page sees it: its state, and answers by `fetch` from /token_stream.

import { ask as askUser } from "./dom.js";

const READY_PAUSE = 15_000; // milliseconds between two looks at the server
const WAITING_PAUSE = 1_500;
export const RESUME = 300; // seconds that the server keeps an answer that nobody reads

export class ServerError extends Error {
  constructor(status, message, retryAfter) {
    super(message ?? `the server answered ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// Of this tab alone, and where the browser lets the page keep something.
function session(work) {
  try {
    return work(sessionStorage);
  } catch {
    return null;
  }
}

let key = session((storage) => storage.getItem("key"));
let askingKey = null; // one dialog, however many wait for the key

export function askKey(reason) {
  const text = key ? reason : "Whoever started it has one.";
  const title = "This server wants a key";
  askingKey ??= askUser({ title, text, label: "API key", type: "password", action: "Use it" })
    .then((given) => {
      askingKey = null;
      if (given === null) return false;
      key = given;
      session((storage) => storage.setItem("key", key));
      server.look();
      return true;
    });
  return askingKey;
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  // Where something between the server and this page answered, its status is all there is.
  const { error } = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) || 1;
  throw new ServerError(response.status, error?.message, retryAfter);
}

export async function fetchJson(path, signal) {
  return (await request(path, { signal })).json();
}

// Looks at the server now and then, and tells by `change` events. `state` is what /status says,
// or `down`, or `locked` where it wants a key.
class Server extends EventTarget {
  state = "unknown";
  reason = "";
  status = null; // the last /status
  #timer = null;
  #looking = null;

  look() {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null;
      clearTimeout(this.#timer);
      const pause = this.isGood || this.state === "locked" ? READY_PAUSE : WAITING_PAUSE;
      this.#timer = setTimeout(() => this.look(), pause);
      this.dispatchEvent(new Event("change"));
    });
    return this.#looking;
  }

  async #look() {
    try {
      this.status = await fetchJson("/status", AbortSignal.timeout(10_000));
      Object.assign(this, { state: this.status.state, reason: this.status.reason });
    } catch (error) {
      this.state = error.status === 401 ? "locked" : "down";
      this.reason = error.status ? error.message : "The server cannot be reached";
    }
  }

  // An idle model is loaded by the first that asks.
  get isGood() {
    return this.state === "ready" || this.state === "idle";
  }

  model(name) {
    const models = this.status?.models ?? [];
    return models.find((model) => model.name === name) ?? models[0];
  }
}

export const server = new Server();

export function ask(body, id, signal) {
  return request("/token_stream", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Request-Id": id, Resume: RESUME },
    body: JSON.stringify(body),
    signal,
  });
}

// Asks for what an answer has behind some text. A text holds whole characters only, so its bytes
// tell where to go on wherever the connection cut them.
export function askOn(path, text, signal) {
  const start = new TextEncoder().encode(text).length;
  return request(path, { headers: { Range: `bytes=${start}-` }, signal });
}

export async function read({ body }, onText) {
  // Not through a TextDecoderStream: where the connection breaks, it drops what it still holds.
  const reader = body.getReader();
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // every byte counts
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onText(decoder.decode(value, { stream: true }));
  }
}

// Stops an answer, also while the page is being closed; where the server is away, in its time.
export function forget(path) {
  const options = { method: "DELETE", keepalive: true, signal: AbortSignal.timeout(3_000) };
  return request(path, options).catch(() => {});
}

export function progressOf(id, signal) {
  return fetchJson(`/requests/${id}`, signal).catch(() => null);
}
