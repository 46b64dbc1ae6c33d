"""Recordings and arrays through the same loop as live audio."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .audio.files import BLOCK_SECONDS, open_recording
from .audio.outline import outline
from .audio.pcm import as_floats, mix
from .audio.resample import MAX_RATE, MIN_RATE, Resampler
from .errors import BadInput, Unavailable
from .events import End, Event, Final, Segment, Update, segment_fields
from .exports import formats
from .grid import HOP, RATE
from .loop import tick
from .manifest import DEFAULT, Manifest
from .scoring.textgrid import CHANNEL
from .short import stream_of
from .whole import WholeStream
from .zoo import Model, load

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """One row each 20 ms: ``probs`` ``[T, C]``, ``arousal`` and ``valence`` ``[T]`` in 0…1, f32; ``speech``
    ``[T]`` bool.

    Where there is no speech there is no emotion either: NaN.
    """

    probs: Array
    arousal: Array
    valence: Array
    speech: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Track:
    """One channel of a recording: its ``events`` in order, without the provisional ones, and its ``frames`` if kept."""

    channel: int
    role: str | None
    events: tuple[Event, ...]
    frames: Frames | None = field(default=None, compare=False)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Its segments, in order of time."""
        return tuple(event.segment for event in self.events if isinstance(event, Final))


@dataclass(frozen=True, slots=True, repr=False)
class Diarization:
    """Which emotion appears when. ``duration`` in seconds, ``labels`` in the order of a segment's ``probs``."""

    file: str
    duration: float
    labels: tuple[str, ...]
    tracks: tuple[Track, ...]

    def __repr__(self) -> str:
        channels = f"{len(self.tracks)} channel{'s' * (len(self.tracks) > 1)}"
        return f"<Diarization of {self.file!r}: {self.duration:.2f} s, {channels}, {len(self.segments)} segments>"

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of all channels, in order of their start."""
        found = [segment for track in self.tracks for segment in track.segments]
        return tuple(sorted(found, key=lambda segment: segment.start))

    @property
    def frames(self) -> Frames:
        """The frames of a recording of one channel. Raises ``BadInput`` when there are more, or none were kept."""
        if len(self.tracks) > 1:
            raise BadInput(f"Bad use of frames with {len(self.tracks)} channels, expected one: see tracks[n].frames")
        if self.tracks[0].frames is None:
            raise BadInput("Bad use of frames that were not kept, expected diarize(…, frames=True)")
        return self.tracks[0].frames

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a segment with audformat's names ``file, start, end, emotion, arousal, valence, role``, seconds
        as floats, then ``channel, confidence, entropy`` and one ``prob_X`` a label. Raises ``Unavailable`` without
        pandas."""
        try:
            import pandas
        except ImportError as error:
            raise Unavailable("Bad pandas 'missing', expected it for tables: pip install pandas") from error
        rows = [
            {
                **{name: row[name] for name in ("file", "start", "end", "emotion")},
                **{name: row[name]["mean"] for name in ("arousal", "valence")},
                **{name: row[name] for name in ("role", "channel", "confidence", "entropy")},
                **{f"prob_{label}": row["probs"][label] for label in self.labels},
            }
            for row in self.rows()
        ]
        text, number = pandas.Series(["text"]).dtype, "float64"
        # Of a recording without speech too, or a table of many would lose its types to it.
        types = {"file": text, "start": number, "end": number, "emotion": text, "arousal": number, "valence": number}
        types |= {"role": object, "channel": "int64", "confidence": number, "entropy": number}
        types |= {f"prob_{label}": number for label in self.labels}
        return pandas.DataFrame(rows, columns=list(types)).astype(types)

    def save(self, path: str | Path) -> None:
        """Write a file in the format of its suffix, whole or not at all. Raises ``BadInput`` for an unknown suffix or a
        path that cannot be written, ``Unavailable`` for parquet without pyarrow."""
        formats.save(self, formats.by_suffix(Path(path).suffix), Path(path))

    def plot(
        self, samples: Array | NDArray[np.int16] | None = None, rate: int | None = None
    ) -> matplotlib.figure.Figure:
        """Waveform, segments and the arousal curve of each channel as a picture; it shows itself in a notebook.

        The waveform is read from the file again, or drawn from ``samples`` as :func:`diarize` takes them.
        Raises ``BadInput`` for a file that cannot be read again or samples that do not fit, ``Unavailable`` without
        matplotlib.
        """
        from .exports.plot import figure

        if samples is None and self.file:
            return figure(self, *outline(open_recording(self.file), mixed=len(self.tracks) == 1))
        return figure(self, None if samples is None else as_floats(samples), rate)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dictionary a segment, with the wire's names, in order of start and channel."""
        pairs = [(segment, track) for track in self.tracks for segment in track.segments]
        for segment, track in sorted(pairs, key=lambda pair: (pair[0].start, pair[1].channel)):
            head = {"file": self.file, "channel": track.channel, "role": track.role}
            yield head | segment_fields(segment, self.labels)


def diarize(
    source: str | Path | Array | NDArray[np.int16],
    *,
    rate: int | None = None,
    model: str | Path | Model = DEFAULT,
    plan: str = "batch",
    labels: Sequence[str] | None = None,
    channels: str = "mix",
    roles: Sequence[str] | None = None,
    device: str = "cpu",
    frames: bool = True,
    progress: Callable[[float], None] | None = None,
) -> Diarization:
    """Diarize a file, or samples ``[n]`` or ``[n, 1…2]`` at ``rate`` Hz: floats in -1…1, or int16.

    ``plan``: ``batch`` (longer context, the default), ``live`` (what a live session answers, to the bit), or another of
    the model's.
    ``labels``: restrict the classes and renormalise. ``channels``: ``mix`` or ``split``; ``roles`` names them.
    ``frames``: keep them (1 MB for 9 min). ``progress`` is told the seconds done. Raises ``BadInput``,
    ``BadModel``, ``Unavailable``.
    """
    if isinstance(source, (str, os.PathLike)):
        if rate is not None:
            raise BadInput(f"Bad rate {rate!r} of '{source}', expected none: a file has its own")
        recording = open_recording(source)
        name, hertz, width = str(source), recording.rate, recording.channels
        blocks: Iterable[Array] = recording.blocks()
    else:
        array, hertz = _given(source, rate)
        name, width = "", array.shape[1]
        size = BLOCK_SECONDS * hertz
        blocks = (array[n : n + size] for n in range(0, len(array), size))
    loaded = model if isinstance(model, Model) else load(model, device)
    run = Run(loaded, name, hertz, width, plan=plan, labels=labels, channels=channels, roles=roles, frames=frames)

    def answer() -> None:
        while tick(loaded, run.streams):
            pass
        run.collect()
        if progress is not None:
            progress(run.streams[0].written / RATE)

    for block in blocks:
        run.write(run.resample(block))
        answer()
    run.write(run.resample(None))
    run.close()
    answer()
    return run.result()


def _given(source: Any, rate: Any) -> tuple[Array, int]:
    """Samples ``[n, channels]`` f32 and their rate in Hz, of an array as a caller has it."""
    if isinstance(source, bytes) or not hasattr(source, "__len__"):
        raise BadInput(f"Bad source of type {type(source).__name__}, expected a path or an array of samples")
    array = as_floats(source)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not 1 <= array.shape[1] <= 2:
        raise BadInput(f"Bad samples of shape {array.shape}, expected [n] or [n, 1…2]")
    if not len(array):
        raise BadInput("Bad samples, expected at least one")
    number = isinstance(rate, (int, float, np.integer, np.floating))
    if not number or rate % 1 or not MIN_RATE <= rate <= MAX_RATE:
        raise BadInput(f"Bad rate {rate!r}, expected that of the samples, {MIN_RATE} to {MAX_RATE} Hz")
    return array, int(rate)


def check(
    manifest: Manifest, plan: str, labels: Sequence[str] | None, channels: str, roles: Sequence[str] | None
) -> None:
    """Raises ``BadInput`` for settings with which no recording could be answered, ``BadModel`` for an unknown plan."""
    manifest.plan(plan)
    manifest.choose(labels)
    if channels not in ("mix", "split"):
        raise BadInput(f"Bad channels {channels!r}, expected mix or split")
    if roles is None:
        return
    most = 2 if channels == "split" else 1
    names = [roles] if isinstance(roles, str) else list(roles)
    # What a channel without a role is called in exports, and is read as there.
    told = all(isinstance(name, str) and name.strip() and not CHANNEL.fullmatch(name.strip()) for name in names)
    if not told or not 1 <= len(names) <= most or len(set(names)) < len(names):
        raise BadInput(
            f"Bad roles {','.join(map(str, names))!r}, expected another name for each channel, {most} at most"
        )


class Run:
    """One recording on its way through the loop: a stream for each channel that is answered.

    ``resample`` may be called on another thread than the rest, in order.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        rate: int,
        width: int,
        *,
        plan: str,
        labels: Sequence[str] | None,
        channels: str,
        roles: Sequence[str] | None,
        frames: bool = False,
    ) -> None:
        check(model.manifest, plan, labels, channels, roles)
        count = 2 if channels == "split" and width == 2 else 1
        if roles is not None:  # a column of a table too, which is neither true nor false
            roles = [roles] if isinstance(roles, str) else [str(role) for role in roles]
            if len(roles) != count:
                raise BadInput(f"Bad roles {','.join(roles)!r}, expected one name for each of {count} channels")
        self.name = name
        make = WholeStream if model.manifest.plan(plan).whole else stream_of
        self.streams = [make(model.manifest, plan, labels, keep_frames=frames) for _ in range(count)]
        self._frames: list[list[Any]] | None = [[] for _ in range(count)] if frames else None
        self._roles = roles
        self._resamplers = [Resampler(rate) for _ in range(count)]
        self._events: list[list[Event]] = [[] for _ in range(count)]

    def resample(self, block: Array | None) -> list[Array]:
        """A block ``[n, channels]`` f32 at the recording's rate, None at its end, to 16 kHz ``[m]`` for each stream."""
        if block is None:
            return [resampler.flush() for resampler in self._resamplers]
        split = len(self._resamplers) > 1
        columns = [block[:, n].copy() for n in range(block.shape[1])] if split else [mix(block)]
        return [resampler.push(column) for resampler, column in zip(self._resamplers, columns, strict=True)]

    def write(self, columns: list[Array]) -> None:
        """What ``resample`` gave, to the streams."""
        for stream, samples in zip(self.streams, columns, strict=True):
            stream.write(samples)

    def close(self) -> None:
        """The recording has ended."""
        for stream in self.streams:
            stream.close()

    def collect(self) -> None:
        """Take the events that the streams have now; provisional ones are of no use afterwards."""
        for stream, events in zip(self.streams, self._events, strict=True):
            events.extend(event for event in stream.events() if not isinstance(event, Update))
        if self._frames is not None:
            for stream, kept in zip(self.streams, self._frames, strict=True):
                kept.append(stream.frames())

    @property
    def done(self) -> bool:
        """Every event has been produced."""
        return all(stream.done for stream in self.streams)

    def result(self) -> Diarization:
        """The answer, once it is ``done`` and collected."""
        tracks = tuple(
            Track(n, self._roles[n] if self._roles else None, tuple(events), self._kept(n))
            for n, events in enumerate(self._events)
        )
        ends = [event.frames for events in self._events for event in events if isinstance(event, End)]
        return Diarization(self.name, max(ends) * HOP / RATE, self.streams[0].labels, tracks)

    def _kept(self, number: int) -> Frames | None:
        if self._frames is None:
            return None
        probs, affect, speech = (np.concatenate(parts) for parts in zip(*self._frames[number], strict=True))
        probs[~speech] = affect[~speech] = np.nan
        return Frames(probs, affect[:, 0], affect[:, 1], speech)
