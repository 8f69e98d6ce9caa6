// A task is kept for its rater for a time, which this extends while the rater is at work.

import { Away, ask } from "./server.js";

const LOOK_MS = 10_000;
const AT_WORK_MS = 5 * 60_000;
const SIGNS = ["pointermove", "keydown", "scroll", "input"];

export class Lease {
  #timer = 0;
  #stopped = false;

  constructor(assignment, leftS, tell) {
    this.assignment = assignment;
    this.tell = tell;
    this.seen = performance.now();
    this.#until(leftS);
    this.sign = () => (this.seen = performance.now());
    for (const name of SIGNS) document.addEventListener(name, this.sign, { capture: true, passive: true });
    this.#look();
  }

  stop() {
    this.#stopped = true; // an answer that is still on its way says nothing of what is on the page then
    clearTimeout(this.#timer);
    for (const name of SIGNS) document.removeEventListener(name, this.sign, { capture: true });
  }

  #until(leftS) {
    this.end = performance.now() + 1000 * leftS;
    this.half = (1000 * leftS) / 2;
  }

  async #look() {
    const left = this.end - performance.now();
    const atWork = document.visibilityState === "visible" && performance.now() - this.seen < AT_WORK_MS;
    if (atWork && left < this.half && !(await this.#extend())) return;
    if (!atWork && left < 60_000) this.tell(left > 0 ? "This one is kept for you for less than a minute; any key keeps it longer." : "The time for this one has ended. What you say of it is kept all the same.");
    this.#timer = setTimeout(() => this.#look(), Math.min(LOOK_MS, Math.max(1000, this.half)));
  }

  // Whether it is worth to look again.
  async #extend() {
    try {
      const { status, data } = await ask("POST", `/api/assignments/${encodeURIComponent(this.assignment)}/extend`);
      if (this.#stopped) return false;
      if (status === 200) {
        this.#until(Math.max(2, data.until - data.now));
        this.tell("");
      } else if (status === 409) {
        this.tell("The time for this one has ended, and somebody else has it. What you say of it is kept all the same.");
        return false;
      }
    } catch (error) {
      if (!(error instanceof Away)) throw error;
    }
    return !this.#stopped;
  }
}
