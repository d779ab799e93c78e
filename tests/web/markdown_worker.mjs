// Parses what comes on a line, a JSON list of the parts of a text: whole, and part by part.
import { createInterface } from "node:readline";

const { MarkdownStream, parseMarkdown } = await import(process.argv[2]);

for await (const line of createInterface({ input: process.stdin })) {
  const parts = JSON.parse(line);
  const stream = new MarkdownStream();
  let streamed = [];
  for (const part of parts) {
    stream.push(part);
    streamed = stream.blocks();
  }
  console.log(JSON.stringify({ whole: parseMarkdown(parts.join("")), streamed }));
}
