"""What a client may ask of a session, read from its JSON with every field checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..audio import pcm
from ..errors import BadInput, BadMessage
from .alerts import MAX_NAME, Rule, check_rules, parse_rules

VERSION = 1
MIN_RATE, MAX_RATE = 8_000, 48_000
OPTIONAL = ("speech.start", "speech.end", "emotion.update", "emotion.final", "arousal", "alert", "gap", "flow")
"""The server's message types that ``events`` chooses from; the others are always sent."""
MAX_DISCARDED = 3_600
"""Seconds that one ``discarded`` may tell."""


@dataclass(frozen=True, slots=True)
class Start:
    """A valid ``session.start``. ``latency``: seconds at most, or a plan's name, or None. ``model``, ``labels``:
    None: default. ``alerts``: rules beside those of the server."""

    encoding: str
    rate: int
    channels: int
    roles: tuple[str | None, ...]
    mix: bool = False
    model: str | None = None
    latency: float | str | None = None
    labels: tuple[str, ...] | None = None
    events: tuple[str, ...] = OPTIONAL
    alerts: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Resume:
    """A ``session.start`` that goes on with a session: ``seq`` is the last message that arrived, -1: none."""

    token: str
    seq: int


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples ``[n, channels]`` f32; those of the channels ``lost`` stand for what never arrived."""

    samples: NDArray[np.float32]
    lost: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Discarded:
    """``samples`` samples of each channel never leave the client: zeros and a ``gap`` take their place."""

    samples: int


@dataclass(frozen=True, slots=True)
class Finalize:
    """What was sent so far is to be made final."""


@dataclass(frozen=True, slots=True)
class Pause:
    """What arrives from here on is not analysed nor kept."""


@dataclass(frozen=True, slots=True)
class Continue:
    """The end of a pause."""


@dataclass(frozen=True, slots=True)
class Update:
    """New ``events`` or ``alerts``; None: as they were."""

    events: tuple[str, ...] | None
    alerts: tuple[Rule, ...] | None


@dataclass(frozen=True, slots=True)
class Close:
    """No more audio comes."""


Request: TypeAlias = Start | Resume | Audio | Discarded | Finalize | Pause | Continue | Update | Close


def parse_start(message: Mapping[str, Any]) -> Start | Resume:
    """Check a ``session.start``. Raises ``BadMessage`` naming the field and what was expected."""
    version = message.get("v", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise BadMessage("bad_version", f"Bad v {version!r}, expected {VERSION}")
    if message.get("resume") is not None:
        return _parse_resume(message["resume"])
    audio = message.get("audio", {})
    if not isinstance(audio, dict):
        raise _bad("audio", audio, "an object")
    encoding = audio.get("encoding", "s16le")
    if not isinstance(encoding, str) or encoding not in pcm.SAMPLE_BYTES:
        raise BadMessage("unknown_encoding", f"Bad encoding {encoding!r}, expected {', '.join(pcm.SAMPLE_BYTES)}")
    rate = audio.get("rate", 16_000)
    if not _whole(rate) or not MIN_RATE <= rate <= MAX_RATE:
        raise _bad("rate", rate, f"{MIN_RATE} to {MAX_RATE} Hz")
    channels = audio.get("channels", 1)
    if not _whole(channels) or channels not in (1, 2):
        raise _bad("channels", channels, "1 or 2")
    mix = audio.get("mix", False)
    if not isinstance(mix, bool):
        raise _bad("mix", mix, "true or false")
    tracks = 1 if mix else channels
    roles = audio.get("roles")
    if roles is None or roles == []:
        roles = [None] * tracks
    if not isinstance(roles, list) or not all(role is None or isinstance(role, str) for role in roles):
        raise _bad("roles", roles, "a list of names")
    if any(role is not None and len(role) > MAX_NAME for role in roles):  # each event repeats it
        raise _bad("roles", roles, f"names of at most {MAX_NAME} characters")
    if len(roles) != tracks:
        raise _bad("roles", roles, f"{tracks} of them")
    latency = message.get("latency")
    if latency is not None and (isinstance(latency, bool) or not isinstance(latency, (int, float, str))):
        raise _bad("latency", latency, "seconds or the name of a plan")
    model = message.get("model")
    if model is not None and not isinstance(model, str):
        raise _bad("model", model, "a name")
    events = _events(message)
    return Start(
        encoding=encoding,
        rate=rate,
        channels=channels,
        roles=tuple(roles),
        mix=mix,
        model=model,
        latency=latency,
        labels=_names(message, "labels"),
        events=OPTIONAL if events is None else events,
        alerts=_alerts(message) or (),
    )


def parse_update(message: Mapping[str, Any]) -> Update:
    """Check a ``session.update``. Raises ``BadMessage`` that is not fatal: what was in effect goes on."""
    try:
        return Update(_events(message), _alerts(message))
    except BadMessage as error:
        error.fatal = False
        raise


def check_alerts(rules: Sequence[Rule], labels: Sequence[str], others: Sequence[Rule], *, fatal: bool = True) -> None:
    """Check rules of a session by its ``labels`` and by ``others``, the server's. Raises ``BadMessage``."""
    try:
        check_rules(rules, labels, others)
    except BadInput as error:
        raise BadMessage("bad_value", str(error), fatal=fatal) from error


def parse_discarded(message: Mapping[str, Any], rate: int) -> Discarded:
    """Check a ``discarded``. Raises ``BadMessage``."""
    samples = message.get("samples")
    if not _whole(samples) or not isinstance(samples, int) or not 0 < samples <= MAX_DISCARDED * rate:
        raise _bad("samples", samples, f"1 to {MAX_DISCARDED * rate}")
    return Discarded(samples)


def _parse_resume(resume: object) -> Resume:
    if not isinstance(resume, dict) or not isinstance(resume.get("token"), str):
        raise _bad("resume", resume, "an object with a token and a seq")
    seq = resume.get("seq", -1)
    if not _whole(seq) or seq < -1:
        raise _bad("seq", seq, "the number of the last message that arrived, or -1")
    return Resume(resume["token"], seq)


def _events(message: Mapping[str, Any]) -> tuple[str, ...] | None:
    events = _names(message, "events")
    for name in events or ():
        if name not in OPTIONAL:
            raise _bad("events", name, f"some of {', '.join(OPTIONAL)}")
    return events


def _alerts(message: Mapping[str, Any]) -> tuple[Rule, ...] | None:
    rules = message.get("alerts")
    try:
        return None if rules is None else parse_rules(rules)
    except BadInput as error:
        raise BadMessage("bad_value", str(error)) from error


def _names(message: Mapping[str, Any], field: str) -> tuple[str, ...] | None:
    names = message.get(field)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _bad(field, names, "a list of names")
    return tuple(names)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bad(field: str, value: object, expected: str) -> BadMessage:
    return BadMessage("bad_value", f"Bad {field} {str(value)[:80]!r}, expected {expected}")
