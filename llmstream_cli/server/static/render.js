// The tree of markdown.js to elements. Text becomes text nodes, and elements are made by name
// from what the parser knows: nothing is ever read as HTML.

export function element(tag, attrs = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

function codeBlock({ attrs: { language }, children: [text] }) {
  const label = language ? `Code in ${language}` : "Code";
  const code = element("code", {}, document.createTextNode(text));
  return element("div", { class: "code" },
    element("div", { class: "bar" },
      element("span", {}, language),
      element("button", { type: "button", class: "quiet", "data-copy": true }, "Copy code")),
    element("pre", { tabindex: "0", role: "region", "aria-label": label }, code));
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

function isSameKind(before, after) {
  if (typeof before === "string" || typeof after === "string") return typeof before === typeof after;
  return before.tag === after.tag && JSON.stringify(before.attrs) === JSON.stringify(after.attrs);
}

function patchNode(dom, before, after) {
  if (before === after) return;
  if (!isSameKind(before, after)) dom.replaceWith(create(after));
  else if (typeof after === "string") setText(dom, before, after);
  else if (after.tag !== "pre") patch(dom, before.children, after.children);
  else setText(dom.querySelector("code").firstChild, before.children[0], after.children[0]);
}

// Makes the children of an element, which show one list of values, show another: what stays the
// same is not touched, so that a selection in it and the place of the page remain.
export function patch(parent, before, after) {
  const shared = Math.min(before.length, after.length);
  for (let at = shared; at < before.length; at += 1) parent.lastChild.remove();
  for (let at = 0; at < shared; at += 1) {
    if (before[at] !== after[at]) patchNode(parent.childNodes[at], before[at], after[at]);
  }
  if (after.length > shared) parent.append(...after.slice(shared).map(create));
}

// Copies text. Pages that came over plain HTTP have no `navigator.clipboard`.
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { readonly: true, class: "offscreen" });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  if (!done) throw new Error("the browser does not let this page copy");
  return undefined;
}
