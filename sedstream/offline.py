"""Recordings and arrays through the same loop as live audio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio.files import BLOCK_SECONDS, open_recording
from .audio.resample import Resampler
from .errors import BadInput
from .events import End, Event, Final, Segment, segment_fields
from .grid import HOP, RATE
from .manifest import DEFAULT
from .stream import Stream
from .tick import tick
from .zoo import Model, load

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Track:
    """One channel of a recording: its ``events`` in order."""

    channel: int
    role: str | None
    events: tuple[Event, ...]

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(event.segment for event in self.events if isinstance(event, Final))


@dataclass(frozen=True, slots=True)
class Diarization:
    """Which emotion appears when. ``duration`` in seconds, ``labels`` in the order of a segment's ``probs``."""

    file: str
    duration: float
    labels: tuple[str, ...]
    tracks: tuple[Track, ...]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of all channels, in order of their start."""
        found = [segment for track in self.tracks for segment in track.segments]
        return tuple(sorted(found, key=lambda segment: segment.start))

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dictionary a segment, with the wire's names, in order of start and channel."""
        pairs = [(segment, track) for track in self.tracks for segment in track.segments]
        for segment, track in sorted(pairs, key=lambda pair: (pair[0].start, pair[1].channel)):
            head = {"file": self.file, "channel": track.channel, "role": track.role}
            yield head | segment_fields(segment, self.labels)


def diarize(
    source: str | Path | Array,
    *,
    rate: int | None = None,
    model: str | Path | Model = DEFAULT,
    plan: str = "batch",
    labels: Sequence[str] | None = None,
    channels: str = "mix",
    roles: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Diarization:
    """Diarize a file, or samples ``[n]`` or ``[n, 1…2]`` in -1…1 at ``rate`` Hz.

    ``plan``: ``batch`` (longer context, the default) or ``live`` (what a live session answers, to the bit).
    ``labels``: restrict the classes and renormalise. ``channels``: ``mix`` or ``split``; ``roles`` names them.
    ``progress`` is told the seconds done. Raises ``BadInput``, ``BadModel``, ``Unavailable``.
    """
    if isinstance(source, (str, Path)):
        recording = open_recording(source)
        name, rate, width = str(source), recording.rate, recording.channels
        blocks: Iterable[Array] = recording.blocks()
    else:
        array = np.asarray(source, np.float32)
        array = array[:, None] if array.ndim == 1 else array
        if rate is None:
            raise BadInput("Bad rate None, expected the sample rate of the array in Hz")
        if array.ndim != 2 or not 1 <= array.shape[1] <= 2:
            raise BadInput(f"Bad samples of shape {np.shape(source)}, expected [n] or [n, 1…2]")
        if not len(array):
            raise BadInput("Bad samples, expected at least one")
        name, width = "", array.shape[1]
        size = BLOCK_SECONDS * rate
        blocks = (array[n : n + size] for n in range(0, len(array), size))
    if channels not in ("mix", "split"):
        raise BadInput(f"Bad channels {channels!r}, expected mix or split")
    split = channels == "split" and width == 2
    if roles is not None and len(roles) != (2 if split else 1):
        raise BadInput(f"Bad roles {','.join(roles)!r}, expected one name for each of {2 if split else 1} channels")
    loaded = model if isinstance(model, Model) else load(model, device)
    resamplers = [Resampler(rate) for _ in range(2 if split else 1)]
    streams = [Stream(loaded.manifest, plan, labels) for _ in resamplers]
    collected: list[list[Event]] = [[] for _ in streams]

    def drain() -> None:
        while tick(loaded, streams):
            pass
        for stream, events in zip(streams, collected, strict=True):
            events.extend(stream.events())
        if progress is not None:
            progress(streams[0].written / RATE)

    for block in blocks:
        for column, (stream, resampler) in enumerate(zip(streams, resamplers, strict=True)):
            stream.write(resampler.push(block[:, column].copy() if split else mix(block)))
        drain()
    for stream, resampler in zip(streams, resamplers, strict=True):
        stream.write(resampler.flush())
        stream.close()
    drain()
    tracks = tuple(Track(n, roles[n] if roles else None, tuple(events)) for n, events in enumerate(collected))
    ends = [event.frames for events in collected for event in events if isinstance(event, End)]
    return Diarization(name, max(ends) * HOP / RATE, streams[0].labels, tracks)


def mix(block: Array) -> Array:
    """Samples ``[n, channels]`` to one channel ``[n]``: the mean."""
    if block.shape[1] == 1:
        return block[:, 0].copy()
    return ((block[:, 0] + block[:, 1]) * np.float32(0.5)).astype(np.float32)
