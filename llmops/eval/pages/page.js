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
  const problem = choice("Problem", "problem",
    [["", "all"], ["any", "any problem"], ...["truncated", "empty", "repeated"].map((name) => [name, name])]);

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

  // Longest common subsequence of words; very long texts are shown plain.
  const differing = (from, to) => {
    const a = from.split(/(\s+)/), b = to.split(/(\s+)/);
    if (a.length > LONGEST || b.length > LONGEST) return null;
    const wide = b.length + 1, table = new Uint16Array((a.length + 1) * wide);
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        table[i * wide + j] = a[i] === b[j] ? table[(i + 1) * wide + j + 1] + 1
          : Math.max(table[(i + 1) * wide + j], table[i * wide + j + 1]);
      }
    }
    const left = [], right = [];
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) { left.push([a[i++], false]); right.push([b[j++], false]); }
      else if (j >= b.length || (i < a.length && table[(i + 1) * wide + j] >= table[i * wide + j + 1])) left.push([a[i++], true]);
      else right.push([b[j++], true]);
    }
    return [left, right];
  };
  const paragraph = (text, parts, kind) => {
    const made = make("p", undefined, { class: "text", dir: "auto" });
    if (!parts) made.textContent = text || "(empty)";
    else for (const [word, differs] of parts) made.append(differs && word.trim() ? make(kind, word) : document.createTextNode(word));
    return made;
  };
  const nearest = (item) => {
    const words = new Set(item.answers[0].split(/\s+/));
    let best = "", most = -1;
    for (const reference of item.references) {
      const own = reference.split(/\s+/), shared = own.filter((word) => words.has(word)).length / own.length;
      if (shared > most) { best = reference; most = shared; }
    }
    return best;
  };
  const drawn = (item) => {
    const card = make("article");
    card.append(make("p", [item.id.slice(0, 12), ...item.slices].join(" · "), { class: "meta" }));
    const section = (heading, body, note) => {
      const title = make("h3", heading);
      if (note) title.append(make("small", note));
      card.append(title, body);
    };
    section("prompt", paragraph(item.prompt));
    const near = pair ? null : nearest(item);
    const parts = differing(pair ? item.answers[0] : near, item.answers[item.answers.length - 1]);
    for (const reference of item.references) {
      section("reference", paragraph(reference, reference === near && parts ? parts[0] : null, "del"));
    }
    item.answers.forEach((answer, m) => {
      const scores = data.metrics.map((name, n) => [name, item.scores[m][n]]).filter(([, score]) => score !== null);
      const note = [...item.problems[m], ...scores.map(([name, score]) => `${name} ${score}`)].join(", ");
      const last = m === item.answers.length - 1;
      section(data.models[m], paragraph(answer, answer && parts ? parts[last ? 1 : 0] : null, last ? "ins" : "del"), note);
    });
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
