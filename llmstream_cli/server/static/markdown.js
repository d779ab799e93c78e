// Markdown, as models write it, to a tree of strings and { tag, attrs, children }, of which dom.js
// makes elements. Raw HTML stays text. All that repeats is bounded, so that no text takes long.

const MAX_DEPTH = 16; // of quotes and lists in each other; deeper ones are text

const node = (tag, children = [], attrs = {}) => ({ tag, attrs, children });

// Marks of emphasis stand before a word and after one, and underscores in none.
const INLINE = new RegExp([
  /\\(?<escaped>[!-\/:-@[-`\{-~])/.source,
  /(?<!`)(?<ticks>`+)(?!`)(?<code>[^]{1,5000}?)(?<!`)\k<ticks>(?!`)/.source,
  String.raw`(?<mark>(?<char>[*~]|(?<![\p{L}\p{N}_])_)\k<char>{0,2})(?!\s|\k<char>)` +
    String.raw`(?<marked>[^]{1,2000}?)(?<![\s\\]|\s[*_~])\k<mark>(?!\k<char>|(?<=_)[\p{L}\p{N}])`,
  /(?<image>!?)\[(?<label>(?:[^[\]]|\[[^[\]]{0,500}\]){0,1000})\]/.source +
    /\((?<target>(?:[^\s()]|\([^\s()]{0,500}\)){1,2000})(?: +"[^"]{0,500}")? *\)/.source,
  /(?<!\w)(?<bare>https?:\/\/[^\s<>[\]`|\\]{0,2000}[^\s<>[\]`|\\.,:;"'*_~!?()])/.source,
  /(?<! ) {0,100}(?:\n|<br *\/?>) */.source,
].join("|"), "gu");
const TAGS = { "*": ["em"], "**": ["strong"], "***": ["strong", "em"], "~~": ["del"] };
const SCHEMES = new Set(["http:", "https:", "mailto:"]);

// A link, or the text alone where the address is none to follow: a script, a file, a relative one.
function link(children, address) {
  const url = URL.canParse(address) ? new URL(address) : null;
  if (!SCHEMES.has(url?.protocol)) return children;
  return [node("a", children, { href: url.href, rel: "noopener noreferrer", target: "_blank" })];
}

function toNodes({ escaped, code, mark, marked, image, label, target, bare }, isLinked) {
  if (escaped) return [escaped];
  if (code) return [node("code", [code.replace(/^ (.+) $/s, "$1").replaceAll("\n", " ")])];
  if (mark) {
    const wrap = (children, tag) => [node(tag, children)];
    const tags = TAGS[mark.replaceAll("_", "*")];
    return tags?.reduce(wrap, inline(marked, isLinked)) ?? [mark, ...inline(marked, isLinked), mark];
  }
  if (bare) return isLinked ? [bare] : link([bare], bare);
  if (label === undefined) return [node("br")];
  // An image is a link, too: to load it would tell its server who reads what.
  const text = inline(label || (image ? "unnamed" : target), true);
  const children = image ? ["image: ", ...text] : text;
  return isLinked ? children : link(children, target);
}

function inline(text, isLinked = false) {
  const out = [];
  let end = 0;
  for (const { 0: whole, index, groups } of text.matchAll(INLINE)) {
    out.push(text.slice(end, index), ...toNodes(groups, isLinked));
    end = index + whole.length;
  }
  return [...out, text.slice(end)].filter((child) => child !== "");
}

const FENCE = /^( *)(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?: +|$)/;
const RULE = /^ {0,3}([-*_]) *(?:\1 *){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
// In a paragraph a year may begin a line: only a list from 1 interrupts it.
const BLOCKS = [FENCE, HEADING, RULE, QUOTE, /^ *(?:[-*+]|1[.)]) +\S/];

const startsBlock = (line) => BLOCKS.some((pattern) => pattern.test(line));

function parseBlocks(lines, depth) {
  const blocks = [];
  const starts = [];
  for (let at = 0; at < lines.length; ) {
    if (lines[at].trim()) {
      const [block, end] = parseBlock(lines, at, depth);
      blocks.push(block);
      starts.push(at);
      at = end;
    } else {
      at += 1;
    }
  }
  return { blocks, starts };
}

function parseBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return parseFence(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = line.slice(heading[0].length).trim().replace(/(?<! ) +#+$/, "");
    // The page itself and its messages have the first two levels.
    return [node(`h${Math.min(heading[1].length + 2, 6)}`, inline(text)), at + 1];
  }
  if (RULE.test(line)) return [node("hr"), at + 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) {
    const end = endOf(lines, at, (next) => QUOTE.test(next));
    const inner = lines.slice(at, end).map((one) => one.replace(QUOTE, ""));
    return [node("blockquote", parseBlocks(inner, depth + 1).blocks), end];
  }
  if (depth < MAX_DEPTH && ITEM.test(line)) return parseList(lines, at, depth);
  if (startsTable(lines, at)) return parseTable(lines, at);
  const end = endOf(lines, at, (next, place) => !startsBlock(next) && !startsTable(lines, place));
  return [node("p", inline(lines.slice(at, end).join("\n").trim())), end];
}

function endOf(lines, at, goesOn) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && goesOn(lines[end], end)) end += 1;
  return end;
}

function parseFence(lines, at, [, indent, marks, info]) {
  const closing = new RegExp(`^ *${marks[0]}{${marks.length},} *$`);
  const margin = new RegExp(`^ {0,${indent.length}}`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).map((line) => line.replace(margin, ""));
  return [node("pre", [code.join("\n")], { language: info.trim().split(" ", 1)[0] }), end + 1];
}

function parseList(lines, at, depth) {
  const isOrdered = (marker) => /\d/.test(marker);
  const [, , first] = ITEM.exec(lines[at]);
  const items = []; // the lines of each
  let outer = 0; // where the marker of the current item begins
  let margin = 0; // where its text does
  let end = at;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const indent = line.search(/\S|$/);
    const item = RULE.test(line) ? null : ITEM.exec(line);
    // Models indent by two what the standard wants below the text: "1. a" and "  - b".
    const isInside = indent >= margin || (indent >= outer + 2 && (item || FENCE.test(line)));
    if (items.length && (!line.trim() || isInside)) {
      items.at(-1).push(line.slice(Math.min(indent, margin)));
    } else if (item && isOrdered(item[2]) === isOrdered(first)) {
      outer = indent;
      margin = indent + item[2].length + 1;
      items.push([line.slice(margin)]);
    } else {
      break;
    }
  }
  const attrs = isOrdered(first) ? { start: String(parseInt(first, 10)) } : {};
  const made = items.map((own) => node("li", parseBlocks(own, depth + 1).blocks));
  return [node(attrs.start ? "ol" : "ul", made, attrs), end];
}

function cellsOf(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function startsTable(lines, at) {
  const below = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || !/^[ |:-]*-[ |:-]*$/.test(below)) return false;
  const marks = cellsOf(below);
  return marks.every((mark) => /^:?-+:?$/.test(mark)) && marks.length === cellsOf(lines[at]).length;
}

function parseTable(lines, at) {
  const aligns = cellsOf(lines[at + 1]).map((mark) =>
    mark.endsWith(":") ? { class: mark.startsWith(":") ? "center" : "right" } : {});
  const row = (line, tag) => {
    const cells = cellsOf(line);
    return node("tr", aligns.map((align, column) => node(tag, inline(cells[column] ?? ""), align)));
  };
  const end = endOf(lines, at + 1, (next) => !startsBlock(next));
  const parts = [node("thead", [row(lines[at], "th")])];
  const body = lines.slice(at + 2, end).map((line) => row(line, "td"));
  if (body.length) parts.push(node("tbody", body));
  const scroll = { class: "table", role: "region", "aria-label": "Table", tabindex: "0" };
  return [node("div", [node("table", parts)], scroll), end];
}

// Markdown that arrives in parts. Blocks that cannot change any more are parsed once: those
// followed by a block of which two whole lines have come, as a table takes two to be known.
export class MarkdownStream {
  #settled = [];
  #rest = "";

  push(text) {
    this.#rest = (this.#rest + text).replaceAll("\r\n", "\n");
  }

  blocks() {
    const lines = this.#rest.replaceAll("\t", "    ").split("\n");
    const { blocks, starts } = parseBlocks(lines, 0);
    let count = blocks.length - 1;
    while (count > 0 && starts[count] > lines.length - 3) count -= 1;
    if (count > 0) {
      for (const block of blocks.splice(0, count)) this.#settled.push(block);
      this.#rest = lines.slice(starts[count]).join("\n");
    }
    return [...this.#settled, ...blocks];
  }
}
