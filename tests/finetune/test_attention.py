"""Packed equals unpacked: a document is computed as if it were alone, in every implementation that is let through."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from llmops.errors import EnvironmentFault, InputError
from llmops.finetune.attention import (
    Machine,
    attention_inputs,
    cannot_isolate,
    check_isolation,
    choose,
    document_lengths,
)
from llmops.finetune.packing import Batch, collate

LENGTHS = [7, 12, 3, 9, 1, 14, 5]
PACKED = [[1, 2, 3], [5, 0], [6, 4]]
VOCABULARY = 97
EXACT = 1e-5


class Rows:
    """Random tokens; about half of them are labels."""

    def __init__(self) -> None:
        draw = np.random.default_rng(3)
        self.rows = [
            (draw.integers(0, VOCABULARY, n).astype(np.int32), (draw.random(n) < 0.6) & (np.arange(n) > 0))
            for n in LENGTHS
        ]

    def row(self, index: int, /) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        return self.rows[index]


@cache
def model(family: str, implementation: str) -> Any:
    """Two layers, grouped heads, fp32; the same weights for every implementation."""
    import transformers

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "attn_implementation": implementation,
        # Large enough that attention is far from uniform.
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    if family == "llama":
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    else:
        made = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape))
    return made.eval()


def logits_of(net: Any, batch: Batch, implementation: str) -> torch.Tensor:
    """`(sequences · length, vocabulary)`"""
    inputs = {
        "input_ids": torch.from_numpy(batch.input_ids),
        **attention_inputs(batch, implementation, device="cpu", dtype=torch.float32),
    }
    logits: torch.Tensor = net(**inputs, use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1])


def loss_sum(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Summed over labels; each is predicted from the position before it."""
    flat = np.flatnonzero(batch.trained.ravel())
    targets = torch.from_numpy(batch.input_ids.ravel()[flat])
    return torch.nn.functional.cross_entropy(logits[torch.from_numpy(flat - 1)], targets, reduction="sum")


def documents(batch: Batch, order: list[list[int]], logits: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Each row's number and its logits."""
    width = batch.input_ids.shape[1]
    for line, sequence in enumerate(order):
        begin = line * width
        for row in sequence:
            yield row, logits[begin : begin + LENGTHS[row]]
            begin += LENGTHS[row]


def alone(family: str) -> tuple[dict[int, torch.Tensor], float, dict[str, torch.Tensor]]:
    """Logits, loss and gradients when every row is a forward pass of its own, in transformers' own way."""
    net = model(family, "eager")
    net.zero_grad()
    rows, logits, total = Rows(), {}, torch.zeros(())
    for number in range(len(LENGTHS)):
        ids, trained = rows.row(number)
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        out = net(input_ids=tokens, use_cache=False).logits[0]
        logits[number] = out.detach()
        labels = torch.from_numpy(np.flatnonzero(trained))
        total = total + torch.nn.functional.cross_entropy(out[labels - 1], tokens[0][labels], reduction="sum")
    total.backward()
    return logits, float(total.detach()), {name: value.grad.clone() for name, value in net.named_parameters()}


families = pytest.mark.parametrize("family", ["llama", "qwen3"])
implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager", "varlen"])
orders = pytest.mark.parametrize(
    "order", [pytest.param(PACKED, id="packed"), pytest.param([[row] for row in range(7)], id="unpacked")]
)


@families
@implementations
@orders
def test_logits_loss_and_gradients_are_those_of_each_row_alone(
    family: str, implementation: str, order: list[list[int]]
) -> None:
    expected_logits, expected_loss, expected_gradients = alone(family)
    net = model(family, implementation)
    net.zero_grad()
    batch = collate(Rows(), order, pad_id=0)
    assert batch.packed is any(len(sequence) > 1 for sequence in order)
    logits = logits_of(net, batch, implementation)
    for row, found in documents(batch, order, logits):
        torch.testing.assert_close(found, expected_logits[row], rtol=EXACT, atol=EXACT)
    loss = loss_sum(logits, batch)
    assert float(loss.detach()) == pytest.approx(expected_loss, rel=EXACT)
    loss.backward()
    for name, value in net.named_parameters():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(value.grad, expected_gradients[name], rtol=0, atol=EXACT * max(scale, 1.0), msg=name)


@families
@implementations
def test_changing_one_document_leaves_the_others_bit_for_bit(family: str, implementation: str) -> None:
    net, rows = model(family, implementation), Rows()
    with torch.no_grad():
        before = dict(documents(batch := collate(rows, PACKED, 0), PACKED, logits_of(net, batch, implementation)))
        ids, trained = rows.rows[1]
        rows.rows[1] = ((ids + 1) % VOCABULARY, trained)
        after = dict(documents(batch := collate(rows, PACKED, 0), PACKED, logits_of(net, batch, implementation)))
    for row in range(len(LENGTHS)):
        assert torch.equal(before[row], after[row]) is (row != 1)


@implementations
def test_without_the_borders_documents_would_mix(implementation: str) -> None:
    # What the tests above would not notice if the model were too small to mix at all.
    net, batch = model("llama", implementation), collate(Rows(), PACKED, 0)
    positions = torch.arange(batch.input_ids.shape[1]).expand(len(PACKED), -1)
    mixed = net(input_ids=torch.from_numpy(batch.input_ids), position_ids=positions, use_cache=False).logits
    apart = logits_of(net, batch, implementation).reshape(mixed.shape)
    assert (mixed - apart).abs().max() > 0.1


@implementations
def test_padding_on_the_right_needs_no_mask_and_changes_nothing(implementation: str) -> None:
    net, order = model("llama", implementation), [[0], [5]]
    batch = collate(Rows(), order, pad_id=0)
    assert attention_inputs(batch, implementation, device="cpu", dtype=torch.float32)["attention_mask"] is None
    with torch.no_grad():
        found = logits_of(net, batch, implementation).reshape(2, batch.input_ids.shape[1], -1)
        masked = net(
            input_ids=torch.from_numpy(batch.input_ids),
            attention_mask=torch.from_numpy(batch.documents >= 0),
            use_cache=False,
        ).logits
    torch.testing.assert_close(found[0, :7], masked[0, :7], rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(found[1, :14], masked[1, :14], rtol=EXACT, atol=EXACT)


@implementations
def test_no_position_of_a_packed_batch_gives_nan_padding_included(implementation: str) -> None:
    batch = collate(Rows(), PACKED, pad_id=0)
    assert batch.padded
    assert torch.isfinite(logits_of(model("llama", implementation), batch, implementation)).all()


@implementations
def test_activation_checkpointing_changes_nothing(implementation: str) -> None:
    batch = collate(Rows(), PACKED, pad_id=0)
    net = model("llama", implementation)

    def gradients() -> list[torch.Tensor]:
        net.zero_grad()
        loss_sum(logits_of(net, batch, implementation), batch).backward()
        return [value.grad.clone() for value in net.parameters()]

    plain = gradients()
    net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    net.train()
    try:
        again = gradients()
    finally:
        net.gradient_checkpointing_disable()
        net.eval()
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=EXACT, atol=EXACT)


def test_half_precision_is_near_full_precision_under_autocast() -> None:
    batch = collate(Rows(), PACKED, pad_id=0)
    with torch.no_grad():
        full = loss_sum(logits_of(model("llama", "varlen"), batch, "varlen"), batch)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = {name: logits_of(model("llama", name), batch, name).float() for name in ("varlen", "sdpa")}
    for logits in half.values():
        assert float(loss_sum(logits, batch)) == pytest.approx(float(full), rel=0.03)


# What implementations are told


def test_masks_are_causal_within_documents_to_the_letter() -> None:
    batch = collate(Rows(), [[2, 4]], pad_id=0, multiple_of=6)  # 3 + 1 tokens and 2 of padding
    sees = attention_inputs(batch, "sdpa", device="cpu", dtype=torch.float32)["attention_mask"]
    assert sees.dtype == torch.bool
    assert sees.int().tolist() == [
        [
            [
                [1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [0, 0, 0, 1, 0, 0],
                [0, 0, 0, 0, 1, 0],
                [0, 0, 0, 0, 1, 1],
            ]
        ]
    ]
    additive = attention_inputs(batch, "eager", device="cpu", dtype=torch.bfloat16)["attention_mask"]
    assert additive.dtype == torch.bfloat16
    assert torch.equal(additive == 0, sees)
    assert (additive[~sees] == torch.finfo(torch.bfloat16).min).all()


def test_borders_are_counted_over_all_sequences_end_to_end() -> None:
    batch = collate(Rows(), PACKED, pad_id=0)
    lengths = [12, 3, 9, 14, 7, 3, 5, 1, 18]  # with the padding of 0, 3 and 18 to a width of 24
    assert document_lengths(batch).tolist() == lengths
    inputs = attention_inputs(batch, "varlen", device="cpu", dtype=torch.float32)
    assert inputs["cu_seq_lens_q"].tolist() == [0, *np.cumsum(lengths)]
    assert inputs["cu_seq_lens_q"].dtype == torch.int32
    assert inputs["max_length_q"] == 32
    assert inputs["attention_mask"] is None
    assert inputs["position_ids"].shape == batch.input_ids.shape


def test_flash_attention_takes_all_sequences_as_one_row() -> None:
    batch = collate(Rows(), PACKED, pad_id=0)
    inputs = attention_inputs(batch, "flash_attention_2", device="cpu", dtype=torch.bfloat16)
    assert inputs["input_ids"].tolist() == batch.input_ids.reshape(1, -1).tolist()
    assert inputs["position_ids"].tolist() == batch.position_ids.reshape(1, -1).tolist()
    assert inputs["cu_seq_lens_k"].tolist() == [0, *np.cumsum(document_lengths(batch))]
    assert inputs["attention_mask"] is None


def test_an_implementation_that_is_not_known_to_isolate_gets_nothing() -> None:
    with pytest.raises(ValueError, match="flex_attention"):
        attention_inputs(collate(Rows(), PACKED, 0), "flex_attention", device="cpu", dtype=torch.float32)


# Which one is taken

CPU = Machine(torch_version="2.13", capability=None, has_varlen=True, has_flash=False)
H200 = Machine(torch_version="2.13", capability=(9, 0), has_varlen=True, has_flash=True)
OLD_TORCH = Machine(torch_version="2.9", capability=(9, 0), has_varlen=False, has_flash=True)
BARE = Machine(torch_version="2.9", capability=(9, 0), has_varlen=False, has_flash=False)
TURING = Machine(torch_version="2.13", capability=(7, 5), has_varlen=True, has_flash=True)


def config(kind: str = "llama", **keys: Any) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[kind](**keys)


@pytest.mark.parametrize(
    ("machine", "packing", "precision", "taken", "because"),
    [
        pytest.param(CPU, False, "fp32", "sdpa", "no mask", id="unpacked"),
        pytest.param(H200, False, "bf16", "sdpa", "no mask", id="unpacked on a GPU"),
        pytest.param(CPU, False, "bf16", "varlen", "backward pass is faster", id="unpacked in 16 bits on a CPU"),
        pytest.param(CPU, True, "fp32", "varlen", "documents of one length", id="packed on a CPU"),
        pytest.param(H200, True, "bf16", "varlen", "torch 2.13 has it, compute capability 9.0", id="packed on a GPU"),
        pytest.param(OLD_TORCH, True, "bf16", "flash_attention_2", "torch 2.9 lacks", id="torch before 2.10"),
        pytest.param(BARE, True, "bf16", "sdpa", "torch 2.9 lacks", id="nothing but torch before 2.10"),
        pytest.param(TURING, True, "fp16", "sdpa", "compute capability 7.5", id="an old GPU"),
        pytest.param(H200, True, "fp32", "sdpa", "16 bits", id="32 bits on a GPU"),
    ],
)
def test_the_fastest_that_isolates_is_taken_and_the_reason_told(
    machine: Machine, packing: bool, precision: str, taken: str, because: str
) -> None:
    device = "cuda" if machine.capability else "cpu"
    chosen, reason = choose(
        "auto", device=device, packing=packing, model_config=config(), precision=precision, machine=machine
    )
    assert chosen == taken
    assert reason.startswith(f"{taken}: ")
    assert because in reason


def test_this_machine_is_looked_at_where_none_is_given() -> None:
    assert choose("auto", device="cpu", packing=True, model_config=config())[0] == "varlen"
    assert (
        choose("auto", device=torch.device("cpu"), packing=False, model_config=config(), precision="fp32")[0] == "sdpa"
    )


def test_what_the_recipe_names_is_taken_where_it_can_be() -> None:
    for name in ("sdpa", "eager", "varlen"):
        assert choose(name, device="cpu", packing=True, model_config=config(), machine=CPU)[0] == name
    with pytest.raises(EnvironmentFault, match="needs a CUDA GPU"):
        choose("flash_attention_2", device="cpu", packing=True, model_config=config(), machine=CPU)
    with pytest.raises(EnvironmentFault, match="not installed"):
        choose("flash_attention_2", device="cuda", packing=True, model_config=config(), machine=BARE)
    assert choose("flash_attention_2", device="cuda", packing=True, model_config=config(), machine=H200)[0]


def test_what_cannot_isolate_is_refused_for_packing() -> None:
    with pytest.raises(InputError, match="flex_attention"):
        choose("flex_attention", device="cpu", packing=True, model_config=config(), machine=CPU)
    with pytest.raises(InputError, match="did you mean `sdpa`"):
        choose("spda", device="cpu", packing=False, model_config=config(), machine=CPU)


@pytest.mark.parametrize(
    ("kind", "keys", "because"),
    [
        pytest.param("mistral", {"sliding_window": 32}, "window of 32 tokens", id="a sliding window"),
        pytest.param("gemma2", {}, "window of 4096 tokens", id="windows in some layers"),
        pytest.param("mamba", {}, "carry state", id="a state-space model"),
        pytest.param("qwen3_next", {}, "carry state", id="linear attention in some layers"),
        pytest.param("jamba", {}, "carry state", id="a hybrid"),
        pytest.param("lfm2", {}, "carry state", id="convolutions"),
        pytest.param("rwkv", {}, "carry state", id="a recurrent model"),
        pytest.param("bloom", {}, "attention interface", id="its own attention code"),
        pytest.param("t5", {}, "encoder", id="an encoder"),
        pytest.param("vit", {}, "not known", id="no language model"),
    ],
)
def test_a_model_that_cannot_keep_documents_apart_is_refused_for_packing(
    kind: str, keys: dict[str, Any], because: str
) -> None:
    with pytest.raises(InputError, match=because) as caught:
        choose("auto", device="cpu", packing=True, model_config=config(kind, **keys), machine=CPU)
    assert "batch.packing: false" in caught.value.fix
    assert choose("auto", device="cpu", packing=False, model_config=config(kind, **keys), machine=CPU)[0] == "sdpa"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "qwen3_moe", "phi3", "olmo2", "smollm3", "granite"])
def test_models_of_full_attention_may_be_packed(kind: str) -> None:
    assert cannot_isolate(config(kind)) is None


def test_a_window_that_no_sequence_reaches_is_no_obstacle() -> None:
    windowed = config("mistral", sliding_window=4096)
    assert cannot_isolate(windowed, max_length=4096) is None
    assert cannot_isolate(windowed, max_length=4097)
    assert cannot_isolate(config("mistral", sliding_window=None)) is None


# The proof on the loaded model


@families
@implementations
def test_a_model_that_isolates_proves_it(family: str, implementation: str) -> None:
    net = model(family, implementation)
    net.train()
    check_isolation(net, implementation)
    assert net.training
    net.eval()


def test_a_model_that_lets_documents_mix_is_refused() -> None:
    net = model("llama", "sdpa")

    class Deaf(torch.nn.Module):
        """Ignores what it is told about documents."""

        config = net.config

        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, input_ids: torch.Tensor, **told: Any) -> Any:
            positions = torch.arange(input_ids.shape[1])[None]
            return self.inner(input_ids=input_ids, position_ids=positions, use_cache=False)

    with pytest.raises(InputError, match="sees the one before it"):
        check_isolation(Deaf(), "sdpa")
