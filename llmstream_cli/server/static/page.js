"use strict";

// One question at a time to POST /token_stream. What the model writes only ever becomes
// textContent: it is shown, and never read as HTML.

const form = document.getElementById("ask");
const query = document.getElementById("query");
const key = document.getElementById("key");
const keyRow = document.getElementById("key-row");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const turns = document.getElementById("turns");
const state = document.getElementById("state");

let running = null; // the AbortController of the answer that is on its way

function show(text, kind) {
  document.getElementById("empty")?.remove();
  const turn = document.createElement("p");
  turn.className = `turn ${kind}`;
  turn.textContent = text;
  turns.append(turn);
  turns.scrollTop = turns.scrollHeight;
  return turn;
}

function setRunning(controller) {
  running = controller;
  send.hidden = controller !== null;
  stop.hidden = controller === null;
}

async function explain(response) {
  if (response.status === 401) {
    keyRow.hidden = false;
    key.focus();
  }
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function read(response, answer) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const atEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 40;
    answer.append(value); // a string becomes a text node
    if (atEnd) turns.scrollTop = turns.scrollHeight;
  }
}

async function ask(text) {
  const headers = { "Content-Type": "application/json" };
  if (key.value) headers.Authorization = `Bearer ${key.value}`;
  setRunning(new AbortController());
  show(text, "question");
  const answer = show("", "answer");
  try {
    const response = await fetch("/token_stream", {
      method: "POST",
      headers,
      body: JSON.stringify({ query: text }),
      signal: running.signal,
    });
    if (response.ok) await read(response, answer);
    else show(await explain(response), "wrong");
  } catch (error) {
    if (error.name === "AbortError") show("stopped", "note");
    else show("The answer broke off: the server failed or cannot be reached.", "wrong");
  } finally {
    setRunning(null);
    query.focus();
  }
}

function fit() {
  query.style.height = "auto";
  query.style.height = `${query.scrollHeight + 2}px`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = query.value.trim();
  if (!text || running) return;
  query.value = "";
  fit();
  ask(text);
});

query.addEventListener("input", fit);
query.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});

stop.addEventListener("click", () => running?.abort());

async function watch() {
  let pause = 1000;
  try {
    const { status, reason } = await (await fetch("/ready")).json();
    state.textContent = reason ? `${status}: ${reason}` : status;
    if (status === "ready") pause = 15000;
  } catch {
    state.textContent = "not reachable";
  }
  setTimeout(watch, pause);
}

watch();
