"""Server-sent events out of bytes that come in any pieces."""

from __future__ import annotations

LARGEST = 16 * 2**20
"""Bytes of one event beyond which the sender is not believed any more."""


class TooLarge(ValueError):
    """An event that does not end."""


class Events:
    """Takes bytes as the network cut them, gives whole events: their lines, parted by one LF, without the empty line.

    CRLF, CR and LF all end a line. What stands between two empty lines is an event, a comment alone included.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are whole with `data`.

        Raises:
            TooLarge: an event has become larger than `LARGEST`.
        """
        if not data:
            return []
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        rest = self._rest
        if not rest and data.endswith(b"\n\n"):
            return [event for part in data.split(b"\n\n") if (event := part.strip(b"\n"))]
        # An empty line may be cut in two: look again at the last byte of what is there.
        start = max(len(rest) - 1, 0)
        rest += data
        end = rest.rfind(b"\n\n", start)
        if end < 0:
            if len(rest) > LARGEST:
                raise TooLarge(f"an event of more than {LARGEST} bytes")
            return []
        whole = bytes(rest[:end])
        del rest[: end + 2]
        return [event for part in whole.split(b"\n\n") if (event := part.strip(b"\n"))]

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return bytes(self._rest).strip(b"\n")

    def _with_lf(self, data: bytes) -> bytes:
        # CR and LF cut apart: the CR has become an LF already.
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def data_of(event: bytes) -> bytes | None:
    """The `data` of an event, its lines parted by LF; None where it has none."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[6:] if event[5:6] == b" " else event[5:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
