"""Which voices are held out for validation, where the labels do not say it."""

from collections import Counter, defaultdict
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
    sizes = {name: sum(part.frames for part in parts) for name, parts in groups.items()}
    emotions = {name: Counter(part.emotion for part in parts) for name, parts in groups.items()}
    total = sum(sizes.values())
    held: list[str] = []
    taken = 0
    left = Counter(part.emotion for part in speech)
    for most in (MOST, 0.5, 1.0):
        for name in order:
            spared = all(left[emotion] > count for emotion, count in emotions[name].items())
            if spared and taken + sizes[name] <= most * total:
                held.append(name)
                taken += sizes[name]
                left -= emotions[name]
            if taken >= SHARE * total:
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
            first[name] = name = first[first[name]]
        return name

    owner: dict[str, str] = {}
    for part in speech:
        one, two = root(owner.setdefault(part.file, part.speaker)), root(part.speaker)
        first[max(one, two)] = min(one, two)
    return {name: root(name) for name in first}
