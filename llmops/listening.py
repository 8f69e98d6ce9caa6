"""Where a service listens: read from its settings, and taken before anything else is started."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Annotated

from pydantic import Field, field_validator

from llmops.config import Settings
from llmops.errors import EnvironmentFault

_BACKLOG = 128

Address = Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$")]
"""A host and a port, an IPv6 address in brackets."""


class Listens(Settings):
    """What services have in common: an address of their own."""

    listen: Address
    """Address and port."""

    @field_validator("listen")
    @classmethod
    def _a_port(cls, listen: str) -> str:
        if int(listen.rpartition(":")[2]) > 65_535:
            raise ValueError("a port is at most 65535")
        return listen

    @property
    def host(self) -> str:
        """Where it listens, without brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Where it listens; 0 is any free one."""
        return int(self.listen.rpartition(":")[2])

    @property
    def loopback(self) -> bool:
        """Only this machine can ask."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host, as it is written, is this machine alone; of names, localhost is known to be."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def bound(service: Listens) -> Iterator[socket.socket]:
    """The socket it listens on, so that a port in use is said before engines or databases are opened.

    Raises:
        EnvironmentFault: it is in use, or not to be had.
    """
    try:
        found = socket.getaddrinfo(service.host, service.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise EnvironmentFault(f"{service.listen} is no address: {error.strerror}", fix="correct `listen`") from error
    family, kind, protocol, _, place = found[0]
    with socket.socket(family, kind, protocol) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(place)
            taken.listen(_BACKLOG)  # two that are only bound to a port do not disturb each other
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EnvironmentFault(
                    f"{service.listen} is in use by another program",
                    fix="end it, or set `listen` to another port (port 0 takes a free one)",
                ) from error
            if error.errno == errno.EACCES:
                raise EnvironmentFault(
                    f"{service.listen} may not be used by this user", fix="set `listen` to a port above 1023"
                ) from error
            raise EnvironmentFault(
                f"{service.listen} is no address of this machine: {error.strerror}", fix="correct `listen`"
            ) from error
        yield taken
