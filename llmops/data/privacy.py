"""Personal data in text: e-mail addresses, phone, card and bank account numbers.

Numbers must prove what they are (check digits, a country's length, the way phone numbers are
written), because prose is full of dates, prices and sums that are none of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["email", "phone", "card", "iban"]

NAMES: dict[Kind, str] = {
    "email": "e-mail address",
    "phone": "phone number",
    "card": "card number",
    "iban": "bank account number",
}


_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Hit:
    """Personal data at `text[start:end]`."""

    kind: Kind
    start: int
    end: int


def find(text: str) -> list[Hit]:
    """All personal data in a text, in order, never overlapping; the kind with the stricter proof wins."""
    if "@" not in text and _DIGIT.search(text) is None:
        return []  # most texts: nothing is looked for below that has neither
    hits: list[Hit] = []
    for search in (_ibans, _cards, _emails, _phones):
        hits += [hit for hit in search(text) if all(hit.end <= other.start or hit.start >= other.end for other in hits)]
    return sorted(hits, key=lambda hit: hit.start)


def redact(text: str) -> str:
    """The text with each hit replaced by its kind: `[EMAIL]`, `[PHONE]`, `[CARD]`, `[IBAN]`."""
    parts, at = [], 0
    for hit in find(text):
        parts += [text[at : hit.start], f"[{hit.kind.upper()}]"]
        at = hit.end
    return "".join([*parts, text[at:]])


def redact_all(value: Any) -> Any:
    """A copy of a row's content or columns with every value redacted, numbers that are personal data too."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    if isinstance(value, int) and find(str(value)):
        return redact(str(value))
    return value


# ── e-mail ─────────────────────────────────────────────────────────────────────────────────────────────────────────

# Not `git@host:path`, not versions (`pkg@1.2.x`), not file names (`icon@2x.png`). Bounded, so that no text is slow.
_EMAIL = re.compile(
    r"(?<![\w.%+@-])[\w][\w.%+-]{0,63}@(?!\d+\.\d|\d+x\.)(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    r"(?!(?:png|jpe?g|gif|webp|svg)\b)[^\W\d_]{2,24}(?![\w@-]|:[\w~/])"
)


def _emails(text: str) -> Iterator[Hit]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield Hit("email", match.start(), match.end())


# ── cards ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_CARD = re.compile(r"(?<![\w.])(?<!\d[ ,-])\d(?:[ -]?\d){11,18}(?![\w]|[ .,-]\d)")
_GROUPS = re.compile(r"\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -]?)\d{6}\2\d{4,5}|\d{12,19}")
# Issuer and length: Visa, Mastercard, American Express, Discover, JCB, Diners, UnionPay, Maestro.
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|35\d{14}|3(?:0[0-5]|[689]\d)\d{11}|62\d{14,17}"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{8,15}"
)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _cards(text: str) -> Iterator[Hit]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _GROUPS.fullmatch(match.group()) and _ISSUER.fullmatch(digits) and len(set(digits)) > 1 and luhn(digits):
            yield Hit("card", match.start(), match.end())


# ── bank accounts ──────────────────────────────────────────────────────────────────────────────────────────────────

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=[ -]?[A-Za-z0-9])")
# Characters of an IBAN by country (SWIFT registry, release 99).
_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ DZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def valid_iban(compact: str) -> bool:
    """Whether an IBAN without spaces has its country's length and check digits (ISO 13616, mod 97)."""
    upper = compact.upper()
    if len(upper) != _LENGTHS.get(upper[:2]) or not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]+", upper, re.ASCII):
        return False
    return int("".join(str(int(character, 36)) for character in upper[4:] + upper[:4])) % 97 == 1


def _ibans(text: str) -> Iterator[Hit]:
    for match in _IBAN.finditer(text):
        end = _end_of_iban(text, match.start(), _LENGTHS.get(match.group()[:2].upper(), 0))
        if end is not None and valid_iban(re.sub(r"[ -]", "", text[match.start() : end])):
            yield Hit("iban", match.start(), end)


def _end_of_iban(text: str, start: int, length: int) -> int | None:
    """Where `length` letters and digits from `start` end, single spaces or hyphens between them left out."""
    found, at = 0, start
    while found < length and at < len(text):
        if text[at].isascii() and text[at].isalnum():
            found += 1
        elif text[at] not in " -" or not text[at - 1].isalnum():
            return None
        at += 1
    whole = found == length and length > 0 and not text[at : at + 1].isalnum()
    return at if whole else None


# ── phones ─────────────────────────────────────────────────────────────────────────────────────────────────────────

# +49 30 1234567, +44 (0)20 7946 0958, 0049 30 1234567. A separator is demanded between groups, so no text is slow.
_INTERNATIONAL = re.compile(
    r"(?<![\w+.])(?:\+|00(?=[1-9]\d{0,2}[ .()/-]))[1-9]\d{0,14}(?:[ .-]?\(\d{1,5}\)[ .-]?\d{1,12})?"
    r"(?:[ ./-]\d{1,12}){0,6}(?!\w|[.,]\d)"
)
# (415) 555-2671, 415-555-2671, 415.555.2671; with spaces alone it could be any three numbers.
_AMERICAN = re.compile(
    r"(?<![\w+./-])(?<!\d )(?:1[ .-])?(?:\([2-9]\d\d\) ?[2-9]\d\d[ .-]\d{4}|[2-9]\d\d([.-])[2-9]\d\d\1\d{4})"
    r"(?!\w|[-./]\d)"
)
# 030 1234567, 0171/1234567, 06 12 34 56 78: area code with its zero, then groups; no dots, one slash: no dates.
_NATIONAL = re.compile(
    r"(?<![\w+.,/:-])(?<!\d )(?:\(0[1-9]\d{0,4}\) ?|0[1-9]\d{0,4}[ /-])\d{2,8}(?:[ -]\d{2,8}){0,4}(?!\w|/|[ .,:-]\d)"
)
# Any grouping after a word that says what it is: "Tel.: 555 2671", "call me at 4155552671".
_SAID = re.compile(
    r"(?:\b(?:(?:tele)?phone|tel|mobile|fax|call(?: me| us)?|whatsapp)\b|☎)[^\w+(]{0,4}"
    r"(?:(?:number|no|is|at)\b[^\w+(]{0,3}){0,2}(\(?\d[\d ()/-]{5,18}\d)(?!\w|[.,:/]\d)",
    re.IGNORECASE,
)
_DATES = re.compile(
    r"(?:19|20)\d\d[-/ ]\d\d?[-/ ]\d\d?|\d\d?[-/ ]\d\d?[-/ ](?:\d\d)?\d\d|(?:19|20)\d\d ?[-/ ] ?(?:19|20)\d\d"
)
# Pattern, the group that is the number, and how many digits it may have.
_PHONES = ((_INTERNATIONAL, 0, 8, 15), (_AMERICAN, 0, 10, 11), (_NATIONAL, 0, 9, 12), (_SAID, 1, 7, 15))
_UNGROUPED = 10  # digits an international number written in one piece has at least; +12345678 may be a sum


def _phones(text: str) -> Iterator[Hit]:
    found: list[Hit] = []
    for pattern, group, fewest, most in _PHONES:
        for match in pattern.finditer(text):
            number = match.group(group)
            digits = re.sub(r"\D", "", number)
            least = max(fewest, _UNGROUPED) if number.strip("+").isdigit() and group == 0 else fewest
            if least <= len(digits) <= most and len(set(digits)) > 1 and not _DATES.fullmatch(number):
                found.append(Hit("phone", match.start(group), match.end(group)))
    last = 0
    for hit in sorted(found, key=lambda one: (one.start, -one.end)):
        if hit.start >= last:
            last = hit.end
            yield hit
