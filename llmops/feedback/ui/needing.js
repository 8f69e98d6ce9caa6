// Ratings that the server did not take: the rater decides about each, and until then they are kept.

export function needing(outbox, rateAgain) {
  const dialog = document.getElementById("kept");
  const list = document.getElementById("kept-list");

  async function fill() {
    const items = (await outbox.store.outbox()).filter((item) => item.state !== "waiting");
    list.replaceChildren(...items.map(line));
    if (!items.length) dialog.close();
  }

  async function again(item, fields) {
    await outbox.store.change(item.id, { state: "waiting", ...fields });
    await outbox.count();
    outbox.wake();
    await fill();
  }

  async function discard(item) {
    await outbox.store.remove(item.id);
    await outbox.count();
    await fill();
  }

  function line(item) {
    const made = document.createElement("li");
    const why = document.createElement("p");
    why.textContent = [item.reason?.error ?? "the server refused it", item.reason?.fix].filter(Boolean).map(sentence).join(" ");
    made.append(why);
    const row = document.createElement("p");
    row.className = "row";
    if (item.state === "reworded") {
      const both = document.createElement("div");
      both.className = "wordings";
      both.append(wording("What you saw", item.reason.old_html), wording("How it is asked now", item.reason.new_html));
      made.append(both);
      row.append(button("My rating stands", () => again(item, { acceptOld: true })));
      row.append(
        button("Rate again", async () => {
          dialog.close();
          if (await rateAgain(item.given)) await discard(item);
        }),
      );
    } else if (item.reason?.newest) {
      row.append(button("Put this one in its place", () => again(item, { given: { ...item.given, supersedes: item.reason.newest } })));
      row.append(button("Discard this one", () => discard(item)));
    } else {
      row.append(button("Send again", () => again(item, {})));
      row.append(button("Discard it", () => discard(item)));
    }
    made.append(row);
    return made;
  }

  function sentence(words) {
    return `${words[0].toUpperCase()}${words.slice(1)}.`;
  }

  function wording(name, html) {
    const place = document.createElement("section");
    place.className = "wording";
    const heading = document.createElement("h3");
    heading.textContent = name;
    const text = document.createElement("div");
    text.innerHTML = html;
    place.append(heading, text);
    return place;
  }

  function button(words, press) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = words;
    made.addEventListener("click", press);
    return made;
  }

  return async () => {
    await fill();
    if (!list.children.length) return;
    dialog.showModal();
    dialog.querySelector("h2").focus();
  };
}
