"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SHOWN = 50, LONGEST = 400;
  const pair = data.models.length === 2;
  // What a model wrote becomes text nodes only; nothing here parses markup.
  const make = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const items = data.items.map((item, place) => ({
    ...item, place,
    text: [item.prompt, ...item.references, ...item.answers, item.id].join("\n").toLowerCase(),
    wrong: new Set(item.problems.flat()),
    length: item.answers[item.answers.length - 1].length,
  }));

  const controls = document.getElementById("controls"), list = document.getElementById("items");
  const count = document.getElementById("count"), pager = document.getElementById("pager");
  const field = (name, input) => {
    const label = make("label", name);
    label.append(input);
    controls.append(label);
    return input;
  };
  const choice = (name, id, options) => {
    const select = make("select", undefined, { id });
    for (const [value, text] of options) select.append(make("option", text, { value }));
    select.addEventListener("change", () => refresh(true));
    return field(name, select);
  };
  const search = field("Search", make("input", undefined, { type: "search", id: "search", autocomplete: "off" }));
  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => refresh(true), 120); });
  controls.addEventListener("submit", (event) => event.preventDefault());

  const orders = new Map([["place", ["in order", (item) => item.place]]]);
  data.metrics.forEach((metric, m) => {
    const value = (item) => {
      const last = item.scores[item.scores.length - 1][m];
      if (!pair) return last;
      const before = item.scores[0][m];
      return last === null || before === null ? null : last - before;
    };
    const what = pair ? `change of ${metric}` : metric;
    orders.set(`low ${m}`, [`${what}, lowest first`, value]);
    orders.set(`high ${m}`, [`${what}, highest first`, (item) => { const v = value(item); return v === null ? null : -v; }]);
  });
  orders.set("short", ["shortest answer first", (item) => item.length]);
  orders.set("long", ["longest answer first", (item) => -item.length]);
  const sort = choice("Sort", "sort", [...orders].map(([key, [name]]) => [key, name]));
  const slices = [...new Set(data.items.flatMap((item) => item.slices))].sort();
  const slice = choice("Slice", "slice", [["", "all"], ...slices.map((name) => [name, name])]);
  slice.parentElement.hidden = slices.length === 0;
  const problem = choice("Problem", "problem",
    [["", "all"], ["any", "any problem"], ...["truncated", "empty", "repeated"].map((name) => [name, name])]);

  const mark = make("input", undefined, { type: "checkbox", id: "mark" });
  mark.checked = true;
  mark.addEventListener("change", () => draw());
  field("Mark differences", mark);

  let found = items, page = 0;
  const refresh = (first) => {
    if (first) page = 0;
    const words = search.value.toLowerCase().trim();
    found = items.filter((item) => (!words || item.text.includes(words))
      && (!slice.value || item.slices.includes(slice.value))
      && (!problem.value || (problem.value === "any" ? item.wrong.size > 0 : item.wrong.has(problem.value))));
    const key = orders.get(sort.value)[1];
    const by = new Map(found.map((item) => [item, key(item)]));
    found.sort((a, b) => {
      const x = by.get(a), y = by.get(b);
      if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place;
      return x - y || a.place - b.place;
    });
    draw();
  };

  // Longest common subsequence of words, each with the space behind it; very long texts are shown plain.
  const words = (text) => text.match(/^\s+|\S+\s*/g) || [];
  const differing = (from, to) => {
    const a = words(from), b = words(to), x = a.map((word) => word.trim()), y = b.map((word) => word.trim());
    let start = 0, end = 0;
    while (start < a.length && start < b.length && x[start] === y[start]) start++;
    while (end < a.length - start && end < b.length - start && x[a.length - 1 - end] === y[b.length - 1 - end]) end++;
    const m = a.length - start - end, n = b.length - start - end;
    if (m > LONGEST || n > LONGEST) return null;
    const wide = n + 1, table = new Uint16Array((m + 1) * wide);
    for (let i = m - 1; i >= 0; i--) {
      for (let j = n - 1; j >= 0; j--) {
        table[i * wide + j] = x[start + i] === y[start + j] ? table[(i + 1) * wide + j + 1] + 1
          : Math.max(table[(i + 1) * wide + j], table[i * wide + j + 1]);
      }
    }
    const left = a.map(() => false), right = b.map(() => false);
    let i = 0, j = 0;
    while (i < m || j < n) {
      if (i < m && j < n && x[start + i] === y[start + j]) { i++; j++; }
      else if (j >= n || (i < m && table[(i + 1) * wide + j] >= table[i * wide + j + 1])) left[start + i++] = true;
      else right[start + j++] = true;
    }
    return [runs(a, left), runs(b, right)];
  };
  // Neighbours that differ are one mark; the space behind the last of them is outside of it.
  const runs = (texts, differs) => {
    const found = [];
    texts.forEach((text, place) => {
      if (place && differs[place] === differs[place - 1]) found[found.length - 1][0] += text;
      else found.push([text, differs[place]]);
    });
    return found;
  };
  const paragraph = (text, parts, kind) => {
    if (!text) return make("p", "(empty)", { class: "text none" });
    const made = make("p", undefined, { class: "text", dir: "auto" });
    if (!parts) made.textContent = text;
    else for (const [run, differs] of parts) {
      const inner = run.trimEnd();
      if (differs && inner) made.append(make(kind, inner), run.slice(inner.length));
      else made.append(run);
    }
    return made;
  };
  const nearest = (item) => {
    const words = new Set(item.answers[0].split(/\s+/));
    let best = "", most = -1;
    for (const reference of item.references) {
      const own = reference.split(/\s+/), shared = own.filter((word) => words.has(word)).length / own.length;
      if (most < 0 || shared > most) { best = reference; most = shared; }
    }
    return best;
  };
  const more = (what, count, bodies) => {
    const made = make("details");
    made.append(make("summary", `${count} ${what}${count === 1 ? "" : "s"}`), ...bodies.flat());
    return made;
  };
  const titled = (heading, body, note, wrong = []) => {
    const title = make("h3", heading);
    title.append(...wrong.map((name) => make("span", name, { class: "problem" })));
    return [title, ...(note ? [make("p", note, { class: "note" })] : []), body];
  };
  const drawn = (item) => {
    const card = make("article");
    card.append(make("p", [item.id.slice(0, 12), ...item.slices].join(" · "), { class: "meta" }));
    const before = data.contexts[item.context];
    if (before.length) card.append(more("earlier turn", before.length, before.map(([role, said]) => titled(role, paragraph(said)))));
    card.append(...titled("prompt", paragraph(item.prompt)));
    // A report's answer is held against the reference that is most like it, which then stands first.
    const near = pair ? item.references[0] : nearest(item);
    const marking = mark.checked && (pair || item.references.length > 0);
    const parts = marking ? differing(pair ? item.answers[0] : near, item.answers[item.answers.length - 1]) : null;
    const others = [...item.references];
    if (others.length) {
      others.splice(others.indexOf(near), 1);
      card.append(...titled("reference", paragraph(near, pair || !parts ? null : parts[0], "del")));
    }
    if (others.length) card.append(more("more reference", others.length, others.map((one) => titled("reference", paragraph(one)))));
    const answers = make("div", undefined, { class: "answers" });
    item.answers.forEach((answer, m) => {
      const scores = data.metrics.map((name, n) => [name, item.scores[m][n], data.digits[n]]).filter(([, score]) => score !== null);
      const note = scores.map(([name, score, digits]) => `${name} ${score.toFixed(digits)}`).join(" · ");
      const last = m === item.answers.length - 1;
      const side = make("div");
      side.append(...titled(data.models[m], paragraph(answer, parts ? parts[last ? 1 : 0] : null, last ? "ins" : "del"), note, item.problems[m]));
      answers.append(side);
    });
    card.append(answers);
    const line = make("li");
    line.append(card);
    return line;
  };
  const step = (name, by) => {
    const button = make("button", name, { type: "button" });
    button.addEventListener("click", () => { page += by; draw(); document.getElementById("items-heading").scrollIntoView(); });
    return button;
  };
  const back = step("Previous", -1), on = step("Next", 1), where = make("span");
  pager.append(back, where, on);
  const draw = () => {
    const pages = Math.max(1, Math.ceil(found.length / SHOWN));
    list.replaceChildren(...found.slice(page * SHOWN, (page + 1) * SHOWN).map(drawn));
    count.textContent = `${found.length.toLocaleString("en")} of ${items.length.toLocaleString("en")} items`;
    where.textContent = `${page + 1} of ${pages}`;
    back.disabled = page === 0;
    on.disabled = page + 1 >= pages;
  };
  controls.hidden = pager.hidden = false;
  refresh(true);
})();
