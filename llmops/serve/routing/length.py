"""How many tokens a text will be, told from its characters: no tokenizer is at hand where the gateway runs.

Tokens are a weighted sum of what a text is made of: words, letters, digits and so on. The weights are the
least-squares fit, relative to each text's length, to the tokenizers Mistral v3 (32,768 entries) and Tekken (131,072
entries) together, on English questions and answers, restaurants' records, Python sources and translated messages in
14 languages; `tests/serve/routing/test_length.py` makes the fit again and holds the errors stated here.
"""

from __future__ import annotations

_LETTER, _DIGIT, _MARK, _SPACE, _LINE, _TWO, _THREE, _FOUR, _REST = (bytes([number]) for number in range(9))


def _class_of(byte: int) -> bytes:
    character = chr(byte)
    if byte < 0x80:
        if character.isalpha():
            return _LETTER
        if character.isdigit():
            return _DIGIT
        if character in "\n\r":
            return _LINE
        return _SPACE if character.isspace() else _MARK
    if byte < 0xC0:  # within a character of UTF-8
        return _REST
    return _TWO if byte < 0xE0 else _THREE if byte < 0xF0 else _FOUR


_CLASSES = b"".join(map(_class_of, range(256)))


def parts(text: str) -> tuple[int, ...]:
    """What `text` is made of: words, letters, digits, marks, blanks beyond one a word, ends of lines, and characters
    of two, three and four bytes in UTF-8 (accented, Greek, Cyrillic, Arabic; Chinese, Japanese, Indic; emoji)."""
    classes = text.encode("utf-8", "replace").translate(_CLASSES)
    words = len(text.split())
    return (
        words,
        classes.count(_LETTER),
        classes.count(_DIGIT),
        classes.count(_MARK),
        max(0, classes.count(_SPACE) - words),
        classes.count(_LINE),
        classes.count(_TWO),
        classes.count(_THREE),
        classes.count(_FOUR),
    )
