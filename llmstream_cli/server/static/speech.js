// What screen readers hear of an answer: whole sentences, now and then, and its end.

import { partThought } from "./conversation.js";
import { announce } from "./ui.js";

const PAUSE = 4_000; // milliseconds between two announcements

let spoken = { id: "", length: 0, time: 0 };

export function speak(message) {
  if (spoken.id !== message.id) spoken = { id: message.id, length: 0, time: Date.now() };
  const fresh = partThought(message.text).answer.slice(spoken.length);
  if (message.ended) {
    const ending = message.error || { complete: "The answer is complete." }[message.ended] || "Stopped.";
    announce(`${fresh} ${ending}`);
  } else if (Date.now() - spoken.time > PAUSE) {
    const length = Math.max(...[". ", "! ", "? ", "\n"].map((end) => fresh.lastIndexOf(end))) + 1;
    if (!length) return;
    announce(fresh.slice(0, length));
    spoken = { id: message.id, length: spoken.length + length, time: Date.now() };
  }
}
