// Elements, made by name from what the page knows: text becomes text nodes, and nothing is ever
// read as HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, attrs = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function codeBlock({ attrs: { language }, children: [text] }) {
  return element("div", { class: "code" },
    element("div", { class: "row bar" }, element("span", {}, language),
      element("button", { class: "quiet", "data-action": "copyCode" }, "Copy code")),
    element("pre", { tabindex: "0", role: "region", "aria-label": `${language} code` },
      element("code", {}, document.createTextNode(text))));
}

function create(value) {
  if (typeof value === "string") return document.createTextNode(value);
  if (value.tag === "pre") return codeBlock(value);
  return element(value.tag, value.attrs, ...value.children.map(create));
}

function setText(textNode, before, after) {
  if (after.startsWith(before)) textNode.appendData(after.slice(before.length));
  else textNode.data = after;
}

const kindOf = ({ tag, attrs }) => tag + JSON.stringify(attrs); // the same for all strings

// Makes the children of an element, which show one list of values, show another: what stays the
// same is not touched, so that a selection in it and the place of the page remain.
export function patch(parent, before, after) {
  while (parent.childNodes.length > after.length) parent.lastChild.remove();
  after.forEach((value, place) => {
    const dom = parent.childNodes[place];
    const old = before[place];
    if (value === old) return;
    if (!dom) parent.append(create(value));
    else if (kindOf(old) !== kindOf(value)) dom.replaceWith(create(value));
    else if (typeof value === "string") setText(dom, old, value);
    else if (value.tag !== "pre") patch(dom, old.children, value.children);
    else setText(dom.querySelector("code").firstChild, old.children[0], value.children[0]);
  });
}

export function announce(text) {
  byId("live").textContent = text;
}

export function tell(text) {
  byId("notice").hidden = false;
  byId("notice").firstChild.textContent = text;
}

// Asks in a dialog, for a text where there is a label; resolves to the text, or null.
export function ask({ title, text = "", label, value = "", type = "text", action }) {
  const input = element("input", { type, value, required: "", autocomplete: "off" });
  const dialog = element("dialog", { id: "ask", "aria-label": title },
    element("form", { method: "dialog" },
      element("h2", {}, title),
      element("p", {}, text),
      label ? element("label", { class: "field" }, label, input) : "",
      element("div", { class: "row end" },
        element("button", { type: "button", click: () => dialog.close() }, "Cancel"),
        element("button", { class: "primary", value: "ok" }, action))));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue ? input.value : null);
    });
  });
}

export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text]));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Copies text. Pages that came over plain HTTP have no `navigator.clipboard`.
export async function copy(text, button) {
  const { textContent: label } = button;
  let isDone = true;
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text).catch(() => (isDone = false));
  } else {
    const area = element("textarea", { class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    isDone = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = isDone ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = label), 1_500);
}
