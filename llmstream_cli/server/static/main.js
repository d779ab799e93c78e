// The page: puts the conversation, the server and what the user does together.

import { Answer } from "./answer.js";
import { server } from "./api.js";
import {
  fromJson, fromMarkdown, newConversation, newestLeaf, newMessage, partThought, pathTo, requestBody,
  siblings, titleFrom, toJson, toMarkdown,
} from "./conversation.js";
import { recall, remember } from "./memory.js";
import { element } from "./render.js";
import { countChanged, fillSettings } from "./settings.js";
import { speak } from "./speech.js";
import { showServer } from "./state.js";
import { MemoryStore, Store } from "./store.js";
import { announce, askKey, byId, confirmed, download, setTheme, tell } from "./ui.js";
import { fit, View } from "./view.js";

const SAVE_PAUSE = 1_000; // milliseconds between two writes of a growing answer
const EXAMPLES = ["Where is Paris?", "Write a haiku about rain.", "Explain recursion to a child."];

const query = byId("query");
const view = new View(byId("log"), byId("to-end"));
const answers = new Map(); // those on their way, by the conversation's id

let store;
let conversation = newConversation();
let messages = new Map();

// ---- what is shown ------------------------------------------------------------------------

function describe(message) {
  const answer = answers.get(conversation.id);
  const isRunning = answer?.message === message;
  const actions = { copy: "Copy" };
  if (message.role === "user") actions.edit = "Edit";
  else actions.again = message.ended === "failed" ? "Retry" : "Regenerate";
  return {
    isRunning,
    note: isRunning ? answer.note : "",
    actions: isRunning ? {} : actions,
    versions: siblings(messages, message),
  };
}

function show() {
  const last = messages.get(conversation.leaf);
  if (last) conversation.leaf = newestLeaf(messages, last); // another tab may have gone on from it
  const path = pathTo(messages, conversation.leaf);
  if (path.length) {
    byId("welcome")?.remove();
    view.show(path, describe);
  } else {
    view.clear(welcome());
  }
  const isRunning = answers.has(conversation.id);
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  byId("log").classList.toggle("busy", isRunning); // with which most actions are out of sight
  byId("title").textContent = conversation.title || "New conversation";
  document.title = conversation.title ? `${conversation.title} \u2013 llmstream` : "llmstream";
  byId("more").hidden = !path.length;
  showChanged();
}

function welcome() {
  const name = server.model(conversation.settings.model)?.name ?? "the model";
  const examples = EXAMPLES.map((text) => element("button", {
    type: "button",
    click: () => {
      query.value = text;
      noteDraft();
      query.focus();
    },
  }, text));
  return element("div", { id: "welcome" },
    element("h2", {}, `Ask ${name}`),
    element("p", {}, "It runs on this server. Conversations stay in this browser."),
    element("div", { class: "examples" }, ...examples));
}

const showState = () => showServer(conversation.settings.model);

function showChanged() {
  const count = countChanged(conversation.settings);
  byId("changed").hidden = !count;
  byId("changed").textContent = count;
  byId("settings-open").setAttribute("aria-label", count ? `Settings, ${count} changed` : "Settings");
}

async function showList() {
  const wanted = byId("search").value.trim().toLowerCase();
  const all = await store.conversations();
  const items = all
    .filter(({ title }) => title.toLowerCase().includes(wanted))
    .map(({ id, title }) => element("li", {},
      element("a", { href: `#${id}`, "aria-current": id === conversation.id && "page" },
        title || "Untitled", answers.has(id) ? element("i", { title: "answering" }) : "")));
  byId("search").hidden = all.length < 2 && !wanted;
  byId("conversations").replaceChildren(...items);
}

// ---- conversations --------------------------------------------------------------------------

// Writes, and says so where the browser does not let it.
async function keep(work) {
  try {
    return await work;
  } catch (error) {
    tell(`This browser could not keep the conversation: ${error?.message ?? "no room"}.`);
    return undefined;
  }
}

// What is typed belongs to its conversation, and outlives a reload.
const draftName = () => `draft ${messages.size ? conversation.id : ""}`;

function noteDraft() {
  fit(query);
  remember("sessionStorage", draftName(), query.value);
}

let opening = ""; // the last that was asked for, as opening takes a moment

// Opens a conversation; one that does not exist is a new one.
async function open(id) {
  opening = id;
  const found = await store.conversation(id);
  const stored = await store.messages(id);
  if (opening !== id) return;
  if (!found) {
    startNew();
    return;
  }
  const own = answers.get(id)?.message;
  if (own) stored.set(own.id, own);
  enter(found, stored);
}

function startNew() {
  opening = "";
  if (location.hash) history.pushState(null, "", location.pathname);
  enter(newConversation(conversation.settings), new Map());
  focusQuery();
}

function enter(entered, itsMessages) {
  conversation = entered;
  messages = itsMessages;
  query.value = recall("sessionStorage", draftName());
  fit(query);
  view.clear();
  show();
  showState();
  view.scrollToEnd();
  toggleNav(false);
  showList();
}

// Where a keyboard would cover half of the screen, it waits until it is wanted.
function focusQuery() {
  if (matchMedia("(hover: hover)").matches) query.focus();
}

// Another tab has changed a conversation, or several of them.
async function noteChange(id) {
  const current = conversation;
  if ((id === null || id === current.id) && messages.size) {
    const found = await store.conversation(current.id);
    const stored = await store.messages(current.id);
    if (current.id !== conversation.id) return;
    if (!found) leaveDeleted();
    else takeOver(found, stored);
  }
  showList();
}

function leaveDeleted() {
  const typed = query.value;
  startNew();
  query.value ||= typed;
  noteDraft();
}

// What this tab has not written yet stays, and so does the place in the tree.
function takeOver(found, stored) {
  const own = answers.get(found.id)?.message;
  for (const message of stored.values()) {
    if (message.id !== own?.id) messages.set(message.id, message);
  }
  conversation = { ...found, leaf: conversation.leaf };
  if (view.isEditing) return;
  show();
  for (const message of pathTo(messages, conversation.leaf)) view.grow(message);
}

// ---- asking and answering -----------------------------------------------------------------

function ask(text, parent) {
  const { id } = conversation;
  if (answers.has(id)) return;
  const isNew = !messages.size;
  const question = newMessage(id, parent, "user", text);
  messages.set(question.id, question);
  if (isNew) {
    conversation.title = titleFrom(text);
    conversation.leaf = question.id;
    keep(store.add([{ conversation, messages: [question] }]));
    history.replaceState(null, "", `#${id}`);
  }
  respond(question, newMessage(id, question.id, "assistant"));
}

// Lets the model answer a question, in the message that is given.
async function respond(question, message) {
  const { id, settings } = conversation;
  const known = messages;
  const path = pathTo(known, question.id);
  const answer = new Answer(message, requestBody(settings, path), askKey);
  known.set(message.id, message);
  answers.set(id, answer);
  message.ended = null;
  conversation.leaf = message.id;
  conversation.updated = Date.now();
  const { title, updated } = conversation;
  const isShown = () => conversation.id === id;
  const save = () => keep(store.save(id, [question, message], { leaf: message.id, title, updated }));
  let saved = Date.now();
  answer.addEventListener("text", () => {
    if (isShown()) view.grow(message);
    if (isShown()) speak(message);
    if (Date.now() - saved < SAVE_PAUSE) return;
    saved = Date.now();
    save();
  });
  answer.addEventListener("note", () => isShown() && view.refresh(message, describe(message)));
  show();
  view.scrollToEnd();
  announce("The answer is on its way.");
  await Promise.all([save().then(showList), answer.run()]);
  answers.delete(id);
  await save();
  if (isShown()) {
    view.grow(message);
    show();
    speak(message);
  }
  await showList();
  server.look();
}

const ACTIONS = {
  copy: (message, button) => view.copy(button, partThought(message.text).answer),
  edit: (message) => view.edit(message, (text) => ask(text, message.parent)),
  again: (message) => {
    const question = messages.get(message.parent);
    if (answers.has(conversation.id) || !question) return;
    // What failed without a word makes room; anything else stays, as another version.
    const isEmpty = message.ended === "failed" && !message.text;
    respond(question, isEmpty ? message : newMessage(conversation.id, question.id, "assistant"));
    focusQuery();
  },
  choose: (_, button) => {
    const chosen = messages.get(button.dataset.version);
    conversation.leaf = newestLeaf(messages, chosen);
    keep(store.change(conversation.id, { leaf: conversation.leaf }));
    show();
    byId("log").querySelector(`[data-id="${chosen.id}"] [data-action]`)?.focus();
  },
};

// ---- dialogs --------------------------------------------------------------------------------

function changeSettings(id, settings) {
  if (conversation.id === id) conversation.settings = settings;
  keep(store.change(id, { settings }));
  showChanged();
}

function openSettings() {
  const { id, settings } = conversation;
  fillSettings(settings, () => changeSettings(id, settings));
  byId("settings").showModal();
}

const fileName = () => (conversation.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60);

const MENU = {
  rename: async () => {
    byId("new-title").value = conversation.title;
    if (!(await confirmed("rename"))) return;
    conversation.title = byId("new-title").value.trim() || conversation.title;
    await keep(store.change(conversation.id, { title: conversation.title }));
    show();
    await showList();
  },
  markdown: () => download(`${fileName()}.md`, "text/markdown",
    toMarkdown(conversation, pathTo(messages, conversation.leaf))),
  json: () => download(`${fileName()}.json`, "application/json",
    toJson([{ conversation, messages: [...messages.values()] }])),
  remove: async () => {
    byId("remove-name").textContent = conversation.title;
    const { id } = conversation;
    if (!(await confirmed("remove"))) return;
    answers.get(id)?.stop();
    await keep(store.delete(id));
    startNew();
  },
};

async function exportAll() {
  const entries = [];
  for (const one of await store.conversations()) {
    entries.push({ conversation: one, messages: [...(await store.messages(one.id)).values()] });
  }
  download("llmstream-conversations.json", "application/json", toJson(entries));
}

async function importFile(file) {
  try {
    const text = await file.text();
    const entries = file.name.endsWith(".md") ? fromMarkdown(text) : fromJson(text);
    await keep(store.add(entries));
    announce(`${entries.length} conversations imported`);
    location.hash = entries[0]?.conversation.id ?? "";
    await showList();
  } catch (error) {
    tell(`${file.name} cannot be imported: ${error.message}.`);
  }
}

// ---- what the user does ---------------------------------------------------------------------

function toggleNav(isOpen) {
  byId("nav").classList.toggle("open", isOpen);
  byId("nav-open").setAttribute("aria-expanded", String(isOpen));
  byId("main").inert = isOpen;
  if (isOpen) byId("nav-close").focus();
}

function closeNav() {
  toggleNav(false);
  byId("nav-open").focus();
}

function step(by) {
  const links = [...byId("conversations").querySelectorAll("a")];
  const at = links.findIndex((link) => link.hasAttribute("aria-current"));
  links[at < 0 ? 0 : at + by]?.click();
}

function pressed(event) {
  const inField = event.target.closest("input, textarea, select");
  const ctrl = event.ctrlKey || event.metaKey;
  if (document.querySelector("dialog[open], :popover-open")) return; // they have keys of their own
  let act = null;
  if (event.key === "Escape" && byId("nav").classList.contains("open")) act = closeNav;
  else if (event.key === "Escape") act = () => answers.get(conversation.id)?.stop();
  else if (ctrl && event.shiftKey && event.code === "KeyO") act = startNew;
  else if (ctrl && event.shiftKey && event.code === "KeyS") act = openSettings;
  else if (event.altKey && event.key === "ArrowUp") act = () => step(-1);
  else if (event.altKey && event.key === "ArrowDown") act = () => step(1);
  else if (!inField && !ctrl && event.key === "/") act = () => query.focus();
  else if (!inField && !ctrl && event.key === "?") act = () => byId("shortcuts").showModal();
  if (!act) return;
  event.preventDefault();
  act();
}

function pressedInQuery(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !event.altKey && !query.value) {
    const last = pathTo(messages, conversation.leaf).findLast(({ role }) => role === "user");
    if (!last || answers.has(conversation.id)) return;
    event.preventDefault();
    ACTIONS.edit(last);
  }
}

function send(event) {
  event.preventDefault();
  const text = query.value.trim();
  if (!text || answers.has(conversation.id)) return;
  query.value = "";
  noteDraft();
  ask(text, conversation.leaf);
}

function listen() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("composer", "submit", send);
  on("query", "input", noteDraft);
  on("query", "keydown", pressedInQuery);
  on("stop", "click", () => answers.get(conversation.id)?.stop());
  on("new", "click", startNew);
  on("search", "input", showList);
  on("notice-close", "click", () => (byId("notice").hidden = true));
  on("nav-open", "click", () => toggleNav(true));
  on("nav-close", "click", closeNav);
  on("settings-open", "click", openSettings);
  on("skip", "click", (event) => {
    event.preventDefault(); // or the address would name a conversation
    query.focus();
  });
  on("model", "change", () => {
    changeSettings(conversation.id, { ...conversation.settings, model: byId("model").value });
    showState();
  });
  on("theme", "change", () => setTheme(byId("theme").value));
  on("import", "click", () => byId("file").click());
  on("file", "change", async () => {
    const [file] = byId("file").files;
    if (file) await importFile(file);
    byId("file").value = "";
  });
  on("export-all", "click", exportAll);
  on("menu", "click", ({ target }) => {
    byId("menu").hidePopover();
    MENU[target.dataset.menu]?.();
  });
  on("log", "click", ({ target }) => {
    const button = target.closest("[data-action]");
    const message = messages.get(button?.closest("article").dataset.id);
    if (message) ACTIONS[button.dataset.action](message, button);
  });
  on("shortcuts-open", "click", () => byId("shortcuts").showModal());
  for (const button of document.querySelectorAll("[data-closes]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  document.addEventListener("keydown", pressed);
  const followAddress = () => (location.hash ? open(location.hash.slice(1)) : startNew());
  window.addEventListener("hashchange", followAddress);
}

async function start() {
  byId("theme").value = document.documentElement.dataset.theme;
  try {
    store = await Store.open();
  } catch {
    store = new MemoryStore();
    tell("This browser keeps nothing for this page: conversations last until it is closed.");
  }
  const [latest] = await store.conversations();
  conversation = newConversation(latest?.settings);
  store.addEventListener("change", ({ detail }) => noteChange(detail));
  server.addEventListener("change", showState);
  listen();
  if (location.hash) await open(location.hash.slice(1));
  else enter(conversation, messages);
  await server.watch();
  if (server.state === "locked") askKey(server.reason);
}

start();
