"""What was trained, and what is served of it, reading the same answers."""

from __future__ import annotations

from llmops.eval.engines import transformers_reading, vllm
from llmops.eval.loading import base_of, load_tokenizer
from llmops.eval.measured import Measured
from llmops.eval.parity import OTHERS, Parity, parity, passages_of
from llmops.events import Listener
from llmops.lifecycle.measure import Through
from llmops.records import ModelSource
from llmops.registry.reference import resolve
from llmops.workspace import Workspace


def served_parity(
    report: Measured,
    *,
    trained: ModelSource,
    served: ModelSource,
    beneath: ModelSource | None = None,
    through: Through = "vllm",
    workspace: Workspace,
    listener: Listener,
) -> Parity:
    """How far what is served is from what was trained, along the answers of `report`.

    Args:
        trained: read through transformers, an adapter on its base and not merged.
        served: read as it is served; the same folder, or what became of it (merged, quantized).
        beneath: the base a served adapter is on; None takes the one it names.
        through: what serves it.

    Raises:
        InputError: vLLM cannot load it, or nothing was answered.
        EnvironmentFault: vLLM is missing or fails.
    """
    from transformers import AutoConfig

    base = _base(trained, workspace, listener)
    beneath = beneath or (base if served.digest == trained.digest else _base(served, workspace, listener))
    tokenizer = load_tokenizer(trained.folder, base=base.folder if base else None)
    config = AutoConfig.from_pretrained(str((base or trained).folder), local_files_only=True)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    passages = passages_of(
        report.items, tokenizer, prompt=report.suite["settings"]["generation"]["prompt"], context=context
    )
    places = [place for place, passage in enumerate(passages) if passage is not None]
    asked = [passage for passage in passages if passage is not None]
    readers = {"vllm": "vLLM and transformers", "transformers": "transformers"}[through]
    listener.say(f"parity: {readers} read {len(asked)} answers of {report.suite['name']}")
    if not asked:
        return parity(str(report.suite["name"]), served.reference, report.clusters, {})
    read_served = vllm.read if through == "vllm" else transformers_reading.read
    of_served = read_served(
        served.folder, asked, base=beneath.folder if beneath else None, others=OTHERS, listener=listener
    )
    of_trained = transformers_reading.read(
        trained.folder,
        asked,
        base=base.folder if base else None,
        at=[one.ids for one in of_served],
        listener=listener,
    )
    readings = dict(zip(places, zip(of_trained, of_served, strict=True), strict=True))
    return parity(str(report.suite["name"]), served.reference, report.clusters, readings)


def _base(model: ModelSource, workspace: Workspace, listener: Listener) -> ModelSource | None:
    named = base_of(model.folder)
    return resolve(named, workspace=workspace, say=listener.say) if named else None
