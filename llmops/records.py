"""The nouns stages exchange: frozen, without behaviour. A stage reads another's records, never its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "validation"]
ALIASES = ("champion", "previous", "challenger")
"""Of model versions, drawn from the decisions; other aliases are left to their users."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row to train on, in canonical form.

    Attributes:
        id: sha256 (hex) of `content`; equal rows have equal ids.
        kind: what `content` holds: `{"messages": [...], "tools": [...]?}`, `{"text": ...}`,
            `{"messages": [...], "chosen": ..., "rejected": ...}`,
            `{"messages": [...], "completion": ..., "label": ...}`, or of a `prompt` the messages to answer; an answer
            is a text or a list of turns.
        source: the source as the recipe names it.
        line: where the row stands in its source, from 1: the line it starts on in a csv, tsv or jsonl file,
            elsewhere its number.
        weight: how often one epoch sees the row.
    """

    id: str
    kind: Literal["messages", "text", "preference", "labelled", "prompt"]
    content: Mapping[str, Any]
    source: str
    line: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `rows` of them, up to five named as `source:line: why`."""

    check: str
    action: Literal["dropped", "reported", "redacted", "refused"]
    rows: int
    named: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceUse:
    """A source as it was read: `digest` of its bytes, or the revision of a hub data set.

    Attributes:
        files: digests of the bytes of each file, of a local folder alone.
    """

    source: str
    digest: str
    rows: int
    files: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; `files` only where there are some."""
        return {key: list(value) if key == "files" else value for key, value in asdict(self).items() if value != ()}


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """Rows with a digest; `folder` holds `train.jsonl`, `validation.jsonl`, `dropped.jsonl` and `version.json`.

    Attributes:
        teacher: who wrote the answers of its rows and how, where they do not stand in its sources; else empty.
    """

    digest: str
    folder: Path
    rows: Mapping[str, int]
    sources: tuple[SourceUse, ...]
    findings: tuple[Finding, ...]
    teacher: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that a reference names, on this machine's disk.

    Attributes:
        reference: as the user wrote it.
        folder: holds `config.json` and safetensors, or `adapter_config.json` beside its base.
        revision: hub commit, registry version, or None.
        digest: sha256 over the folder's model files.
    """

    reference: str
    folder: Path
    revision: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class MaskReport:
    """What the loss is taken on: `samples` are decoded rows, trained spans between ⟦ and ⟧.

    Attributes:
        rows: rows that are trained on; `sequences` is what they became (a long text gives several).
        lost_refused: rows the chat template does not take, or whose answers cannot be told apart.
        notes: what was done or seen that a user should know, one sentence each.
    """

    rows: int
    tokens: int
    trained_tokens: int
    longest: int
    lost_too_long: int
    lost_untrained: int
    template_digest: str | None
    mask_from: Literal["generation-marks", "prefixes", "text"]
    samples: tuple[str, ...]
    sequences: int = 0
    lost_refused: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Peak bytes on one GPU (or in one CPU process) by part; `process` is the interpreter and its libraries, on CPU.

    Where the model learns from its own answers, `rollouts` is what making them takes, and `rewards` what rewards them.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    fragmentation: int
    process: int = 0
    rollouts: int = 0
    rewards: int = 0

    @property
    def total(self) -> int:
        tensors = self.weights + self.gradients + self.optimizer + self.activations + self.logits
        tensors += self.rollouts + self.rewards
        return tensors + self.fragmentation + self.process


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer update as it is reported.

    Attributes:
        index: updates made, from 1.
        epoch: passes over the data so far, with fraction.
        loss: of the whole step: the mean over its trained tokens, in nats per token, or what the method takes.
        grad_norm: norm of the whole gradient before clipping.
        tokens: all tokens computed in this step, padding left out; `trained_tokens` those with loss.
        seconds: wall time of the step.
        peak_bytes: largest memory so far.
        measures: what the method tells of the update beside its loss, by name; nothing for next-token loss.
        validation_measures: the same of the held-out rows, after this update.
    """

    index: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    trained_tokens: int
    seconds: float
    peak_bytes: int
    validation_loss: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    validation_measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """One metric over a suite, in the metric's own points.

    Attributes:
        signature: how it was computed.
        low, high: interval of 95 % confidence; None where it is open, or was not computed.
    """

    metric: str
    value: float
    signature: str
    low: float | None = None
    high: float | None = None
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True, slots=True)
class Report:
    """All scores of one model on one suite.

    Attributes:
        digest: sha256 over everything in it but times.
        measures: numbers beside the scores by name; the unit is the name's last part.
        suite_digest: over items, decoding and scorers; reports with different ones must not be compared.
        slices: the scores of each slice, by `breakdown=value`; `slice_items` how many items each has.
    """

    suite: str
    model: str
    digest: str
    items: int
    scores: tuple[Score, ...]
    measures: Mapping[str, float]
    file: Path | None = None
    suite_digest: str = ""
    model_digest: str = ""
    slices: Mapping[str, tuple[Score, ...]] = field(default_factory=dict)
    slice_items: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate said of a model, with every number it looked at.

    Attributes:
        gate: its file or name.
        model_digest: of the artifact that was judged.
        against: the version it was compared with, None where there was none.
        rules: for each rule `rule` (as text), `value`, `low`, `high`, `bound`, `result` and `note`.
        reports: digests of the reports the numbers are from.
        digest: sha256 over all the rest.
    """

    result: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    gate: str
    model_digest: str
    against: str | None
    confidence: float
    rules: tuple[Mapping[str, Any], ...]
    reports: tuple[str, ...]
    code_version: str
    digest: str


@dataclass(frozen=True, slots=True)
class RunManifest:
    """What a run was and what came of it; `manifest.json` in its folder and beside the artifact.

    Attributes:
        identity: everything that must be equal for two runs to be the same run; `digest` is taken over it.
        predicted, measured: the same keys in both: `peak_bytes`, `seconds`, `tokens_per_s`.
        validation_measures: what the method tells of the held-out rows beside their loss, by name, of the same
            weights as `validation_loss`.
        loss_unit: what `final_loss` and `validation_loss` are counted in.
    """

    name: str
    digest: str
    identity: Mapping[str, Any]
    recipe: Mapping[str, Any]
    kind: Literal["adapter", "full", "merged", "quantized"]
    artifact_digest: str
    steps: int
    tokens: int
    trained_tokens: int
    final_loss: float
    validation_loss: float | None
    tokens_per_s: float
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    environment: Mapping[str, str]
    lineage: Mapping[str, Any] = field(default_factory=dict)
    validation_measures: Mapping[str, float] = field(default_factory=dict)
    loss_unit: str = "nats per token"
