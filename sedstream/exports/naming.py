"""Names in files: what a channel is called, and names that no line-based or XML format can hold as they are."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..offline import Track

_NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories that end a line, or that XML or UTF-8 exclude: control, surrogate, line and paragraph breaks."""


def one_line(text: str) -> str:
    """``text`` with line breaks, control characters and bytes that are not UTF-8 as Python escapes: ``\\x0a``."""
    if text.isprintable():
        return text
    return "".join(_escaped(char) if _is_no_text(char) else char for char in text)


def voices(tracks: Sequence[Track]) -> tuple[str, ...]:
    """What each track is called where people read it: its role, or ``channel 0``; never one name for two tracks."""
    names: list[str] = []
    for track in tracks:
        name = one_line(track.role or "").strip() or f"channel {track.channel}"
        while name in names:
            name += f" ({track.channel})"
        names.append(name)
    return tuple(names)


def speakers(tracks: Sequence[Track]) -> dict[int, str | None]:
    """The voice of each channel; None for the only channel where it has no role: there is nothing to tell apart."""
    if len(tracks) == 1 and not tracks[0].role:
        return {tracks[0].channel: None}
    return {track.channel: voice for track, voice in zip(tracks, voices(tracks), strict=True)}


def _is_no_text(char: str) -> bool:
    return unicodedata.category(char) in _NO_TEXT or ord(char) & 0xFFFE == 0xFFFE  # U+FFFE and U+FFFF: not in XML


def _escaped(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"
