"""Reading through transformers: one pass over each passage, batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.errors import EnvironmentFault
from llmops.eval.engines.reading import Passage, Reading
from llmops.eval.loading import Precision, load, precision_for
from llmops.events import Listener, Silent

_LOGITS_BYTES = 256 << 20
"""Of one pass's logits in 32 bits: they outgrow all else a pass needs."""


def read(
    folder: Path,
    passages: Sequence[Passage],
    *,
    base: Path | None = None,
    at: Sequence[NDArray[np.int64]] | None = None,
    others: int = 0,
    device: str | None = None,
    precision: Precision | None = None,
    listener: Listener | None = None,
) -> list[Reading]:
    """What the model in `folder` makes of the passages, in their order.

    Args:
        folder: a whole model, or an adapter, which is applied to `base`.
        at: for each passage `(n, k)` tokens whose log-probabilities are wanted too; None for the likeliest `others`.
        others: how many of the likeliest tokens are told at each place, the likeliest first.

    Raises:
        EnvironmentFault: the model cannot be loaded, or one passage is too long for the GPU's memory.
    """
    import torch

    listener = listener or Silent()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, _ = load(folder, base=base, device=device, precision=precision or precision_for(device)[0])
    vocabulary = int(model.config.get_text_config().vocab_size)
    order = sorted(range(len(passages)), key=lambda place: -len(passages[place].ids))
    found: dict[int, Reading] = {}
    while len(found) < len(order):
        rest = order[len(found) :]
        read_of = max(len(passages[place].ids) - passages[place].start for place in rest)
        rows = max(1, _LOGITS_BYTES // (4 * vocabulary * (read_of + 1)))
        chosen = rest[:rows]
        try:
            found.update(_batch(model, passages, chosen, at, others))
        except torch.OutOfMemoryError as error:
            raise EnvironmentFault(
                f"the memory of {device} is too small to read {len(passages[chosen[0]].ids)} tokens at once",
                fix="leave the longest items out, or use a GPU with more memory",
            ) from error
        listener.advance("passages read", len(found), len(passages))
    return [found[place] for place in range(len(passages))]


def _batch(
    model: Any, passages: Sequence[Passage], chosen: Sequence[int], at: Sequence[NDArray[np.int64]] | None, others: int
) -> dict[int, Reading]:
    import torch

    longest = max(len(passages[place].ids) for place in chosen)
    kept = max(len(passages[place].ids) - passages[place].start for place in chosen) + 1
    # Padding on the left puts the ends, which are looked at, side by side.
    gaps = [longest - len(passages[place].ids) for place in chosen]
    tokens = [[0] * gap + list(passages[place].ids) for gap, place in zip(gaps, chosen, strict=True)]
    mask = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps], device=model.device)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor(tokens, device=model.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_(min=0),
            logits_to_keep=kept,
            use_cache=False,
        ).logits
        found = {}
        for row, place in enumerate(chosen):
            passage = passages[place]
            n = len(passage.ids) - passage.start
            # The token at a place is foretold by the logits one place before it.
            of_row = torch.log_softmax(logits[row, -n - 1 : -1].float(), dim=-1)
            own = torch.tensor(passage.ids[passage.start :], device=of_row.device)
            likeliest = of_row.topk(min(others, of_row.shape[-1]), dim=-1).indices
            wanted = at[place] if at is not None else likeliest.cpu().numpy()
            found[place] = Reading(
                of_row.gather(1, own[:, None])[:, 0].double().cpu().numpy(),
                of_row.argmax(-1).cpu().numpy(),
                wanted,
                of_row.gather(1, torch.as_tensor(wanted, device=of_row.device)).double().cpu().numpy(),
            )
    return found
