"""What waits is bounded, is taken in order, and is there until it is done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.waiting import Waiting

STEP = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 12), st.integers(1, 6)),
    st.tuples(st.just("take"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("done"), st.just(0), st.just(0)),
)


@given(most=st.integers(1, 20), steps=st.lists(STEP, max_size=60))
def test_it_agrees_with_two_plain_lists(most: int, steps: list[tuple[str, int, int]]) -> None:
    queue: Waiting[tuple[int, int]] = Waiting(most, size=lambda item: item[1])
    waits: list[tuple[int, int]] = []
    taken: list[tuple[int, int]] = []
    dropped = 0
    for what, number, size in steps:
        if what == "put":
            waits = [*(one for one in waits if one[0] != number), (number, size)]
            while waits and sum(one[1] for one in waits + taken) > most:
                waits.pop(0)
                dropped += 1
            assert queue.put(str(number), (number, size)) == len(waits)
        elif what == "take":
            if not taken:
                taken, waits = waits[:number], waits[number:]
            assert queue.take(number) == taken
        else:
            taken = []
            queue.done()
        assert len(queue) == len(waits) + len(taken)
        assert queue.dropped == dropped
        for one in range(13):
            known = [item for item in waits + taken if item[0] == one]
            assert queue.find(str(one)) == (known[0] if known else None)


def test_what_is_put_by_one_thread_while_another_takes_is_neither_lost_nor_doubled() -> None:
    from threading import Thread

    queue: Waiting[int] = Waiting(10**6)
    adding = Thread(target=lambda: [queue.put(str(number), number) for number in range(20_000)])
    adding.start()
    found: list[int] = []
    while adding.is_alive() or len(queue):
        found += queue.take(97)
        queue.done()
    assert found == list(range(20_000))
