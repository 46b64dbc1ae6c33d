"""Alerts without I/O or clock: rules over the segments of a channel, with a minimum duration and hysteresis.

A rule looks at one number of each segment: the mean probability of a label, or the mean arousal. Speech whose number
reaches ``threshold`` is counted; once ``min_duration`` seconds of it have come, the alert begins. A segment below
``release`` starts the count again, or ends the alert. In between an alert goes on, and a count waits. Silence neither
counts nor ends anything: nobody knows what a silent person feels.

A rule ``on = "final"`` looks at final segments only, so what it says is never taken back. ``on = "provisional"`` also
looks at the provisional ones behind them: sooner, and taken back (``end``) when they are revised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import BadInput
from ..events import End, Event, Final, Segment, Update
from ..grid import HOP, RATE, seconds

MAX_RULES = 32
"""Rules of one session."""
MAX_NAME = 100
"""Characters of a name of a rule, a label or a role."""
CITED = 16
"""Segments that an alert cites, the latest; ``start`` and ``end`` tell the whole span."""
TRACKS = ("arousal",)
STREAMS = ("final", "provisional")


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[alert]]``. ``label`` or ``track``: which number; ``threshold``, ``release``: 0…1; ``min_duration``:
    seconds of speech; ``role`` None: every channel."""

    name: str
    label: str | None = None
    track: str | None = None
    threshold: float = 0.5
    release: float = 0.5
    min_duration: float = 0.0
    role: str | None = None
    on: str = "final"

    def value(self, segment: Segment, labels: Sequence[str]) -> float:
        """The number that the rule looks at; 0 for a label that the session left out, or an arousal that its model does
        not tell."""
        if self.label is None:
            return segment.arousal_mean or 0.0
        return segment.probs[labels.index(self.label)] if self.label in labels else 0.0


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule that begins or ceases to hold on a channel. ``value``: the mean over the counted speech; ``segments``:
    number, start and end of those that it rests on, in frames, the latest ``CITED`` of them; ``at`` as in events."""

    rule: Rule
    begins: bool
    value: float
    start: int
    end: int
    segments: tuple[tuple[int, int, int], ...]
    at: int

    def fields(self) -> dict[str, Any]:
        """As on the wire, times in seconds."""
        cited = [{"seg": number, "start": seconds(a), "end": seconds(b)} for number, a, b in self.segments]
        return {
            "type": "alert",
            "name": self.rule.name,
            "state": "begin" if self.begins else "end",
            "on": self.rule.on,
            "label": self.rule.label,
            "track": self.rule.track,
            "value": round(self.value, 6),
            "start": seconds(self.start),
            "end": seconds(self.end),
            "segments": cited,
            "t_audio": round(self.at / RATE, 4),
        }


@dataclass(frozen=True, slots=True)
class _Count:
    """What a rule has seen of a channel. A value: provisional segments are tried on a copy."""

    holds: bool = False
    frames: int = 0
    weighted: float = 0.0
    start: int = 0
    end: int = 0
    segments: tuple[tuple[int, int, int], ...] = ()

    def add(self, rule: Rule, number: int, segment: Segment, value: float) -> _Count:
        if value < rule.release:
            return _Count()
        if value < rule.threshold and not self.holds:
            return self
        length = segment.end - segment.start
        frames = self.frames + length
        return _Count(
            holds=self.holds or frames * HOP >= rule.min_duration * RATE,
            frames=frames,
            weighted=self.weighted + value * length,
            start=self.start if self.frames else segment.start,
            end=segment.end,
            segments=(*self.segments, (number, segment.start, segment.end))[-CITED:],
        )


@dataclass(slots=True)
class _Watch:
    """One rule on one channel: what final segments say, and the count that was last told as begun."""

    settled: _Count
    told: _Count | None = None


class Alerts:
    """The rules of one session. ``roles``: one a channel; ``labels``: the session's, in the order of ``probs``."""

    def __init__(self, rules: Sequence[Rule], roles: Sequence[str | None], labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._roles = tuple(roles)
        self._watches: list[dict[Rule, _Watch]] = [{} for _ in roles]
        self._provisional: list[dict[int, Segment]] = [{} for _ in roles]
        self._at = [0] * len(self._roles)
        self.change(rules)

    def change(self, rules: Sequence[Rule]) -> list[tuple[int, Alert]]:
        """Other rules from now on: what is held by a rule that goes ends, new ones count from here."""
        ended = []
        for channel, role in enumerate(self._roles):
            old = self._watches[channel]
            fitting = [rule for rule in rules if rule.role is None or rule.role == role]
            self._watches[channel] = {rule: old.get(rule) or _Watch(_Count()) for rule in fitting}
            for rule, watch in old.items():
                if rule not in self._watches[channel] and watch.told is not None:
                    ended.append((channel, _alert(rule, watch.told, False, self._at[channel])))
        return ended

    def hear(self, channel: int, events: Iterable[Event]) -> list[Alert]:
        """What begins and ends by the events of one block of a channel: all of them at once, for the provisional
        segments of a block replace one another."""
        watches = self._watches[channel]
        told: list[Alert] = []
        for event in events:
            self._at[channel] = max(self._at[channel], event.at)
            match event:
                case Update(number=number, segment=segment):
                    self._forget(channel, lambda n, old: n >= number or old.start >= segment.start)
                    self._provisional[channel][number] = segment
                case Final(number=number, segment=segment):
                    self._forget(channel, lambda n, old: n <= number or old.start < segment.end)
                    for rule, watch in watches.items():
                        value = rule.value(segment, self._labels)
                        watch.settled = watch.settled.add(rule, number, segment, value)
                        if rule.on == "final" or watch.settled.holds:
                            told += self._tell(channel, rule, watch, watch.settled)
                case End():
                    for rule, watch in watches.items():
                        watch.settled = _Count()
                        told += self._tell(channel, rule, watch, watch.settled)
        for rule, watch in watches.items():
            if rule.on == "provisional":
                told += self._tell(channel, rule, watch, self._standing(rule, watch, channel))
        return told

    def _tell(self, channel: int, rule: Rule, watch: _Watch, now: _Count) -> list[Alert]:
        """The alert, if what was told of the rule is no longer so."""
        before, watch.told = watch.told, now if now.holds else None
        if now.holds and before is None:
            return [_alert(rule, now, True, self._at[channel])]
        if before is not None and not now.holds:
            return [_alert(rule, before, False, self._at[channel])]
        return []

    def _forget(self, channel: int, superseded: Callable[[int, Segment], bool]) -> None:
        kept = {n: old for n, old in self._provisional[channel].items() if not superseded(n, old)}
        self._provisional[channel] = kept

    def _standing(self, rule: Rule, watch: _Watch, channel: int) -> _Count:
        """The count with what is provisional."""
        count = watch.settled
        for number, segment in sorted(self._provisional[channel].items(), key=lambda item: item[0]):
            count = count.add(rule, number, segment, rule.value(segment, self._labels))
        return count


def _alert(rule: Rule, count: _Count, begins: bool, at: int) -> Alert:
    return Alert(rule, begins, count.weighted / count.frames, count.start, count.end, count.segments, at)


def parse_rules(tables: object) -> tuple[Rule, ...]:
    """Rules from tables of TOML or objects of JSON. Raises ``BadInput`` naming the rule, the field and what was
    expected."""
    if not isinstance(tables, list):
        raise BadInput(f"Bad alerts {_short(tables)}, expected a list of rules")
    if len(tables) > MAX_RULES:
        raise BadInput(f"Bad alerts: {len(tables)} rules, expected at most {MAX_RULES}")
    rules = tuple(_parse_rule(table, number) for number, table in enumerate(tables, 1))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"Bad alert name {name!r}, expected each name once")
    return rules


def check_rules(rules: Sequence[Rule], labels: Sequence[str], others: Sequence[Rule] = ()) -> None:
    """Raises ``BadInput`` for a rule that could never fire, as its label is none of ``labels``, or that could not be
    told from one of ``others`` by its name."""
    names = [rule.name for rule in others]
    for rule in rules:
        if rule.label is not None and rule.label not in labels:
            raise _bad(rule.name, "label", rule.label, f"one of {', '.join(labels)}")
        if rule.name in names:
            raise BadInput(f"Bad alert name {rule.name!r}, expected one that no rule of the server has")


def _parse_rule(table: object, number: int) -> Rule:
    if not isinstance(table, Mapping):
        raise BadInput(f"Bad alert {number}: {_short(table)}, expected a table with a name")
    name = table.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise BadInput(f"Bad name {_short(name)} of alert {number}, expected a text of 1 to {MAX_NAME} characters")
    known = [field.name for field in fields(Rule)]
    for key in table:
        if key not in known:
            raise BadInput(f"Bad field {_short(key)} of alert {name!r}, expected some of {', '.join(known)}")
    label, track, role, on = (table.get(key) for key in ("label", "track", "role", "on"))
    if (label is None) == (track is None):
        raise BadInput(f"Bad alert {name!r}, expected either a label or a track")
    if label is not None and not (isinstance(label, str) and len(label) <= MAX_NAME):
        raise _bad(name, "label", label, "the name of an emotion")
    if track is not None and track not in TRACKS:
        raise _bad(name, "track", track, " or ".join(TRACKS))
    if role is not None and not (isinstance(role, str) and len(role) <= MAX_NAME):
        raise _bad(name, "role", role, "the name of a channel's role")
    if on is not None and on not in STREAMS:
        raise _bad(name, "on", on, " or ".join(STREAMS))
    threshold = _number(table, name, "threshold", 1.0)
    if threshold is None:
        raise _bad(name, "threshold", None, "a number from 0 to 1")
    release = _number(table, name, "release", threshold)
    duration = _number(table, name, "min_duration", 3600.0)
    return replace(
        Rule(name, label, track, threshold, role=role),
        release=threshold if release is None else release,
        min_duration=duration or 0.0,
        on=on or "final",
    )


def _number(table: Mapping[str, Any], name: str, field: str, most: float) -> float | None:
    value = table.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise _bad(name, field, value, f"a number from 0 to {most:g}")
    return float(value)


def _bad(name: str, field: str, value: object, expected: str) -> BadInput:
    return BadInput(f"Bad {field} {_short(value)} of alert {name!r}, expected {expected}")


def _short(value: object) -> str:
    return repr(value)[:80] if isinstance(value, (str, int, float, type(None))) else type(value).__name__
