// How long a task was looked at: in all, and with the page in front.

export class Clock {
  #since = 0;

  constructor(draft) {
    this.draft = draft;
    this.#resume();
    this.listener = () => (document.visibilityState === "visible" ? this.#resume() : this.#pause());
    document.addEventListener("visibilitychange", this.listener);
  }

  // Both in milliseconds; the draft keeps them over a reload.
  times() {
    this.#pause();
    this.#resume();
    const most = 7 * 86_400_000;
    return {
      active_ms: Math.min(most, Math.round(this.draft.activeMs)),
      total_ms: Math.min(most, Math.max(0, Date.now() - this.draft.firstSeen)),
    };
  }

  stop() {
    this.#pause();
    document.removeEventListener("visibilitychange", this.listener);
  }

  #resume() {
    if (!this.#since && document.visibilityState === "visible") this.#since = performance.now();
  }

  #pause() {
    if (this.#since) this.draft.activeMs += performance.now() - this.#since;
    this.#since = 0;
  }
}
