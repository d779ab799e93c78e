// The conversations, in memory and each a record of the browser's IndexedDB. A change is made to
// the record as it is then, in one transaction: tabs never undo each other's writes. The others
// hear of it, and read the record again.

const NAME = "conversations";

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

// Tells by `change` events what another tab has changed; `detail` is the conversation's id.
export class Store extends EventTarget {
  #all = new Map();
  #database = null;
  #channel = new BroadcastChannel("llmstream");
  #writes = 0;

  // Throws where the browser has no database: the store then lasts as long as the page.
  async open() {
    const request = indexedDB.open("llmstream", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(NAME, { keyPath: "id" });
    this.#database = await result(request);
    this.#channel.addEventListener("message", ({ data }) => this.refresh(data));
    for (const one of await result(this.#records("readonly").getAll())) this.#all.set(one.id, one);
  }

  list() {
    return [...this.#all.values()].sort((one, other) => other.updated - one.updated);
  }

  get(id) {
    return this.#all.get(id);
  }

  add(conversation) {
    this.#all.set(conversation.id, conversation);
    return this.#write(conversation.id, (records) => records.put(conversation));
  }

  // Calls `change` with the conversation here, and with its record unless another tab has deleted
  // it; `change` alters what it is given.
  change(id, change) {
    if (this.#all.has(id)) change(this.#all.get(id));
    return this.#write(id, async (records) => {
      const found = await result(records.get(id));
      if (!found) return;
      change(found);
      records.put(found);
    });
  }

  delete(id) {
    this.#all.delete(id);
    return this.#write(id, (records) => records.delete(id));
  }

  #records(mode) {
    return this.#database.transaction(NAME, mode).objectStore(NAME);
  }

  async #write(id, work) {
    if (!this.#database) return;
    this.#writes += 1;
    const records = this.#records("readwrite");
    const committed = new Promise((resolve, reject) => {
      records.transaction.oncomplete = resolve;
      records.transaction.onabort = () => reject(records.transaction.error);
    });
    await Promise.all([work(records), committed]);
    this.#channel.postMessage(id);
  }

  // Reads the record again, which another tab has written.
  async refresh(id) {
    const writes = this.#writes;
    const found = await result(this.#records("readonly").get(id));
    if (writes !== this.#writes) return this.refresh(id); // it has changed here meanwhile
    if (found) this.#all.set(id, found);
    else this.#all.delete(id);
    return this.dispatchEvent(new CustomEvent("change", { detail: id }));
  }
}
