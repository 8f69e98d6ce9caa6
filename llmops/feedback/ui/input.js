// What a rater has put in for one task: read into a rating, and written back from a draft or an earlier rating.

import { Passages } from "./passages.js";
import { Ranking } from "./ranking.js";

export class Input {
  constructor(task, { changed, say }) {
    this.task = task;
    this.kind = task.dataset.kind;
    this.form = task.querySelector("#verdict");
    this.changed = changed;
    this.flag = null;
    this.confirmed = false;
    this.passages = new Passages(task, changed, say);
    const order = task.querySelector(".order");
    this.ranking = order ? new Ranking(order, changed) : null;
    this.originals = [...task.querySelectorAll(".answer")].map((_, place) => this.passages.raw(place));
    for (const box of task.querySelectorAll("textarea[data-edit]")) this.#fill(box, this.originals[Number(box.dataset.edit)]);
    const corrected = this.find("#corrected");
    if (corrected) {
      this.#fill(corrected, this.originals[0]);
      corrected.addEventListener("input", () => (this.find("#as-it-is").checked = false));
    }
    task.addEventListener("input", changed);
    task.addEventListener("change", changed);
  }

  // With the cursor at the start, which is where reading begins.
  #fill(box, text) {
    box.value = text;
    box.setSelectionRange(0, 0);
  }

  find(selector) {
    return this.task.querySelector(selector);
  }

  questions() {
    return [...this.task.querySelectorAll("[data-question]")];
  }

  // The verdict, or the words that say what is missing.
  verdict() {
    if (this.kind === "correction") return this.#correction();
    if (this.kind === "ranking") {
      if (this.ranking.touched || this.confirmed) return [this.ranking.read(), ""];
      this.confirmed = true;
      return [null, "Nothing was moved. Submit once more if this is the order you mean."];
    }
    const open = this.questions().find((question) => !chosen(question));
    if (open) {
      const several = this.questions().length > 1;
      open.querySelector("input").focus();
      return [null, several ? `Still open: ${open.querySelector("legend").textContent.trim()}` : "Choose an answer first."];
    }
    const [first] = this.questions();
    if (this.kind === "thumbs") return [{ kind: "thumbs", up: chosen(first) === "up" }, ""];
    if (this.kind === "rating") return [{ kind: "rating", scores: this.#scores() }, ""];
    const step = chosen(first);
    return [step === "both_bad" ? { kind: "pairwise", both_bad: true } : { kind: "pairwise", step: Number(step) }, ""];
  }

  #correction() {
    const text = this.find("#corrected").value;
    if (this.find("#as-it-is").checked) return [{ kind: "correction", text: null }, ""];
    if (text === boxed(this.originals[0])) return [null, "Change the answer, or say that it is right as it is."];
    return [{ kind: "correction", text }, ""];
  }

  #scores() {
    const scores = [];
    for (const question of this.questions()) {
      const position = Number(question.dataset.of);
      const attribute = question.dataset.question.slice(`score-${position}-`.length);
      const value = chosen(question);
      if (attribute) (scores[position] ??= {})[attribute] = /^\d+$/.test(value) ? Number(value) : value;
      else scores[position] = Number(value);
    }
    return scores;
  }

  // All that may stand beside a verdict or a skip.
  beside() {
    const confidence = Number(this.find("#confidence").value) || null;
    return {
      ...(this.flag ? { flag: this.flag } : {}),
      tags: [...this.task.querySelectorAll('input[name="tag"]:checked')].map((one) => one.value),
      spans: this.passages.spans,
      edits: this.edits(),
      comment: this.find("#comment").value,
      ...(confidence ? { confidence } : {}),
    };
  }

  edits() {
    return [...this.task.querySelectorAll("textarea[data-edit]")]
      .map((box) => ({ position: Number(box.dataset.edit), text: box.value }))
      .filter(({ position, text }) => text && text !== boxed(this.originals[position]));
  }

  // All fields as they are, complete or not.
  draft() {
    const values = {};
    for (const question of this.questions()) if (chosen(question)) values[question.dataset.question] = chosen(question);
    return {
      ...this.beside(),
      values,
      ranking: this.ranking?.touched ? this.ranking.read() : null,
      corrected: this.kind === "correction" ? { text: this.find("#corrected").value, asItIs: this.find("#as-it-is").checked } : null,
    };
  }

  write(draft) {
    for (const question of this.questions()) {
      const value = draft.values?.[question.dataset.question];
      if (value === undefined) continue;
      const option = question.querySelector(`input[value="${CSS.escape(value)}"]`);
      if (option) option.checked = true;
    }
    if (draft.ranking && this.ranking) this.ranking.write(draft.ranking);
    if (draft.corrected) {
      this.find("#corrected").value = draft.corrected.text ?? this.originals[0];
      this.find("#as-it-is").checked = draft.corrected.asItIs;
    }
    for (const box of this.task.querySelectorAll('input[name="tag"]')) box.checked = draft.tags?.includes(box.value) ?? false;
    this.passages.write(draft.spans);
    for (const { position, text } of draft.edits ?? []) {
      this.find(`textarea[data-edit="${position}"]`).value = text;
      this.toggleEdit(position, true);
    }
    this.find("#comment").value = draft.comment ?? "";
    this.find("#confidence").value = draft.confidence ?? "";
    if (draft.comment || draft.confidence) open(this.task, "comment");
    if (draft.tags?.length) open(this.task, "tags");
    this.setFlag(draft.flag ?? null);
  }

  setFlag(flag) {
    this.flag = flag;
    const place = this.find("#flagged");
    place.hidden = !flag;
    place.textContent = flag ? `Flagged: ${flag}` : "";
    this.find('[data-do="flag"]').setAttribute("aria-pressed", String(Boolean(flag)));
  }

  toggleEdit(position, show) {
    const place = this.find(`#edit-${position}`);
    if (!place) return this.find("#corrected");
    place.hidden = show === undefined ? !place.hidden : !show;
    place.closest(".answer").classList.toggle("editing", !place.hidden);
    this.find(`[data-do="edit"][data-position="${position}"]`).setAttribute("aria-expanded", String(!place.hidden));
    return place.hidden ? null : place.querySelector("textarea");
  }

  discardEdit(position) {
    this.find(`textarea[data-edit="${position}"]`).value = this.originals[position];
    this.toggleEdit(position, false);
    this.changed();
  }

  // Chooses by number: of the question that has the focus, or the first one that is open, or the last.
  digit(key) {
    if (this.ranking) return this.ranking.digit(key);
    if (this.kind === "correction") {
      if (key === "1") this.find("#as-it-is").click();
      return key === "1";
    }
    const questions = this.questions();
    const focused = document.activeElement?.closest?.("[data-question]");
    const question = focused ?? questions.find((one) => !chosen(one)) ?? questions.at(-1);
    const option = question.querySelector(`input[data-digit="${key}"]`);
    if (!option) return false;
    option.checked = true;
    option.dispatchEvent(new Event("change", { bubbles: true }));
    const next = questions[questions.indexOf(question) + 1];
    (next ? (next.querySelector("input:checked") ?? next.querySelector("input")) : option).focus();
    return true;
  }
}

// A draft's fields from a rating that was stored.
export function fields(given) {
  const verdict = given.verdict ?? {};
  const values = {};
  if (verdict.kind === "pairwise") values.verdict = verdict.both_bad ? "both_bad" : String(verdict.step);
  if (verdict.kind === "thumbs") values.thumb = verdict.up ? "up" : "down";
  for (const [position, score] of (verdict.scores ?? []).entries()) {
    if (typeof score === "number") values[`score-${position}`] = String(score);
    else for (const [name, value] of Object.entries(score)) values[`score-${position}-${name}`] = String(value);
  }
  return {
    ...given,
    values,
    ranking: verdict.kind === "ranking" ? { groups: verdict.groups, invalid: verdict.invalid ?? [] } : null,
    corrected: verdict.kind === "correction" ? { text: verdict.text, asItIs: verdict.text === null } : null,
  };
}

// Shows or hides what belongs to a button; returns it where it is shown now.
export function toggle(task, name) {
  const button = task.querySelector(`[data-do="${name}"]`);
  const place = button && document.getElementById(button.getAttribute("aria-controls"));
  if (!place) return null;
  place.hidden = !place.hidden;
  button.setAttribute("aria-expanded", String(!place.hidden));
  return place.hidden ? null : place;
}

export function open(task, name) {
  const button = task.querySelector(`[data-do="${name}"]`);
  if (button?.getAttribute("aria-expanded") === "false") toggle(task, name);
}

function chosen(question) {
  return question.querySelector("input:checked")?.value;
}

// As a text box gives a text back.
function boxed(text) {
  return text.replace(/\r\n?/g, "\n");
}
