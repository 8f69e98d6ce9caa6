// What this browser keeps for a rater: ratings on their way (the outbox) and what is not submitted yet (drafts).
// One database for each rater, so that nobody sends another's.

const LINES = ["outbox", "drafts"];

export async function open(mine) {
  const asked = indexedDB.open(`llmops-rating-${mine}`, 1);
  asked.onupgradeneeded = () => {
    asked.result.createObjectStore("outbox", { keyPath: "id" });
    asked.result.createObjectStore("drafts", { keyPath: "assignment" });
  };
  const database = await settled(asked);
  // Another tab with a newer page may want to change the database; it must not wait for this one.
  database.onversionchange = () => database.close();
  return new Store(database, `llmops-rating-draft-${mine}`);
}

class Store {
  constructor(database, beside) {
    this.database = database;
    this.beside = beside;
  }

  // All ratings on their way, the oldest first: one that replaces another must come after it.
  async outbox() {
    const all = await settled(this.#in("outbox", "readonly").getAll());
    return all.sort((one, other) => one.at - other.at);
  }

  async change(id, fields) {
    return this.#together(async (outbox) => {
      const item = await settled(outbox.get(id));
      if (item) outbox.put({ ...item, ...fields });
    });
  }

  async remove(id) {
    return this.#together((outbox) => outbox.delete(id));
  }

  // The draft of an assignment, made if there is none. Its id is the rating's to be: however many tabs show the
  // assignment, they send one rating.
  async draft(assignment, supersedes) {
    let found;
    await this.#together(async (_, drafts) => {
      found = await settled(drafts.get(assignment));
      if (!found) {
        found = { assignment, id: crypto.randomUUID(), supersedes: supersedes ?? null, input: null, activeMs: 0, firstSeen: Date.now() };
        drafts.put(found);
      }
    });
    const left = this.#leftBeside();
    return left?.id === found.id ? left : found;
  }

  // Only while it is not submitted: another tab may have done that.
  async keep(draft) {
    let input;
    await this.#together(async (outbox, drafts) => {
      const there = await settled(drafts.get(draft.assignment));
      if (there?.id === draft.id) drafts.put(draft);
      ({ input } = draft);
    });
    draft.kept = draft.input === input; // more may have been written meanwhile
  }

  // A page that is being left has no time for the database; what it keeps here is taken up by the next one.
  keepAtOnce(draft) {
    try {
      localStorage.setItem(this.beside, JSON.stringify(draft));
    } catch {
      // Then what was kept a moment ago is what is kept.
    }
  }

  #leftBeside() {
    try {
      const left = JSON.parse(localStorage.getItem(this.beside));
      localStorage.removeItem(this.beside);
      return left;
    } catch {
      return null;
    }
  }

  async forget(assignment) {
    return this.#together((_, drafts) => drafts.delete(assignment));
  }

  // The rating goes to the outbox and its draft goes, both or neither. Resolves when it is on disk.
  async submit(given) {
    return this.#together(async (outbox, drafts) => {
      const drafted = await settled(drafts.get(given.assignment));
      if (drafted?.id === given.id) drafts.delete(given.assignment);
      // After all that wait, also where the clock of this computer stands or is set back.
      const before = await settled(outbox.getAll());
      const at = before.reduce((latest, one) => Math.max(latest, one.at + 1), Date.now());
      outbox.put({ id: given.id, given, at, state: "waiting", tries: 0 });
    }, "strict");
  }

  #in(line, mode) {
    return this.database.transaction(line, mode).objectStore(line);
  }

  // Relaxed: it outlives the browser at once, and a loss of power a moment later. A rating waits for the disk; all else
  // is there again, or sent again, without loss.
  #together(work, durability = "relaxed") {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(LINES, "readwrite", { durability });
      transaction.oncomplete = () => resolve();
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
      Promise.resolve(work(...LINES.map((line) => transaction.objectStore(line)))).catch((error) => {
        reject(error);
        transaction.abort();
      });
    });
  }
}

function settled(asked) {
  return new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}
