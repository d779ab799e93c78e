// Markdown, as models write it, to a tree of plain values: a string is text, anything else is
// { tag, attrs, children }. Pure, so it knows no document; render.js makes elements of the tree.
//
// CommonMark's blocks and inlines and GFM's tables and strikethrough, without raw HTML, which
// stays text, and without what models do not write (reference links, indented code). A line
// break stays one. Nothing here takes longer than a small multiple of the text's length.

const MAX_DEPTH = 16; // of quotes and lists in each other; deeper ones are text
const MAX_OPEN = 100; // unclosed emphasis and brackets; more of them are text

const FENCE = /^( *)(`{3,}|~{3,}) *([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const UNDERLINE = /^ {0,3}(?:(=+)|-+) *$/;
const TASK = /^\[([ xX])\] +/;

export function node(tag, children = [], attrs = {}) {
  return { tag, attrs, children };
}

// ---- blocks -------------------------------------------------------------------------------

// Returns the blocks of some lines, and the line that each begins with.
function parseBlocks(lines, depth) {
  const blocks = [];
  const starts = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, end] = parseBlock(lines, at, depth);
    blocks.push(block);
    starts.push(at);
    at = end;
  }
  return { blocks, starts };
}

function parseBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return parseFence(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = line.slice(heading[0].length).trim().replace(/(?:^|(?<![ \t])[ \t]+)#+$/, "");
    return [node(headingTag(heading[1].length), parseInline(text)), at + 1];
  }
  if (RULE.test(line)) return [node("hr"), at + 1];
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return parseQuote(lines, at, depth);
    if (ITEM.test(line)) return parseList(lines, at, depth);
  }
  return startsTable(lines, at) ? parseTable(lines, at) : parseParagraph(lines, at);
}

// The page itself and its messages have the first two levels.
function headingTag(level) {
  return `h${Math.min(level + 2, 6)}`;
}

function parseFence(lines, at, [, indent, marks, info]) {
  const closing = new RegExp(`^ *${marks[0]}{${marks.length},} *$`);
  const margin = new RegExp(`^ {0,${indent.length}}`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).map((line) => line.replace(margin, ""));
  const language = info.trim().split(/\s/, 1)[0].slice(0, 40);
  return [node("pre", [code.join("\n")], { language }), end + 1];
}

function parseQuote(lines, at, depth) {
  const inner = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const isLazy = end > at && lines[end - 1].replace(QUOTE, "").trim();
    if (!QUOTE.test(lines[end]) && !(isLazy && continuesText(lines, end))) break;
    inner.push(lines[end].replace(QUOTE, ""));
  }
  return [node("blockquote", parseBlocks(inner, depth + 1).blocks), end];
}

// A line that can only go on with the paragraph before it.
function continuesText(lines, at) {
  const line = lines[at];
  return Boolean(line.trim()) && !startsBlock(line) && !startsTable(lines, at);
}

function startsBlock(line) {
  return (
    FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) ||
    /^ *(?:[-*+]|1[.)]) +\S/.test(line)
  );
}

function kindOf(marker) {
  return /\d/.test(marker) ? marker.at(-1) : marker;
}

function parseList(lines, at, depth) {
  const [, , first] = ITEM.exec(lines[at]);
  const items = [];
  let inner = null; // the lines of the current item
  let margin = 0; // where the text of the current item begins
  let outer = 0; // where its marker does
  let end = at;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const indent = line.length - line.trimStart().length;
    const item = RULE.test(line) ? null : ITEM.exec(line);
    const isBlank = !line.trim();
    // Models indent by two what the standard wants below the text: "1. a" and "  - b".
    const isInside = inner && (indent >= margin || (indent >= outer + 2 && (item || FENCE.test(line))));
    if (isBlank || isInside) {
      inner.push(line.slice(Math.min(indent, margin)));
    } else if (item && kindOf(item[2]) === kindOf(first)) {
      const spaces = item[0].length - indent - item[2].length;
      outer = indent;
      margin = indent + item[2].length + (spaces > 4 ? 1 : Math.max(spaces, 1));
      inner = [line.slice(margin)];
      items.push(inner);
    } else if (lines[end - 1].trim() && continuesText(lines, end)) {
      inner.push(line.trimStart());
    } else {
      break;
    }
  }
  const attrs = /\d/.test(first) ? { start: String(parseInt(first, 10)) } : {};
  return [node(attrs.start ? "ol" : "ul", items.map((own) => parseItem(own, depth)), attrs), end];
}

function parseItem(lines, depth) {
  const task = TASK.exec(lines[0]);
  const own = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines;
  const blocks = parseBlocks(own, depth + 1).blocks;
  if (!task) return node("li", blocks);
  const box = task[1] === " " ? "\u2610 " : "\u2611 ";
  if (blocks[0]?.tag !== "p") return node("li", [node("p", [box]), ...blocks], { class: "task" });
  const text = node("p", merge([box, ...blocks[0].children]));
  return node("li", [text, ...blocks.slice(1)], { class: "task" });
}

function cellsOf(line) {
  const cells = line.trim().split(/(?<!\\)\|/);
  if (cells.length > 1 && !cells[0].trim()) cells.shift();
  if (cells.length > 1 && !cells.at(-1).trim()) cells.pop();
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function startsTable(lines, at) {
  const [head, below] = [lines[at], lines[at + 1]];
  if (below === undefined || !head.includes("|") || !below.includes("-")) return false;
  const marks = cellsOf(below);
  return marks.every((mark) => /^:?-+:?$/.test(mark)) && marks.length === cellsOf(head).length;
}

function parseTable(lines, at) {
  const aligns = cellsOf(lines[at + 1]).map((mark) => {
    const [left, right] = [mark.startsWith(":"), mark.endsWith(":")];
    if (right) return left ? "center" : "right";
    return "";
  });
  const row = (line, tag) => {
    const cells = cellsOf(line);
    return node("tr", aligns.map((align, column) =>
      node(tag, parseInline(cells[column] ?? ""), align ? { class: align } : {})));
  };
  let end = at + 2;
  while (end < lines.length && lines[end].trim() && !startsBlock(lines[end])) end += 1;
  const body = lines.slice(at + 2, end).map((line) => row(line, "td"));
  const parts = [node("thead", [row(lines[at], "th")])];
  if (body.length) parts.push(node("tbody", body));
  const scroll = { class: "table", role: "region", "aria-label": "Table", tabindex: "0" };
  return [node("div", [node("table", parts)], scroll), end];
}

function parseParagraph(lines, at) {
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const underline = UNDERLINE.exec(lines[end]);
    if (underline) {
      const text = lines.slice(at, end).join("\n");
      return [node(headingTag(underline[1] ? 1 : 2), parseInline(text)), end + 1];
    }
    if (!continuesText(lines, end)) break;
  }
  return [node("p", parseInline(lines.slice(at, end).join("\n"))), end];
}

// ---- inlines ------------------------------------------------------------------------------

const PLAIN = /(?:(?!https?:\/\/)[^\\`*_~[\]!<&\n])+/y;
const ESCAPE = /\\([!-/:-@[-`{-~])/y;
const ENTITY = /&(?:amp|lt|gt|quot|apos|nbsp|#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6}));/y;
const BREAK_TAG = /<br *\/?>/iy;
const ANGLE_LINK = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/iy;
const BARE_LINK = /https?:\/\/[^\s<>[\]`|\\]{1,2000}/y;
const TARGET =
  /\( *(?:<([^<>\n]{0,2000})>|((?:[^\s()\\]|\\.|\([^\s()\\]{0,500}\)){0,2000}))(?:\s+(?:"[^"]{0,500}"|'[^']{0,500}'))?\s*\)/y;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const SCHEMES = new Set(["http:", "https:", "mailto:"]);

function matchAt(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

// Returns the address if it is one to follow, else null: no script, no file, no relative one.
export function safeAddress(text) {
  try {
    const url = new URL(text);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

// Joins neighbouring strings, so that each text is one value.
function merge(children) {
  const merged = [];
  for (const child of children) {
    if (child === "") continue;
    if (typeof child === "string" && typeof merged.at(-1) === "string") {
      merged[merged.length - 1] += child;
    } else {
      merged.push(child);
    }
  }
  return merged;
}

function withoutLinks(children) {
  return children.flatMap((child) => {
    if (typeof child === "string") return [child];
    const inner = withoutLinks(child.children);
    return child.tag === "a" ? inner : [{ ...child, children: merge(inner) }];
  });
}

export function parseInline(text) {
  return new InlineParser(text.replace(/^[ \t]+/gm, "")).parse();
}

// Emphasis and brackets that are open stand on a stack, each with what came since. What closes
// one takes all above it back to text.
class InlineParser {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.stack = [{ mark: "", count: 0, children: [] }];
    this.lastTarget = text.lastIndexOf("](");
    this.ticks = null; // where backticks stand, by the length of their run
  }

  parse() {
    while (this.at < this.text.length) this.step();
    this.collapse(1);
    return merge(this.stack[0].children);
  }

  push(child, length) {
    this.stack.at(-1).children.push(child);
    this.at += length;
  }

  // Turns what is open above a place of the stack back into text.
  collapse(level) {
    while (this.stack.length > level) {
      const { mark, count, children } = this.stack.pop();
      const below = this.stack.at(-1).children;
      below.push(mark.repeat(count));
      for (const child of children) below.push(child);
    }
  }

  step() {
    const plain = matchAt(PLAIN, this.text, this.at);
    if (plain) return this.push(plain[0], plain[0].length);
    const char = this.text[this.at];
    if (char === "\n") return this.lineBreak();
    if (char === "\\") return this.escape();
    if (char === "`") return this.codeSpan();
    if (char === "*" || char === "_" || char === "~") return this.delimiter(char);
    if (char === "[") return this.open("[", 1);
    if (char === "!" && this.text[this.at + 1] === "[") return this.open("![", 2);
    if (char === "]") return this.closeBracket();
    if (char === "<") return this.angle();
    if (char === "&") return this.entity();
    return char === "h" ? this.bareLink() : this.push(char, 1);
  }

  lineBreak() {
    const { children } = this.stack.at(-1);
    if (typeof children.at(-1) === "string") children.push(children.pop().replace(/ +$/, ""));
    this.push(node("br"), 1);
  }

  escape() {
    const escaped = matchAt(ESCAPE, this.text, this.at);
    if (escaped) return this.push(escaped[1], 2);
    const isBreak = this.text[this.at + 1] === "\n"; // which the line break is, too
    return this.push(isBreak ? "" : "\\", 1);
  }

  codeSpan() {
    const [run] = matchAt(/`+/y, this.text, this.at);
    if (this.ticks === null) {
      this.ticks = new Map();
      for (const { 0: ticks, index } of this.text.matchAll(/`+/g)) {
        if (!this.ticks.has(ticks.length)) this.ticks.set(ticks.length, []);
        this.ticks.get(ticks.length).push(index);
      }
      for (const places of this.ticks.values()) places.reverse();
    }
    const places = this.ticks.get(run.length) ?? [];
    while (places.length && places.at(-1) <= this.at) places.pop();
    if (!places.length) return this.push(run, run.length);
    const end = places.pop();
    let code = this.text.slice(this.at + run.length, end).replaceAll("\n", " ");
    if (/^ .*[^ ].* $/.test(code)) code = code.slice(1, -1);
    return this.push(node("code", [code]), end + run.length - this.at);
  }

  // See "left-flanking delimiter run" in the CommonMark specification, 6.2.
  delimiter(mark) {
    let count = 1;
    while (this.text[this.at + count] === mark) count += 1;
    const before = this.text[this.at - 1] ?? " ";
    const after = this.text[this.at + count] ?? " ";
    const isSpace = (char) => /\s/.test(char);
    const isSign = (char) => /[\p{P}\p{S}]/u.test(char);
    const left = !isSpace(after) && (!isSign(after) || isSpace(before) || isSign(before));
    const right = !isSpace(before) && (!isSign(before) || isSpace(after) || isSign(after));
    const canOpen = mark === "_" ? left && (!right || isSign(before)) : left;
    const canClose = mark === "_" ? right && (!left || isSign(after)) : right;
    this.at += count;
    if (mark === "~" && count !== 2) return this.push("~".repeat(count), 0);
    let rest = count;
    if (canClose) rest = this.closeEmphasis(mark, count, canOpen);
    if (!rest) return undefined;
    if (!canOpen || this.stack.length > MAX_OPEN) return this.push(mark.repeat(rest), 0);
    this.stack.push({ mark, count: rest, length: count, canClose, children: [] });
    return undefined;
  }

  // Returns how many of the closing marks found no partner.
  closeEmphasis(mark, length, canOpen) {
    let count = length;
    for (let level = this.stack.length - 1; level > 0 && count; level -= 1) {
      const frame = this.stack[level];
      if (frame.mark.includes("[") && !frame.isOff) break; // it may become a link, which goes first
      if (frame.mark !== mark) continue;
      const isOdd = (canOpen || frame.canClose) && (frame.length + length) % 3 === 0;
      if (isOdd && (frame.length % 3 || length % 3) && mark !== "~") continue; // rules 9 and 10
      this.collapse(level + 1);
      while (count && frame.count) {
        const used = Math.min(2, count, frame.count);
        const tag = mark === "~" ? "del" : ["em", "strong"][used - 1];
        frame.children = [node(tag, merge(frame.children))];
        frame.count -= used;
        count -= used;
      }
      if (!frame.count) this.collapse(level);
    }
    return count;
  }

  open(mark, length) {
    const canClose = this.at < this.lastTarget;
    if (!canClose || this.stack.length > MAX_OPEN) return this.push(mark, length);
    this.stack.push({ mark, count: 1, children: [] });
    this.at += length;
    return undefined;
  }

  closeBracket() {
    const level = this.stack.findLastIndex((frame) => frame.mark.includes("["));
    if (level < 0) return this.push("]", 1);
    this.collapse(level + 1);
    const target = matchAt(TARGET, this.text, this.at + 1);
    if (!target || this.stack[level].isOff) {
      this.collapse(level);
      return this.push("]", 1);
    }
    const { mark, children } = this.stack.pop();
    const address = (target[1] ?? target[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1");
    const isImage = mark === "![";
    const inner = children.length || !isImage ? children : ["unnamed"];
    // No link stands in another.
    if (!isImage) for (const frame of this.stack) frame.isOff ||= frame.mark === "[";
    this.link(isImage ? ["image: ", ...inner] : inner, address);
    this.at += 1 + target[0].length;
    return undefined;
  }

  // A link, or the text alone where its address is none to follow. An image is a link, too: to
  // load it would tell its server who reads what.
  link(children, address) {
    const href = safeAddress(address);
    const inner = merge(withoutLinks(children));
    if (href === null) {
      for (const child of inner) this.push(child, 0);
    } else {
      const text = inner.length ? inner : [address];
      this.push(node("a", text, { href, rel: "noopener noreferrer", target: "_blank" }), 0);
    }
  }

  angle() {
    const tag = matchAt(BREAK_TAG, this.text, this.at);
    if (tag) return this.push(node("br"), tag[0].length);
    const link = matchAt(ANGLE_LINK, this.text, this.at);
    if (!link) return this.push("<", 1);
    this.link([link[1]], link[1]);
    this.at += link[0].length;
    return undefined;
  }

  entity() {
    const found = matchAt(ENTITY, this.text, this.at);
    if (!found) return this.push("&", 1);
    const code = found[1] ? parseInt(found[1], 10) : parseInt(found[2], 16);
    const isCode = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000);
    const named = NAMED[found[0].slice(1, -1)] ?? "\ufffd";
    return this.push(isCode ? String.fromCodePoint(code) : named, found[0].length);
  }

  bareLink() {
    const found = matchAt(BARE_LINK, this.text, this.at);
    let [address] = found ?? ["h"];
    if (!found || /\w/.test(this.text[this.at - 1] ?? " ")) return this.push("h", 1);
    const excess = (text) => text.split(")").length - text.split("(").length;
    for (;;) {
      const shorter = address.replace(/[.,:;"'*_~!?]+$/, "");
      address = shorter.endsWith(")") && excess(shorter) > 0 ? shorter.slice(0, -1) : shorter;
      if (address === shorter) break;
    }
    this.link([address], address);
    this.at += address.length;
    return undefined;
  }
}

// ---- whole and in parts -------------------------------------------------------------------

function linesOf(text) {
  return text.replaceAll("\t", "    ").split("\n");
}

export function parseMarkdown(text) {
  return parseBlocks(linesOf(text.replaceAll("\r\n", "\n")), 0).blocks;
}

// Markdown that arrives in parts. Blocks that cannot change any more are parsed once: those
// followed by a block of which two whole lines have come, as a table takes two to be known.
export class MarkdownStream {
  #settled = [];
  #rest = "";

  push(text) {
    this.#rest = (this.#rest + text).replaceAll("\r\n", "\n");
  }

  // Returns the blocks so far; a settled one is the same object each time.
  blocks() {
    const lines = linesOf(this.#rest);
    const { blocks, starts } = parseBlocks(lines, 0);
    let count = blocks.length - 1;
    while (count > 0 && starts[count] > lines.length - 3) count -= 1;
    if (count > 0) {
      for (const block of blocks.splice(0, count)) this.#settled.push(block);
      this.#rest = this.#rest.split("\n").slice(starts[count]).join("\n");
    }
    return [...this.#settled, ...blocks];
  }
}
