// The page: puts the conversation, the server and what the user does together.

import { Answer } from "./answer.js";
import { askKey, server } from "./api.js";
import {
  fromJson, fromMarkdown, newConversation, newMessage, partThought, requestBody, titleFrom, toJson,
  toMarkdown,
} from "./conversation.js";
import { announce, ask, byId, copy, download, element, tell } from "./dom.js";
import { countChanged, fillSettings } from "./settings.js";
import { Store } from "./store.js";
import { View } from "./view.js";

const SAVE_PAUSE = 1_000; // milliseconds between two writes of a growing answer
const STATES = {
  unknown: "Connecting", ready: "Ready", idle: "Ready", loading: "Loading", down: "Not reachable",
  locked: "Needs a key", restarting: "Restarting", failed: "Failed", draining: "Shutting down",
};
// A tab holds the lock of a conversation while it reads its answer. Plain HTTP has no locks.
const locks = navigator.locks ?? { request: (_, work) => work() };
const HINT = byId("hint").textContent;

const query = byId("query");
const view = new View();
const store = new Store();
const answers = new Map(); // those on their way, by the conversation's id

let conversation = newConversation();
let edited = null; // the message that the box replaces, if any

function describe(message) {
  const answer = answers.get(conversation.id);
  const actions = { copy: "Copy" };
  if (message.role === "user" && !answer) actions.edit = "Edit";
  else if (message === conversation.messages.at(-1) && !answer) {
    actions.again = message.ended === "failed" ? "Retry" : "Regenerate";
  }
  const isRunning = answer?.message === message;
  return { isRunning, note: answer?.note, actions: isRunning ? {} : actions };
}

function show() {
  const { messages, title, settings } = conversation;
  const isRunning = answers.has(conversation.id);
  if (messages.length) {
    byId("welcome")?.remove();
    view.show(messages, describe);
  } else {
    view.clear(element("div", { id: "welcome" }, element("h2", {}, "Ask something"),
      element("p", {}, "Conversations stay in this browser.")));
  }
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  byId("title").textContent = title || "New conversation";
  document.title = title || "llmstream";
  byId("more").hidden = !messages.length;
  const count = countChanged(settings);
  byId("settings-open").textContent = `\u2699\ufe0e${count || ""}`;
  byId("settings-open").ariaLabel = count ? `Settings, ${count} changed` : "Settings";
  showServer(settings.model);
  byId("conversations").replaceChildren(...store.list().map(({ id, title: name }) =>
    element("li", {}, element("a", { href: `#${id}`, "aria-current": id === conversation.id && "page" },
      name || "Untitled"))));
}

function showServer(name) {
  const { status, state, reason, isGood } = server;
  const model = server.model(name);
  const isBusy = isGood && model?.waiting > 0;
  byId("state").dataset.state = isBusy ? "busy" : state;
  byId("state").lastChild.textContent = isBusy ? `Busy, ${model.waiting} waiting` : STATES[state];
  const text = `${STATES[state]}: ${reason}. This page goes on by itself when it can.`;
  if (byId("banner").textContent !== text) byId("banner").textContent = text;
  byId("banner").hidden = isGood || state === "locked" || state === "unknown";
  if (!model) return;
  byId("model").hidden = false;
  byId("model").replaceChildren(...status.models.map((one) =>
    element("option", { value: one.name }, one.state === "ready" ? one.name : `${one.name} (${one.state})`)));
  byId("model").value = model.name;
}

function fill(text, message = null) {
  edited = message;
  query.value = text;
  byId("hint").textContent = message ? "Enter replaces the message and what follows, Esc cancels." : HINT;
}

function keep(work) {
  return work.catch((error) => tell(`The browser could not keep this: ${error.message}.`));
}

async function change(id, work) {
  if (store.get(id)) await keep(store.change(id, work));
  else if (id === conversation.id) work(conversation);
}

function followAddress() {
  conversation = store.get(location.hash.slice(1)) ?? newConversation(conversation.settings);
  if (edited) fill("");
  view.clear();
  toggleNav(false);
  show();
  view.scrollToEnd();
}

function startNew() {
  if (location.hash) history.pushState(null, "", location.pathname);
  followAddress();
  focusQuery();
}

// Where a keyboard would cover half of the screen, it waits until it is wanted.
function focusQuery() {
  if (matchMedia("(hover: hover)").matches) query.focus();
}

// Another tab has changed a conversation. What this tab writes it knows better.
function noteChange(id) {
  const found = store.get(id);
  const answer = answers.get(id);
  if (answer) {
    const place = found?.messages.findIndex((message) => message.id === answer.message.id) ?? -1;
    if (place < 0) answer.stop();
    else found.messages[place] = answer.message;
  }
  if (id === conversation.id && !found) return startNew();
  if (id === conversation.id) conversation = found;
  return show();
}

// Asks at the end, or in the place of the message that is edited, and of all that follows it.
function send(text) {
  const { id } = conversation;
  const [question, message] = [newMessage("user", text), newMessage("assistant")];
  const replaced = edited?.id;
  if (!store.get(id)) {
    conversation.title = titleFrom(text);
    keep(store.add(conversation));
    history.replaceState(null, "", `#${id}`);
  }
  change(id, ({ messages }) => {
    const place = messages.findIndex((one) => one.id === replaced);
    messages.splice(place < 0 ? messages.length : place, Infinity, question, message);
  });
  fill("");
  respond(message);
}

function respond(message, of = conversation) {
  const done = follow(message, of);
  locks.request(of.id, () => done);
  return done;
}

// Goes on with an answer that a reload or another tab left, unless that tab still reads it.
function resume({ id }) {
  return locks.request(id, async () => {
    await store.refresh(id);
    const message = store.get(id)?.messages.at(-1);
    if (message?.source && !answers.has(id)) await respond(message, store.get(id));
  });
}

async function follow(message, { id, settings, messages }) {
  const asked = messages.slice(0, messages.indexOf(message));
  const updated = Date.now();
  const isShown = () => conversation.id === id;
  const save = () => change(id, (kept) => {
    const place = kept.messages.findIndex((one) => one.id === message.id);
    if (place >= 0) kept.messages[place] = message;
    kept.updated = updated;
  });
  let saved = updated;
  const onText = () => {
    if (isShown()) view.grow(message);
    if (Date.now() - saved < SAVE_PAUSE) return;
    saved = Date.now();
    save();
  };
  const onNote = () => isShown() && view.refresh(message, describe(message));
  const answer = new Answer(message, requestBody(settings, asked), { onBegin: save, onText, onNote });
  answers.set(id, answer);
  const run = answer.run();
  save();
  show();
  view.scrollToEnd();
  announce("The answer is on its way.");
  await run;
  answers.delete(id);
  const done = save();
  show();
  if (isShown()) {
    view.grow(message); // and stays at its end
    announce(`${partThought(message.text).answer} ${message.error || `Answer ${message.ended}.`}`);
  }
  server.look();
  await done;
}

const ACTIONS = {
  copy: ({ text }, button) => copy(partThought(text).answer, button),
  copyCode: (_, button) => copy(button.closest(".code").querySelector("code").textContent, button),
  edit: (message) => {
    fill(message.text, message);
    query.focus();
  },
  again: (message) => {
    if (conversation.messages.at(-2)?.role !== "user") return; // a file may have it so
    respond(message);
    focusQuery();
  },
};

function openSettings() {
  const { id } = conversation;
  const settings = structuredClone(conversation.settings);
  fillSettings(settings, () => {
    change(id, (kept) => (kept.settings = structuredClone(settings)));
    show();
  });
  byId("settings").showModal();
}

const fileName = () => conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-");

const MENU = {
  rename: async () => {
    const { id, title: value } = conversation;
    const title = await ask({ title: "Rename the conversation", label: "Title", value, action: "Rename" });
    if (title?.trim()) change(id, (kept) => (kept.title = title.trim()));
    show();
  },
  markdown: () => download(`${fileName()}.md`, toMarkdown(conversation)),
  json: () => download(`${fileName()}.json`, toJson([conversation])),
  remove: async () => {
    const { id, title } = conversation;
    const text = `${title} is then gone for good.`;
    if ((await ask({ title: "Delete the conversation?", text, action: "Delete" })) === null) return;
    answers.get(id)?.stop();
    keep(store.delete(id));
    startNew();
  },
};

async function importFile({ target }) {
  const [file] = target.files;
  try {
    const text = await file.text();
    const found = file.name.endsWith(".md") ? fromMarkdown(text) : fromJson(text);
    for (const one of found) keep(store.add(one));
    location.hash = found[0]?.id ?? "";
    show();
  } catch (error) {
    tell(`${file.name} cannot be imported: ${error.message}.`);
  }
  target.value = "";
}

function toggleNav(isOpen) {
  const wasOpen = byId("nav").classList.contains("open");
  byId("nav").classList.toggle("open", isOpen);
  byId("nav-open").setAttribute("aria-expanded", isOpen);
  byId("main").inert = isOpen;
  if (isOpen) byId("nav-close").focus();
  else if (wasOpen) byId("nav-open").focus();
}

function escape() {
  if (byId("nav").classList.contains("open")) toggleNav(false);
  else if (edited) fill("");
  else answers.get(conversation.id)?.stop();
}

function pressed(event) {
  if (document.querySelector("dialog[open], :popover-open")) return; // they have keys of their own
  const { key, shiftKey, target } = event;
  if (key === "Escape") escape();
  else if (target === query && key === "Enter" && !shiftKey && !event.isComposing) submit(event);
  else return;
  event.preventDefault();
}

function submit(event) {
  event.preventDefault();
  const text = query.value.trim();
  if (text && !answers.has(conversation.id)) send(text);
}

function clicked({ target }) {
  const button = target.closest("[data-action]");
  const id = button?.closest("article").dataset.id;
  const message = conversation.messages.find((one) => one.id === id);
  if (message) ACTIONS[button.dataset.action](message, button);
}

function listen() {
  const on = (id, act, event = "click") => byId(id).addEventListener(event, act);
  on("composer", submit, "submit");
  on("stop", () => answers.get(conversation.id)?.stop());
  on("new", startNew);
  on("notice-close", () => (byId("notice").hidden = true));
  on("nav-open", () => toggleNav(true));
  on("nav-close", () => toggleNav(false));
  on("settings-open", openSettings);
  on("model", ({ target: { value } }) => {
    change(conversation.id, ({ settings }) => (settings.model = value));
    show();
  }, "change");
  on("import", () => byId("file").click());
  on("file", importFile, "change");
  on("menu", ({ target }) => {
    byId("menu").hidePopover();
    MENU[target.dataset.menu]?.();
  });
  on("log", clicked);
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", followAddress);
}

async function start() {
  try {
    await store.open();
  } catch {
    tell("This browser keeps nothing: conversations last until it is closed.");
  }
  conversation = newConversation(store.list()[0]?.settings);
  store.addEventListener("change", ({ detail }) => noteChange(detail));
  server.addEventListener("change", () => showServer(conversation.settings.model));
  listen();
  followAddress();
  for (const one of store.list()) if (one.messages.at(-1)?.source) resume(one);
  await server.look();
  if (server.state === "locked") askKey(server.reason);
}

start();
