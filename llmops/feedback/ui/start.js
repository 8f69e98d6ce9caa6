// The start page sends what waits, and says so.

import { Outbox } from "./outbox.js";
import { saved } from "./saved.js";
import { open } from "./store.js";

const mine = document.body.dataset.mine;
const outbox = new Outbox(await open(mine), mine);
saved(outbox);
outbox.addEventListener("sent", async () => {
  if (!(await outbox.count()).length) location.reload();
});
await outbox.wake();
