"""Rows become tokens and masks in one file; what is not trained on is named, nothing is cut."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.chat import encode_text, template_digest
from llmops.errors import InputError
from llmops.finetune.masks import REWRITTEN
from llmops.finetune.method import ANSWER, LABELLED, PAIR, Dpo, Kto, Orpo
from llmops.finetune.tokens import TokenStore, balance, encode, encoding_key
from llmops.records import Row
from tests.finetune import tokenizers_made as made


def chat(*turns: str, line: int = 1, roles: tuple[str, ...] = ("user", "assistant"), weight: float = 1.0) -> Row:
    messages = [{"role": roles[place % len(roles)], "content": turn} for place, turn in enumerate(turns)]
    return Row(f"row-{line}", "messages", {"messages": messages}, "data.jsonl", line, weight)


def text(content: str, line: int = 1) -> Row:
    return Row(f"row-{line}", "text", {"text": content}, "book.txt", line)


def row_lists(store: TokenStore) -> list[tuple[list[int], list[bool]]]:
    return [(store.row(place)[0].tolist(), store.row(place)[1].tolist()) for place in range(len(store))]


# What is stored


def test_a_store_has_every_row_in_order_with_lengths_counts_and_weights(tmp_path: Path) -> None:
    tokenizer = made.make(made.MARKED)
    rows = [chat("river", "Seine", line=1), chat("The river", "The Seine.", line=2, weight=2.5)]
    store, report, lost = encode(rows, tokenizer, max_length=64, path=tmp_path / "train.safetensors")
    assert len(store) == 2
    for place, row in enumerate(rows):
        theirs = tokenizer.apply_chat_template(
            row.content["messages"], return_assistant_tokens_mask=True, return_dict=True, tokenize=True
        )
        ids, trained = store.row(place)
        assert ids.tolist() == theirs["input_ids"]
        assert trained.tolist() == [bool(mark) for mark in theirs["assistant_masks"]]
        assert store.lengths[place] == len(ids)
        assert store.trained_counts[place] == trained.sum()
    assert store.weights.tolist() == [1.0, 2.5]
    assert (report.rows, report.sequences, lost) == (2, 2, [])
    assert (report.tokens, report.trained_tokens) == (store.lengths.sum(), store.trained_counts.sum())
    assert report.longest == store.lengths.max()
    assert report.mask_from == "generation-marks"
    assert report.template_digest == template_digest(tokenizer)


def test_a_store_opened_again_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    first, _, _ = encode([chat("river", "Seine"), text("The Amazon")], made.make(made.CHATML), max_length=64, path=path)
    again = TokenStore.open(path)
    assert row_lists(again) == row_lists(first)
    assert again.digest == first.digest
    for name in ("lengths", "trained_counts", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_counts_of_many_sequences_are_those_of_each(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [text("river " * draw.randint(1, 6), line) for line in range(1, 700)]
    store, _, _ = encode(rows, made.make(None), max_length=4, path=tmp_path / "t")
    assert len(store) > 700
    assert store.trained_counts.tolist() == [int(store.row(place)[1].sum()) for place in range(len(store))]


def test_the_same_rows_give_the_same_digest_and_other_rows_another(tmp_path: Path) -> None:
    def digest(*rows: Row) -> str:
        return encode(rows, made.make(made.CHATML), max_length=64, path=tmp_path / "t")[0].digest

    assert digest(chat("river", "Seine")) == digest(chat("river", "Seine"))
    assert digest(chat("river", "Seine")) != digest(chat("river", "Amazon"))


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    tokenizer = made.make(None)

    def peak(count: int) -> int:
        tracemalloc.start()
        rows = (text("The Seine and the Amazon are rivers. " * 20, line) for line in range(count))
        encode(rows, tokenizer, max_length=1024, path=tmp_path / "t")
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top

    peak(300)  # what is made once
    assert peak(2000) < 1.5 * peak(300)


def test_progress_counts_rows_to_the_last(tmp_path: Path) -> None:
    told: list[int] = []
    rows = [chat("river", "Seine", line=line) for line in range(1, 301)]
    encode(rows, made.make(made.MARKED), max_length=64, path=tmp_path / "t", on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 300


# Plain text


def test_plain_text_is_bos_text_eos_and_all_but_the_first_are_trained(tmp_path: Path) -> None:
    tokenizer = made.make(None, adds_bos=True)
    store, report, _ = encode([text("The Seine.")], tokenizer, max_length=64, path=tmp_path / "t")
    inner = tokenizer.encode("The Seine.", add_special_tokens=False)
    ids = [tokenizer.bos_token_id, *inner, tokenizer.eos_token_id]
    assert row_lists(store) == [(ids, [False] + [True] * (len(ids) - 1))]
    assert report.samples == ("<|bos|>⟦The Seine.<|end|>⟧",)
    assert (report.mask_from, report.template_digest) == ("text", None)


@settings(max_examples=40)
@given(content=st.text(max_size=60), max_length=st.integers(2, 20))
def test_a_long_text_becomes_windows_in_which_every_token_but_the_first_is_a_label_once(
    tmp_path_factory: pytest.TempPathFactory, content: str, max_length: int
) -> None:
    tokenizer = made.make(None)
    path = tmp_path_factory.mktemp("store") / "t"
    store, report, lost = encode([text(content)], tokenizer, max_length=max_length, path=path)
    assert not lost
    assert report.rows == 1
    assert store.lengths.max() <= max_length
    labels = [token for ids, trained in row_lists(store) for token, yes in zip(ids, trained, strict=True) if yes]
    assert labels == encode_text(tokenizer, content, end=True)[1:]
    for before, after in zip(row_lists(store), row_lists(store)[1:], strict=False):
        assert before[0][-1] == after[0][0]


# What is lost


def test_a_conversation_longer_than_allowed_is_lost_by_name_and_never_cut(tmp_path: Path) -> None:
    tokenizer = made.make(made.CHATML)
    long = chat("river", "The Seine. " * 40, line=7)
    length = len(tokenizer.apply_chat_template(long.content["messages"], tokenize=True, return_dict=False))
    rows = [chat("river", "Seine"), long]
    store, report, lost = encode(rows, tokenizer, max_length=length - 1, path=tmp_path / "t")
    assert (len(store), report.lost_too_long) == (1, 1)
    (one,) = lost
    assert (one.id, one.source, one.line, one.check) == ("row-7", "data.jsonl", 7, "longer than max_length")
    assert one.reason == f"{length} tokens, {length - 1} are allowed"
    store, report, lost = encode(rows, tokenizer, max_length=length, path=tmp_path / "t")
    assert (len(store), report.lost_too_long, lost) == (2, 0, [])


def test_a_row_without_trained_token_is_lost_by_name(tmp_path: Path) -> None:
    rows = [chat("river", "Seine"), chat("river", line=2)]
    store, report, lost = encode(rows, made.make(made.CHATML), max_length=64, path=tmp_path / "t")
    assert (len(store), report.lost_untrained) == (1, 1)
    assert [(one.line, one.check) for one in lost] == [(2, "no trained token")]


def test_a_row_the_template_refuses_is_lost_with_its_words(tmp_path: Path) -> None:
    rows = [chat("river", "Seine"), chat("a", "b", "c", line=3, roles=("user", "user", "assistant"))]
    store, report, lost = encode(rows, made.make(made.ALTERNATING), max_length=64, path=tmp_path / "t")
    assert (len(store), report.lost_refused) == (1, 1)
    assert (lost[0].line, lost[0].check) == (3, "chat template")
    assert "roles must alternate" in lost[0].reason


# What stops the run


def test_a_template_that_refuses_all_of_the_first_rows_stops_at_once_and_not_after_all_rows(tmp_path: Path) -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for line in range(1, 10_000):
            read += 1
            yield chat("a", "b", "c", line=line, roles=("system", "user", "assistant"))

    with pytest.raises(InputError, match="roles must alternate"):
        encode(rows(), made.make(made.ALTERNATING), max_length=64, path=tmp_path / "t")
    assert read == 20
    assert not list(tmp_path.iterdir())


def test_a_template_that_cannot_be_masked_says_so_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^a chat template that cannot be masked: .*<think>") as caught:
        encode([chat("river", "Seine")], made.make(made.R1), max_length=64, path=tmp_path / "t")
    assert "{% generation %}" in caught.value.fix


def test_marks_that_hold_nothing_stop_the_run(tmp_path: Path) -> None:
    empty = made.CHATML + "{% generation %}{% endgeneration %}"
    with pytest.raises(InputError, match=r"cannot be masked: its .* marks hold nothing"):
        encode([chat("river", "Seine")], made.make(empty), max_length=64, path=tmp_path / "t")


def test_a_preference_is_refused_for_this_kind_of_training(tmp_path: Path) -> None:
    row = Row("x", "preference", {"messages": [], "chosen": "a", "rejected": "b"}, "pairs.jsonl", 4)
    with pytest.raises(InputError, match=r"pairs\.jsonl:4"):
        encode([row], made.make(made.CHATML), max_length=64, path=tmp_path / "t")


def test_without_a_row_left_the_reasons_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row"):
        encode([], made.make(made.CHATML), max_length=64, path=tmp_path / "t")
    with pytest.raises(InputError, match=r"all 2 rows .*longer than max_length.*data\.jsonl:1") as caught:
        encode(
            [chat("a", "b", line=line) for line in (1, 2)], made.make(made.CHATML), max_length=3, path=tmp_path / "t"
        )
    assert "batch.max_length" in caught.value.fix


def test_a_tokenizer_without_template_can_be_trained_on_text_and_not_on_conversations(tmp_path: Path) -> None:
    encode([text("The Seine.")], made.make(None), max_length=64, path=tmp_path / "t")
    with pytest.raises(InputError, match="no chat template"):
        encode([chat("river", "Seine")], made.make(None), max_length=64, path=tmp_path / "t")


# The report


def test_the_report_shows_five_rows_drawn_by_seed_in_the_order_of_the_data(tmp_path: Path) -> None:
    rows = [chat("river", f"{line}", line=line) for line in range(1, 101)]

    def samples(seed: int) -> tuple[str, ...]:
        return encode(rows, made.make(made.MARKED), max_length=64, path=tmp_path / "t", seed_samples=seed)[1].samples

    drawn = samples(1)
    assert drawn == samples(1)
    assert drawn != samples(2)
    lines = [int(one.split("⟦")[1].split("<")[0]) for one in drawn]
    assert len(lines) == 5
    assert lines == sorted(lines)
    assert drawn[0] == f"<|bos|><|user|>river<|end|><|assistant|>⟦{lines[0]}<|end|>⟧"


def test_every_row_is_as_likely_to_be_shown(tmp_path: Path) -> None:
    rows = [text(f"{line}", line) for line in range(10)]
    tokenizer = made.make(None)
    seen = np.zeros(10)
    for seed in range(120):
        for one in encode(rows, tokenizer, max_length=8, path=tmp_path / "t", seed_samples=seed)[1].samples:
            seen[int(one.split("⟦")[1][0])] += 1
    # 120 draws of 5 out of 10: 60 expected, standard deviation √(120 · ½ · ½) = 5.5.
    assert (abs(seen - 60) < 5 * 5.5).all()


def test_rows_that_become_several_sequences_are_told(tmp_path: Path) -> None:
    store, report, _ = encode(
        [chat("river", "Seine", "And?", "Amazon")], made.make(made.QWEN3), max_length=64, path=tmp_path / "t"
    )
    assert (report.rows, report.sequences, len(store)) == (1, 2, 2)
    assert report.notes == (REWRITTEN,)
    assert report.mask_from == "prefixes"


# The cache


def test_the_key_changes_with_data_tokenizer_template_and_length_and_with_nothing_else() -> None:
    def key(*, data: str = "d", template: str = made.CHATML, length: int = 64, change: Any = None) -> str:
        tokenizer = made.make(template)
        if change:
            change(tokenizer)
        return encoding_key(data, tokenizer, length)

    base = key()
    assert key() == base
    assert key(change=lambda tokenizer: tokenizer("The Seine.", truncation=True, max_length=2)) == base
    changed = [
        key(data="e"),
        key(template=made.CHATML + " "),
        key(length=65),
        key(change=lambda tokenizer: tokenizer.add_tokens(["Seine"])),
        key(change=lambda tokenizer: setattr(tokenizer, "eos_token", "<|end|>")),
    ]
    assert len({base, *changed}) == 6


# What it is for


def test_a_model_trained_on_it_answers_the_served_prompt_and_stops_also_where_pad_is_the_end_of_turn(
    tmp_path: Path,
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmops.data.chat import encode_prompt
    from llmops.finetune.attention import attention_inputs
    from llmops.finetune.packing import collate

    tokenizer = made.make(made.CHATML, pad="<|im_end|>")
    answers = ["The Seine.", "Paris.", "The Amazon.", "A golden eagle.", "Rain.", "12 degrees.", "Fish.", "The Eagle."]
    prompts = ["river", "capital", "Peru", "golden", "weather", "cheap", "eats", "pub"]
    rows = [chat(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    store, _, _ = encode(rows, tokenizer, max_length=64, path=tmp_path / "t")
    batch = collate(store, [[row] for row in range(8)], tokenizer.pad_token_id)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    net = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    inputs = attention_inputs(batch, "sdpa", device="cpu", dtype=torch.float32)
    flat = torch.from_numpy(np.flatnonzero(batch.trained))
    tokens = torch.from_numpy(batch.input_ids)
    for _ in range(60):
        logits = net(input_ids=tokens, use_cache=False, **inputs).logits.flatten(0, 1)
        torch.nn.functional.cross_entropy(logits[flat - 1], tokens.flatten()[flat]).backward()
        optimizer.step()
        optimizer.zero_grad()
    net.eval()
    for row, answer in zip(rows, answers, strict=True):
        ids = encode_prompt(tokenizer, row.content["messages"][:1])
        begun = len(ids)
        while len(ids) < 64 and ids[-1:] != [tokenizer.eos_token_id]:
            with torch.no_grad():
                ids.append(int(net(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert tokenizer.decode(ids[begun:]) == f"{answer}<|im_end|>"


# Preferences and labels

DPO, KTO = Dpo(kind="dpo"), Kto(kind="kto")


def preference(question: str, chosen: Any, rejected: Any, line: int = 1, weight: float = 1.0) -> Row:
    content = {"messages": [{"role": "user", "content": question}], "chosen": chosen, "rejected": rejected}
    return Row(f"row-{line}", "preference", content, "pairs.jsonl", line, weight)


def labelled(question: str, answer: str, label: bool, line: int = 1) -> Row:
    messages = [{"role": "user", "content": question}]
    return Row(f"row-{line}", "labelled", {"messages": messages, "completion": answer, "label": label}, "l.jsonl", line)


def test_a_preference_is_the_two_conversations_with_their_last_answer_trained(tmp_path: Path) -> None:
    tokenizer = made.make(made.MARKED)
    earlier = [{"role": "user", "content": "river"}, {"role": "assistant", "content": "Seine"}]
    content = {"messages": [*earlier, {"role": "user", "content": "hill"}], "chosen": "Mont", "rejected": "The hill"}
    pair = Row("x", "preference", content, "pairs.jsonl", 1, 2.0)
    store, report, lost = encode([pair], tokenizer, max_length=99, path=tmp_path / "pairs", method=DPO)
    assert not lost
    assert (report.rows, report.sequences, store.weights.tolist()) == (1, 2, [2.0, 2.0])
    for number, answer in enumerate(("Mont", "The hill")):
        talk = [*content["messages"], {"role": "assistant", "content": answer}]
        row = Row("y", "messages", {"messages": talk}, "s", 1)
        whole, _, _ = encode([row], tokenizer, max_length=99, path=tmp_path / f"{number}")
        ids, trained = whole.row(0)
        assert store.row(number)[0].tolist() == ids.tolist()
        ours = store.row(number)[1]
        # The earlier answer is a label of the conversation, and no label of the pair.
        assert 0 < ours.sum() < trained.sum()
        assert not (ours & ~trained).any()
        first = int(np.flatnonzero(ours)[0])
        assert tokenizer.decode(ids[first:].tolist()).startswith(answer)


def test_a_pair_of_which_one_answer_is_too_long_is_lost_whole(tmp_path: Path) -> None:
    tokenizer = made.make(made.CHATML)
    rows = [preference("q", "a", "word " * 60, line=1), preference("q", "a", "b", line=2)]
    store, report, lost = encode(rows, tokenizer, max_length=32, path=tmp_path / "t", method=DPO)
    assert (len(store), report.lost_too_long) == (2, 1)
    assert [one.line for one in lost] == [1]


def test_a_sample_shows_both_answers(tmp_path: Path) -> None:
    _, report, _ = encode(
        [preference("q", "good", "bad")], made.make(made.CHATML), max_length=64, path=tmp_path / "t", method=DPO
    )
    chosen, rejected = report.samples[0].strip().split("⟧")[:2]
    assert chosen.split("⟦")[1].startswith("good")
    assert rejected.split("⟦")[1].startswith("bad")


def test_a_labelled_answer_comes_with_the_answer_of_another_prompt_behind_its_own(tmp_path: Path) -> None:
    tokenizer = made.make(made.CHATML)
    rows = [
        labelled("one", "first", True, 1),
        labelled("one", "second", False, 2),
        labelled("two", "third", True, 3),
    ]
    store, _, _ = encode(rows, tokenizer, max_length=64, path=tmp_path / "t", method=KTO)
    said = [
        tokenizer.decode(store.row(place)[0][store.row(place)[1]].tolist(), skip_special_tokens=True).strip()
        for place in range(6)
    ]
    # Before the first row comes the last; the second row's neighbour asks the same, so it is passed over.
    assert said == ["first", "third", "second", "third", "third", "second"]
    asked = [tokenizer.decode(store.row(place)[0].tolist()) for place in range(6)]
    assert [("one" in text, "two" in text) for text in asked] == [(True, False)] * 4 + [(False, True)] * 2
    assert store.values.tolist() == [1, 1, 0, 0, 1, 1]
    assert TokenStore.open(tmp_path / "t").digest == store.digest


def test_a_row_that_begins_a_chunk_takes_the_answer_before_it_too(tmp_path: Path) -> None:
    """Rows are encoded twenty, then some hundred at a time; the 21st is alone here."""
    tokenizer = made.make(made.CHATML)
    rows = [labelled(f"q{line}", f"a{line}", True, line) for line in range(1, 22)]
    store, _, _ = encode(rows, tokenizer, max_length=64, path=tmp_path / "t", method=KTO)
    ids, trained = store.row(2 * 20 + 1)
    assert tokenizer.decode(ids[trained].tolist(), skip_special_tokens=True).strip() == "a20"


def test_a_mismatched_answer_that_is_too_long_is_cut_and_no_row_is_lost_for_it(tmp_path: Path) -> None:
    tokenizer = made.make(made.CHATML)
    rows = [labelled("q", "b " * 20, True, 1), labelled("r " * 20, "a", False, 2)]
    whole, _, _ = encode(rows, tokenizer, max_length=200, path=tmp_path / "whole", method=KTO)
    limit = int(whole.lengths[::2].max())
    assert whole.lengths[1::2].max() > limit, "the long answer behind the long prompt"
    store, report, lost = encode(rows, tokenizer, max_length=limit, path=tmp_path / "cut", method=KTO)
    assert not lost
    assert report.rows == 2
    assert store.lengths.max() <= limit
    assert (store.trained_counts > 0).all()


def test_tokens_of_pairs_are_kept_apart_from_others_and_shared_by_the_methods_that_take_pairs() -> None:
    tokenizer = made.make(made.CHATML)
    keys = [encoding_key("d", tokenizer, 64, item) for item in (ANSWER, PAIR, LABELLED)]
    assert len(set(keys)) == 3
    assert encoding_key("d", tokenizer, 64) == keys[0]
    assert Dpo.item == Orpo.item == PAIR


@pytest.mark.parametrize(
    ("row", "method"),
    [
        pytest.param(labelled("q", "a", True), DPO, id="a label for dpo"),
        pytest.param(preference("q", "a", "b"), KTO, id="a pair for kto"),
        pytest.param(chat("q", "a"), DPO, id="a conversation for dpo"),
        pytest.param(text("a"), KTO, id="text for kto"),
    ],
)
def test_rows_of_another_method_are_refused(tmp_path: Path, row: Row, method: Any) -> None:
    with pytest.raises(InputError, match=f"which method {method.kind} does not train on"):
        encode([row], made.make(made.CHATML), max_length=64, path=tmp_path / "t", method=method)


@pytest.mark.parametrize(
    ("wanted", "unwanted", "said"),
    [
        pytest.param(40, 20, "desirable_weight 0.5 to 0.67", id="too many wanted"),
        pytest.param(20, 40, "desirable_weight 2 to 2.7", id="too few"),
        pytest.param(20, 20, None, id="as many"),
        pytest.param(20, 16, None, id="within a third"),
        pytest.param(5, 0, "all 5 answers are wanted", id="none unwanted"),
        pytest.param(0, 5, "all 5 answers are unwanted", id="none wanted"),
    ],
)
def test_how_labels_are_spread_is_said_with_the_weight_that_makes_them_count_alike(
    wanted: int, unwanted: int, said: str | None
) -> None:
    found = balance(wanted, unwanted)
    assert (found is None) if said is None else (found is not None and said in found)


def test_the_spread_of_labels_is_in_the_report(tmp_path: Path) -> None:
    rows = [labelled(f"q{line}", "a", line > 1, line) for line in range(1, 5)]
    _, report, _ = encode(rows, made.make(made.CHATML), max_length=64, path=tmp_path / "t", method=KTO)
    assert any("3 wanted and 1 unwanted" in note for note in report.notes)
