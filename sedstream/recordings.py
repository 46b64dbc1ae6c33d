"""Many recordings at once: read ahead in threads, their blocks side by side in each tick, results as they finish."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import cores
from .audio.files import open_recording
from .errors import BadInput, SedstreamError
from .grid import HOP
from .loop import tick
from .manifest import DEFAULT
from .offline import Diarization, Run, check
from .zoo import Model, load

Array = NDArray[np.float32]

CORES = cores.count()
ABREAST = min(16, 4 * CORES)
"""Recordings under way: with four rows a core no core waits long for the others in a tick, and memory is bounded."""
AHEAD = 4
"""Blocks of 4 s that a reader may be ahead of the model."""
PATIENCE = 0.02
"""Seconds without news from a reader after which a tick is made without it."""


def diarize_many(
    paths: Iterable[str | Path],
    *,
    model: str | Path | Model = DEFAULT,
    plan: str = "batch",
    labels: Sequence[str] | None = None,
    channels: str = "mix",
    roles: Sequence[str] | None = None,
    device: str = "cpu",
) -> Iterator[tuple[Path, Diarization | SedstreamError]]:
    """Diarize any number of recordings in constant memory: yields each path with its answer, as they finish.

    Arguments and answers are those of :func:`sedstream.diarize`, to the bit. A recording that cannot be read yields the
    error instead of an answer, and the others go on. Raises ``BadModel``, and ``BadInput`` for an unusable device,
    for what is no path, or for settings with which no recording could be answered.
    """
    if isinstance(paths, (str, bytes)) or not isinstance(paths, Iterable):
        raise BadInput(f"Bad paths {paths!r}, expected a list of them")
    loaded = model if isinstance(model, Model) else load(model, device)
    check(loaded.manifest, plan, labels, channels, roles)
    waiting = iter(paths)
    news = threading.Event()
    stopping = threading.Event()
    jobs: list[_Job] = []
    with (
        ThreadPoolExecutor(ABREAST, "sedstream-read") as readers,
        ThreadPoolExecutor(CORES, "sedstream-row", initializer=cores.one_core) as rows,
    ):
        try:
            while True:
                for path in islice(waiting, ABREAST - len(jobs)):
                    if not isinstance(path, (str, os.PathLike)):
                        raise BadInput(f"Bad path {path!r}, expected that of a recording")
                    job = _Job(Path(path), news, stopping)
                    readers.submit(job.read, loaded, plan, labels, channels, roles)
                    jobs.append(job)
                if not jobs:
                    return
                # A tick with one row leaves all cores but one idle, so it waits until each recording has a block. A
                # reader that is too slow for that (a network disk) holds nobody up for long.
                news.clear()
                while any(job.take() for job in jobs):
                    pass
                if any(job.hungry for job in jobs) and news.wait(PATIENCE):
                    continue
                streams = [stream for job in jobs if job.run is not None for stream in job.run.streams]
                answered = tick(loaded, streams, rows.map)
                over = [job for job in jobs if job.over]
                for job in over:
                    jobs.remove(job)
                    yield job.path, job.answer()
                if not answered and not over:
                    news.wait()
        finally:
            stopping.set()


class _Job:
    """One recording under way. A reader thread fills the queue, the loop's thread empties it."""

    def __init__(self, path: Path, news: threading.Event, stopping: threading.Event) -> None:
        self.path = path
        self.run: Run | None = None
        self._news = news
        self._stopping = stopping
        self._queue: queue.Queue[Run | list[Array] | Exception | None] = queue.Queue(AHEAD)
        self._error: SedstreamError | None = None
        self._read = False

    def read(
        self,
        model: Model,
        plan: str,
        labels: Sequence[str] | None,
        channels: str,
        roles: Sequence[str] | None,
    ) -> None:
        """Reader thread: the recording, decoded and resampled; then None, or what went wrong."""
        try:
            recording = open_recording(self.path)
            name, rate, width = str(self.path), recording.rate, recording.channels
            run = Run(model, name, rate, width, plan=plan, labels=labels, channels=channels, roles=roles)
            self._put(run)
            for block in recording.blocks():
                if self._stopping.is_set():
                    return
                self._put(run.resample(block))
            self._put(run.resample(None))
            self._put(None)
        except OSError as error:
            self._put(BadInput(f"Bad recording '{self.path}', expected one that can be read: {error.strerror}"))
        except Exception as error:  # also what nobody foresaw: a reader that dies in silence would stop the run
            self._put(error)

    def _put(self, part: Run | list[Array] | Exception | None) -> None:
        while not self._stopping.is_set():
            try:
                self._queue.put(part, timeout=0.1)
            except queue.Full:
                continue
            self._news.set()
            return

    @property
    def hungry(self) -> bool:
        """Whether the reader has more to come, and the streams have no whole block to answer."""
        if self._read or self._error is not None:
            return False
        run = self.run
        return run is None or all(
            stream.plan.whole or stream.waiting <= (stream.plan.step + stream.plan.window) * HOP
            for stream in run.streams
        )

    def take(self) -> bool:
        """Hand what the reader has to the streams, unless they still have blocks to answer; whether anything came."""
        if not self.hungry:
            return False
        run = self.run
        try:
            part = self._queue.get_nowait()
        except queue.Empty:
            return False
        if isinstance(part, Run):
            self.run = part
        elif isinstance(part, SedstreamError):
            self._error = part
        elif isinstance(part, Exception):
            raise part
        elif run is not None:
            if part is None:
                self._read = True
                run.close()
            else:
                run.write(part)
        return True

    @property
    def over(self) -> bool:
        if self.run is not None:
            self.run.collect()
        return self._error is not None or (self.run is not None and self.run.done)

    def answer(self) -> Diarization | SedstreamError:
        if self._error is not None or self.run is None:
            return self._error or SedstreamError("Bad state of a recording, expected an answer")
        return self.run.result()
