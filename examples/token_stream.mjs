// Stream an answer of `llmstream serve` with fetch, in a browser or with Node.js 18 or newer:
//
//     node examples/token_stream.mjs [http://127.0.0.1:3030]
//
// A page of another origin needs `llmstream serve --cors-origin https://its.origin`.

async function* tokenStream(url, question, signal) {
  const response = await fetch(`${url}/token_stream`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
    signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  // Decodes characters that two chunks share. If the server cuts the answer off, read() rejects.
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value; // on a page: element.append(value), which makes text and never HTML
  }
}

const url = process.argv[2] ?? "http://127.0.0.1:3030";
const question = { query: "Where is Paris?", temperature: 0, max_tokens: 24 };
for await (const text of tokenStream(url, question)) process.stdout.write(text);
console.log();

const controller = new AbortController();
const long = { query: "Count to a thousand.", temperature: 0, max_tokens: 200 };
try {
  for await (const text of tokenStream(url, long, controller.signal)) {
    console.log(text);
    controller.abort(); // closes the connection, and the server stops generating
  }
} catch (error) {
  if (error.name !== "AbortError") throw error;
  console.log("stopped");
}
