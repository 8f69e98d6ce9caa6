// The mark that always says where a rater's work is.

export function saved(outbox, { draft = () => "", say = () => {}, open = null } = {}) {
  const mark = document.getElementById("saved");
  const words = mark.querySelector(".words");
  let before = "saved";

  function now() {
    const { waiting, needing, sending, away, signedOut } = outbox.status;
    const kept = waiting ? ` · ${waiting} waiting` : "";
    if (needing) return ["needing", `${needing} ${needing === 1 ? "needs" : "need"} you${kept}`];
    if (signedOut) return ["signed-out", `Logged out${kept}`];
    if (!navigator.onLine) return ["offline", `Offline${kept}`];
    if (away && waiting) return ["waiting", `${waiting} waiting`];
    if (sending) return ["sending", "Sending…"];
    if (waiting) return ["waiting", `${waiting} waiting`];
    return draft() ? ["draft", draft()] : ["saved", "Saved"];
  }

  function show() {
    const [state, said] = now();
    mark.dataset.state = state;
    const shown = state === "needing" && open ? button(said, open) : state === "signed-out" ? login(said) : said;
    if (words.textContent !== said || typeof shown !== "string") words.replaceChildren(shown);
    // Sending and saved come and go with each rating; only what is unusual is read out.
    if (state !== before && ["needing", "signed-out", "offline", "waiting"].includes(state)) say(said);
    if (state === "saved" && ["offline", "waiting", "signed-out"].includes(before)) say("All ratings are saved.");
    if (state !== "sending") before = state;
  }

  outbox.addEventListener("status", show);
  addEventListener("online", show);
  addEventListener("offline", show);
  let toLogin = false;
  document.addEventListener("click", (event) => (toLogin = Boolean(event.target.closest?.("[data-login-link]"))), true);
  addEventListener("beforeunload", (event) => {
    // They are safe in this browser, but another browser or a private window would not send them. Who goes to log in
    // comes back to this one.
    if (outbox.status.waiting && !toLogin) event.preventDefault();
  });
  show();
  return show;
}

export function loginAddress() {
  return `${document.body.dataset.login}?next=${encodeURIComponent(location.pathname)}`;
}

function login(said) {
  const link = document.createElement("a");
  link.href = loginAddress();
  link.dataset.loginLink = "";
  link.textContent = `${said} · log in`;
  return link;
}

function button(said, open) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "small";
  made.textContent = said;
  made.addEventListener("click", open);
  return made;
}
