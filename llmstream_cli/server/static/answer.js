// One answer on its way: asks, waits where the server cannot answer yet, and reads.

import { askKey, CutError, progressOf, server, stream } from "./api.js";
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
  #hasBegun = false; // until when an older answer stays
  #tries = 0;

  constructor(message, body, onText, onNote) {
    Object.assign(this, { message, onText, onNote });
    this.#body = body;
  }

  stop() {
    this.#abort.abort();
  }

  async run() {
    Object.assign(this.message, { ended: null, error: "" });
    try {
      while (!(await this.#try()));
      this.message.ended = "complete";
    } catch (error) {
      this.#explain(error);
    }
  }

  #tell(note) {
    this.note = note;
    this.onNote();
  }

  // Asks once; returns whether there is nothing more to try.
  async #try() {
    const id = `page-${randomId()}`;
    const looking = new AbortController();
    this.#look(id, AbortSignal.any([looking.signal, this.#abort.signal])).catch(() => {});
    this.#tell("");
    try {
      await stream(this.#body, id, this.#abort.signal, (text, model) => this.#add(text, model));
      return true;
    } catch (error) {
      if (this.#hasBegun || !(await this.#recover(error))) throw error;
      return false;
    } finally {
      looking.abort();
      if (this.#hasBegun) await this.#settle(id);
    }
  }

  #add(text, model) {
    if (!this.#hasBegun) {
      Object.assign(this.message, { text: "", model, stats: undefined });
      this.#tell("Answering");
    }
    this.#hasBegun = true;
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
  async #settle(id) {
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

  #explain(error) {
    const { message } = this;
    const why = this.#progress?.error ?? "the connection to the server was lost";
    message.ended = "failed";
    message.error = error.message;
    if (this.#abort.signal.aborted) Object.assign(message, { ended: "stopped", error: "" });
    else if (error instanceof CutError) {
      Object.assign(message, { ended: "cut", error: `The answer broke off: ${why}.` });
    }
  }
}
