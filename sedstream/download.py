"""Files by URL into a model's folder: what is there is gone on with, checked by sha256, appears whole or not at all.

What is on its way is `NAME.part`, and beside it `NAME.etag`, by which the server knows whether it still has the same
file. A server that does not go on where asked is read from the beginning.
"""

from __future__ import annotations

import errno
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import BadInput, BadModel, Unavailable
from .manifest import digest

TRIES = 5
"""Connections that bring nothing, one after another, before it is given up."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk says that takes no more."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
SIZE = 1 << 20
"""Bytes that are read at once."""

Tell = Callable[[int, int | None], None]
"""Is told the bytes that are there, and of how many; None: not known."""


def fetch(url: str, path: Path, sha256: str = "", tell: Tell = lambda done, of: None) -> str:
    """Bring `url` to `path`; the sha256 of what came. `sha256` empty: nobody knows what it should be.

    Raises:
        BadInput: it cannot be written there.
        BadModel: it is not what it should be, or its URL is neither https nor this machine's.
        Unavailable: the server cannot be reached, refuses, or breaks off again and again: what came so far is kept.
    """
    _check(url)
    part = path.with_name(path.name + ".part")
    idle = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _go_on(url, part, tell):
                break
            reason = "the connection broke"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise Unavailable(f"Bad answer {error.code} for '{url}', expected a file") from error
            reason = f"answer {error.code}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and (error.filename or error.errno in FULL):  # it is ours, not the server's
                raise BadInput(f"Bad place '{part}' for a download: {error.strerror}, expected room for it") from error
            reason = str(error)
        grown = part.exists() and part.stat().st_size > before
        idle = 0 if grown else idle + 1
        if idle == TRIES:
            raise Unavailable(f"Bad connection for '{url}', expected a file: {reason}; run it again to go on")
    found = digest(part)
    if sha256 and found != sha256:
        for path in (part, _etag(part)):
            path.unlink(missing_ok=True)
        raise BadModel(f"Bad download '{url}', expected sha256 {sha256[:12]}…, found {found[:12]}…")
    os.replace(part, path)
    _etag(part).unlink(missing_ok=True)
    return found


def _go_on(url: str, part: Path, tell: Tell) -> bool:
    """Read on behind what is there; whether that was all of it."""
    have = part.stat().st_size if part.exists() else 0
    mark, known = _etag(part), _mark(part)
    request = urllib.request.Request(url, headers={"User-Agent": "sedstream"})
    if have and known:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known)
    try:
        response = _OPENER.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the file ends where we are, or before: what is there is of no use
            raise
        part.unlink()
        return False
    with response:
        more = response.status == 206
        of = _total(response)
        if not more:
            have = 0
            mark.unlink(missing_ok=True)
            etag = response.headers.get("ETag", "")
            if etag.isascii() and etag.startswith('"'):  # a weak one promises nothing about bytes
                mark.write_text(etag, encoding="ascii")
        with part.open("ab" if more else "wb") as file:
            tell(have, of)
            while piece := response.read(SIZE):
                file.write(piece)
                have += len(piece)
                tell(have, of)
    return of is None or have == of


def _total(response: Any) -> int | None:
    """Bytes of the whole file, as the server says."""
    text = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _etag(part: Path) -> Path:
    return part.with_suffix(".etag")


def _mark(part: Path) -> str:
    """By which the server knows what is there; empty: nothing that it could be told."""
    try:
        text = _etag(part).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return text if text.isprintable() else ""


def _check(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) != ("http", "127.0.0.1"):
        raise BadModel(f"Bad URL '{url}', expected https")


class _Checked(urllib.request.HTTPRedirectHandler):
    """Follows no one to where a file could be changed on its way."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Checked)
