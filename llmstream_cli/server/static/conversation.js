// A conversation: its settings and the list of its messages, to requests and to files. Pure.

const MAX_TITLE = 60;
const FORMAT = "llmstream conversations";
const OTHER = "this page has not exported it";

export function randomId() {
  // Not `randomUUID`, which pages that came over plain HTTP do not have.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The settings may be another conversation's, or a file's, of which what is wrong is dropped.
export function newConversation(given) {
  const { model, system, context, options } = isPlain(given) ? given : {};
  return {
    id: randomId(),
    title: "",
    updated: Date.now(),
    messages: [],
    settings: {
      model: isText(model) ? model : null,
      system: isText(system) ? system : "",
      context: isText(context) ? context : null,
      options: isPlain(options) ? { ...options } : {},
    },
  };
}

export const newMessage = (role, text = "") => ({ id: randomId(), role, text });

export const titleFrom = (text) => text.trim().split("\n", 1)[0].slice(0, MAX_TITLE).trim();

// Parts what a reasoning model thinks, which it writes first and in a tag, from what it answers.
export function partThought(text) {
  const [all = "", thought = ""] = /^\s*<think>([\s\S]*?)(?:<\/think>\s*|$)/.exec(text) ?? [];
  return { thought: thought.trim(), answer: text.slice(all.length) };
}

// Returns the body of a request for the answer to the last of some messages. Questions without
// an answer are left out: many models' templates want the roles to take turns.
export function requestBody(settings, asked) {
  const messages = [];
  for (let at = 1; at < asked.length - 1; at += 1) {
    const [question, reply] = [asked[at - 1], asked[at]];
    const { answer } = partThought(reply.text);
    if (question.role !== "user" || reply.role !== "assistant" || !answer.trim()) continue;
    messages.push({ role: "user", content: question.text });
    messages.push({ role: "assistant", content: answer });
  }
  const body = { query: asked.at(-1).text, ...settings.options };
  if (messages.length) body.messages = messages;
  if (settings.context) body.context = settings.context;
  else if (settings.system.trim()) body.system = settings.system;
  if (settings.model) body.model = settings.model;
  return body;
}

export function toJson(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

const isText = (value) => typeof value === "string";
const isPlain = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const NUMBERS = ["prompt_tokens", "cached_tokens", "generated_tokens", "tokens_per_second",
  "first_token_seconds"];

export function readStats(given) {
  const stats = {};
  for (const name of NUMBERS) if (Number.isFinite(given[name])) stats[name] = given[name];
  if (isText(given.finish_reason)) stats.finish_reason = given.finish_reason;
  return stats;
}

function readMessage(given) {
  const isGood = ["user", "assistant"].includes(given?.role) && isText(given.text);
  if (!isGood) throw new Error("a message lacks its role or text");
  const message = newMessage(given.role, given.text);
  if (isText(given.model)) message.model = given.model;
  if (isPlain(given.stats)) message.stats = readStats(given.stats);
  return message;
}

// Returns the conversations of a file, each with new ids, so that no import replaces anything.
export function fromJson(text) {
  const file = JSON.parse(text);
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new Error(OTHER);
  return file.conversations.map((given) => {
    if (!Array.isArray(given?.messages)) throw new Error("a conversation lacks its messages");
    const conversation = newConversation(given.settings);
    if (isText(given.title)) conversation.title = given.title.slice(0, 200);
    if (Number.isFinite(given.updated)) conversation.updated = given.updated;
    conversation.messages = given.messages.map(readMessage);
    return conversation;
  });
}

// In Markdown a comment stands before each turn. A line that looks like one gets a backslash, as
// do those that have one.
const TURN = /^<!-- llmstream: (system|user|assistant) -->$/;

export function toMarkdown({ title, settings, messages }) {
  const turns = messages.map(({ role, text }) => [role, text]);
  if (settings.system) turns.unshift(["system", settings.system]);
  const parts = turns.map(([role, text]) => {
    const safe = text.replace(/^(\\*)(?=<!-- llmstream: )/gm, "\\$1");
    return `<!-- llmstream: ${role} -->\n\n${safe}\n`;
  });
  return [`# ${title || "Conversation"}\n`, ...parts].join("\n");
}

export function fromMarkdown(text) {
  const conversation = newConversation();
  const turns = [];
  for (const line of text.replaceAll("\r\n", "\n").split("\n")) {
    const turn = TURN.exec(line);
    if (turn) turns.push({ role: turn[1], lines: [] });
    else if (turns.length) turns.at(-1).lines.push(line.replace(/^\\(?=\\*<!-- llmstream: )/, ""));
    else if (line.startsWith("# ")) conversation.title = line.slice(2, 202).trim();
  }
  if (!turns.length) throw new Error(OTHER);
  for (const { role, lines } of turns) {
    const content = lines.slice(lines[0] ? 0 : 1, lines.at(-1) ? undefined : -1).join("\n");
    if (role === "system") conversation.settings.system = content;
    else conversation.messages.push(newMessage(role, content));
  }
  return [conversation];
}
