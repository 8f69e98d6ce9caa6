// Keys without modifiers: what they do, which they are, and when they are ignored (WCAG 2.1.4).

export const ACTIONS = {
  submit: ["Submit and go on", "Enter"],
  back: ["Back to the one before", "Backspace"],
  undo: ["Undo the last rating, for ten seconds", "u"],
  skip: ["Skip, with a reason", "s"],
  flag: ["Flag: something is wrong with the item", "f"],
  edit: ["Edit a response", "e"],
  mark: ["Mark a passage", "m"],
  comment: ["Comment", "c"],
  tags: ["Tags", "t"],
  link: ["Scroll both responses together, or each by itself", "l"],
  raw: ["Raw text or rendered", "r"],
  difference: ["Words that differ", "d"],
  guideline: ["Guideline", "g"],
  help: ["This list", "?"],
};
const PLACE = "llmops-rating-keys";
const SHOWN = { Backspace: "⌫", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→" };
const RESERVED = /^([0-9]|Tab|Escape|Shift|Control|Alt|AltGraph|Meta|CapsLock|Arrow.*|Dead|Process|Unidentified| )$/;

export class Keys {
  constructor(run) {
    this.run = run;
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(PLACE)) ?? {};
    } catch {
      // What cannot be read counts as never set.
    }
    this.on = kept.on !== false;
    this.map = Object.fromEntries(Object.entries(ACTIONS).map(([name, [, key]]) => [name, kept.map?.[name] ?? key]));
    document.addEventListener("keydown", (event) => this.#pressed(event));
  }

  keep() {
    try {
      localStorage.setItem(PLACE, JSON.stringify({ on: this.on, map: this.map }));
    } catch {
      // A browser that keeps nothing has the keys as they are until the page is closed.
    }
    this.show(document);
  }

  default() {
    this.on = true;
    for (const [name, [, key]] of Object.entries(ACTIONS)) this.map[name] = key;
    this.keep();
  }

  // Gives an action another key; says why not, or nothing.
  set(name, key) {
    const wanted = key.length === 1 ? key.toLowerCase() : key;
    if (RESERVED.test(wanted)) return `${shown(wanted)} has a meaning of its own.`;
    const other = Object.keys(this.map).find((one) => this.map[one] === wanted && one !== name);
    if (other) return `${shown(wanted)} is already for “${ACTIONS[other][0]}”.`;
    this.map[name] = wanted;
    this.keep();
    return "";
  }

  // Writes the keys on the buttons that have one.
  show(within) {
    for (const place of within.querySelectorAll("kbd[data-key]")) {
      const key = this.map[place.dataset.key];
      place.textContent = shown(key);
      place.hidden = !this.on;
      const button = place.closest("button");
      if (button && this.on) button.setAttribute("aria-keyshortcuts", key.length === 1 ? key.toUpperCase() : key);
      else button?.removeAttribute("aria-keyshortcuts");
    }
  }

  #pressed(event) {
    if (!this.on || event.defaultPrevented || event.repeat || isTyping(event)) return;
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.shiftKey && /^[a-z]$/.test(key)) return;
    const own = event.target.closest?.("a[href], button:not(.grip), summary");
    // Enter and Space belong to the button or link that has the focus.
    if (own && (key === "Enter" || key === " ")) return;
    const action = Object.keys(this.map).find((name) => this.map[name] === key);
    const done = action ? this.run(action) : /^[0-9]$/.test(key) ? this.run("digit", key) : this.run("other", key);
    if (done !== false) event.preventDefault();
  }
}

// Whether a key press is text on its way somewhere.
export function isTyping(event) {
  if (event.isComposing || event.keyCode === 229) return true;
  const target = event.target;
  if (target.isContentEditable || target.closest?.("textarea, select")) return true;
  return target.tagName === "INPUT" && !["radio", "checkbox", "button", "submit"].includes(target.type);
}

export function shown(key) {
  return SHOWN[key] ?? (key.length === 1 ? key.toUpperCase() : key);
}

// The dialog that lists the keys and changes them.
export function keysDialog(keys) {
  const dialog = document.getElementById("keys");
  const list = document.getElementById("keys-list");
  const said = document.getElementById("keys-said");
  const on = document.getElementById("keys-on");

  function fill() {
    on.checked = keys.on;
    list.replaceChildren(
      ...Object.entries(ACTIONS).map(([name, [words]]) => {
        const line = document.createElement("li");
        const text = document.createElement("span");
        text.textContent = words;
        const button = document.createElement("button");
        button.type = "button";
        button.className = "small key";
        button.textContent = shown(keys.map[name]);
        button.setAttribute("aria-label", `${words}: ${shown(keys.map[name])}. Change`);
        button.addEventListener("click", () => listen(name, button, words));
        line.append(text, button);
        return line;
      }),
    );
  }

  function listen(name, button, words) {
    button.textContent = "press a key";
    said.textContent = `Press the new key for “${words}”, or Escape to leave it.`;
    const stop = () => {
      button.removeEventListener("keydown", pressed);
      button.removeEventListener("blur", left);
    };
    const left = () => {
      stop();
      fill();
    };
    const pressed = (event) => {
      if (["Shift", "Control", "Alt", "Meta", "AltGraph"].includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      stop();
      const problem = event.key === "Escape" ? "" : keys.set(name, event.key);
      said.textContent = problem || (event.key === "Escape" ? "" : `“${words}” is now ${shown(keys.map[name])}.`);
      fill();
      list.children[Object.keys(ACTIONS).indexOf(name)].querySelector("button").focus();
    };
    button.addEventListener("keydown", pressed);
    button.addEventListener("blur", left);
  }

  on.addEventListener("change", () => {
    keys.on = on.checked;
    keys.keep();
  });
  dialog.querySelector('[data-do="keys-default"]').addEventListener("click", () => {
    keys.default();
    said.textContent = "All keys are as they were at first.";
    fill();
  });
  return () => {
    said.textContent = "";
    fill();
    dialog.showModal();
  };
}
