// Markdown, as models write it, to a tree of plain values: a string is text, anything else is
// { tag, attrs, children }. Pure, so it knows no document; render.js makes elements of the tree.
//
// CommonMark's blocks and inlines and GFM's tables and strikethrough, without raw HTML, which
// stays text, and without what models do not write (reference links, indented code). A line
// break stays one. Nothing here takes longer than a small multiple of the text's length.

import { merge, node, parseInline } from "./inline.js";

const MAX_DEPTH = 16; // of quotes and lists in each other; deeper ones are text

const FENCE = /^( *)(`{3,}|~{3,}) *([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const UNDERLINE = /^ {0,3}(?:(=+)|-+) *$/;
const TASK = /^\[([ xX])\] +/;

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
