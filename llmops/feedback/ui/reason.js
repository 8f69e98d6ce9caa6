// Asks why: for a skip or a flag.

// {said: "given" with a reason, "none", "release", or "" where it was left}
export function askReason(kind, before = null) {
  const dialog = document.getElementById("reason");
  const form = dialog.querySelector("form");
  const text = document.getElementById("reason-text");
  const wrong = document.getElementById("reason-wrong");
  document.getElementById("reason-name").textContent = kind === "skip" ? "Skip this one" : "Flag this one";
  for (const part of form.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== kind;
  form.querySelector('[value="none"]').hidden = kind !== "flag" || !before;
  form.reset();
  wrong.textContent = "";
  const own = `input[name="${kind}-reason"]`;
  const known = [...form.querySelectorAll(own)].find((one) => before === one.value || before?.startsWith(`${one.value}: `));
  if (known) known.checked = true;
  text.value = before ? (known ? before.slice(known.value.length + 2) : before) : "";
  const reason = () => [form.querySelector(`${own}:checked`)?.value, text.value.trim()].filter(Boolean).join(": ");

  return new Promise((resolve) => {
    const check = (event) => {
      if (event.submitter && event.submitter.value !== "given") return;
      if (reason()) return;
      event.preventDefault();
      wrong.textContent = "Choose a reason, or write one.";
      text.focus();
    };
    form.addEventListener("submit", check);
    dialog.addEventListener(
      "close",
      () => {
        form.removeEventListener("submit", check);
        const said = dialog.returnValue;
        dialog.returnValue = "";
        resolve({ said, reason: reason() });
      },
      { once: true },
    );
    dialog.returnValue = "";
    dialog.showModal();
    (known ?? form.querySelector(own)).focus();
  });
}
