"""Which recordings the names on a command line stand for: files, folders, patterns and lists."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from glob import has_magic
from pathlib import Path
from typing import TypeAlias

from .errors import BadInput
from .scoring.sheet import AUDIO

SUFFIXES = frozenset(AUDIO)
"""What counts as a recording inside a folder; a file named outright may be called anything."""
LISTS = {".txt", ".lst"}
"""Files that name one recording a line."""

Complain: TypeAlias = Callable[[Path, BadInput], None]
"""Told of a folder that cannot be read, and why."""


def find_recordings(names: Sequence[str], complain: Complain | None = None) -> list[tuple[Path, Path]]:
    """Recordings by file, folder (recursive), glob or list file: each with the name that its answers get in a folder.

    That is its path below the folder or below the fixed part of the pattern, its path as it stands in the list when
    that is relative, and else its file name. Symbolic links to folders are followed where they are named outright, and
    not below: a folder may hold a link to itself.

    ``complain``: is told of each folder below a named one, or where ``**`` looks, that cannot be read, and the rest is
    found; None: it is raised. Raises ``BadInput`` for a folder or list that cannot be read or holds no recording, and
    for a pattern that fits nothing.
    """
    found: dict[Path, Path] = {}
    for name in names:
        for path, relative in _named(name, complain):
            found.setdefault(path, relative)
    return list(found.items())


def _named(name: str, complain: Complain | None) -> list[tuple[Path, Path]]:
    path = Path(name)
    if os.path.isdir(path):
        return _inside(path, complain)
    if path.suffix.lower() in LISTS and os.path.isfile(path):
        return _listed(path)
    if has_magic(name) and not os.path.exists(path):
        return _fitting(name, complain)
    return [(path, Path(path.name))]


def _inside(folder: Path, complain: Complain | None) -> list[tuple[Path, Path]]:
    files, unread = _walk(folder, complain)
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found and not unread:
        raise BadInput(f"Bad folder '{folder}', expected at least one recording in it")
    return [(path, path.relative_to(folder)) for path in sorted(found)]


def _walk(folder: Path, complain: Complain | None) -> tuple[list[Path], int]:
    """The files below a folder, and how many folders there could not be read."""
    unread = 0

    def unreadable(error: OSError) -> None:
        nonlocal unread
        place = Path(error.filename)
        bad = BadInput(f"Bad folder '{place}', expected one that can be read: {error.strerror}")
        if complain is None or place == folder:
            raise bad from error
        complain(place, bad)
        unread += 1

    files = [Path(place, name) for place, _, names in os.walk(folder, onerror=unreadable) for name in names]
    return files, unread


def _listed(path: Path) -> list[tuple[Path, Path]]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise BadInput(f"Bad list '{path}', expected one that can be read: {error.strerror}") from error
    listed = [Path(line.strip()) for line in text.split("\n") if line.strip()]
    if not listed:
        raise BadInput(f"Bad list '{path}', expected the path of a recording in each line")
    return [(path.parent / one, Path(one.name) if one.is_absolute() or ".." in one.parts else one) for one in listed]


def _fitting(pattern: str, complain: Complain | None) -> list[tuple[Path, Path]]:
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if has_magic(part))
    base, rest = Path(*parts[:fixed]), str(Path(*parts[fixed:]))
    try:
        fitting = [path for path in sorted(base.glob(rest)) if os.path.isfile(path)]
    except (ValueError, OSError) as error:
        raise BadInput(f"Bad pattern {pattern!r}, expected one like calls/**/*.wav: {error}") from error
    # `**` passes over what it cannot read without a word.
    unread = _walk(base, complain)[1] if "**" in rest and base.is_dir() else 0
    if not fitting and not unread:
        raise BadInput(f"Bad pattern {pattern!r}, expected one that fits a recording")
    return [(path, path.relative_to(base)) for path in fitting]
