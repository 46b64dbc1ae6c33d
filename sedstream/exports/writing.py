"""Files that appear whole or not at all, whatever ends the work."""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ..errors import BadInput

LONGEST = 255
"""Bytes of a file's name."""


def write_whole(out: Path, data: bytes) -> None:
    """A file that is complete or not there: what a kill leaves is hidden, and the next attempt overwrites it.

    Raises ``BadInput`` when it cannot be written.
    """
    part = part_of(out)
    try:
        part.write_bytes(data)
        os.replace(part, out)
    except OSError as error:
        forget(part)
        raise unwritable(out, error) from error


def check_writable(out: Path) -> None:
    """Raise ``BadInput`` where ``write_whole`` could not write: asked before the work, which may take hours."""
    part = part_of(out)
    try:
        if out.exists() and not out.is_file():
            raise BadInput(f"Bad output '{out}', expected a file, found something else of that name")
        part.touch()
        part.unlink()
    except OSError as error:
        raise unwritable(out, error) from error


def part_of(out: Path) -> Path:
    """What a file is called until it is whole: hidden, and beside it."""
    name = f".{out.name}.part"
    if len(os.fsencode(name)) > LONGEST:  # where the file's own name is just short enough
        name = f".{sha256(os.fsencode(out.name)).hexdigest()}.part"
    return out.parent / name


def forget(part: Path) -> None:
    """Remove a file that did not become whole."""
    with suppress(OSError):  # where there cannot be one, it need not go
        part.unlink()


def unwritable(out: Path, error: OSError) -> BadInput:
    """Why a file cannot be written."""
    return BadInput(f"Bad output '{out}', expected a file that can be written: {error.strerror}")
