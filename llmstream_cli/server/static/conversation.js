// A conversation is a tree of messages: to ask or to answer again adds a sibling, so that no text
// is ever lost, and what is shown is the way from the first message to the `leaf`. Pure.

export const ROLES = ["user", "assistant"];
const MAX_TITLE = 60;
const FORMAT = "llmstream conversations";

export function randomId() {
  // Not `randomUUID`, which pages that came over plain HTTP do not have.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(settings = {}) {
  const now = Date.now();
  const { model = null, system = "", context = null, options = {} } = settings;
  const chosen = { model, system, context, options: { ...options } };
  return { id: randomId(), title: "", created: now, updated: now, leaf: null, settings: chosen };
}

export function newMessage(conversation, parent, role, text = "") {
  return { id: randomId(), conversation, parent, role, text, created: Date.now() };
}

export function titleFrom(text) {
  const line = text.trim().split("\n", 1)[0].trim();
  return line.length > MAX_TITLE ? `${line.slice(0, MAX_TITLE - 1).trimEnd()}\u2026` : line;
}

// Returns the messages from the first to the leaf, in order.
export function pathTo(messages, leaf) {
  const path = [];
  const seen = new Set(); // a file may have been made to lead in a circle
  for (let id = leaf; messages.has(id) && !seen.has(id); id = messages.get(id).parent) {
    seen.add(id);
    path.push(messages.get(id));
  }
  return path.reverse();
}

// Returns the messages that stand in the place of this one, itself included, oldest first.
export function siblings(messages, message) {
  return [...messages.values()]
    .filter((other) => other.parent === message.parent && other.role === message.role)
    .sort((one, other) => one.created - other.created || (one.id < other.id ? -1 : 1));
}

// Returns the last message below this one, by the way of the newest.
export function newestLeaf(messages, message) {
  const newest = new Map();
  for (const other of messages.values()) {
    const rival = newest.get(other.parent);
    if (!rival || other.created >= rival.created) newest.set(other.parent, other);
  }
  const seen = new Set();
  let leaf = message;
  while (newest.has(leaf.id) && !seen.has(leaf.id)) {
    seen.add(leaf.id);
    leaf = newest.get(leaf.id);
  }
  return leaf.id;
}

// Parts what a reasoning model thinks, which comes first and in a tag, from what it answers.
export function partThought(text) {
  const [all = "", thought = ""] = /^\s*<think>([\s\S]*?)(?:<\/think>\s*|$)/.exec(text) ?? [];
  return { thought: thought.trim(), answer: text.slice(all.length) };
}

// Returns the body of a request for the answer to the last message of a path. Questions without
// an answer are left out: many models' templates want the roles to take turns.
export function requestBody(settings, path) {
  const messages = [];
  for (let at = 1; at < path.length - 1; at += 1) {
    const [question, reply] = [path[at - 1], path[at]];
    const { answer } = partThought(reply.text);
    if (question.role !== "user" || reply.role !== "assistant" || !answer.trim()) continue;
    messages.push({ role: "user", content: question.text });
    messages.push({ role: "assistant", content: answer });
  }
  const body = { query: path.at(-1).text, include_reasoning: true, ...settings.options };
  if (messages.length) body.messages = messages;
  if (settings.context) body.context = settings.context;
  else if (settings.system.trim()) body.system = settings.system;
  if (settings.model) body.model = settings.model;
  return body;
}

// ---- files ----------------------------------------------------------------------------------

export function toJson(entries) {
  const conversations = entries.map(({ conversation, messages }) => ({
    ...conversation,
    messages: messages.map(({ conversation: _, ...message }) => message),
  }));
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

const isText = (value) => typeof value === "string";
const isTime = (value) => Number.isFinite(value) && value >= 0 && value < 8.64e15;
const isPlain = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function readMessage(given, conversation, ids) {
  const isGood = isPlain(given) && ROLES.includes(given.role) && isText(given.text) && isText(given.id);
  if (!isGood) throw new Error("a message lacks its role, text or id");
  const id = ids.get(given.id);
  const parent = ids.get(given.parent) ?? null;
  const created = isTime(given.created) ? given.created : Date.now();
  const message = { id, conversation, parent, role: given.role, text: given.text, created };
  if (isText(given.model)) message.model = given.model.slice(0, 200);
  if (isPlain(given.stats)) message.stats = readStats(given.stats);
  return message;
}

const NUMBERS = ["prompt_tokens", "cached_tokens", "generated_tokens", "tokens_per_second"];
NUMBERS.push("seconds", "first_token_seconds");

export function readStats(given) {
  const stats = {};
  for (const name of NUMBERS) if (Number.isFinite(given[name])) stats[name] = given[name];
  if (isText(given.finish_reason)) stats.finish_reason = given.finish_reason.slice(0, 40);
  return stats;
}

function readSettings(given) {
  const settings = isPlain(given) ? given : {};
  return {
    model: isText(settings.model) ? settings.model.slice(0, 200) : null,
    system: isText(settings.system) ? settings.system : "",
    context: isText(settings.context) ? settings.context.slice(0, 200) : null,
    options: isPlain(settings.options) ? settings.options : {},
  };
}

// Returns the conversations of a file, each with new ids, so that no import replaces anything.
export function fromJson(text) {
  const file = JSON.parse(text);
  if (!isPlain(file) || file.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error("this is no file of conversations that this page has exported");
  }
  return file.conversations.map((given) => {
    if (!isPlain(given) || !Array.isArray(given.messages)) {
      throw new Error("a conversation lacks its messages");
    }
    const conversation = newConversation(readSettings(given.settings));
    conversation.title = isText(given.title) ? given.title.slice(0, 200) : "";
    if (isTime(given.created)) conversation.created = given.created;
    const ids = new Map(given.messages.map((message) => [message?.id, randomId()]));
    const messages = given.messages.map((one) => readMessage(one, conversation.id, ids));
    conversation.leaf = ids.get(given.leaf) ?? messages.at(-1)?.id ?? null;
    return { conversation, messages };
  });
}

// In Markdown a comment stands before each turn. A line of a text that looks like one is marked
// by a backslash, as are those that are marked already.
const TURN = /^<!-- llmstream: (system|user|assistant) -->$/;

export function toMarkdown(conversation, path) {
  const turns = path.map(({ role, text }) => [role, text]);
  if (conversation.settings.system) turns.unshift(["system", conversation.settings.system]);
  const parts = turns.map(([role, text]) => {
    const safe = text.replace(/^(\\*)(?=<!-- llmstream: )/gm, "\\$1");
    return `<!-- llmstream: ${role} -->\n\n${safe}\n`;
  });
  return [`# ${conversation.title || "Conversation"}\n`, ...parts].join("\n");
}

export function fromMarkdown(text) {
  const conversation = newConversation();
  const messages = [];
  const turns = [];
  for (const line of text.replaceAll("\r\n", "\n").split("\n")) {
    const turn = TURN.exec(line);
    if (turn) turns.push({ role: turn[1], lines: [] });
    else if (turns.length) turns.at(-1).lines.push(line.replace(/^\\(?=\\*<!-- llmstream: )/, ""));
    else if (line.startsWith("# ")) conversation.title = line.slice(2, 202).trim();
  }
  if (!turns.length) throw new Error("the file has no turns that this page has exported");
  for (const { role, lines } of turns) {
    const content = lines.slice(lines[0] ? 0 : 1, lines.at(-1) ? undefined : -1).join("\n");
    if (role === "system") conversation.settings.system = content;
    else messages.push(newMessage(conversation.id, conversation.leaf, role, content));
    conversation.leaf = messages.at(-1)?.id ?? null;
  }
  return [{ conversation, messages }];
}
