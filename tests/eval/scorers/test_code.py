"""Code passes when the unit tests of its references do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmops.errors import InputError
from llmops.eval.items import Item
from llmops.eval.sandbox import available
from llmops.eval.scorers.code import Code
from tests.eval.measurements import answered

TESTS = "assert double(2) == 4"
RIGHT = "def double(x):\n    return 2 * x\n"


@pytest.mark.parametrize(
    ("answer", "hit"),
    [
        pytest.param(RIGHT, 1.0, id="the whole answer"),
        pytest.param(f"Here you are:\n```python\n{RIGHT}```\nIt doubles.", 1.0, id="a fence"),
        pytest.param(f"```\n{RIGHT}```", 1.0, id="a fence without a language"),
        pytest.param(f"```python\n{RIGHT}", 1.0, id="a fence that was cut"),
        pytest.param("```py\ndouble = lambda x: x\n```\n```py\n" + RIGHT + "```", 0.0, id="the first fence counts"),
        pytest.param("I cannot write code.", 0.0, id="no code"),
        pytest.param("", 0.0, id="nothing"),
    ],
)
def test_pass_at_1(answer: str, hit: float) -> None:
    (metric,) = Code(seconds=5).measure(answered([answer], [[TESTS]]))
    assert (metric.name, metric.value(), metric.binary) == ("pass@1", hit, True)
    assert f"sandbox:{available()}" in metric.signature


def test_a_completion_goes_on_where_the_prompt_ends_if_asked() -> None:
    items = answered(["    return 2 * x\n", f"```python\n{RIGHT}```"], [[TESTS]] * 2, ["def double(x):\n"] * 2)
    (alone,), (together,) = Code().measure(items), Code(continues_prompt=True).measure(items)
    assert alone.per_item.tolist() == [0.0, 1.0]
    assert together.per_item.tolist() == [1.0, 1.0]


def test_unit_tests_that_are_no_python_are_refused(make_item: Callable[..., Item]) -> None:
    with pytest.raises(InputError, match="the unit tests 'assert'"):
        Code().check_items([make_item("q", TESTS, "assert")])
