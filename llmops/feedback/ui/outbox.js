// Sends what is in the outbox, in order, until the server has it. A rating leaves the outbox only when the server says
// that it is stored, or when the rater discards it.

import { Away, ask } from "./server.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 60_000;

export class Outbox extends EventTarget {
  #timer = 0;
  #failures = 0;
  #running = null;
  #following = null;
  #waiters = new Map();

  constructor(store, mine) {
    super();
    this.store = store;
    this.lock = `llmops-outbox-${mine}`;
    this.channel = new BroadcastChannel(this.lock);
    this.channel.onmessage = ({ data }) => this.#heard(data);
    this.status = { waiting: 0, needing: 0, sending: false, away: false, signedOut: false };
    addEventListener("online", () => this.wake());
    addEventListener("offline", () => this.#tell({ away: true }));
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.wake());
  }

  // Resolves when the rating is on disk; `stored` when the server has it.
  async add(given) {
    await this.store.submit(given);
    this.channel.postMessage({ kind: "added", assignment: given.assignment, id: given.id });
    await this.count();
    this.wake();
  }

  // What the server said of a rating, or null if it has not said anything within `ms`.
  stored(id, ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(null), ms);
      this.#waiters.set(id, (said) => {
        clearTimeout(timer);
        resolve(said);
      });
    });
  }

  async count() {
    const all = await this.store.outbox();
    const waiting = all.filter((item) => item.state === "waiting").length;
    this.#tell({ waiting, needing: all.length - waiting, ...(waiting ? {} : { signedOut: false }) });
    return all;
  }

  // Sends at once, whatever time the last failure set. Resolves when there is nothing more to do now; where a pass is
  // on its way, which may have looked before the newest rating was there, after the pass that follows it.
  wake() {
    clearTimeout(this.#timer);
    if (this.#running) {
      const again = () => {
        this.#following = null;
        return this.wake();
      };
      this.#following ??= this.#running.then(again, again);
      return this.#following;
    }
    this.#running = this.#run().finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  async #run() {
    // One tab sends at a time; the others wait and then find little to do.
    await navigator.locks.request(this.lock, async () => {
      for (;;) {
        const next = (await this.store.outbox()).find((item) => item.state === "waiting");
        if (!next) break;
        this.#tell({ sending: true });
        if (!(await this.#send(next))) break;
      }
    });
    this.#tell({ sending: false });
    await this.count();
  }

  async #send(item) {
    let answer;
    try {
      answer = await ask("POST", item.acceptOld ? "/api/ratings?accept_old=1" : "/api/ratings", item.given);
    } catch (error) {
      if (!(error instanceof Away)) throw error;
      await this.store.change(item.id, { tries: item.tries + 1 });
      this.#tell({ away: true });
      this.#later(error.waitMs);
      return false;
    }
    this.#failures = 0;
    this.#tell({ away: false, signedOut: answer.status === 401 });
    if (answer.status === 401) return false;
    if (answer.status === 200) {
      await this.store.remove(item.id);
      const said = { kind: "sent", id: item.id, assignment: item.given.assignment, stored: answer.data };
      this.channel.postMessage(said);
      this.#heard(said);
    } else {
      const state = answer.status === 409 && answer.data.kind === "rubric" ? "reworded" : "refused";
      await this.store.change(item.id, { state, reason: answer.data, status: answer.status });
      this.channel.postMessage({ kind: "needing", id: item.id });
      this.#heard({ kind: "needing", id: item.id });
    }
    await this.count();
    return true;
  }

  // Doubles up to a minute; the random part keeps many browsers from coming back at one moment.
  #later(atLeastMs) {
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#failures++);
    this.#timer = setTimeout(() => this.wake(), Math.max(atLeastMs, wait * (0.5 + Math.random() / 2)));
  }

  #heard(said) {
    if (said.kind === "sent" || said.kind === "needing") {
      this.#waiters.get(said.id)?.(said.stored ?? null);
      this.#waiters.delete(said.id);
    }
    this.dispatchEvent(new CustomEvent(said.kind, { detail: said }));
    this.count();
  }

  #tell(fields) {
    Object.assign(this.status, fields);
    this.dispatchEvent(new Event("status"));
  }
}
