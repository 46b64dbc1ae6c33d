"""Where a server may listen."""

from __future__ import annotations

import errno
import ipaddress
import socket

from ..errors import BadInput, Unavailable


def expect_port(port: int) -> None:
    """Raises ``BadInput`` for a number that is no port; 0 is any free one."""
    if not 0 <= port <= 65_535:
        raise BadInput(f"Bad port {port}, expected 0 to 65535")


def expect_free(host: str, port: int) -> None:
    """Raises ``Unavailable`` if nobody can listen there now, ``BadInput`` for what can be no host."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio's servers do
                probe.bind(address)
    except (OSError, UnicodeError) as error:
        raise taken(host, port, error) from error


def taken(host: str, port: int, error: OSError | UnicodeError) -> BadInput | Unavailable:
    """Why nobody can listen there."""
    if isinstance(error, UnicodeError):
        return BadInput(f"Bad host {host!r}, expected a name or an address of this machine")
    reason = "it is in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
    return Unavailable(f"Bad address {host}:{port}, expected a free one: {reason}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
