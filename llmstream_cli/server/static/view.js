// The messages of a conversation as elements. What the model writes is drawn once a frame at
// most, however fast it comes.

import { partThought } from "./conversation.js";
import { MarkdownStream } from "./markdown.js";
import { copy, element, icon, patch } from "./render.js";

const AT_END = 8; // pixels from the end that still count as the end

class MessageView {
  #text = ""; // what the body shows
  #thoughtLength = 0;
  #blocks = [];
  #stream = new MarkdownStream();

  constructor(message) {
    this.message = message;
    this.key = ""; // of what the actions were made
    this.isUser = message.role === "user";
    this.body = element("div", { class: this.isUser ? "body" : "body markdown" });
    this.thought = element("details", { hidden: true },
      element("summary", {}, "Reasoning"), document.createElement("p"));
    this.note = element("p", { class: "note" });
    this.actions = element("div", { class: "actions" });
    this.element = element("article", { class: message.role, "data-id": message.id },
      element("h2", { class: "offscreen" }, this.isUser ? "You" : "Answer"),
      ...(this.isUser ? [] : [this.thought]), this.body, this.note, this.actions);
  }

  draw() {
    if (this.isUser) {
      this.body.textContent = this.message.text;
      return;
    }
    const { thought, answer: text } = partThought(this.message.text);
    this.thought.hidden = !thought;
    if (thought.length !== this.#thoughtLength) this.thought.lastChild.textContent = thought;
    this.#thoughtLength = thought.length;
    if (text !== this.#text) this.#drawAnswer(text);
  }

  #drawAnswer(text) {
    if (!text.startsWith(this.#text)) {
      this.#stream = new MarkdownStream();
      this.#text = "";
    }
    this.#stream.push(text.slice(this.#text.length));
    const blocks = this.#stream.blocks();
    patch(this.body, this.#blocks, blocks);
    this.#blocks = blocks;
    this.#text = text;
  }
}

const seconds = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(0)} s`;
const ENDINGS = { stop: "complete", length: "ended by its limit of tokens", cancelled: "stopped" };

function describeEnd({ stats = {}, ended }) {
  if (ended === null) return "not finished";
  return ended === "complete" ? (ENDINGS[stats.finish_reason] ?? ended) : ended;
}

function describeStats(message) {
  const { stats = {}, model } = message;
  const parts = [];
  const { generated_tokens: tokens, tokens_per_second: speed, prompt_tokens: prompt } = stats;
  if (model) parts.push(model);
  if (tokens !== undefined) parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (speed) parts.push(`${speed.toFixed(1)} tokens/s`);
  if (stats.first_token_seconds !== undefined) {
    parts.push(`first after ${seconds(stats.first_token_seconds)}`);
  }
  if (prompt !== undefined) parts.push(`prompt ${prompt}, ${stats.cached_tokens ?? 0} of it cached`);
  const ending = describeEnd(message);
  if (ending && ending !== "failed") parts.push(ending);
  return parts.join(" \u00b7 ");
}

// Shows one conversation at a time.
export class View {
  #log;
  #toEnd;
  #views = new Map(); // by the message's id
  #dirty = new Set();
  #frame = 0;
  #isPinned = true; // the end stays in sight while the answer grows
  #lastTop = 0;

  constructor(log, toEnd) {
    this.#log = log;
    this.#toEnd = toEnd;
    log.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
    toEnd.addEventListener("click", () => this.scrollToEnd());
    new ResizeObserver(() => this.#isPinned && this.scrollToEnd()).observe(log);
    log.addEventListener("click", ({ target }) => {
      const button = target.closest("[data-copy]");
      if (button) this.copy(button, button.closest(".code").querySelector("code").textContent);
    });
  }

  get isEditing() {
    return this.#log.querySelector("form") !== null;
  }

  // Shows the messages of a path; those that are shown already stay as they are.
  show(path, describe) {
    const wanted = new Set(path.map((message) => message.id));
    for (const [id, view] of this.#views) {
      if (wanted.has(id)) continue;
      view.element.remove();
      this.#views.delete(id);
    }
    path.forEach((message, place) => {
      const view = this.#views.get(message.id) ?? new MessageView(message);
      this.#views.set(message.id, view);
      view.message = message;
      if (this.#log.children[place] !== view.element) {
        this.#log.insertBefore(view.element, this.#log.children[place] ?? null);
      }
      if (!view.element.querySelector("form")) view.draw();
      this.refresh(message, describe(message));
    });
  }

  clear(...instead) {
    this.#views.clear();
    this.#log.replaceChildren(...instead);
  }

  // Shows what belongs to a message besides its text.
  refresh(message, { note, actions, versions, isRunning }) {
    const view = this.#views.get(message.id);
    if (!view) return;
    view.element.classList.toggle("running", isRunning);
    const text = isRunning ? note || "Sent" : describeStats(message);
    if (view.note.textContent !== text) view.note.textContent = text;
    view.note.hidden = view.isUser;
    const key = JSON.stringify([message.error, versions.map(({ id }) => id), actions]);
    if (view.key === key) return; // the buttons stay, and the focus on them
    view.key = key;
    const pieces = message.error ? [element("p", { class: "error" }, message.error)] : [];
    if (versions.length > 1) pieces.push(this.#chooser(versions, message));
    for (const [action, label] of Object.entries(actions)) {
      pieces.push(element("button", { type: "button", class: "quiet", "data-action": action }, label));
    }
    view.actions.replaceChildren(...pieces);
  }

  #chooser(versions, message) {
    const place = versions.findIndex(({ id }) => id === message.id);
    const step = (name, label, other) => element("button", {
      type: "button", class: "icon", "aria-label": label, disabled: !other,
      "data-action": "choose", "data-version": other?.id ?? "",
    }, icon(name));
    return element("span", { class: "versions" },
      step("previous", "Previous version", versions[place - 1]),
      `${place + 1} of ${versions.length}`,
      step("next", "Next version", versions[place + 1]));
  }

  // The message has grown.
  grow(message) {
    const view = this.#views.get(message.id);
    if (!view) return;
    this.#dirty.add(view);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      for (const dirty of this.#dirty) dirty.draw();
      this.#dirty.clear();
      if (this.#isPinned) this.scrollToEnd();
      else this.#toEnd.hidden = false;
    });
  }

  // Puts a form in the place of a message's text; calls `send` with what was written.
  edit(message, send) {
    const { body, element: article } = this.#views.get(message.id);
    const area = element("textarea", { "aria-label": "Edit your message" });
    area.value = message.text;
    const close = () => {
      form.replaceWith(body);
      article.querySelector("[data-action=edit]")?.focus();
    };
    const form = element("form", {
      class: "edit",
      submit: (event) => {
        event.preventDefault();
        if (!area.value.trim()) return;
        close();
        send(area.value.trim());
      },
      keydown: (event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          close();
        } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          form.requestSubmit();
        }
      },
    },
    area,
    element("div", { class: "row end" },
      element("button", { type: "button", click: close }, "Cancel"),
      element("button", { class: "primary" }, "Send")));
    body.replaceWith(form);
    fit(area);
    area.addEventListener("input", () => fit(area));
    area.focus();
  }

  async copy(button, text) {
    const { textContent: label } = button;
    try {
      await copy(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    setTimeout(() => (button.textContent = label), 1_500);
  }

  scrollToEnd() {
    this.#isPinned = true;
    this.#toEnd.hidden = true;
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  #noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    if (scrollHeight - clientHeight - scrollTop <= AT_END) this.#isPinned = true;
    else if (scrollTop < this.#lastTop) this.#isPinned = false;
    this.#lastTop = scrollTop;
    this.#toEnd.hidden = this.#isPinned;
  }
}

// Makes a text area as high as its text.
export function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}
