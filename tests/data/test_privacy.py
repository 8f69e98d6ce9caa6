"""Personal data is found by what proves it, and ordinary numbers in prose are left alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.privacy import Hit, find, luhn, redact, redact_all, valid_iban

# Test numbers the card networks publish for developers.
CARDS = [
    "4111 1111 1111 1111", "4012888888881881", "4222222222222", "5555-5555-5555-4444", "5105105105105100",
    "2223 0031 2200 3222", "3782 822463 10005", "371449635398431", "6011111111111117", "3530111333300000",
    "30569309025904", "6304000000000000",
]  # fmt: skip
# Examples of the SWIFT IBAN registry.
IBANS = [
    "DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "FR1420041010050500013M02606", "NO9386011117947",
    "MT84MALT011000012345MTLCAST001S", "CH93 0076 2011 6238 5295 7", "nl91abna0417164300", "SA0380000000608010167519",
]  # fmt: skip
EMAILS = ["jane.doe@example.com", "a+b_c@sub.domain.co.uk", "jürgen@müller.de", "x@y-z.io"]
PHONES = [
    "+49 30 1234567", "+1 (415) 555-2671", "+44 (0)20 7946 0958", "+14155552671", "0049 30 1234567", "(415) 555-2671",
    "415-555-2671", "415.555.2671", "1-800-555-2671", "030 12345678", "0171/1234567", "06 12 34 56 78", "(030) 1234567",
]  # fmt: skip

PROSE = [
    "In 2023, 45,000 people paid $1,234,567.89 on 12/31/2024 at 10:30.",
    "The dates 2024-01-02, 01.02.2024, 02-01-2024 and 01/02/2024 10:30 are dates.",
    "pi is 3.14159265358979 and e is 2.718281828459045; 0.4111111111111111 is no card.",
    "He had 20 + 30 + 40 = 90 apples, then 1000000 + 2000000 = 3000000.",
    "Room 415, floors 100 200 3000, lines 10-20, pages 100-200, 555 1234 people.",
    "Order 1234567890123456 and tracking 9400110200881234567890 shipped.",
    "IPs 192.168.10.100 and 10.0.0.1, version 1.2.3.4, port 8080, build 20240102.123456.",
    "Clone git@github.com:org/repo.git, install pkg@1.2.3 and see icon@2x.png, @user, a@b.",
    "ISBN 978-3-16-148410-0, population 1,412,000,000, GDP 25 460 000 000 000 USD.",
    "DE12 is a road; GB29 and FR14 too. ID DE89370400440532013001 is one digit off.",
    "The years 1914-1918 and 1939 1945; call 2019-2020 a bad season.",
    "UUID 123e4567-e89b-12d3-a456-426614174000 and hash 0123456789abcdef0123456789abcdef.",
    "name[Alimentum], priceRange[less than £20], customer rating[5 out of 5], near[Burger King]",
    "x = [00 01 02 03 04 05 06 07 08 09 10 11]; 0 1 2 3 4 5 6 7 8 9",
    "4444 4444 4444 4444 is one digit over and over; 4111 1111 1111 1112 fails its check.",
    "The phone costs 1200 and the call lasted 300 seconds.",
]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (kind, text)
        for kind, all_of in (("email", EMAILS), ("phone", PHONES), ("card", CARDS), ("iban", IBANS))
        for text in all_of
    ],
)
def test_known_examples_are_found_whole_in_a_sentence(kind: str, text: str) -> None:
    for before, after in (("", ""), ("Write to ", "."), ("(", ")"), ("x: ", ", or not"), ("„", "“\n")):
        sentence = f"{before}{text}{after}"
        assert redact(sentence) == f"{before}[{kind.upper()}]{after}", sentence


@pytest.mark.parametrize("text", PROSE)
def test_dates_prices_sums_and_names_are_no_personal_data(text: str) -> None:
    assert find(text) == []


@pytest.mark.parametrize(
    "text", ["Tel.: 555 2671 00", "call me at 4155552671", "phone number is 415 555 2671", "☎ 12 34 56 78"]
)
def test_other_groupings_count_after_a_word_that_says_what_they_are(text: str) -> None:
    (hit,) = find(text)
    assert hit.kind == "phone"


def test_several_in_one_text_keep_their_order_and_what_is_between() -> None:
    text = f"{EMAILS[0]}, {CARDS[0]} and {IBANS[0]}; {PHONES[0]}"
    assert [hit.kind for hit in find(text)] == ["email", "card", "iban", "phone"]
    assert redact(text) == "[EMAIL], [CARD] and [IBAN]; [PHONE]"


@given(st.integers(min_value=0, max_value=10**18))
def test_luhn_accepts_exactly_one_last_digit(number: int) -> None:
    assert sum(luhn(f"{number}{last}") for last in range(10)) == 1


@given(st.integers(min_value=0, max_value=10**15), st.integers(min_value=0, max_value=15), st.integers(1, 9))
def test_luhn_notices_any_one_wrong_digit(number: int, place: int, change: int) -> None:
    digits = f"{number:016d}"
    right = next(f"{digits}{last}" for last in range(10) if luhn(f"{digits}{last}"))
    wrong = right[:place] + str((int(right[place]) + change) % 10) + right[place + 1 :]
    assert not luhn(wrong)


@given(st.integers(min_value=0, max_value=10**18 - 1))
def test_an_iban_has_exactly_one_pair_of_check_digits(account: int) -> None:
    # ISO 13616: the pair is 98 − (account, country as numbers, 00) mod 97.
    pair = 98 - int(f"{account:018d}131400") % 97  # D = 13, E = 14
    valid = [check for check in range(2, 99) if valid_iban(f"DE{check:02d}{account:018d}")]
    assert valid == [pair]


def test_an_iban_has_its_countrys_length() -> None:
    assert valid_iban("NO9386011117947")
    assert not valid_iban("NO93860111179470")
    assert not valid_iban("ZZ9386011117947")
    assert not valid_iban("")


known = st.sampled_from(
    [
        (kind, text)
        for kind, every in (("EMAIL", EMAILS), ("PHONE", PHONES), ("CARD", CARDS), ("IBAN", IBANS))
        for text in every
    ]
)


@given(
    st.lists(known | st.sampled_from([("", text) for text in PROSE]), max_size=6),
    st.sampled_from(["; ", "\n", " and "]),
)
def test_all_that_is_known_is_redacted_among_prose_and_nothing_else(parts: list[tuple[str, str]], between: str) -> None:
    expected = between.join(f"[{kind}]" if kind else text for kind, text in parts)
    assert redact(between.join(text for _, text in parts)) == expected


@given(st.text(st.sampled_from("0123456789+-/ ().,@aDE")))
def test_hits_never_overlap_and_the_text_between_them_is_untouched(text: str) -> None:
    hits = find(text)
    assert all(
        one.start < one.end <= other.start for one, other in pairwise([*hits, Hit("card", len(text), len(text))])
    )
    cuts = [0, *(at for hit in hits for at in (hit.start, hit.end)), len(text)]
    untouched = [text[start:end] for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
    marks = [f"[{hit.kind.upper()}]" for hit in hits]
    assert redact(text) == "".join(part for pair in zip(untouched, [*marks, ""], strict=True) for part in pair)


def test_structures_are_redacted_through_and_through() -> None:
    given_ = {"role": "user", "n": 4111111111111111, "k": [{"a": (EMAILS[0], None, True, 1.5)}]}
    assert redact_all(given_) == {"role": "user", "n": "[CARD]", "k": [{"a": ["[EMAIL]", None, True, 1.5]}]}


@pytest.mark.parametrize(
    "text", ["1" * 20_000, "+1" + " 1" * 10_000, "a." * 10_000 + "@", "a@" + "b." * 10_000, "0 1-" * 5_000]
)
def test_no_text_is_slow(text: str) -> None:
    import time

    start = time.process_time()
    find(text)
    assert time.process_time() - start < 2
