"""Which voices are held out for validation, where the labels do not say it."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from ..errors import BadInput

SHARE = 0.1
"""Of the labelled speech is held out, or a little more."""
MOST = 0.25
"""No voice is held out that would bring it over this share, as long as another one would do."""


class Told(NamedTuple):
    """Labelled speech: who speaks, in which file, the emotion, and frames of it."""

    speaker: str
    file: str
    emotion: int
    frames: int


def hold_out(speech: Sequence[Told]) -> set[str]:
    """The files that are held out: always the same ones of the same speech, and no voice of them is heard elsewhere.

    Voices that share a file stay together. The order is that of a hash of the names; an emotion is never taken from
    the training altogether.

    Raises:
        BadInput: there are no two voices apart, or holding out any of them would leave the training one emotion.
    """
    together = _together(speech)
    groups: dict[str, list[Told]] = defaultdict(list)
    for part in speech:
        groups[together[part.speaker]].append(part)
    if len(groups) < 2:
        raise BadInput(
            f"Bad speakers: all recordings are of {speech[0].speaker!r} or share a file, expected two voices apart, or "
            "a column split that says train or valid"
        )
    order = sorted(groups, key=lambda name: sha256(name.encode(errors="surrogateescape")).digest())
    total = sum(part.frames for part in speech)
    held: list[str] = []
    for most in (MOST, 0.5, 1.0):
        for name in order:
            size = sum(part.frames for held_name in (*held, name) for part in groups[held_name])
            rest = [part for other in groups if other not in (*held, name) for part in groups[other]]
            if size <= most * total and len({p.emotion for p in rest}) == len({p.emotion for p in speech}):
                held.append(name)
            if sum(part.frames for held_name in held for part in groups[held_name]) >= SHARE * total:
                break
        if held:
            return {part.file for name in held for part in groups[name]}
    raise BadInput(
        "Bad speakers: every voice has an emotion of its own, expected one to hold out whose emotions others have too, "
        "or a column split that says train or valid"
    )


def _together(speech: Sequence[Told]) -> dict[str, str]:
    """For each speaker the first of those that are connected to it by shared files."""
    first: dict[str, str] = {part.speaker: part.speaker for part in speech}

    def root(name: str) -> str:
        while first[name] != name:
            name = first[name]
        return name

    owner: dict[str, str] = {}
    for part in speech:
        one, two = root(owner.setdefault(part.file, part.speaker)), root(part.speaker)
        first[max(one, two)] = min(one, two)
    return {name: root(name) for name in first}
