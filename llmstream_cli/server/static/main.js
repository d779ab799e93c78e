// The page: puts the conversation, the server and what the user does together.

import { Answer } from "./answer.js";
import { askKey, server } from "./api.js";
import {
  fromJson, fromMarkdown, newConversation, newMessage, partThought, requestBody, titleFrom, toJson,
  toMarkdown,
} from "./conversation.js";
import { announce, ask, byId, copy, download, element, fit, recall, remember, tell } from "./dom.js";
import { countChanged, fillSettings } from "./settings.js";
import { showServer } from "./state.js";
import { Store } from "./store.js";
import { isSend, View } from "./view.js";

const SAVE_PAUSE = 1_000; // milliseconds between two writes of a growing answer

const query = byId("query");
const view = new View();
const store = new Store();
const answers = new Map(); // those on their way, by the conversation's id

const ENDINGS = { complete: "The answer is complete.", stopped: "Stopped." }; // as they are said

let conversation = newConversation();

// ---- what is shown --------------------------------------------------------------------------

function describe(message) {
  const answer = answers.get(conversation.id);
  const actions = { copy: "Copy" };
  if (message.role === "user") actions.edit = "Edit";
  else if (message === conversation.messages.at(-1)) {
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
      element("p", {}, "The model runs on this server. Conversations stay in this browser.")));
  }
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  byId("log").classList.toggle("busy", isRunning); // with which most actions are out of sight
  byId("title").textContent = title || "New conversation";
  document.title = title ? `${title} \u2013 llmstream` : "llmstream";
  byId("more").hidden = !messages.length;
  const count = countChanged(settings);
  byId("changed").textContent = count || "";
  byId("settings-open").setAttribute("aria-label", count ? `Settings, ${count} changed` : "Settings");
  showServer(settings.model);
  byId("conversations").replaceChildren(...store.list().map(({ id, title: name }) =>
    element("li", {}, element("a", { href: `#${id}`, "aria-current": id === conversation.id && "page" },
      name || "Untitled", answers.has(id) ? element("i", { title: "answering" }) : ""))));
}

// ---- conversations --------------------------------------------------------------------------

// Writes, and says so where the browser does not let it.
function keep(work) {
  return work.catch((error) => tell(`This browser could not keep the conversation: ${error.message}.`));
}

// Changes a conversation, which may be one that is not kept yet.
function change(id, work) {
  if (store.get(id)) keep(store.change(id, work));
  else if (id === conversation.id) work(conversation);
}

function noteDraft() {
  fit(query);
  remember("sessionStorage", "draft", query.value);
}

// Opens what the address names; else, a new conversation.
function followAddress() {
  enter(store.get(location.hash.slice(1)) ?? newConversation(conversation.settings));
}

function startNew() {
  if (location.hash) history.pushState(null, "", location.pathname);
  followAddress();
  focusQuery();
}

function enter(entered) {
  conversation = entered;
  view.clear();
  toggleNav(false);
  show();
  view.scrollToEnd();
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
  if (id === conversation.id) {
    if (!found) return startNew();
    conversation = found;
    if (byId("log").querySelector("form")) return undefined; // of a message that is being edited
  }
  return show();
}

// ---- asking and answering -------------------------------------------------------------------

// Asks at the end, or in the place of a message that was edited, and of all that follows it.
function send(text, edited) {
  const { id } = conversation;
  if (answers.has(id)) return;
  const [question, message] = [newMessage("user", text), newMessage("assistant")];
  message.ended = null;
  if (!store.get(id)) {
    conversation.title = titleFrom(text);
    keep(store.add(conversation));
    history.replaceState(null, "", `#${id}`);
  }
  change(id, ({ messages }) => {
    const place = messages.findIndex((one) => one.id === edited?.id);
    messages.splice(place < 0 ? messages.length : place, Infinity, question, message);
  });
  respond(message);
}

// Lets the model answer the question that stands before a message, in that message.
async function respond(message) {
  const { id, settings, messages } = conversation;
  const asked = messages.slice(0, messages.indexOf(message));
  const answer = new Answer(message, requestBody(settings, asked));
  const updated = Date.now();
  const isShown = () => conversation.id === id;
  const save = () => change(id, (kept) => {
    const place = kept.messages.findIndex((one) => one.id === message.id);
    if (place >= 0) kept.messages[place] = message;
    kept.updated = updated;
  });
  let saved = updated;
  answers.set(id, answer);
  answer.addEventListener("text", () => {
    if (isShown()) view.grow(message);
    if (Date.now() - saved < SAVE_PAUSE) return;
    saved = Date.now();
    save();
  });
  answer.addEventListener("note", () => isShown() && view.refresh(message, describe(message)));
  save();
  show();
  view.scrollToEnd();
  announce("The answer is on its way.");
  await answer.run();
  answers.delete(id);
  save();
  show();
  if (isShown()) {
    view.grow(message); // and stays at its end
    announce(`${partThought(message.text).answer} ${message.error || ENDINGS[message.ended]}`);
  }
  server.look();
}

const ACTIONS = {
  copy: ({ text }, button) => copy(partThought(text).answer, button),
  copyCode: (_, button) => copy(button.closest(".code").querySelector("code").textContent, button),
  edit: (message) => view.edit(message, (text) => send(text, message)),
  again: (message) => {
    if (answers.has(conversation.id) || conversation.messages.at(-2)?.role !== "user") return;
    respond(message);
    focusQuery();
  },
};

// ---- the menu, files and settings -----------------------------------------------------------

function openSettings() {
  const { id } = conversation;
  const settings = structuredClone(conversation.settings);
  fillSettings(settings, () => {
    change(id, (kept) => (kept.settings = structuredClone(settings)));
    show();
  });
  byId("settings").showModal();
}

const fileName = () => conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60);

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
    const text = `\u201c${title}\u201d is gone for good then, in this browser. The server keeps none.`;
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

// ---- what the user does ---------------------------------------------------------------------

function toggleNav(isOpen) {
  byId("nav").classList.toggle("open", isOpen);
  byId("nav-open").setAttribute("aria-expanded", isOpen);
  byId("main").inert = isOpen;
  if (isOpen) byId("nav-close").focus();
}

function closeNav() {
  toggleNav(false);
  byId("nav-open").focus();
}

const stop = () => answers.get(conversation.id)?.stop();

function pressed(event) {
  if (document.querySelector("dialog[open], :popover-open")) return; // they have keys of their own
  const inField = event.target.closest("input, textarea, select");
  const ctrl = event.ctrlKey || event.metaKey;
  let act = null;
  if (event.key === "Escape") act = byId("nav").classList.contains("open") ? closeNav : stop;
  else if (ctrl && event.shiftKey && event.code === "KeyO") act = startNew;
  else if (!inField && !ctrl && event.key === "/") act = () => query.focus();
  if (!act) return;
  event.preventDefault();
  act();
}

function pressedInQuery(event) {
  const last = conversation.messages.findLast(({ role }) => role === "user");
  if (isSend(event)) byId("composer").requestSubmit();
  else if (event.key !== "ArrowUp" || query.value || !last || answers.has(conversation.id)) return;
  else ACTIONS.edit(last);
  event.preventDefault();
}

function submitted(event) {
  event.preventDefault();
  const text = query.value.trim();
  if (!text || answers.has(conversation.id)) return;
  query.value = "";
  noteDraft();
  send(text);
}

function listen() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("composer", "submit", submitted);
  on("query", "input", noteDraft);
  on("query", "keydown", pressedInQuery);
  on("stop", "click", stop);
  on("new", "click", startNew);
  on("notice-close", "click", () => (byId("notice").hidden = true));
  on("nav-open", "click", () => toggleNav(true));
  on("nav-close", "click", closeNav);
  on("settings-open", "click", openSettings);
  on("model", "change", ({ target: { value } }) => {
    change(conversation.id, ({ settings }) => (settings.model = value));
    show();
  });
  on("theme", "change", ({ target: { value } }) => {
    document.documentElement.dataset.theme = value;
    remember("localStorage", "theme", value);
  });
  on("import", "click", () => byId("file").click());
  on("file", "change", importFile);
  on("export-all", "click", () => download("llmstream-conversations.json", toJson(store.list())));
  on("menu", "click", ({ target }) => {
    byId("menu").hidePopover();
    MENU[target.dataset.menu]?.();
  });
  on("log", "click", ({ target }) => {
    const button = target.closest("[data-action]");
    const id = button?.closest("article").dataset.id;
    const message = conversation.messages.find((one) => one.id === id);
    if (message) ACTIONS[button.dataset.action](message, button);
  });
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", followAddress);
  window.addEventListener("online", () => server.look());
}

async function start() {
  byId("theme").value = document.documentElement.dataset.theme;
  query.value = recall("sessionStorage", "draft");
  fit(query);
  try {
    await store.open();
  } catch {
    tell("This browser keeps nothing for this page: conversations last until it is closed.");
  }
  conversation = newConversation(store.list()[0]?.settings);
  store.addEventListener("change", ({ detail }) => noteChange(detail));
  server.addEventListener("change", () => showServer(conversation.settings.model));
  listen();
  followAddress();
  await server.look();
  if (server.state === "locked") askKey(server.reason);
}

start();
