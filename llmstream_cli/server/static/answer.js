// One answer on its way: asks, waits where the server cannot answer yet, reads, and goes on where
// the connection was lost. `message.source` says where the server keeps it, once it has begun.

import { ask, askKey, askOn, forget, progressOf, read, RESUME, server } from "./api.js";
import { randomId, readStats } from "./conversation.js";

const LOOK_PAUSE = 1_000; // milliseconds between two looks at how far the request has come
const MAX_WAIT = 15; // seconds, whatever a full queue's Retry-After says

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

// At the end `message.ended` is complete, stopped, cut or failed.
export class Answer {
  note = "";
  #progress = null;
  #body;
  #abort = new AbortController();
  #tries = 0; // since something came
  #lost = 0; // when the first of them failed

  // A message with a source is gone on with; the body asks for any other.
  constructor(message, body, { onBegin, onText, onNote }) {
    Object.assign(this, { message, onBegin, onText, onNote });
    this.#body = body;
  }

  stop() {
    this.#abort.abort();
  }

  async run() {
    const { message } = this;
    Object.assign(message, { ended: null, error: "" });
    let failure = null;
    try {
      while (!(await this.#try()));
    } catch (error) {
      failure = error;
    }
    if (message.source) await this.#settle();
    message.ended = "complete";
    if (failure && !this.#isWhole(failure)) this.#explain(failure);
    delete message.source;
  }

  #tell(note) {
    this.note = note;
    this.onNote();
  }

  // Asks once; returns whether there is nothing more to try.
  async #try() {
    const { message } = this;
    const { signal } = this.#abort;
    const id = message.source?.id ?? `page-${randomId()}`;
    const looking = new AbortController();
    this.#look(id, AbortSignal.any([looking.signal, signal])).catch(() => {});
    this.#tell(message.source ? "Answering" : "");
    try {
      const response = message.source
        ? await askOn(message.source.path, message.text, signal)
        : this.#begin(id, await ask(this.#body, id, signal));
      await read(response, (text) => this.#add(text));
      return true;
    } catch (error) {
      if (!(await this.#recover(error))) throw error;
      return false;
    } finally {
      looking.abort();
    }
  }

  // Until now an older answer stayed.
  #begin(id, response) {
    const { headers } = response;
    const source = { id, path: headers.get("Location") };
    Object.assign(this.message, { text: "", model: headers.get("X-Model"), stats: undefined, source });
    this.#add("");
    this.#tell("Answering");
    this.onBegin();
    return response;
  }

  #add(text) {
    this.#tries = 0;
    this.message.text += text;
    this.onText();
  }

  async #look(id, signal) {
    for (;;) {
      await sleep(LOOK_PAUSE, signal);
      this.#progress = await progressOf(id, signal);
      if (!signal.aborted) this.#tell(this.#describe());
    }
  }

  #describe() {
    const { state, position, generated_tokens: tokens, tokens_per_second: speed } = this.#progress ?? {};
    if (state === "loading") return "The model is being loaded";
    if (state === "queued") return `Waiting in the queue, place ${position}`;
    if (state === "prompt") return "Reading the conversation";
    return state === "generating" ? `${tokens} tokens, ${speed.toFixed(1)} tokens/s` : this.note;
  }

  // Notes what became of the request; after a stop the server takes a moment to know it itself.
  async #settle() {
    const { id, path } = this.message.source;
    if (this.#abort.signal.aborted) await forget(path);
    for (let tries = 0; tries < 5; tries += 1) {
      this.#progress = await progressOf(id, AbortSignal.timeout(3_000)) ?? this.#progress;
      if (this.#progress?.state === "ended") break;
      await sleep(200, AbortSignal.timeout(5_000));
    }
    this.message.stats = readStats(this.#progress ?? {});
  }

  // Waits until it is worth to ask again; returns false where it never will be.
  async #recover(error) {
    this.#tries += 1;
    if (this.#abort.signal.aborted) return false;
    if (error.status === 401) return askKey(error.message);
    if (this.message.source) return this.#waitForNetwork(error);
    if (error.status === 429) {
      let left = Math.min(Math.max(error.retryAfter, 2 ** (this.#tries - 1)), MAX_WAIT);
      for (; left > 0; left -= 1) {
        this.#tell(`The server is busy: ${error.message}. Asking again in ${left} s.`);
        await sleep(1_000, this.#abort.signal);
      }
      return true;
    }
    const isAway = error instanceof TypeError; // so fetch says that it reached nobody
    if (!isAway && error.status !== 503) return false;
    await server.look();
    if (server.state === "failed") return false;
    this.#tell(isAway
      ? "The server cannot be reached. The message is sent when it is back."
      : `Not ready: ${error.message}. The message is sent when it is.`);
    do await sleep(1_000, this.#abort.signal);
    while (!server.isGood && server.state !== "locked");
    return true;
  }

  // Waits until an answer that has begun is worth another look, the first time not at all.
  async #waitForNetwork({ status }) {
    if (this.#tries === 1) this.#lost = Date.now();
    const isOver = Date.now() - this.#lost > RESUME * 1_000;
    if (isOver || (status < 500 && status !== 429)) return false; // or the server no longer has it
    server.look();
    this.#tell("The connection is lost. The answer goes on when it is back.");
    await sleep(Math.min(2 ** (this.#tries - 1) - 1, MAX_WAIT) * 1_000, this.#abort.signal);
    return true;
  }

  // Whether there is nothing behind the text because all of it had come.
  #isWhole({ status }) {
    const { state, finish_reason: reason } = this.#progress ?? {};
    return status === 416 && state === "ended" && reason && reason !== "cancelled";
  }

  #explain(error) {
    const { message } = this;
    const why = this.#progress?.error ?? "the connection to the server was lost";
    message.ended = "failed";
    message.error = error.message;
    if (this.#abort.signal.aborted) Object.assign(message, { ended: "stopped", error: "" });
    else if (message.source) {
      Object.assign(message, { ended: "cut", error: `The answer broke off: ${why}.` });
    }
  }
}
