// The rating page: shows one task after another, and puts what the rater says of each into the outbox.

import { Clock } from "./clock.js";
import { Input, fields, open as unfold, toggle } from "./input.js";
import { Keys, keysDialog } from "./keys.js";
import { Lease } from "./lease.js";
import { needing } from "./needing.js";
import { Outbox } from "./outbox.js";
import { showProgress } from "./progress.js";
import { askReason } from "./reason.js";
import { saved } from "./saved.js";
import { Away, ask } from "./server.js";
import { away, countDown, keepsNothing, problem, signedOut } from "./states.js";
import { open } from "./store.js";
import { Views } from "./views.js";

const UNDO_MS = 10_000;
const { mine, campaign } = document.body.dataset;
const api = `/api/campaigns/${encodeURIComponent(campaign)}`;
const place = document.getElementById("place");
const undoToast = document.getElementById("undo");

let current = null; // the task on the page
let upcoming = []; // tasks that are here already, the next one first
let last = null; // what was submitted last, for as long as it can be undone
let busy = null; // what a key began and what is on the page must wait for; something new on the page ends it
let wording = null; // the rubric by which the server takes ratings, once it has refused one by another
let turn = 0; // of what is on its way to the page; only the newest gets there
let stopCounting = () => {};
let undoTimer = 0;
let failures = 0;

const store = await opened();
const outbox = new Outbox(store, mine);
const views = new Views(say);
const keys = new Keys(run);
const showKeys = keysDialog(keys);
const showSaved = saved(outbox, { draft: () => (current?.draft.input ? (current.draft.kept ? "Draft kept" : "Keeping…") : ""), say, open: () => showNeeding() });
const showNeeding = needing(outbox, rateAgain);

// Without a place to keep ratings none would be safe, so none is asked for.
async function opened() {
  try {
    if (!isSecureContext) throw new Error("this address is neither HTTPS nor this computer's own");
    return await open(mine);
  } catch (error) {
    place.innerHTML = keepsNothing(error);
    return new Promise(() => {});
  }
}

function say(words) {
  document.getElementById("said").textContent = words;
}

function tell(words) {
  const told = place.querySelector("#told");
  if (!told) return;
  told.hidden = !words;
  told.textContent = words;
}

// ── one task ────────────────────────────────────────────────────────────────────────────────────────────────────

// Puts a task, or the words in its place, on the page. What has to be waited for comes first: as soon as a task can be
// seen, keys mean it, and before that they mean nothing.
async function show(item, { filled = null, supersedes = null } = {}) {
  const now = ++turn;
  stopCounting();
  const holder = document.createElement("template");
  holder.innerHTML = item.html;
  const task = holder.content.querySelector(".task");
  if (current?.draft.input) await store.keep(current.draft);
  const kept = task && (await recall(task, filled, supersedes));
  if (now !== turn) return;
  current?.clock.stop();
  current?.lease.stop();
  current = busy = null;
  place.replaceChildren(holder.content);
  place.removeAttribute("aria-busy");
  views.attach(task);
  keys.show(document);
  if (task) adopt(task, item, kept);
  else stopCounting = countDown(place.querySelector(".state"), advance);
  showSaved();
  scrollTo(0, 0);
  place.querySelector("h1")?.focus({ preventScroll: true });
}

// What this browser and the server know of what the rater said of a task.
async function recall(task, filled, supersedes) {
  const { assignment } = task.dataset;
  const given = task.dataset.given ? JSON.parse(task.dataset.given) : null;
  // One that this browser has not sent yet stands before what the server knows.
  const unsent = await unsentOf(assignment);
  const draft = await store.draft(assignment);
  draft.supersedes = supersedes ?? unsent?.id ?? given?.id ?? null;
  return { draft, input: draft.input ?? filled ?? (unsent ? fields(unsent.given) : given ? fields(given) : {}) };
}

// The newest rating of a task that is still on its way, if there is one.
async function unsentOf(assignment) {
  return (await store.outbox()).findLast((one) => one.state === "waiting" && one.given.assignment === assignment);
}

function adopt(task, item, { draft, input: written }) {
  const { assignment, rubric } = task.dataset;
  const input = new Input(task, { changed: () => keepDraft(), say });
  input.write(written);
  const left = Number(task.dataset.left) - (performance.now() - (item.got ?? performance.now())) / 1000;
  current = {
    ...item,
    assignment,
    rubric,
    task,
    draft,
    input,
    practice: task.dataset.practice === "yes",
    clock: new Clock(draft),
    lease: draft.supersedes ? { stop() {} } : new Lease(assignment, left, tell),
  };
  if (draft.supersedes) tell("You have rated this one. Submitting again replaces what you said.");
  input.form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  for (const answer of task.querySelectorAll(".answer")) {
    answer.addEventListener("focusin", () => views.tab(Number(answer.dataset.position)));
  }
}

let keeping = 0;
function keepDraft() {
  if (!current) return;
  const { draft, input } = current;
  draft.input = input.draft();
  draft.kept = false;
  clearTimeout(keeping);
  keeping = setTimeout(async () => {
    await store.keep(draft);
    showSaved();
  }, 120);
  showSaved();
}

addEventListener("pagehide", () => {
  if (!current?.draft.input) return;
  current.clock.times();
  store.keepAtOnce(current.draft);
});

async function submit(skip = null) {
  if (!current || busy) return;
  const [verdict, wrong] = skip ? [null, ""] : current.input.verdict();
  place.querySelector("#wrong").textContent = wrong;
  if (wrong) return;
  const now = (busy = {});
  clearTimeout(keeping);
  const { draft, assignment, rubric, practice, html, got } = current;
  const given = {
    id: draft.id,
    assignment,
    rubric,
    ...(skip ? { skip } : { verdict }),
    ...current.input.beside(),
    ...current.clock.times(),
    viewport: `${innerWidth}x${innerHeight}`,
    ...(draft.supersedes ? { supersedes: draft.supersedes } : {}),
  };
  try {
    const told = practice ? outbox.stored(given.id, 8000) : null;
    await outbox.add(given);
    last = practice ? null : { html, assignment, given, got };
    offerUndo();
    const answer = await told;
    if (busy !== now) return; // the rater has gone on meanwhile
    if (answer?.expected_html) await show({ html: answer.expected_html });
    else await advance();
  } catch (error) {
    place.querySelector("#wrong")?.replaceChildren(`This browser could not keep the rating (${error}). Nothing was sent; try again.`);
  } finally {
    if (busy === now) busy = null;
    reword();
  }
}

// ── from one task to another ────────────────────────────────────────────────────────────────────────────────────

async function advance() {
  const next = upcoming.shift();
  if (next) {
    await show(next);
    fetchAhead();
    return;
  }
  place.setAttribute("aria-busy", "true");
  const now = ++turn;
  for (let tries = 0; tries < 2; tries++) {
    await outbox.wake();
    const answer = await asked("POST", `${api}/next`, () => now === turn);
    if (!answer || now !== turn) return;
    // A server that came back between the two gives out again what it does not know to be rated.
    if (!(await unsentOf(answer.assignment))) {
      await show({ html: answer.html, got: performance.now() });
      fetchAhead();
      return;
    }
  }
  await show({ html: away(3) });
}

// What the server answers; where it does not, null is given, and the page says why if what asked is `still` wanted.
async function asked(method, path, still = () => true) {
  try {
    const { status, data } = await ask(method, path);
    failures = 0;
    if (status === 200) return data;
    if (still()) await show({ html: status === 401 ? signedOut() : problem(data) });
  } catch (error) {
    if (!(error instanceof Away)) throw error;
    if (still()) await show({ html: away(Math.max(error.waitMs / 1000, Math.min(60, 3 * 2 ** failures++))) });
  }
  return null;
}

// The task after this one is fetched while this one is rated, once the server has the one before.
async function fetchAhead() {
  if (upcoming.length || !current || outbox.status.waiting || current.draft.supersedes) return;
  const during = current;
  try {
    const { status, data } = await ask("POST", `${api}/ahead`);
    // An answer that comes when another task is on the page may be that task, or one that is rated by now.
    if (status !== 200 || data.state !== "task" || upcoming.length || current !== during || busy) return;
    if (data.assignment !== current.assignment) {
      upcoming = [{ html: data.html, assignment: data.assignment, got: performance.now() }];
    }
  } catch (error) {
    // It is asked for again when it is needed.
    if (!(error instanceof Away)) throw error;
  }
}

// Keeps the task on the page for later, unless it is rated already.
function setAside() {
  if (current && !current.draft.supersedes) {
    upcoming.unshift({ html: current.html, assignment: current.assignment, got: current.got });
  }
}

async function back() {
  if (busy) return;
  const now = (busy = {});
  try {
    const before = current ?? last;
    const query = before ? `?before=${encodeURIComponent(before.assignment)}` : "";
    const { status, data } = await ask("GET", `${api}/previous${current ? query : ""}`);
    if (busy !== now) return;
    if (status === 401) return say("Your session has ended. Log in to go back.");
    if (status !== 200) return say("There is none before this one.");
    setAside();
    await show({ html: data.html, got: performance.now() });
  } catch (error) {
    if (!(error instanceof Away)) throw error;
    say("The server is away; going back needs it.");
  } finally {
    if (busy === now) busy = null;
  }
}

function offerUndo() {
  clearTimeout(undoTimer);
  undoToast.hidden = !last;
  undoTimer = setTimeout(() => {
    last = null;
    undoToast.hidden = true;
  }, UNDO_MS);
}

async function undo() {
  if (!last) return undefined;
  if (busy) return setTimeout(undo, 30);
  const { given, ...item } = last;
  last = null;
  undoToast.hidden = true;
  setAside();
  await show(item, { filled: fields(given), supersedes: given.id });
  say("Back at the rating before. Submitting replaces it.");
  return undefined;
}

// After the rubric was changed. Says whether the task is on the page, so that the rating in its place may go.
async function rateAgain(given) {
  if (current?.assignment === given.assignment && current.rubric !== given.rubric) {
    // The page has come back to it by itself. What was chosen there since stands before what was said by the old words.
    if (!current.draft.input) {
      current.input.write(fields(given));
      keepDraft();
    }
    place.querySelector("h1")?.focus({ preventScroll: true });
    return true;
  }
  const answer = await asked("GET", `/api/assignments/${encodeURIComponent(given.assignment)}`);
  if (!answer) return false;
  await store.forget(given.assignment);
  setAside();
  await show({ html: answer.html, got: performance.now() }, { filled: fields(given) });
  return true;
}

// ── what keys and buttons do ────────────────────────────────────────────────────────────────────────────────────

function activePosition() {
  const answer = document.activeElement?.closest?.(".answer") ?? current.task.querySelector(".answer[data-shown]");
  return Number(answer.dataset.position);
}

const ALWAYS = { back, undo, help: showKeys, guideline: () => views.toggle("guideline"), raw: () => views.toggle("raw"), link: () => views.toggle("link"), difference: () => views.toggle("difference") };

const WITH_TASK = {
  submit: () => submit(),
  skip: async () => {
    const { said, reason } = await askReason("skip");
    if (said === "given") await submit(reason);
    if (said === "release") await release();
  },
  flag: async () => {
    const { said, reason } = await askReason("flag", current.input.flag);
    if (said === "given") current.input.setFlag(reason);
    if (said === "none") current.input.setFlag(null);
    if (said) keepDraft();
  },
  edit: (position = activePosition()) => focus(current.input.toggleEdit(position)),
  "discard-edit": (position) => current.input.discardEdit(position),
  mark: (position = activePosition()) => current.input.passages.ask(position),
  comment: () => {
    unfold(current.task, "comment");
    focus(current.task.querySelector("#comment"));
  },
  tags: () => {
    unfold(current.task, "tags");
    focus(current.task.querySelector("#tags input"));
  },
};

function run(action, key) {
  if (action === "digit") return current ? current.input.digit(key) : false;
  if (action === "other") return current?.input.ranking?.press(key) ?? false;
  if (ALWAYS[action]) return void ALWAYS[action]();
  if (current) return void WITH_TASK[action]();
  if (action === "submit") place.querySelector("[data-do]")?.click();
  return undefined;
}

function focus(element) {
  element?.focus();
}

async function release() {
  const { assignment } = current;
  const answer = await asked("POST", `/api/assignments/${encodeURIComponent(assignment)}/release`);
  if (!answer) return;
  await store.forget(assignment);
  await advance();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do], [data-tab]");
  if (!button) return;
  const name = button.dataset.do;
  const position = button.dataset.position === undefined ? undefined : Number(button.dataset.position);
  if (button.dataset.tab) views.tab(Number(button.dataset.tab));
  else if (name === "close") button.closest("dialog").close("");
  else if (name === "continue" || name === "ask") advance();
  else if (name === "comment" || name === "tags") toggle(current.task, name)?.querySelector("textarea, input").focus();
  else if (ALWAYS[name]) ALWAYS[name]();
  else if (current) WITH_TASK[name]?.(position);
});

// Escape leaves a text box, so that the keys work again.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || !event.target.closest?.("#place textarea, #place select")) return;
  focus(place.querySelector("#verdict input:checked") ?? place.querySelector("h1"));
});

outbox.addEventListener("sent", async () => {
  await showProgress(api);
  fetchAhead();
});

outbox.addEventListener("added", ({ detail }) => {
  if (busy || current?.draft.id !== detail.id) return;
  upcoming = upcoming.filter((item) => item.assignment !== detail.assignment);
  say("Rated in another tab.");
  advance();
});

outbox.addEventListener("needing", async ({ detail }) => {
  upcoming = [];
  const item = (await store.outbox()).find((one) => one.id === detail.id);
  wording = item?.reason?.rubric ?? wording;
  await reword();
});

// Where what is on the page asks by the old words, it is asked anew. While another task is on its way, that waits.
async function reword() {
  if (!wording || !current || current.rubric === wording || busy) return;
  const during = current;
  const still = () => current === during && !busy; // or the rater has gone on meanwhile
  const answer = await asked("GET", `/api/assignments/${encodeURIComponent(during.assignment)}`, still);
  if (!answer || !still()) return;
  await show({ html: answer.html, got: performance.now() });
  wording = current?.rubric ?? wording;
  tell("The guideline has changed. Open it with G; a rating you gave waits for you, see above.");
}

addEventListener("pageshow", (event) => event.persisted && location.reload());

// ── the page as it came ─────────────────────────────────────────────────────────────────────────────────────────

showProgress(null);
const unsent = (await outbox.count()).filter((item) => item.state === "waiting");
const first = place.querySelector(".task")?.dataset.assignment;
if (unsent.some((item) => item.given.assignment === first)) {
  await advance();
} else {
  outbox.wake();
  // A carriage return in the page's text would be lost when it is read again.
  await show({ html: place.innerHTML.replaceAll("\r", "&#13;"), got: performance.now() });
  fetchAhead();
}
document.documentElement.dataset.ready = "yes";
