// Requests to our own server. A server that does not answer, or says that it cannot now, is `Away`; so is one whose answer
// breaks off, or is no answer of ours, such as the page of a network that wants a login first.

export class Away extends Error {
  constructor(message, waitMs = 0) {
    super(message);
    this.waitMs = waitMs;
  }
}

const token = () => document.querySelector('meta[name="csrf"]');

export async function ask(method, path, body, { keepalive = false } = {}) {
  const used = token().content;
  let answer = await once(method, path, body, keepalive);
  if (answer.status === 403 && answer.data.kind === "csrf" && (await fetchToken(used))) {
    answer = await once(method, path, body, keepalive);
  }
  return answer;
}

async function once(method, path, body, keepalive) {
  const headers = { accept: "application/json" };
  if (method === "POST") {
    headers["x-csrf-token"] = token().content;
    headers["content-type"] = "application/json";
  }
  let response, text;
  try {
    response = await fetch(path, {
      method,
      headers,
      keepalive,
      body: method === "POST" ? JSON.stringify(body ?? {}) : undefined,
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(20_000),
    });
    text = await response.text();
  } catch (error) {
    throw new Away(String(error));
  }
  if (response.status === 429 || response.status === 408 || response.status >= 500) {
    throw new Away(`status ${response.status}`, 1000 * (Number(response.headers.get("retry-after")) || 0));
  }
  const data = parsed(text);
  if (response.ok && !data) throw new Away("what came is no answer of this server");
  return { status: response.status, data: data ?? {} };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// After a login in another tab this page's token is of a session that has ended. Says whether there is now another than
// `used`; of two requests that are refused at one time, either may be the one that brought it.
async function fetchToken(used) {
  if (token().content !== used) return true;
  try {
    const response = await fetch("/", { credentials: "same-origin", cache: "no-store", signal: AbortSignal.timeout(20_000) });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.querySelector('meta[name="csrf"]')?.content;
    if (!response.ok || !fresh || fresh === used) return false;
    if (page.body.dataset.mine !== document.body.dataset.mine) return false;
    token().content = fresh;
    return true;
  } catch {
    return false;
  }
}
