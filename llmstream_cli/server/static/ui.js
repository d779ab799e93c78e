// Parts of the page that know nothing of conversations.

import { hasKey, server, setKey } from "./api.js";
import { remember } from "./memory.js";
import { element } from "./render.js";

export const byId = (id) => document.getElementById(id);

// Says something to screen readers.
export function announce(text) {
  byId("live").textContent = text;
}

// Says something to everybody, until it is dismissed.
export function tell(text) {
  byId("notice").hidden = false;
  byId("notice").firstChild.textContent = text;
}

// Shows a dialog; resolves to whether it was confirmed.
export function confirmed(id) {
  const dialog = byId(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}

let askingKey = null; // one dialog, however many wait for the key

// Asks for the key; resolves to whether it was given.
export function askKey(reason) {
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

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  remember("localStorage", "theme", theme);
}
