// The messages of a conversation as elements. What the model writes is drawn once a frame at
// most, however fast it comes.

import { partThought } from "./conversation.js";
import { byId, element, patch } from "./dom.js";
import { MarkdownStream } from "./markdown.js";

const AT_END = 8; // pixels from the end that still count as the end

class MessageView {
  #text = ""; // what the body shows
  #blocks = [];
  #stream = new MarkdownStream();
  key = ""; // of what the actions were made

  constructor({ id, role }) {
    const isUser = role === "user";
    this.body = element("div", { class: isUser ? "body" : "body markdown" });
    this.thought = element("details", { hidden: "" },
      element("summary", {}, "Reasoning"), element("p"));
    this.note = element("p", { class: "note" });
    this.actions = element("div", { class: "actions" });
    this.element = element("article", { class: role, "data-id": id },
      element("h2", { class: "offscreen" }, isUser ? "You" : "Answer"),
      this.thought, this.body, this.note, this.actions);
  }

  draw() {
    const { role, text } = this.message;
    if (role === "user") {
      this.body.textContent = text;
      return;
    }
    const { thought, answer } = partThought(text);
    const shown = this.thought.lastChild;
    this.thought.hidden = !thought;
    if (shown.textContent !== thought) shown.textContent = thought;
    if (!answer.startsWith(this.#text)) {
      this.#stream = new MarkdownStream();
      this.#text = "";
    }
    this.#stream.push(answer.slice(this.#text.length));
    const blocks = this.#stream.blocks();
    patch(this.body, this.#blocks, blocks);
    this.#blocks = blocks;
    this.#text = answer;
  }
}

const ENDINGS = { length: "ended by its limit of tokens", cancelled: "stopped" };

function describeStats({ stats = {}, model, ended }) {
  const { generated_tokens: tokens, tokens_per_second: speed, prompt_tokens: prompt } = stats;
  const { first_token_seconds: first, cached_tokens: cached } = stats;
  const ending = ended === "complete" ? (ENDINGS[stats.finish_reason] ?? ended) : ended;
  return [
    model,
    tokens >= 0 && `${tokens} tokens`,
    speed && `${speed.toFixed(1)} tokens/s`,
    first >= 0 && `first after ${first.toFixed(2)} s`,
    prompt && `prompt ${prompt}, ${cached ?? 0} of it cached`,
    ended === null ? "not finished" : ending !== "failed" && ending,
  ].filter(Boolean).join(" \u00b7 ");
}

export class View {
  #log = byId("log");
  #views = new Map(); // by the message's id
  #frame = 0;
  #isPinned = true; // the end stays in sight while the answer grows
  #lastTop = 0;

  constructor() {
    this.#log.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
  }

  // Shows messages; those that are shown already stay as they are.
  show(messages, describe) {
    const wanted = new Set(messages.map(({ id }) => id));
    for (const [id, view] of this.#views) {
      if (wanted.has(id)) continue;
      view.element.remove();
      this.#views.delete(id);
    }
    messages.forEach((message, place) => {
      const view = this.#views.get(message.id) ?? new MessageView(message);
      this.#views.set(message.id, view);
      view.message = message;
      const there = this.#log.children[place];
      if (there !== view.element) this.#log.insertBefore(view.element, there ?? null);
      view.draw();
      this.refresh(message, describe(message));
    });
  }

  clear(...instead) {
    this.#views.clear();
    this.#log.replaceChildren(...instead);
  }

  refresh(message, { note, actions, isRunning }) {
    const view = this.#views.get(message.id);
    if (!view) return;
    view.element.classList.toggle("running", isRunning);
    view.note.textContent = isRunning ? note || "Sent" : describeStats(message);
    const key = JSON.stringify([message.error, actions]);
    if (view.key === key) return; // the buttons stay, and the focus on them
    view.key = key;
    const buttons = Object.entries(actions).map(([action, label]) =>
      element("button", { class: "quiet", "data-action": action }, label));
    const error = message.error ? [element("p", { class: "error" }, message.error)] : [];
    view.actions.replaceChildren(...error, ...buttons);
  }

  grow(message) {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#views.get(message.id)?.draw();
      if (this.#isPinned) this.scrollToEnd();
    });
  }

  scrollToEnd() {
    this.#isPinned = true;
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  #noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    if (scrollHeight - clientHeight - scrollTop <= AT_END) this.#isPinned = true;
    else if (scrollTop < this.#lastTop) this.#isPinned = false;
    this.#lastTop = scrollTop;
  }
}
