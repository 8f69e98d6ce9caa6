"""Rows a model will be judged on are found; phrasing that many items share is not mistaken for them."""

from __future__ import annotations

from llmops.data.checks import Contamination, Findings
from llmops.files import digest_of
from llmops.records import Finding, Row


def row(prompt: str, answer: str = "x") -> Row:
    content = {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
    return Row(digest_of(content), "messages", content, "s", 1)


def text_row(text: str) -> Row:
    return Row(digest_of(text), "text", {"text": text}, "s", 1)


def counted(start: int, count: int) -> str:
    return " ".join(f"w{n}" for n in range(start, start + count))


def test_findings_count_every_row_and_name_five() -> None:
    findings = Findings()
    findings.expect("quiet", "reported")
    for line in range(7):
        findings.add("loud", "dropped", f"s:{line}", "why")
    assert findings.all() == (
        Finding("quiet", "reported", 0, ()),
        Finding("loud", "dropped", 7, tuple(f"s:{line}: why" for line in range(5))),
    )


def test_a_whole_prompt_counts_however_short_up_to_space_and_case() -> None:
    check = Contamination({"maths": ["What is 2 + 2?"]})
    assert "suite maths" in str(check.why(row("what is  2 + 2?\n")))
    assert check.why(row("What is 2 + 3?")) is None
    assert check.why(row("hm", "What is 2 + 2?")) is None  # an answer that short proves nothing
    assert check.why(text_row("What is 2 + 2?")) is not None


def test_thirteen_words_in_a_row_count_and_twelve_do_not() -> None:
    check = Contamination({"s": [counted(0, 40)]})
    assert check.why(row(f"before {counted(10, 13)} after")) is not None
    assert check.why(row(f"before {counted(10, 12)} after")) is None


def test_an_item_hidden_in_the_answer_or_in_plain_text_is_found() -> None:
    check = Contamination({"s": [counted(0, 20)]})
    assert "assistant turn" in str(check.why(row("hi", f"Sure: {counted(0, 20)}")))
    assert check.why(text_row(f"page 1 {counted(3, 13)}")) is not None


def test_turns_do_not_run_into_each_other() -> None:
    assert Contamination({"s": [counted(0, 13)]}).why(row(counted(0, 6), counted(6, 7))) is None


def test_an_instruction_all_items_begin_with_is_no_contamination() -> None:
    instruction = counted(100, 15)
    check = Contamination({"s": [f"{instruction} {n}" for n in range(8)]})
    assert check.why(row(f"{instruction} 99")) is None
    assert check.why(row(f"{instruction} 3")) is not None


def test_a_passage_a_few_items_of_a_large_suite_share_still_counts() -> None:
    passage = counted(0, 30)
    others = [f"{counted(1000 + 20 * n, 20)}" for n in range(195)]
    check = Contamination({"s": [*(f"{passage} q{n}" for n in range(5)), *others]})
    assert check.why(row(f"{passage} another question")) is not None


def test_structured_prompts_with_the_same_fields_are_no_copies() -> None:
    def facts(name: str, near: str) -> str:
        return (
            f"name[{name}], eatType[pub], food[Fast food], priceRange[less than £20], area[city centre], near[{near}]"
        )

    check = Contamination({"e2e": [facts("Blue Spice", "Rainbow Café")]})
    assert check.why(row(facts("Aromi", "Burger King"))) is None


def test_empty_items_match_nothing() -> None:
    assert Contamination({"s": ["", " "]}).why(text_row(" ")) is None


def test_the_share_found_counts_prompts_once_however_many_rows_hold_them() -> None:
    check = Contamination({"s": ["What is 2 + 2?", "What is 2 + 3?", counted(0, 20), counted(50, 20)]})
    rows = [row("what is 2 + 2?"), row("What is  2 + 2?"), row("hi", f"so: {counted(3, 15)}"), row("clean")]
    assert check.share_found(rows) == 2 / 4
    assert check.share_found([row("clean")]) == 0.0
