"""What each command does; the command line only parses. Heavy modules are imported where they are used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BadInput, BadModel, SedstreamError
from .exports.screen import Screen

if TYPE_CHECKING:
    from .progress import Progress

AUDIO = {".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".wma", ".aiff", ".au"}
"""What counts as a recording inside a folder; a file named outright may be called anything."""


def diarize(options: argparse.Namespace) -> int:
    """Recordings and folders of them; a bad one is told in a line and the others are done all the same."""
    paths = _recordings(options.paths)
    return _diarize_all(paths, options)


def _diarize_all(paths: Sequence[Path], options: argparse.Namespace) -> int:
    from . import offline
    from .audio.files import open_recording
    from .zoo import load

    opened = []
    failed = 0
    for path in paths:  # before the model is loaded: a wrong name is told at once
        try:
            opened.append(open_recording(path))
        except SedstreamError as error:
            failed += _complain(error)
    if not opened:
        return 2
    model = load(options.model, options.device)
    with _screen(options) as screen, _progress(options) as progress:
        for number, recording in enumerate(opened):
            seconds = recording.frames / recording.rate if recording.frames else None
            update = progress.add(recording.path.name, seconds, number, len(opened))
            try:
                answer = offline.diarize(
                    recording.path,
                    model=model,
                    plan=options.plan,
                    labels=options.labels,
                    channels=getattr(options, "channels", "mix"),
                    roles=getattr(options, "roles", None),
                    progress=update,
                )
            except BadInput as error:
                failed += _complain(error)
                continue
            for row in answer.rows():
                screen.show(row)
            screen.file_done(str(recording.path), answer.duration)
        if failed:
            screen.give_up()
    return 2 if failed else 0


def listen(options: argparse.Namespace) -> int:
    """The microphone, live."""
    from . import listen as microphone

    if options.list_devices:
        microphone.print_devices()
    else:
        microphone.listen(
            device=options.device,
            model=options.model,
            plan=options.plan,
            labels=options.labels,
            seconds=options.seconds,
            format=options.format,
            out=options.out,
            quiet=options.quiet,
        )
    return 0


def serve(options: argparse.Namespace) -> int:
    """The server, until SIGINT or SIGTERM."""
    import asyncio
    import logging
    import signal

    from .serving.server import Server
    from .zoo import load

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("websockets").setLevel(logging.WARNING)
    model = load(options.model, options.device)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with Server(model, options.host, options.port) as server:
            print(f"listening on {server.url}", flush=True)
            await stop.wait()

    asyncio.run(run())
    return 0


def stream(options: argparse.Namespace) -> int:
    """One recording through a server, paced like a call or as fast as it goes."""
    import asyncio

    from .audio.files import open_recording
    from .serving.client import stream_recording

    if options.speed < 0:
        raise BadInput(f"Bad speed {options.speed}, expected 0 or more")
    recording = open_recording(options.path)

    async def run() -> None:
        seconds = recording.frames / recording.rate if recording.frames else None
        with _screen(options) as screen, _progress(options) as progress:
            messages = stream_recording(
                options.url,
                recording,
                packet=options.packet,
                speed=options.speed,
                split=options.channels == "split",
                roles=options.roles,
                latency=options.plan,
                labels=options.labels,
                progress=progress.add(recording.path.name, seconds, 0, 1),
            )
            async for message in messages:
                if message["type"] == "emotion.final":
                    screen.show(row_of(message, options.path))
                elif message["type"] == "gap":
                    print(f"sedstream: gap {message['start']:.2f}-{message['end']:.2f} s", file=sys.stderr)

    asyncio.run(run())
    return 0


def row_of(message: dict[str, object], file: str) -> dict[str, object]:
    """An ``emotion.final`` message with the fields of ``Diarization.rows``, in their order."""
    names = ("start", "end", "emotion", "confidence", "probs", "entropy", "arousal", "valence")
    head = {"file": file, "channel": message["channel"], "role": message["role"]}
    return head | {name: message[name] for name in names}


def models(options: argparse.Namespace) -> int:
    """Every model at hand, verified."""
    from .manifest import installed, read

    failed = 0
    for folder in installed():
        try:
            manifest = read(folder)
            manifest.verify()
        except BadModel as error:
            failed += _complain(error)
            continue
        plans = ", ".join(f"{name} {plan.latency:.2f} s" for name, plan in manifest.plans.items())
        print(f"{manifest.name} {manifest.version}  {manifest.kind} {manifest.family}, {manifest.licence}, verified")
        print(f"  labels: {', '.join(manifest.labels)}; arousal, valence")
        print(f"  algorithmic latency: {plans}")
        print(f"  {folder}")
    return 2 if failed else 0


def demo(options: argparse.Namespace) -> int:
    """The recordings that come with sedstream."""
    folder = Path(str(files("sedstream") / "demo"))
    options.channels, options.roles = "mix", None
    return _diarize_all(sorted(folder.glob("*.flac")), options)


def train(options: argparse.Namespace) -> int:
    """The default model from a data folder."""
    from .training.command import run

    run(options)
    return 0


def _recordings(paths: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO and p.is_file())
        if not inside:
            raise BadInput(f"Bad folder '{path}', expected at least one recording in it")
        found += inside
    return found


def _complain(error: SedstreamError) -> int:
    print(f"sedstream: {error}", file=sys.stderr)
    return 1


@contextmanager
def _screen(options: argparse.Namespace) -> Iterator[Screen]:
    kind = options.format or ("table" if options.out is None and sys.stdout.isatty() else "jsonl")
    with Screen(kind, options.out) as screen:
        yield screen


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Progress]:
    from .progress import Progress

    with Progress(shown=not options.quiet and sys.stderr.isatty()) as progress:
        yield progress
