// Parses what comes on a line, a JSON list of the parts of a text: whole, and part by part.
import { createInterface } from "node:readline";

const { MarkdownStream } = await import(process.argv[2]);

function parse(parts) {
  const stream = new MarkdownStream();
  let blocks = [];
  for (const part of parts) {
    stream.push(part);
    blocks = stream.blocks();
  }
  return blocks;
}

for await (const line of createInterface({ input: process.stdin })) {
  const parts = JSON.parse(line);
  console.log(JSON.stringify({ whole: parse([parts.join("")]), streamed: parse(parts) }));
}
