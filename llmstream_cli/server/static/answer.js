// One answer on its way: asks, waits where the server cannot answer yet, and reads.

import {
  changed, CutError, newRequestId, progressOf, server, ServerError, sleep, stream,
} from "./api.js";
import { readStats } from "./conversation.js";

const FIRST_LOOK = 400; // milliseconds until the first look at how far the request has come
const NEXT_LOOK = 2_000;
const MAX_WAIT_SECONDS = 15;
const MAX_UNREACHED = 3; // while the server seems to be well

// Events: `text` when the message has grown, `note` when what there is to say of it has changed,
// `end` at the end, after which `message.ended` tells how: complete, stopped, cut or failed.
export class Answer extends EventTarget {
  note = "";
  progress = null;
  #body;
  #askKey;
  #abort = new AbortController();
  #tries = 0;

  constructor(message, body, askKey) {
    super();
    this.message = message;
    this.#body = body;
    this.#askKey = askKey;
  }

  stop() {
    this.#abort.abort(new DOMException("stopped", "AbortError"));
  }

  async run() {
    const { message } = this;
    message.ended = null;
    message.error = "";
    try {
      while (!(await this.#try()));
      message.ended = "complete";
    } catch (error) {
      this.#explain(error);
    }
    this.#tell("");
    this.dispatchEvent(new Event("end"));
  }

  #tell(note) {
    this.note = note;
    this.dispatchEvent(new Event("note"));
  }

  // Asks once; returns whether there is nothing more to try.
  async #try() {
    const id = newRequestId();
    const looking = new AbortController();
    this.#look(id, AbortSignal.any([looking.signal, this.#abort.signal])).catch(() => {});
    this.#tell("");
    try {
      await stream(this.#body, id, this.#abort.signal, (text, model) => {
        this.message.model = model;
        if (!this.message.text) this.#tell("Answering");
        this.message.text += text;
        this.dispatchEvent(new Event("text"));
      });
      return true;
    } catch (error) {
      if (this.message.text || !(await this.#recover(error))) throw error;
      return false;
    } finally {
      looking.abort();
      if (this.message.text) await this.#settle(id);
    }
  }

  // Looks at how far the request has come until told to stop.
  async #look(id, signal) {
    for (let pause = FIRST_LOOK; ; pause = NEXT_LOOK) {
      await sleep(pause, signal);
      this.progress = await progressOf(id, signal);
      if (!signal.aborted) this.#tell(this.#describe());
    }
  }

  #describe() {
    const { state, position, generated_tokens: tokens, tokens_per_second: speed } = this.progress ?? {};
    if (state === "loading") return "The model is being loaded";
    if (state === "queued") return `Waiting in the queue, place ${position}`;
    if (state === "prompt") return "Reading the conversation";
    return state === "generating" ? `${tokens} tokens, ${speed.toFixed(1)} tokens/s` : this.note;
  }

  // Notes what became of the request; after a stop the server takes a moment to know it itself.
  async #settle(id) {
    for (let tries = 0; tries < 5; tries += 1) {
      const found = await progressOf(id, AbortSignal.timeout(3_000));
      if (!found) return;
      this.progress = found;
      if (found.state === "ended") break;
      await sleep(200, AbortSignal.timeout(5_000));
    }
    this.message.stats = readStats(this.progress);
  }

  // Waits until it is worth to ask again; returns false where it never will be.
  async #recover(error) {
    const { signal } = this.#abort;
    this.#tries += 1;
    if (signal.aborted) return false;
    if (error instanceof TypeError) { // so fetch says that it reached nobody
      await server.look();
      if (server.isGood && this.#tries >= MAX_UNREACHED) return false;
      return this.#whenGood("The server cannot be reached. The message is sent when it is back.");
    }
    if (error.status === 401) {
      this.#tell("The server wants a key");
      return this.#askKey(error.message, signal);
    }
    if (error.status === 429) {
      return this.#countDown(error.message, Math.max(error.retryAfter ?? 1, 2 ** (this.#tries - 1)));
    }
    if (error.status !== 503) return false;
    await server.look();
    if (server.state === "failed") return false;
    return this.#whenGood(`Not ready: ${error.message}. The message is sent when it is.`);
  }

  async #whenGood(note) {
    const { signal } = this.#abort;
    this.#tell(note);
    if (!server.isGood) await changed(() => server.isGood || server.state === "locked", signal);
    else await sleep(1_000, signal);
    return true;
  }

  async #countDown(reason, seconds) {
    for (let left = Math.min(Math.ceil(seconds), MAX_WAIT_SECONDS); left > 0; left -= 1) {
      this.#tell(`The server is busy: ${reason}. Asking again in ${left} s.`);
      await sleep(1_000, this.#abort.signal);
    }
    return true;
  }

  #explain(error) {
    const { message } = this;
    message.ended = "failed";
    if (this.#abort.signal.aborted) {
      message.ended = "stopped";
    } else if (error instanceof CutError) {
      message.ended = "cut";
      const why = this.progress?.error ?? "the connection to the server was lost";
      message.error = `The answer broke off: ${why}.`;
      server.look();
    } else if (error instanceof ServerError) {
      message.error = error.message;
    } else if (error instanceof TypeError) {
      message.error = "The server cannot be reached.";
    } else {
      message.error = `The page failed: ${error.message}`;
    }
  }
}
