// Marked passages of answers, counted in characters (code points) of the raw text, as the server counts them.

export class Passages {
  constructor(task, changed, say) {
    this.task = task;
    this.changed = changed;
    this.say = say;
    this.spans = [];
  }

  write(spans) {
    this.spans = spans ?? [];
    this.show();
  }

  // Asks for a passage: of what is selected in the answer, or of its text in a box where keys select.
  ask(position) {
    const selected = this.#selected(position);
    const dialog = document.getElementById("passage");
    const text = document.getElementById("passage-text");
    const label = document.getElementById("passage-label");
    const wrong = document.getElementById("passage-wrong");
    const raw = this.raw(position);
    const several = Number(this.task.dataset.responses) > 1;
    document.getElementById("passage-name").textContent = `Mark a passage${several ? ` of response ${"ABCDEFGHI"[position]}` : ""}`;
    text.value = raw;
    label.value = "";
    wrong.textContent = "";
    const keepText = (event) => event.preventDefault();
    text.addEventListener("beforeinput", keepText);
    const given = (event) => {
      if (event.submitter?.value !== "given") return;
      const [start, end] = [text.selectionStart, text.selectionEnd].map((at) => unnormalised(raw, at));
      if (start === end || end - start > 2000) {
        event.preventDefault();
        wrong.textContent = start === end ? "Select a passage first." : "A passage has at most 2,000 characters.";
        text.focus();
        return;
      }
      this.#add(position, raw, start, end, label.value.trim());
    };
    const form = dialog.querySelector("form");
    form.addEventListener("submit", given);
    dialog.addEventListener(
      "close",
      () => {
        text.removeEventListener("beforeinput", keepText);
        form.removeEventListener("submit", given);
      },
      { once: true },
    );
    dialog.showModal();
    text.focus();
    const [from, to] = selected ?? [0, 0];
    text.setSelectionRange(normalised(raw, from), normalised(raw, to));
    if (!selected) text.scrollTop = 0;
  }

  #add(position, raw, start, end, label) {
    const before = [...raw.slice(0, start)].length;
    const quote = raw.slice(start, end);
    this.spans.push({ position, start: before, end: before + [...quote].length, quote, label });
    this.show();
    this.changed();
    this.say("Passage marked.");
  }

  // The answer as it was written.
  raw(position) {
    return rawText(this.task.querySelector(`.answer[data-position="${position}"] [data-view="raw"]`));
  }

  // Where the selection lies in the raw text. Of rendered text only what occurs once in the raw one can be found.
  #selected(position) {
    const selection = getSelection();
    if (!selection.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    const place = this.task.querySelector(`.answer[data-position="${position}"] .text`);
    if (!place.contains(range.commonAncestorContainer)) return null;
    const view = place.querySelector('[data-view="raw"]');
    if (view.contains(range.commonAncestorContainer)) {
      const before = document.createRange();
      before.selectNodeContents(view);
      before.setEnd(range.startContainer, range.startOffset);
      const start = rawText(before.cloneContents()).length;
      return [start, start + rawText(range.cloneContents()).length];
    }
    const words = selection.toString().trim();
    const raw = this.raw(position);
    const first = raw.indexOf(words);
    return words && first >= 0 && raw.indexOf(words, first + 1) < 0 ? [first, first + words.length] : null;
  }

  show() {
    for (const list of this.task.querySelectorAll(".marks")) {
      const position = Number(list.closest(".answer").dataset.position);
      list.replaceChildren(...this.spans.filter((span) => span.position === position).map((span) => this.#line(span)));
    }
    this.#highlight();
  }

  #line(span) {
    const line = document.createElement("li");
    const quote = document.createElement("q");
    quote.dir = "auto";
    quote.textContent = visible(span.quote.length > 80 ? `${span.quote.slice(0, 80)}…` : span.quote);
    const label = document.createElement("span");
    label.dir = "auto";
    label.textContent = visible(span.label);
    const away = document.createElement("button");
    away.type = "button";
    away.className = "small";
    away.textContent = "Remove";
    away.setAttribute("aria-label", `Remove the mark on “${span.quote.slice(0, 80)}”`);
    away.addEventListener("click", () => {
      this.spans.splice(this.spans.indexOf(span), 1);
      this.show();
      this.changed();
      this.task.querySelector(`[data-do="mark"][data-position="${span.position}"]`).focus();
    });
    line.append(quote, label, away);
    return line;
  }

  // In the raw view; the browser paints it without a change to the text.
  #highlight() {
    if (!CSS.highlights) return;
    const ranges = this.spans.map((span) => {
      const view = this.task.querySelector(`.answer[data-position="${span.position}"] [data-view="raw"]`);
      const raw = [...rawText(view)];
      const start = raw.slice(0, span.start).join("").length;
      return rangeOf(view, start, start + span.quote.length);
    });
    CSS.highlights.set("passage", new Highlight(...ranges.filter(Boolean)));
  }
}

// The text of a raw view: signs that are written out (U+202E) count as the one sign they are.
export function rawText(node) {
  let said = "";
  for (const [text, unseen] of pieces(node)) said += unseen ? String.fromCodePoint(parseInt(text.data.slice(2), 16)) : text.data;
  return said;
}

function* pieces(node) {
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    yield [walker.currentNode, walker.currentNode.parentElement?.classList.contains("unseen") ?? false];
  }
}

function rangeOf(view, start, end) {
  const range = document.createRange();
  let at = 0;
  let begun = false;
  for (const [text, unseen] of pieces(view)) {
    const length = unseen ? rawText(text.parentElement).length : text.length;
    if (!begun && start < at + length) {
      range.setStart(text, unseen ? 0 : start - at);
      begun = true;
    }
    if (begun && end <= at + length) {
      range.setEnd(text, unseen ? text.length : end - at);
      return range;
    }
    at += length;
  }
  return null;
}

// A text box has \n where the text has \r\n or \r.
function normalised(raw, at) {
  return raw.slice(0, at).replace(/\r\n?/g, "\n").length;
}

function unnormalised(raw, at) {
  let place = 0;
  for (let seen = 0; seen < at; seen++) place += raw.startsWith("\r\n", place) ? 2 : 1;
  return place;
}

function visible(text) {
  return text.replace(/[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/g, (sign) => `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
}
