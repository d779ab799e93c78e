// The server, as the page sees it: its state, and answers by `fetch` from /token_stream.

import { randomId } from "./conversation.js";
import { recall, remember } from "./memory.js";

const READY_PAUSE = 15_000; // milliseconds between two looks at the server
const WAITING_PAUSE = 1_500;
const LOOK_SECONDS = 10; // after which a look that hangs has failed
const GOOD = new Set(["ready", "idle"]); // an idle model is loaded by the first that asks

export class ServerError extends Error {
  constructor(status, { message, code } = {}, retryAfter = null) {
    super(message ?? `the server answered ${status}`);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

// The answer broke off after it had begun.
export class CutError extends Error {}

let key = recall("sessionStorage", "key"); // of this tab and its session alone

export function hasKey() {
  return key !== "";
}

export function setKey(value) {
  key = value;
  remember("sessionStorage", "key", value);
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  let error = {};
  try {
    ({ error } = await response.json());
  } catch {
    // Something between the server and this page answered: its status is all there is.
  }
  throw new ServerError(response.status, error ?? {}, retryAfter);
}

export async function fetchJson(path, signal) {
  return (await request(path, { signal })).json();
}

// ---- the state of the server --------------------------------------------------------------

// Looks at the server from time to time, and tells by `change` events. `state` is what /status
// says, or `down`, or `locked` where it wants a key.
class Server extends EventTarget {
  state = "unknown";
  reason = "";
  status = null; // the last /status
  #timer = null;
  #looking = null;

  watch() {
    document.addEventListener("visibilitychange", () => this.#lookIfSeen());
    window.addEventListener("online", () => this.look());
    return this.look();
  }

  // Looks now; returns when the state is known.
  look() {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null;
      clearTimeout(this.#timer);
      const pause = GOOD.has(this.state) || this.state === "locked" ? READY_PAUSE : WAITING_PAUSE;
      this.#timer = setTimeout(() => this.#lookIfSeen(), pause);
    });
    return this.#looking;
  }

  // Nobody sees the state of a page that is hidden, but a message may wait for the server.
  #lookIfSeen() {
    if (!document.hidden || !this.isGood) this.look();
  }

  async #look() {
    try {
      this.status = await fetchJson("/status", AbortSignal.timeout(LOOK_SECONDS * 1000));
      this.#set(this.status.state, this.status.reason);
    } catch (error) {
      if (error.status === 401) this.#set("locked", error.message);
      else this.#set("down", error.status ? error.message : "The server cannot be reached");
    }
  }

  #set(state, reason) {
    Object.assign(this, { state, reason });
    this.dispatchEvent(new Event("change"));
  }

  get isGood() {
    return GOOD.has(this.state);
  }

  model(name) {
    const models = this.status?.models ?? [];
    return models.find((model) => model.name === name) ?? models[0] ?? null;
  }
}

export const server = new Server();

// Resolves at the next change of the server's state for which a condition holds.
export function changed(condition, signal) {
  return new Promise((resolve, reject) => {
    const stop = new AbortController();
    const end = (settle, value) => {
      stop.abort();
      settle(value);
    };
    const options = { signal: stop.signal };
    server.addEventListener("change", () => condition() && end(resolve), options);
    signal.addEventListener("abort", () => end(reject, signal.reason), options);
    if (signal.aborted) end(reject, signal.reason);
  });
}

export function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

// ---- answers --------------------------------------------------------------------------------

// Asks once. Calls `onText` with each part of the answer and the model's name.
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
    if (signal.aborted) throw signal.reason;
    throw new CutError("the answer broke off", { cause: error });
  }
}

export function newRequestId() {
  return `page-${randomId()}`;
}

// Returns how far a request has come, or null where the server cannot tell.
export async function progressOf(id, signal) {
  try {
    return await fetchJson(`/requests/${id}`, signal);
  } catch {
    return null;
  }
}
