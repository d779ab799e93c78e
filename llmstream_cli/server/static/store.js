// Conversations in the browser's IndexedDB. Each message is a record of its own, and a change to
// a conversation reads and writes in one transaction: two tabs never undo each other's writes.
// Other tabs hear of each change.

const CONVERSATIONS = "conversations";
const MESSAGES = "messages";

function result(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error));
  });
}

function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.addEventListener("complete", () => resolve());
    transaction.addEventListener("abort", () => reject(transaction.error));
  });
}

async function open() {
  const request = indexedDB.open("llmstream", 1);
  request.addEventListener("upgradeneeded", () => {
    request.result.createObjectStore(CONVERSATIONS, { keyPath: "id" });
    const messages = request.result.createObjectStore(MESSAGES, { keyPath: "id" });
    messages.createIndex("conversation", "conversation");
  });
  const database = await result(request);
  // A later version of this page, in another tab, has to change the database.
  database.addEventListener("versionchange", () => database.close());
  return database;
}

// Tells of what another tab changed by `change` events; `detail` is the conversation's id, or null
// where there may be many.
export class Store extends EventTarget {
  #database;
  #channel = new BroadcastChannel("llmstream");

  constructor(database) {
    super();
    this.#database = database;
    this.#channel.addEventListener("message", ({ data }) => {
      this.dispatchEvent(new CustomEvent("change", { detail: data }));
    });
  }

  static async open() {
    return new Store(await open());
  }

  async #write(conversation, work) {
    const transaction = this.#database.transaction([CONVERSATIONS, MESSAGES], "readwrite");
    const done = committed(transaction);
    const worked = work(
      transaction.objectStore(CONVERSATIONS),
      transaction.objectStore(MESSAGES),
    );
    await Promise.all([worked, done]);
    this.#channel.postMessage(conversation);
    return worked;
  }

  #read(name) {
    return this.#database.transaction(name).objectStore(name);
  }

  // The conversations, that of the latest change first.
  async conversations() {
    const all = await result(this.#read(CONVERSATIONS).getAll());
    return all.sort((one, other) => other.updated - one.updated);
  }

  conversation(id) {
    return result(this.#read(CONVERSATIONS).get(id));
  }

  // The messages of a conversation, by their ids.
  async messages(id) {
    const all = await result(this.#read(MESSAGES).index("conversation").getAll(id));
    return new Map(all.map((message) => [message.id, message]));
  }

  // Adds whole conversations, each with its messages.
  async add(entries) {
    await this.#write(null, (conversations, messages) => {
      for (const entry of entries) {
        conversations.put(entry.conversation);
        for (const message of entry.messages) messages.put(message);
      }
    });
  }

  // Changes a conversation as it is now; returns it, or nothing where it has been deleted.
  change(id, values) {
    return this.#write(id, async (conversations) => {
      const found = await result(conversations.get(id));
      if (!found) return undefined;
      const changed = { ...found, ...values };
      conversations.put(changed);
      return changed;
    });
  }

  // Writes messages, and changes their conversation, unless it has been deleted meanwhile.
  save(id, written, values = {}) {
    return this.#write(id, async (conversations, messages) => {
      const found = await result(conversations.get(id));
      if (!found) return;
      conversations.put({ ...found, ...values });
      for (const message of written) messages.put(message);
    });
  }

  delete(id) {
    return this.#write(id, async (conversations, messages) => {
      conversations.delete(id);
      for (const key of await result(messages.index("conversation").getAllKeys(id))) {
        messages.delete(key);
      }
    });
  }
}

// The same without a database, where the browser has none for this page.
export class MemoryStore extends EventTarget {
  #entries = new Map();

  async conversations() {
    return [...this.#entries.values()].map((entry) => entry.conversation).reverse();
  }

  async conversation(id) {
    return this.#entries.get(id)?.conversation;
  }

  async messages(id) {
    return new Map(this.#entries.get(id)?.messages);
  }

  async add(entries) {
    for (const { conversation, messages } of entries) {
      const byId = new Map(messages.map((message) => [message.id, message]));
      this.#entries.set(conversation.id, { conversation, messages: byId });
    }
  }

  async change(id, values) {
    Object.assign(this.#entries.get(id)?.conversation ?? {}, values);
  }

  async save(id, written, values) {
    await this.change(id, values);
    for (const message of written) this.#entries.get(id)?.messages.set(message.id, message);
  }

  async delete(id) {
    this.#entries.delete(id);
  }
}
