// How far the campaign is, and this rater's part.

import { Away, ask } from "./server.js";

export async function showProgress(api) {
  const figures = document.querySelector("#progress .figures");
  if (api) {
    try {
      const { status, data } = await ask("GET", `${api}/progress`);
      if (status !== 200) return;
      Object.assign(figures.dataset, {
        wanted: data.wanted,
        done: data.done,
        mine: data.mine,
        gold: data.gold ? data.gold.join("/") : "",
        median: data.median_s ?? "",
      });
    } catch (error) {
      if (error instanceof Away) return;
      throw error;
    }
  }
  const { wanted, done, mine, gold, median } = figures.dataset;
  const bar = document.querySelector("#progress progress");
  bar.max = Math.max(1, Number(wanted));
  bar.value = Number(done);
  const words = [`${done} of ${wanted}`, `yours ${mine}`];
  if (gold) words.push(`known items ${gold.replace("/", " of ")} right`);
  if (median) words.push(`${Math.round(Number(median))} s an item`);
  figures.replaceChildren(
    ...words.map((text) => {
      const part = document.createElement("span");
      part.textContent = text;
      return part;
    }),
  );
}
