"""Hosts: by which names a request may call a server that asks for no token.

A name leads wherever its owner says, to this server too: then a page of that name may read what the
server answers, as browsers take both for one site (DNS rebinding). The header Host still says the
name. An address cannot be led elsewhere, so any is taken.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from attar.serving.core.errors import BadRequestError, ForbiddenError

HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(:\d*)?")
"""A name or an address, and perhaps a port (RFC 9110 7.2)."""
LOOPBACK = "localhost"


@lru_cache(maxsize=256)
def parse_host(sent: bytes) -> str:
    """Return the name or the address in a header Host.

    Raises BadRequestError for anything else, several of them among it.
    """
    match = HOST.fullmatch(sent)
    if match is None:
        raise BadRequestError(
            f"the header Host is {sent[:80].decode('latin-1')!r}, expected one name or "
            "address, and a port"
        )
    return normalize_host(match[1].decode())


def normalize_host(name: str) -> str:
    return name.lower().removesuffix(".").removeprefix("[").removesuffix("]")


def check_host(sent: bytes, allowed: Collection[str]) -> None:
    """Raises BadRequestError and ForbiddenError."""
    name = parse_host(sent)
    if name not in allowed and name != LOOPBACK and parse_address(name) is None:
        raise ForbiddenError(
            f"{name[:80]!r} is not a known name of this server, so the request may come from a "
            "page of another site; start it with --allowed-host NAME, or with --token-file"
        )


def is_loopback(host: str) -> bool:
    address = parse_address(host)
    return address.is_loopback if address else host == LOOPBACK


def parse_address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None
