// What stands in a task's place where the server did not give the words for it.

import { loginAddress } from "./saved.js";

export function away(askAgainInS) {
  const state = copied("away");
  state.dataset.freeIn = String(Math.ceil(askAgainInS));
  return state.outerHTML;
}

export function signedOut() {
  const state = copied("signed-out");
  state.querySelector("[data-login-link]").setAttribute("href", loginAddress());
  return state.outerHTML;
}

export function problem({ error = "The server refused", fix = "" }) {
  return said(error, fix);
}

export function keepsNothing(error) {
  return said(
    "This browser keeps nothing",
    `Ratings are kept in the browser until the server has them, and here that is not possible (${error.message}). Allow this site to store data, or use another browser.`,
  );
}

// Counts down to when it is worth to ask again, and then asks. Returns what stops it.
export function countDown(state, ask) {
  if (!state?.dataset.freeIn) return () => {};
  const until = performance.now() + 1000 * Number(state.dataset.freeIn);
  const shown = state.querySelector(".countdown");
  let timer = 0;
  const count = () => {
    const left = Math.max(0, Math.ceil((until - performance.now()) / 1000));
    if (shown) shown.textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
    if (left) timer = setTimeout(count, 250);
    else ask();
  };
  count();
  return () => clearTimeout(timer);
}

function copied(name) {
  return document.getElementById(name).content.cloneNode(true).querySelector(".state");
}

function said(heading, words) {
  const state = document.createElement("section");
  state.className = "state";
  const [name, text] = [document.createElement("h1"), document.createElement("p")];
  name.tabIndex = -1;
  name.textContent = heading;
  text.textContent = words;
  state.append(name, text);
  return state.outerHTML;
}
