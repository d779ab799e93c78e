// The inlines of Markdown: emphasis, code, links and breaks in the text of one block. See
// markdown.js for what a tree is.

const MAX_OPEN = 100; // unclosed emphasis and brackets; more of them are text

export function node(tag, children = [], attrs = {}) {
  return { tag, attrs, children };
}

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
export function merge(children) {
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
