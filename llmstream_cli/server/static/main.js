// The page: puts the conversation, the server and what the user does together.

import { Answer } from "./answer.js";
import { hasKey, server, setKey } from "./api.js";
import {
  fromJson, fromMarkdown, newConversation, newestLeaf, newMessage, partThought, pathTo, requestBody, siblings,
  titleFrom, toJson, toMarkdown,
} from "./conversation.js";
import { element } from "./render.js";
import { countChanged, fillSettings } from "./settings.js";
import { MemoryStore, Store } from "./store.js";
import { fit, View } from "./view.js";

const SAVE_PAUSE = 1_000; // milliseconds between two writes of a growing answer
const SPEAK_PAUSE = 4_000; // between two announcements of what has come
const EXAMPLES = ["Where is Paris?", "Write a haiku about rain.", "Explain recursion to a child."];

const byId = (id) => document.getElementById(id);
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

const STATES = {
  unknown: "Connecting", ready: "Ready", idle: "Ready", loading: "Loading", down: "Not reachable",
  locked: "Needs a key", restarting: "Restarting", failed: "Failed", draining: "Shutting down",
};

function showServer() {
  const { status, state, reason } = server;
  const model = server.model(conversation.settings.model);
  const isBusy = server.isGood && model?.waiting > 0;
  byId("state").dataset.state = isBusy ? "busy" : state;
  byId("state").title = [model?.name, model?.ctx_size && `context of ${model.ctx_size} tokens`, reason]
    .filter(Boolean).join(", ");
  byId("state").lastChild.textContent = isBusy ? `Busy, ${model.waiting} waiting` : (STATES[state] ?? state);
  const isCalm = server.isGood || state === "locked" || state === "unknown";
  const text = isCalm ? "" : `${state === "down" ? "" : `${STATES[state] ?? state}: `}${reason || "not ready"}.`
    + " This page goes on by itself when it can.";
  if (byId("banner").textContent !== text) byId("banner").textContent = text;
  byId("banner").hidden = !text;
  if (!status) return;
  byId("version").textContent = `llmstream ${status.version}`;
  showModels(status.models, model);
  if (byId("welcome") && model) byId("welcome").firstChild.textContent = `Ask ${model.name}`;
}

function showModels(models, chosen) {
  const select = byId("model");
  select.hidden = models.length < 2;
  byId("name").textContent = select.hidden ? chosen.name : "";
  const labels = models.map(({ name, state }) => (state === "ready" ? name : `${name} (${state})`));
  if (select.dataset.labels !== labels.join()) {
    select.dataset.labels = labels.join();
    select.replaceChildren(...labels.map((label, place) =>
      element("option", { value: models[place].name }, label)));
  }
  select.value = chosen.name;
}

function announce(text) {
  byId("live").textContent = text;
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

function tell(text) {
  byId("notice").hidden = false;
  byId("notice").firstChild.textContent = text;
}

function readDraft(id) {
  try {
    return sessionStorage.getItem(`draft ${id}`) ?? "";
  } catch {
    return "";
  }
}

function noteDraft() {
  fit(query);
  try {
    const name = `draft ${messages.size ? conversation.id : ""}`;
    if (query.value) sessionStorage.setItem(name, query.value);
    else sessionStorage.removeItem(name);
  } catch {
    // Storage is full or switched off: the text stays in its box.
  }
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
  query.value = readDraft(messages.size ? conversation.id : "");
  fit(query);
  view.clear();
  show();
  showServer();
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
    speak(message);
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
  }
  speak(message);
  await showList();
  server.look();
}

let spoken = { id: "", length: 0, time: 0 };

// Announces whole sentences, now and then, and the end.
function speak(message) {
  if (message.conversation !== conversation.id) return;
  if (spoken.id !== message.id) spoken = { id: message.id, length: 0, time: Date.now() };
  const fresh = partThought(message.text).answer.slice(spoken.length);
  if (message.ended) {
    const ending = message.error || { complete: "The answer is complete." }[message.ended] || "Stopped.";
    announce(`${fresh} ${ending}`);
  } else if (Date.now() - spoken.time > SPEAK_PAUSE) {
    const length = Math.max(...[". ", "! ", "? ", "\n"].map((end) => fresh.lastIndexOf(end))) + 1;
    if (!length) return;
    announce(fresh.slice(0, length));
    spoken = { id: message.id, length: spoken.length + length, time: Date.now() };
  }
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

// Shows a dialog; resolves to whether it was confirmed.
function confirmed(id) {
  const dialog = byId(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}

let askingKey = null; // one dialog, however many wait for the key

function askKey(reason) {
  byId("key-reason").textContent = hasKey() ? reason : "Whoever started it has one.";
  askingKey ??= confirmed("key-dialog").then((isGiven) => {
    askingKey = null;
    if (isGiven) setKey(byId("key").value);
    byId("key").value = "";
    if (isGiven) server.look();
    return isGiven;
  });
  return askingKey;
}

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

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
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

function readTheme() {
  const { theme } = document.documentElement.dataset;
  byId("theme").value = theme;
}

function setTheme() {
  document.documentElement.dataset.theme = byId("theme").value;
  try {
    localStorage.setItem("theme", byId("theme").value);
  } catch {
    // Storage is switched off: the theme lasts as long as the page.
  }
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
    showServer();
  });
  on("theme", "change", setTheme);
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
  readTheme();
  try {
    store = await Store.open();
  } catch {
    store = new MemoryStore();
    tell("This browser keeps nothing for this page: conversations last until it is closed.");
  }
  const [latest] = await store.conversations();
  conversation = newConversation(latest?.settings);
  store.addEventListener("change", ({ detail }) => noteChange(detail));
  server.addEventListener("change", showServer);
  listen();
  if (location.hash) await open(location.hash.slice(1));
  else enter(conversation, messages);
  await server.watch();
  if (server.state === "locked") askKey(server.reason);
}

start();
