// The order of several answers: a list that keys and buttons move, with levels (ties) and answers that are not usable.

export class Ranking {
  constructor(list, changed) {
    this.list = list;
    this.touched = false;
    this.changed = () => {
      this.touched = true;
      this.number();
      changed();
    };
    list.addEventListener("click", (event) => {
      const move = event.target.closest("[data-move]");
      if (move) this.move(move.closest("li"), Number(move.dataset.move), move);
      const grip = event.target.closest(".grip");
      if (grip) this.choose(grip.closest("li"));
    });
    list.addEventListener("change", (event) => {
      // One that is not usable is level with none.
      const line = event.target.closest("li");
      if (event.target.matches("[data-invalid]") && event.target.checked) box(line, "level").checked = false;
      if (event.target.matches("[data-level]") && event.target.checked) box(line, "invalid").checked = false;
      this.changed();
    });
    this.number();
  }

  lines() {
    return [...this.list.children];
  }

  choose(line) {
    line.querySelector(".grip").focus();
  }

  // The line that has the focus, or null.
  chosen() {
    return document.activeElement?.closest?.(".order > li");
  }

  move(line, by, focus = line.querySelector(".grip")) {
    const other = by < 0 ? line.previousElementSibling : line.nextElementSibling;
    if (!other) return;
    if (by < 0) other.before(line);
    else other.after(line);
    focus.focus();
    this.changed();
  }

  press(key) {
    const line = this.chosen();
    if (!line) return false;
    if (key === "ArrowUp" || key === "ArrowDown") this.move(line, key === "ArrowUp" ? -1 : 1);
    else if (key === "=") box(line, "level").click();
    else if (key === "x") box(line, "invalid").click();
    else return false;
    return true;
  }

  digit(key) {
    const grip = this.list.querySelector(`.grip[data-digit="${key}"]`);
    if (!grip) return false;
    this.choose(grip.closest("li"));
    return true;
  }

  // Groups from best to worst, by the positions of the answers.
  read() {
    const groups = [];
    const invalid = [];
    for (const line of this.lines()) {
      const position = Number(line.dataset.position);
      if (box(line, "invalid").checked) invalid.push(position);
      else if (box(line, "level").checked && groups.length) groups.at(-1).push(position);
      else groups.push([position]);
    }
    return { kind: "ranking", groups, invalid };
  }

  write({ groups, invalid }) {
    const line = (position) => this.list.querySelector(`li[data-position="${position}"]`);
    for (const group of groups) {
      group.forEach((position, place) => {
        this.list.append(line(position));
        box(line(position), "level").checked = place > 0;
        box(line(position), "invalid").checked = false;
      });
    }
    for (const position of invalid) {
      this.list.append(line(position));
      box(line(position), "level").checked = false;
      box(line(position), "invalid").checked = true;
    }
    this.touched = true;
    this.number();
  }

  number() {
    const { groups, invalid } = this.read();
    const lines = this.lines();
    lines.forEach((line, place) => {
      const position = Number(line.dataset.position);
      const rank = groups.findIndex((group) => group.includes(position)) + 1;
      const unusable = invalid.includes(position);
      line.classList.toggle("unusable", unusable);
      line.classList.toggle("level", !unusable && rank > 0 && groups[rank - 1][0] !== position);
      line.querySelector(".rank").textContent = unusable ? "–" : `${rank}.`;
      line.querySelector(".place").textContent = unusable ? ", not usable" : `, place ${rank}`;
      line.querySelector('[data-move="-1"]').disabled = place === 0;
      line.querySelector('[data-move="1"]').disabled = place === lines.length - 1;
    });
  }
}

function box(line, name) {
  return line.querySelector(`[data-${name}]`);
}
