// How a task is looked at: rendered or raw, the words that differ, both scrolled together, tabs, guideline.

const PLACE = "llmops-rating-view";

export class Views {
  constructor(say) {
    this.say = say;
    this.state = { raw: false, difference: false, link: true, conversation: true };
    try {
      Object.assign(this.state, JSON.parse(localStorage.getItem(PLACE)));
    } catch {
      // Begins as it is for everybody.
    }
    this.guideline = document.getElementById("guideline");
    this.guideline.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.toggle("guideline");
    });
  }

  // Fits a new task, or says with null that there is none.
  attach(task) {
    this.task = task;
    const text = task?.querySelector("#guideline-of-task");
    const place = document.getElementById("guideline-text");
    if (text) place.replaceChildren(...text.childNodes);
    text?.remove();
    const conversation = task?.querySelector(".conversation");
    if (conversation) {
      conversation.open = this.state.conversation;
      conversation.addEventListener("toggle", () => {
        this.state.conversation = conversation.open;
        this.#keep();
      });
    }
    this.#linkScroll();
    this.show();
  }

  #keep() {
    try {
      localStorage.setItem(PLACE, JSON.stringify(this.state));
    } catch {
      // Then it lasts as long as the page.
    }
  }

  show() {
    const { raw, difference, link } = this.state;
    for (const place of this.task?.querySelectorAll(".text, .turn") ?? []) {
      const views = [...place.querySelectorAll(":scope > [data-view]")];
      const has = (name) => views.some((view) => view.dataset.view === name);
      const wanted = difference && has("difference") ? "difference" : raw ? "raw" : "rendered";
      for (const view of views) view.hidden = view.dataset.view !== wanted;
    }
    const two = Boolean(this.task?.querySelector('[data-view="difference"]'));
    const several = this.task?.querySelectorAll(".answer").length > 1;
    press("raw", raw, Boolean(this.task));
    press("difference", difference && two, two);
    press("link", link, several);
    document.querySelector('.bar [data-do="guideline"]').setAttribute("aria-expanded", String(!this.guideline.hidden));
  }

  toggle(name) {
    if (name === "guideline") {
      this.guideline.hidden = !this.guideline.hidden;
      this.show();
      if (!this.guideline.hidden) this.before = document.activeElement;
      const focus = this.guideline.hidden && this.before?.isConnected ? this.before : document.getElementById("guideline-name");
      focus.focus();
      return;
    }
    if (name === "difference" && !this.task?.querySelector('[data-view="difference"]')) return;
    this.state[name] = !this.state[name];
    this.#keep();
    this.show();
    const words = { raw: ["Rendered text", "Raw text"], difference: ["Differences hidden", "Differing words marked"], link: ["Each scrolls by itself", "Both scroll together"] };
    this.say(words[name][Number(this.state[name])]);
  }

  tab(position) {
    for (const answer of this.task.querySelectorAll(".answer")) {
      answer.toggleAttribute("data-shown", Number(answer.dataset.position) === position);
    }
    for (const button of this.task.querySelectorAll("[data-tab]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.tab) === position));
    }
  }

  // The others follow by share of their height, so that both ends meet.
  #linkScroll() {
    const texts = [...(this.task?.querySelectorAll(".answer .text") ?? [])];
    let leader = null;
    let timer = 0;
    for (const text of texts) {
      text.addEventListener(
        "scroll",
        () => {
          if (!this.state.link || (leader && leader !== text)) return;
          leader = text;
          clearTimeout(timer);
          timer = setTimeout(() => (leader = null), 120);
          const share = text.scrollTop / Math.max(1, text.scrollHeight - text.clientHeight);
          for (const other of texts) {
            if (other !== text) other.scrollTop = share * (other.scrollHeight - other.clientHeight);
          }
        },
        { passive: true },
      );
    }
  }
}

function press(name, on, possible) {
  const button = document.querySelector(`.bar [data-do="${name}"]`);
  button.setAttribute("aria-pressed", String(on));
  button.disabled = !possible;
}
