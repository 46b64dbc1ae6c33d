"""Bearer tokens: 256 random bits each, of which a TOML file keeps the SHA-256, what they allow and until when.

One block a token; removing it revokes the token::

    [[token]]
    name = "dialler"
    sha256 = "…"
    scopes = ["stream"]
    expires = 2027-01-01T00:00:00+00:00  # optional, as are the limits
    sessions = 50  # at a time
    bytes_per_second = 800_000  # of all its sessions together
    client_secret = "…"  # base64: requests with this token must be signed with it, where a dialect can (AudioHook)
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ..errors import BadInput
from .watched import Watched

SCOPES = ("stream", "watch", "admin")
"""What a token may allow: send calls, follow calls, operate the server."""
PREFIX = "sed_"
"""How every token begins, so that a search for leaked secrets finds it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """What one token allows; the token itself is nowhere. ``expires``: with its offset. ``sessions``: connections at
    a time. ``bytes_per_second``: of all its sessions together, received. None: no limit. ``client_secret``: base64,
    what requests are signed with. Unlike the token it has to stand in the file as it is."""

    name: str
    sha256: str
    scopes: frozenset[str]
    expires: datetime | None = None
    sessions: int | None = None
    bytes_per_second: int | None = None
    client_secret: str | None = field(default=None, repr=False)

    def expired(self, now: datetime) -> bool:
        """Whether its time is over at ``now``, which has its offset."""
        return self.expires is not None and now >= self.expires


class TokenFile:
    """The tokens of a file, read again when it changes. A change that cannot be read leaves the last good ones in
    force and is logged. Raises ``BadInput`` when the file cannot be read at first."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._watched = Watched(self._path)
        self._tokens = read(self._path)

    def refresh(self) -> None:
        """Read the file again if it changed."""
        if not self._watched.changed():
            return
        try:
            self._tokens = read(self._path)
        except BadInput as error:
            log.error("tokens not read again, the last good ones stay in force: %s", error)
        else:
            log.info("tokens read again: %d", len(self._tokens))

    def find(self, secret: str) -> Token | None:
        """The token that ``secret`` is, expired or not. The time it takes tells nothing about the tokens there are."""
        self.refresh()
        presented = _hash(secret)
        found = None
        for token in self._tokens:  # all of them, whether or not one has matched
            if hmac.compare_digest(token.sha256, presented):
                found = token
        return found

    @property
    def names(self) -> frozenset[str]:
        """Of all of them."""
        return frozenset(token.name for token in self._tokens)

    def current(self, token: Token) -> Token | None:
        """What the file says now of a token found earlier; None: it was removed."""
        return next((other for other in self._tokens if other.sha256 == token.sha256), None)


def read(path: Path) -> tuple[Token, ...]:
    """The tokens of a file. Raises ``BadInput`` naming the token and what was expected."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Bad token file '{path}', expected one that can be read: {error}") from error
    except BadInput as error:
        raise BadInput(f"Bad token file '{path}': {error}") from error


def parse(text: str) -> tuple[Token, ...]:
    """The tokens of a file's text. Raises ``BadInput``; a field that is not known is an error, for a misspelt
    ``expires`` would let a token live for ever."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"Bad TOML, expected [[token]] blocks: {error}") from error
    blocks = document.pop("token", [])
    if document or not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise BadInput(f"Bad fields {', '.join(document) or 'token'!r}, expected only [[token]] blocks")
    tokens = tuple(map(_parse_block, blocks))
    for key in ("name", "sha256"):
        values = [getattr(token, key) for token in tokens]
        if twice := {value for value in values if values.count(value) > 1}:
            raise BadInput(f"Bad {key} {min(twice)!r}, expected each once")
    return tokens


def _parse_block(block: Mapping[str, object]) -> Token:
    name = block.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.@ -]{1,64}", name):
        raise BadInput(f"Bad token name {name!r}, expected 1 to 64 letters, digits, blanks or any of ._@-")
    unknown = set(block) - set(Token.__dataclass_fields__)
    if unknown:
        raise BadInput(
            f"Bad field {min(unknown)!r} of token {name!r}, expected {', '.join(Token.__dataclass_fields__)}"
        )
    sha256, scopes, expires = block.get("sha256"), block.get("scopes"), block.get("expires")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise BadInput(f"Bad sha256 of token {name!r}, expected 64 hexadecimal digits")
    if not isinstance(scopes, list) or not scopes or not all(scope in SCOPES for scope in scopes):
        raise BadInput(f"Bad scopes {scopes!r} of token {name!r}, expected some of {', '.join(SCOPES)}")
    if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
        raise BadInput(f"Bad expires {expires!s} of token {name!r}, expected a time like 2027-01-01T00:00:00Z")
    limits = {key: _limit(name, key, block.get(key)) for key in ("sessions", "bytes_per_second")}
    return Token(name, sha256, frozenset(scopes), expires, **limits, client_secret=_secret(name, block))


def _limit(name: str, key: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"Bad {key} {value!r} of token {name!r}, expected a whole number of at least 1")
    return value


def _secret(name: str, block: Mapping[str, object]) -> str | None:
    value = block.get("client_secret")
    if value is None:
        return None
    try:
        if not isinstance(value, str) or len(base64.b64decode(value, validate=True)) < 16:
            raise ValueError
    except ValueError:  # and never say what it is
        raise BadInput(f"Bad client_secret of token {name!r}, expected base64 of at least 16 bytes") from None
    return value


def add(
    path: str | Path,
    name: str,
    *,
    scopes: Sequence[str] = ("stream",),
    expires: datetime | None = None,
    sessions: int | None = None,
    bytes_per_second: int | None = None,
) -> str:
    """Make a token, append its hash to the file and return the token, which is kept nowhere.

    The file is made if there is none, readable by its owner only. Raises ``BadInput``, and then the file is as before.
    """
    path = Path(path)
    secret = PREFIX + secrets.token_urlsafe(32)
    lines = [
        "[[token]]",
        f"name = {json.dumps(name)}",  # a JSON string is a TOML string
        f'sha256 = "{_hash(secret)}"',
        f"scopes = {json.dumps(list(scopes))}",
    ]
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(UTC).isoformat(timespec='seconds')}")
    limits = {"sessions": sessions, "bytes_per_second": bytes_per_second}
    lines += [f"{key} = {value}" for key, value in limits.items() if value is not None]
    block = "\n".join(lines) + "\n"
    try:
        parse(block)  # before a file is made for it
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with open(file, "r+b", buffering=0) as stream:
            before = stream.readall().decode("utf-8")
            if before:
                block = ("\n" if before.endswith("\n") else "\n\n") + block
            parse(before + block)
            data = block.encode()
            written = 0
            try:
                written = stream.write(data)  # in one piece: a server that reads now sees all of it or nothing
            finally:
                if written < len(data):  # the disk is full
                    os.truncate(file, len(before.encode()))
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Bad token file '{path}', expected one that can be written: {error}") from error
    except BadInput as error:
        raise BadInput(f"Bad token file '{path}': {error}") from error
    return secret


def _hash(secret: str) -> str:
    # A fast hash is enough: nobody can try out 256 random bits.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
