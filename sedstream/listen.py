"""The live face: a microphone, its ring, the engine and a panel that follows; segments go out as they become final."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .audio.microphone import Microphone, capture_ring, devices
from .audio.ring import Ring
from .engine import Delivery, Engine
from .errors import BadInput, SedstreamError, Unavailable
from .events import Arousal, End, Event, Final, Gap, Segment, SpeechEnd, SpeechStart, Update, segment_fields
from .exports import formats
from .exports.screen import Screen, clock
from .exports.writing import check_writable
from .grid import RATE
from .grid import seconds as seconds_of
from .manifest import DEFAULT
from .offline import diarize
from .zoo import Model, load

RING = 30 * 48_000
"""Samples between capture and model: half a minute at the usual rate of a sound card."""
PATIENCE = 2.0
"""Seconds that a microphone may take to close."""
LOOK = 0.1
"""Seconds between looks at the microphone and at the wish to stop."""


def listen(
    *,
    device: str | int | None = None,
    model: str | Path | Model = DEFAULT,
    plan: str = "live",
    labels: Sequence[str] | None = None,
    seconds: float | None = None,
    format: str | None = None,
    out: str | None = None,
    quiet: bool = False,
) -> None:
    """Diarize a microphone until SIGINT, SIGTERM, SIGHUP or ``seconds`` of audio; what was said until then is answered.

    Rows are those of ``Diarization.rows``, one a final segment, written at once; ``file`` is ``microphone:NAME`` and
    time counts from the start of capture. ``format``: ``table`` (a terminal's default) or ``jsonl``. ``out``: a file
    instead of stdout, whose suffix tells the format. Gaps go to stderr; where that is a terminal and not ``quiet``, a
    live panel stands there as well. Raises ``BadInput``, ``BadModel``, and ``Unavailable`` for a microphone that is
    missing or goes away: after its last segments have been written.
    """
    if seconds is not None and not 0 < seconds < float("inf"):
        raise BadInput(f"Bad seconds {seconds}, expected more than 0")
    if format is None and out is not None:
        format = formats.by_suffix(Path(out).suffix)
    chosen = ("table" if sys.stdout.isatty() else "jsonl") if format is None else format
    if chosen not in ("table", "jsonl"):
        raise BadInput(f"Bad format {chosen!r}, expected table or jsonl")
    # What can fail at once should: before the model.
    if out is not None:
        check_writable(Path(out))
    ring = capture_ring(RING)
    microphone = Microphone(ring, device)
    with _stopping() as stop:
        loaded = model if isinstance(model, Model) else load(model)
        _warm(loaded, plan, labels, microphone.rate)
        stop.begin()
        _listen(loaded, ring, microphone, stop, plan, labels, seconds, chosen, out, quiet)


def _listen(
    model: Model,
    ring: Ring,
    microphone: Microphone,
    stop: Stop,
    plan: str,
    labels: Sequence[str] | None,
    seconds: float | None,
    format: str,
    out: str | None,
    quiet: bool,
) -> None:
    inbox: SimpleQueue[list[Delivery]] = SimpleQueue()
    # Rows that go to the terminal by another way than the panel would be overwritten by it, and a long line be broken.
    shown = not quiet and sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal
    shown = shown and (out is not None or (format == "table" and sys.stdout.isatty()))
    failure: SedstreamError | None = None
    closing = done = False
    with (
        Panelled(microphone.device.name, shown) as panel,
        Screen(format, out, lasting=True) as screen,
        Engine(model, inbox.put) as engine,
        microphone,
    ):
        file = f"microphone:{microphone.device.name}"
        session = engine.open(microphone.rate, plan=plan, labels=labels, ring=ring)
        names = session.streams[0].labels
        if not quiet and not shown:
            print(f"sedstream: listening to {file} at {microphone.rate} Hz", file=sys.stderr, flush=True)
        while not done:
            for delivery in _arrived(inbox):
                for _, event in delivery.events:
                    panel.follow(event)
                    if isinstance(event, Final):
                        head = {"file": file, "channel": 0, "role": None}
                        screen.show(head | segment_fields(event.segment, names))
                    elif isinstance(event, Gap):
                        panel.warn(f"sedstream: gap {_span(event)}")
                    elif isinstance(event, End):
                        screen.file_done(file, seconds_of(event.frames))
                failure = delivery.error or failure
                done = done or delivery.done
            if not closing:
                try:
                    microphone.check(time.monotonic())
                except SedstreamError as error:
                    failure = error
                enough = seconds is not None and microphone.captured >= seconds * microphone.rate
                if failure or enough or stop.is_set():
                    closing = True
                    _close(microphone)
                    session.close()
            panel.draw(names, microphone, session.queued + len(ring) / microphone.rate)
    # Not inside: the rows up to here are complete, and a file of them is kept.
    if failure is not None:
        raise failure


def print_devices() -> None:
    """The microphones, one a line, on stdout. Raises ``Unavailable`` where there is none."""
    known = devices()
    if not known:
        raise Unavailable("Bad sound system, expected a microphone: there is none")
    for device in known:
        mark = "*" if device.default else " "
        print(f"{mark}{device.index:>3}  {device.name}  ({device.host}, {device.channels} channels, {device.rate} Hz)")


def _warm(model: Model, plan: str, labels: Sequence[str] | None, rate: int) -> None:
    """Compile and load everything on a second of silence: what happens while capturing must not hold up the capture."""
    model.warm(model.manifest.plan(plan))
    diarize(np.zeros(rate, np.float32), rate=rate, model=model, plan=plan, labels=labels)


def _arrived(inbox: SimpleQueue[list[Delivery]]) -> Iterator[Delivery]:
    """What the engine has handed over; waits ``LOOK`` seconds for the first."""
    wait = LOOK
    while True:
        try:
            yield from inbox.get(timeout=wait)
        except Empty:
            return
        wait = 0


def _span(gap: Gap) -> str:
    return f"{gap.sample / RATE:.3f}-{(gap.sample + gap.samples) / RATE:.3f} s"


def _close(microphone: Microphone) -> None:
    """Stop capturing; PortAudio would wait for a sound server that no longer answers."""
    closing = threading.Thread(target=microphone.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    if closing.is_alive():
        microphone.abandon()


class Stop(threading.Event):
    """The wish to stop. Until ``begin`` there is nothing that would have to be finished."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = False

    def begin(self) -> None:
        """Raises ``KeyboardInterrupt`` if the wish came before, and was lost in a callback of somebody's."""
        self.begun = True
        if self.is_set():
            raise KeyboardInterrupt


@contextmanager
def _stopping() -> Iterator[Stop]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; the second one means what it always means."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread can hear signals
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not on Windows; nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, action in before.items():
            signal.signal(number, action)

    def ask(number: int, frame: FrameType | None) -> None:
        restore()
        stop.set()
        if not stop.begun:
            os.kill(os.getpid(), number)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


class Panelled:
    """What happens right now, redrawn on stderr below the rows; nothing of it when not ``shown``."""

    WIDTH = 40

    def __init__(self, name: str, shown: bool) -> None:
        self._name = name
        self._segment: Segment | None = None
        self._mood: Arousal | None = None
        self._speaking = False
        self._console = Console(stderr=True)
        self._live: Live | None = None
        if shown:
            # Rows are printed above the panel when they go to the same terminal, and stay clean when they do not.
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty()
            )

    def __enter__(self) -> Panelled:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def follow(self, event: Event) -> None:
        """Remember what an event changes."""
        match event:
            case SpeechStart() | SpeechEnd():
                self._speaking = isinstance(event, SpeechStart)
                self._segment = None
            case Update():
                self._segment = event.segment
            case Arousal():
                self._mood = event

    def warn(self, line: str) -> None:
        """One line that stays."""
        if self._live is not None:
            self._console.print(Text(line, style="red"))
        else:
            print(line, file=sys.stderr, flush=True)

    def draw(self, labels: Sequence[str], microphone: Microphone, behind: float) -> None:
        """``behind``: seconds of audio captured and not answered yet."""
        if self._live is None:
            return
        segment = self._segment if self._speaking else None
        bars = Table.grid(padding=(0, 2))
        for n, label in enumerate(labels):
            probability = segment.probs[n] if segment is not None else 0.0
            best = segment is not None and label == segment.label
            bars.add_row(*self._bar(label, probability, "bold green" if best else "cyan"))
        mood = self._mood
        for label, value in (("arousal", mood.arousal if mood else None), ("valence", mood.valence if mood else None)):
            bars.add_row(*self._bar(label, value, "magenta"))
        bars.add_row(*self._bar("level", microphone.level(), "yellow"))
        state = Text("speech" if self._speaking else "silence", style="bold")
        if segment is not None:
            state.append(f"  {segment.label}")
        state.append(f"  {clock(microphone.captured / microphone.rate)}", style="not bold")
        state.append(f"  {behind:.1f} s behind", style="red" if behind > 2 else "not bold")
        if microphone.lost:
            state.append(f"  {microphone.lost / microphone.rate:.2f} s lost", style="red")
        self._live.update(Panel(Group(state, bars), title=Text(f"{self._name} · Ctrl-C ends"), width=72), refresh=True)

    def _bar(self, label: str, value: float | None, style: str) -> tuple[str, ProgressBar, str]:
        bar = ProgressBar(total=1.0, completed=min(value or 0.0, 1.0), width=self.WIDTH, complete_style=style)
        return label, bar, "" if value is None else f"{value:.2f}"
