// Keeps the owner's page up to date while it is looked at. Without this script the page is as old as it says.

const EVERY_MS = 15_000;
const button = document.getElementById("live");
const trouble = document.getElementById("trouble");
let timer = 0;
let on = true;

button.hidden = false;
button.addEventListener("click", () => {
  on = !on;
  button.setAttribute("aria-pressed", String(on));
  if (on) refresh();
  else clearTimeout(timer);
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (on && document.visibilityState === "visible") refresh();
});
next();

function next() {
  clearTimeout(timer);
  if (on && document.visibilityState === "visible") timer = setTimeout(refresh, EVERY_MS);
}

async function refresh() {
  clearTimeout(timer);
  const said = await fetched();
  if (on) show(said);
  next();
}

async function fetched() {
  try {
    const response = await fetch(location.pathname, {
      headers: { accept: "text/html" },
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(60_000),
    });
    if (response.redirected || response.status === 401) return "The session has ended: load the page again to sign in.";
    if (response.status === 403 || response.status === 404) return "This campaign is not yours any more.";
    const page = response.ok && new DOMParser().parseFromString(await response.text(), "text/html");
    return page && page.getElementById("as-of") ? page : "The service does not answer; it is asked again.";
  } catch {
    return "The service does not answer; it is asked again.";
  }
}

function show(said) {
  const problem = typeof said === "string" ? said : "";
  if (trouble.textContent !== problem) trouble.textContent = problem;
  trouble.hidden = !problem;
  if (problem) return;
  for (const fresh of said.querySelectorAll("[data-live]")) replace(document.getElementById(fresh.id), fresh);
  const at = document.getElementById("as-of");
  at.replaceWith(document.importNode(said.getElementById("as-of"), true));
}

// What has not changed stays; where the focus was, it is again.
function replace(old, fresh) {
  if (!old || old.innerHTML === fresh.innerHTML) return;
  const within = [...old.querySelectorAll("a, button, [tabindex]")].indexOf(document.activeElement);
  const scrolled = [...old.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
  old.replaceChildren(...document.importNode(fresh, true).childNodes);
  old.querySelectorAll(".scroll").forEach((one, place) => (one.scrollLeft = scrolled[place] ?? 0));
  if (within >= 0) old.querySelectorAll("a, button, [tabindex]")[within]?.focus({ preventScroll: true });
}
