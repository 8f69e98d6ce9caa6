// <llmops-thumbs request="…" token="…"></llmops-thumbs>: two buttons that say what a reader thinks of an answer.
// The page's server makes the token (llmops.feedback.widget_token); `label`, `up-label` and `down-label` set the words.

const STYLE = `
  :host { display: inline-flex; gap: .35rem; align-items: center; font: inherit; color: inherit; }
  button { font: inherit; color: inherit; background: transparent; border: 1px solid currentColor; border-radius: 8px;
    min-width: 2.5rem; min-height: 2.5rem; padding: .2rem .5rem; cursor: pointer; }
  button[aria-pressed="true"] { outline: 2px solid currentColor; font-weight: 700; }
  button:focus-visible { outline: 3px solid currentColor; outline-offset: 2px; }
  button:disabled { cursor: default; opacity: .6; }
  [role="group"] { display: inline-flex; gap: .35rem; }`;

class Thumbs extends HTMLElement {
  #buttons = {};
  #said;

  connectedCallback() {
    if (this.shadowRoot) return;
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet];
    const group = document.createElement("span");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", this.getAttribute("label") ?? "Was this answer good?");
    for (const [thumb, sign, words] of [["up", "👍", "Good answer"], ["down", "👎", "Bad answer"]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-label", this.getAttribute(`${thumb}-label`) ?? words);
      button.textContent = sign;
      button.addEventListener("click", () => this.#send(thumb));
      this.#buttons[thumb] = button;
      group.append(button);
    }
    this.#said = document.createElement("span");
    this.#said.setAttribute("role", "status");
    root.append(group, this.#said);
  }

  async #send(thumb) {
    const body = JSON.stringify({ request: this.getAttribute("request"), token: this.getAttribute("token"), thumbs: thumb });
    const ask = () =>
      fetch(new URL("thumbs", import.meta.url), {
        method: "POST",
        headers: { "content-type": "application/json" },
        body,
        credentials: "omit",
        referrerPolicy: "no-referrer",
        keepalive: true,
        signal: AbortSignal.timeout(10_000),
      });
    this.#busy(true);
    let response = null;
    for (const wait of [0, 500, 2000]) {
      if (wait) await new Promise((done) => setTimeout(done, wait));
      response = await ask().catch(() => null); // the same twice is stored once
      if (response && response.status < 500) break;
    }
    this.#busy(false);
    const ok = Boolean(response?.ok);
    if (ok) for (const [name, button] of Object.entries(this.#buttons)) button.setAttribute("aria-pressed", String(name === thumb));
    this.#said.textContent = ok ? (this.getAttribute("thanks") ?? "Thank you.") : "That could not be sent.";
    this.dispatchEvent(new CustomEvent(ok ? "given" : "failed", { detail: thumb, bubbles: true, composed: true }));
  }

  // Not `disabled`, which would take the focus away.
  #busy(busy) {
    for (const button of Object.values(this.#buttons)) button.setAttribute("aria-disabled", String(busy));
  }
}

if (!customElements.get("llmops-thumbs")) customElements.define("llmops-thumbs", Thumbs);
