"""Columns become canonical rows with their text unchanged; what cannot is rejected with its reason, never guessed."""

from __future__ import annotations

import json
import unicodedata
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.formats import Rejected, as_json, content_digest, one_line, prompt_key, prompts, rows, texts
from llmops.data.section import LabelledRows, MessageRows, PreferenceRows, PromptRows, Rows, TextRows
from llmops.files import canonical_json
from llmops.records import Row

PROMPT = PromptRows(source="s", prompt="Say: {q}", completion="{a}")
MESSAGES = MessageRows(source="s", messages="m", tools="t")
TEXT = TextRows(source="s", text="x", weight=2)
PAIR = PreferenceRows(source="s", prompt="{q}", chosen="{a}", rejected="{b}")
LABELLED = LabelledRows(source="s", prompt="{q}", completion="{a}", label="l")


def shaped(spec: Rows, **columns: Any) -> Row | Rejected:
    (row,) = rows(spec, [(3, columns)])
    return row


def kept(spec: Rows, **columns: Any) -> Row:
    row = shaped(spec, **columns)
    assert isinstance(row, Row), row
    return row


def reason(spec: Rows, **columns: Any) -> str:
    row = shaped(spec, **columns)
    assert isinstance(row, Rejected), row
    assert row.content == columns
    return row.reason


def talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


GOOD = talk(("user", "hi"), ("assistant", "ho"))


def test_prompt_and_completion_become_two_turns() -> None:
    row = kept(PROMPT, q="ä", a="ö")
    assert row.content == {"messages": talk(("user", "Say: ä"), ("assistant", "ö"))}
    assert (row.kind, row.source, row.line, row.weight) == ("messages", "s", 3, 1.0)
    assert row.id == content_digest(row.content)


def test_a_system_template_becomes_a_first_turn_and_an_empty_one_none() -> None:
    spec = PromptRows(source="s", system="{s}", prompt="{q}", completion="{a}")
    turns = kept(spec, s="be kind", q="q", a="a").content["messages"]
    assert turns == talk(("system", "be kind"), ("user", "q"), ("assistant", "a"))
    notes: list[str] = []
    (row,) = rows(spec, [(1, {"s": " ", "q": "q", "a": "a"})], on_note=lambda check, line, why: notes.append(check))
    assert isinstance(row, Row)
    assert len(row.content["messages"]) == 2
    assert notes == ["empty system turn"]


def test_text_and_preference_rows() -> None:
    assert kept(TEXT, x=" a\n").content == {"text": " a\n"}
    assert kept(TEXT, x="a").weight == 2
    row = kept(PAIR, q="q", a="good", b="bad")
    assert row.content == {"messages": talk(("user", "q")), "chosen": "good", "rejected": "bad"}
    assert "same" in reason(PAIR, q="q", a="x  y", b="x y")


class TestAnswersAsLists:
    """TRL's conversational columns: each part of a preference, or of a labelled answer, is a list of turns."""

    def test_an_answer_of_one_turn_is_the_very_row_that_plain_text_gives(self) -> None:
        plain = kept(PAIR, q="q", a="good", b="bad")
        asked, good, bad = talk(("user", "q")), talk(("assistant", "good")), talk(("assistant", "bad"))
        assert kept(PAIR, q=asked, a=good, b=bad) == plain
        assert kept(LABELLED, q=asked, a=good, l=True) == kept(LABELLED, q="q", a="good", l=1)

    def test_a_prompt_may_be_a_whole_conversation(self) -> None:
        asked = talk(("system", "be kind"), ("user", "hi"), ("assistant", "ho"), ("user", "and?"))
        row = kept(PAIR, q=asked, a=talk(("assistant", "yes")), b="no")
        assert row.content == {"messages": asked, "chosen": "yes", "rejected": "no"}
        assert prompt_key(row) == "system: be kind\nuser: hi\nassistant: ho\nuser: and?"
        assert texts(row)[-2:] == [("chosen", "yes"), ("rejected", "no")]
        assert prompts(row) == ["hi", "and?"]

    def test_an_answer_of_several_turns_stays_turns(self) -> None:
        call = [{"type": "function", "function": {"name": "clock", "arguments": {}}}]
        turns = [
            {"role": "assistant", "content": "", "tool_calls": call},
            {"role": "tool", "content": "noon"},
            {"role": "assistant", "content": "It is noon."},
        ]
        row = kept(LABELLED, q="what time?", a=turns, l="true")
        assert row.content["completion"] == turns
        ((place, text),) = [one for one in texts(row) if one[0] == "completion"]
        assert "noon" in text
        assert "clock" in text
        assert place == "completion"

    @pytest.mark.parametrize(
        ("prompt", "answer", "why"),
        [
            pytest.param(talk(("assistant", "ho")), "a", "no user turn", id="nobody asks"),
            pytest.param(GOOD, "a", "ends with a turn of the assistant", id="the prompt is answered"),
            pytest.param([], "a", "no turns", id="no prompt"),
            pytest.param(talk(("system", " ")), "a", "no turns", id="an empty system turn alone"),
            pytest.param("q", [], "the chosen answer: the conversation has no turns", id="no answer"),
            pytest.param("q", talk(("user", "x")), "must begin and end with a turn of the assistant", id="the user"),
            pytest.param("q", talk(("assistant", "x"), ("user", "y")), "must begin and end", id="the user last"),
            pytest.param("q", [{"content": "x"}], "has no role", id="no role"),
            pytest.param("q", talk(("assistant", "b")), "answer are the same", id="both say the same"),
        ],
    )
    def test_what_is_none_is_rejected(self, prompt: Any, answer: Any, why: str) -> None:
        assert why in reason(PAIR, q=prompt, a=answer, b="b")

    def test_a_list_amid_other_text_is_no_text(self) -> None:
        spec = PreferenceRows(source="s", prompt="Say: {q}", chosen="{a}", rejected="{b}")
        assert "holds a list, not text" in reason(spec, q=talk(("user", "q")), a="a", b="b")


@pytest.mark.parametrize(
    ("label", "wanted"),
    [(True, True), (False, False), (1, True), (0, False), ("true", True), ("FALSE", False), (" 1 ", True)],
)
def test_a_label_is_true_or_false(label: Any, wanted: bool) -> None:
    row = kept(LABELLED, q="q", a="a", l=label)
    assert row.kind == "labelled"
    assert row.content == {"messages": talk(("user", "q")), "completion": "a", "label": wanted}


@pytest.mark.parametrize("label", [None, "yes", 2, 0.5, "", [True]])
def test_what_is_no_label_is_rejected(label: Any) -> None:
    assert "`l`" in reason(LABELLED, q="q", a="a", l=label)


@given(st.text().filter(lambda text: text.strip() and "\r" not in text))
def test_unicode_is_kept_as_it_is(text: str) -> None:
    assert kept(TEXT, x=text).content == {"text": text}


def test_decomposed_letters_and_emoji_are_not_normalised() -> None:
    text = unicodedata.normalize("NFD", "é") + "👩‍👩‍👧 \u200f\ufeff"
    assert kept(TEXT, x=text).content["text"] == text


def test_crlf_becomes_lf_and_is_said_once_per_row() -> None:
    notes: list[tuple[str, int, str]] = []
    found = list(rows(PROMPT, [(3, {"q": "a\r\nb", "a": "c\rd\r\n"})], on_note=lambda *note: notes.append(note)))
    assert isinstance(found[0], Row)
    assert found[0].content["messages"] == talk(("user", "Say: a\nb"), ("assistant", "c\nd\n"))
    assert notes == [("line ends", 3, "CRLF and CR became LF")]


@pytest.mark.parametrize("cell", [None, "", " \n\t", True, float("nan"), ["x"], {"a": 1}, b"x", date(2024, 1, 2)])
def test_cells_that_are_empty_or_no_text_reject_the_row(cell: object) -> None:
    assert reason(PROMPT, q="x", a=cell)
    assert reason(TEXT, x=cell)
    assert reason(PAIR, q="x", a="y", b=cell)


def test_no_row_ever_says_none() -> None:
    for spec in (PROMPT, PAIR):
        for name in ("q", "a"):
            cells = {"q": "x", "a": "y", "b": "z", name: None}
            assert "null" in reason(spec, **cells)


def test_half_a_surrogate_pair_rejects_the_row() -> None:
    assert "surrogate" in reason(TEXT, x="a\ud800")
    assert canonical_json(as_json({"x\ud800": "a\ud800"}))


def test_messages_are_read_as_lists_or_as_json_text() -> None:
    assert kept(MESSAGES, m=GOOD, t=None).content == {"messages": GOOD}
    assert kept(MESSAGES, m=json.dumps(GOOD), t="").content == {"messages": GOOD}


def test_null_keys_of_a_struct_column_are_no_keys() -> None:
    turns = [{**turn, "tool_calls": None, "name": None} for turn in GOOD]
    assert kept(MESSAGES, m=turns, t=[]).content == {"messages": GOOD}


def test_tools_and_calls_are_kept_with_arguments_as_a_mapping() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": "2", "reasoning_content": "easy"},
    ]
    row = kept(MESSAGES, m=turns, t=json.dumps(tools))
    said = row.content["messages"]
    assert row.content["tools"] == tools
    assert said[1]["content"] == ""
    assert said[1]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    ]
    assert said[2:] == turns[2:]


def test_tools_and_arguments_keep_the_order_of_their_keys_which_the_model_reads() -> None:
    call = {"function": {"name": "f", "arguments": '{"z": 1, "a": 2}'}}
    turns = [GOOD[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"z": {}, "a": {}}}}}]
    row = kept(MESSAGES, m=turns, t=tools)
    assert list(row.content["messages"][1]["tool_calls"][0]["function"]["arguments"]) == ["z", "a"]
    assert json.dumps(row.content["tools"]) == json.dumps(tools)
    sorted_tools = json.loads(canonical_json(tools))
    assert kept(MESSAGES, m=turns, t=sorted_tools).id != row.id


def test_text_parts_are_joined_as_servers_join_them() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]
    assert kept(MESSAGES, m=turns, t=None).content["messages"][0]["content"] == "a\nb"


def test_keys_of_turns_that_nothing_reads_are_left_out_and_said() -> None:
    turns = [{**GOOD[0], "id": 1}, {**GOOD[1], "weight": 0}]
    notes: list[str] = []
    (row,) = rows(MESSAGES, [(1, {"m": turns, "t": None})], on_note=lambda check, line, why: notes.append(why))
    assert isinstance(row, Row)
    assert row.content == {"messages": GOOD}
    assert notes == ["left out: id", "left out: weight"]


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        pytest.param(None, "empty", id="null"),
        pytest.param("", "empty", id="empty text"),
        pytest.param("{not json", "not JSON", id="broken JSON"),
        pytest.param({"role": "user"}, "not a list", id="a mapping"),
        pytest.param([], "no turns", id="no turns"),
        pytest.param(["hi"], "turn 1 is str", id="turns that are text"),
        pytest.param([{"from": "human", "value": "x"}], "its keys: from, value", id="other keys"),
        pytest.param(talk(("human", "x")), "roles are", id="unknown role"),
        pytest.param(talk(("user", ""), ("assistant", "x")), r"turn 1 \(user\) is empty", id="empty user turn"),
        pytest.param(talk(("user", "x"), ("assistant", " ")), r"turn 2 \(assistant\) is empty", id="empty answer"),
        pytest.param(talk(("user", "x")), "last turn", id="user last"),
        pytest.param(talk(("assistant", "x")), "no user turn", id="no question"),
        pytest.param(talk(("assistant", "x"), *(("user", "y"), ("assistant", "z"))), "before the user", id="greets"),
        pytest.param([GOOD[0], {"role": "system", "content": "x"}, GOOD[1]], "only the first", id="late system"),
        pytest.param([{"role": "user", "content": 3}, GOOD[1]], "not text", id="a number"),
        pytest.param([{"role": "user", "content": [{"type": "image"}]}, GOOD[1]], "not text", id="an image"),
        pytest.param([{"role": "user", "content": None}, GOOD[1]], "empty", id="null content"),
        pytest.param([{**GOOD[0], "tool_calls": [{"name": "f"}]}, GOOD[1]], "only the assistant", id="user calls"),
        pytest.param([GOOD[0], {**GOOD[1], "tool_calls": [{"function": {}}]}], "no function name", id="nameless call"),
        pytest.param([GOOD[0], {**GOOD[1], "tool_calls": [{"name": "f", "arguments": "{"}]}], "not JSON", id="args"),
        pytest.param([GOOD[0], {**GOOD[1], "tool_calls": [{"name": "f", "arguments": "3"}]}], "no mapping", id="arg 3"),
        pytest.param([GOOD[0], {**GOOD[1], "tool_calls": {"name": "f"}}], "not a list", id="calls no list"),
        pytest.param([GOOD[0], {**GOOD[1], "name": 3}], "not text", id="name 3"),
    ],
)
def test_conversations_that_cannot_be_trained_on_are_rejected(turns: object, why: str) -> None:
    import re

    assert re.search(why, reason(MESSAGES, m=turns, t=None))


@pytest.mark.parametrize("tools", ["{", "{}x", {"name": "f"}, ["f"], [{"f": date(2024, 1, 1)}]])
def test_tools_that_are_no_schemas_reject_the_row(tools: object) -> None:
    assert reason(MESSAGES, m=GOOD, t=tools)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.floats() | st.binary(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_whatever_a_cell_holds_a_row_or_a_reason_comes_out(cell: Any) -> None:
    for spec in (MESSAGES, TEXT, PROMPT):
        row = shaped(spec, m=cell, t=cell, x=cell, q="q", a=cell)
        canonical_json(as_json(row.content))


def test_the_prompt_key_is_all_before_the_last_answer() -> None:
    turns = talk(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    row = kept(MESSAGES, m=turns, t=None)
    assert prompt_key(row) == "system: S\nuser: a\nassistant: b\nuser: c"
    assert prompt_key(kept(MESSAGES, m=[*turns[:-1], {"role": "assistant", "content": "other"}], t=None)) == prompt_key(
        row
    )


def test_the_prompt_key_ignores_spaces_and_composition_but_not_words_or_roles() -> None:
    def key(text: str) -> str:
        return prompt_key(kept(PROMPT, q=text, a="x"))

    assert key("caf\u00e9  a\r\n b ") == key("cafe\u0301 a b")
    assert key("a") != key("A")
    system = PromptRows(source="s", system="{q}", prompt="{q}", completion="{a}")
    assert prompt_key(kept(system, q="a", a="x")) != prompt_key(kept(PROMPT, q="a", a="x"))
    assert prompt_key(kept(TEXT, x="a  b")) == "text: a b"
    assert prompt_key(kept(PAIR, q="a", a="x", b="y")) == "user: a"


def test_texts_name_the_places_of_a_row() -> None:
    assert texts(kept(PAIR, q="q", a="x", b="y")) == [("user turn", "q"), ("chosen", "x"), ("rejected", "y")]
    assert prompts(kept(MESSAGES, m=GOOD, t=None)) == ["hi"]
    assert one_line(" a\n\t b ") == "a b"


def test_the_digest_of_kept_content_is_the_rows_id() -> None:
    row = kept(PROMPT, q="ü", a="x")
    assert content_digest(row.content) == row.id
    assert as_json({"d": date(2024, 1, 2), 3: float("inf")}) == {"d": "datetime.date(2024, 1, 2)", "3": "inf"}


class TestPromptsAlone:
    """What rows ask, for another to answer; their own answers are left aside and need not be there."""

    def asked(self, spec: Any, *columns: dict[str, Any]) -> list[Any]:
        found = rows(spec, [(line, dict(one)) for line, one in enumerate(columns, 1)], prompts=True)
        return [row.content if isinstance(row, Row) else row.reason for row in found]

    def test_of_columns(self) -> None:
        spec = PromptRows(source="s", prompt="{q}", system="be brief")
        assert self.asked(spec, {"q": "one?"}, {"q": " "}) == [
            {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one?"}]},
            "the prompt is empty",
        ]
        (refused,) = rows(spec, [(1, {"q": "one?"})])
        assert isinstance(refused, Rejected)
        assert refused.reason == "it has a prompt and no completion"

    def test_of_conversations_with_or_without_a_last_answer(self) -> None:
        user, said = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
        spec = MessageRows(source="s", messages="m")
        assert self.asked(spec, {"m": [user, said]}, {"m": [user, said, user]}, {"m": [said]}) == [
            {"messages": [user]},
            {"messages": [user, said, user]},
            "the conversation has no user turn",
        ]

    def test_of_preferences(self) -> None:
        spec = PreferenceRows(source="s", prompt="{q}", chosen="{a}", rejected="{b}")
        assert self.asked(spec, {"q": "one?"}) == [{"messages": [{"role": "user", "content": "one?"}]}]

    def test_of_plain_text_are_none(self) -> None:
        assert self.asked(TextRows(source="s", text="t"), {"t": "words"}) == ["a plain text asks nothing"]
