// The server, as the page sees it: its state, and answers by `fetch` from /token_stream.

import { ask } from "./dom.js";

const READY_PAUSE = 15_000; // milliseconds between two looks at the server
const WAITING_PAUSE = 1_500;

export class ServerError extends Error {
  constructor(status, message, retryAfter) {
    super(message ?? `the server answered ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export class CutError extends Error {}

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
  askingKey ??= ask({ title, text, label: "API key", type: "password", action: "Use it" })
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

export async function stream(body, id, signal, onText) {
  const response = await request("/token_stream", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Request-Id": id },
    body: JSON.stringify(body),
    signal,
  });
  const model = response.headers.get("X-Model");
  // Not through a TextDecoderStream: where the connection breaks, it drops what it still holds.
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onText(decoder.decode(value, { stream: true }), model);
    }
  } catch (error) {
    signal.throwIfAborted();
    throw new CutError("the answer broke off", { cause: error });
  }
}

export function progressOf(id, signal) {
  return fetchJson(`/requests/${id}`, signal).catch(() => null);
}
