// Calls functions of conversation.js: a line is a name and its arguments.
import { createInterface } from "node:readline";

const module = await import(process.argv[2]);

const calls = {
  body: ({ settings, asked }) => module.requestBody(settings, asked),
  thought: (text) => module.partThought(text),
  title: (text) => module.titleFrom(text),
  markdown: (conversation) => module.fromMarkdown(module.toMarkdown(conversation))[0],
  json: (entries) => module.fromJson(module.toJson(entries)),
  read: (text) => module.fromJson(text),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, argument] = JSON.parse(line);
  try {
    console.log(JSON.stringify({ value: calls[name](argument) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
