"""What each command does; the command line only parses. Heavy modules are imported where they are used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadInput, SedstreamError
from .exports.screen import Screen, check_writable

if TYPE_CHECKING:
    from . import scoring
    from .progress import Progress


def diarize(options: argparse.Namespace) -> int:
    """Recordings and folders of them, to the screen, into a file or into a folder of answers."""
    from .sources import find_recordings

    out = options.out
    folder = out is not None and (out.endswith("/") or os.path.isdir(out) or not Path(out).suffix)
    if folder:
        if options.plot:
            raise BadInput(f"Bad plot '{options.plot}', expected no name: pictures stand beside the answers in '{out}'")
        return _diarize_folder(options)
    recordings = find_recordings(options.paths)
    if options.plot is not None and (not options.plot or len(recordings) != 1):
        raise BadInput(f"Bad plot '{options.plot}', expected a file for one recording, or a folder as --out")
    paths = [path for path, _ in recordings]
    names = _formats(options)
    to_file = out is not None and names not in (["jsonl"], ["table"])
    if to_file and not len(paths) == len(names) == 1:
        raise BadInput(f"Bad output '{out}', expected a folder for {len(paths)} recordings as {', '.join(names)}")
    if to_file or options.plot is not None:
        return _diarize_file(paths[0], names[0], options)
    return _diarize_all(paths, options)


def _formats(options: argparse.Namespace) -> list[str]:
    """The formats asked for, or that which the output's suffix says."""
    from .exports import formats

    if options.format is not None:
        names: list[str] = options.format
        for name in names:
            if name != "table":
                formats.find(name)
        return names
    if options.out is None:
        return ["table" if sys.stdout.isatty() else "jsonl"]
    return [formats.by_suffix(Path(options.out).suffix)]


def _diarize_folder(options: argparse.Namespace) -> int:
    from .folders import AnswerFolder
    from .progress import FolderProgress
    from .sources import find_recordings
    from .zoo import load

    unread: list[tuple[Path, str]] = []
    recordings = find_recordings(options.paths, lambda place, error: unread.append((place, str(error))))
    settings = {name: getattr(options, name) for name in ("plan", "labels", "channels", "roles")}
    names = options.format or ["jsonl"]
    model = load(options.model, options.device)
    pictures = options.plot is not None
    folder = AnswerFolder(Path(options.out), recordings, names, model, unread, pictures=pictures, **settings)
    with FolderProgress(quiet=options.quiet) as progress:
        totals = folder.run(progress.show)
    if not options.quiet:
        print(
            f"sedstream: {totals.done} done, {totals.skipped} unchanged, {len(totals.errors)} failed", file=sys.stderr
        )
    return 1 if totals.errors else 0


def _diarize_file(path: Path, name: str, options: argparse.Namespace) -> int:
    """One recording as a picture, in any format, or both."""
    from . import offline
    from .exports import formats, parquet, plot

    # What can fail at once should: the work may take hours.
    if options.plot is not None:
        plot.require(options.plot)
        check_writable(Path(options.plot))
    if name == "parquet":
        parquet.require()
    shown = options.out is None or name == "table"
    if not shown:
        check_writable(Path(options.out))
    settings = {key: getattr(options, key) for key in ("model", "plan", "labels", "channels", "roles", "device")}
    with _screen(options) if shown else nullcontext() as screen:
        answer = offline.diarize(path, frames=False, **settings)
        if options.plot is not None:
            plot.save(answer.plot(), options.plot)
        if screen is None:
            formats.save(answer, name, Path(options.out))
            return 0
        for row in answer.rows():
            screen.show(row)
    return 0


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
    with _screen(options) as screen, _progress(options) as progress:
        model = load(options.model, options.device)
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
                    frames=False,
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
            format=options.format[0] if options.format else None,
            out=options.out,
            quiet=options.quiet,
        )
    return 0


def serve(options: argparse.Namespace) -> int:
    """The server, until SIGINT or SIGTERM."""
    from .serving.command import run

    return run(options)


def tokens(options: argparse.Namespace) -> int:
    """The tokens of a server, or one more."""
    from datetime import UTC, datetime, timedelta

    from .serving import tokens as tokens_of

    now = datetime.now(UTC)
    if options.add is None:
        for token in tokens_of.read(Path(options.file)):
            facts = [", ".join(sorted(token.scopes))]
            facts += [f"until {token.expires:%Y-%m-%d %H:%M %Z}"] if token.expires else []
            facts += ["expired"] if token.expired(now) else []
            facts += [f"{token.sessions} sessions"] if token.sessions else []
            facts += [f"{token.bytes_per_second} bytes/s"] if token.bytes_per_second else []
            print(f"{token.name}  {'; '.join(facts)}")
        return 0
    try:
        expires = now + timedelta(days=options.days) if options.days else None
    except OverflowError as error:
        raise BadInput(f"Bad days {options.days:g}, expected fewer") from error
    limits = {name: getattr(options, name) for name in ("sessions", "bytes_per_second")}
    print(tokens_of.add(options.file, options.add, scopes=options.scopes, expires=expires, **limits))
    return 0


def stream(options: argparse.Namespace) -> int:
    """One recording through a server, paced like a call or as fast as it goes."""
    import asyncio

    from .audio.files import open_recording
    from .serving.client import stream_recording

    if not 0 <= options.speed < float("inf"):
        raise BadInput(f"Bad speed {options.speed}, expected a number above 0, or 0: as fast as it goes")
    recording = open_recording(options.path)
    token = None if options.token_file is None else _secret(options.token_file)

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
                token=token,
                tls_ca=options.tls_ca,
                reconnect=options.reconnect,
                progress=progress.add(recording.path.name, seconds, 0, 1),
            )
            async for message in messages:
                if message["type"] == "emotion.final":
                    screen.show(row_of(message, options.path))
                elif message["type"] == "gap":
                    print(f"sedstream: gap {message['start']:.2f}-{message['end']:.2f} s", file=sys.stderr)
                elif message["type"] == "session.end":
                    screen.file_done(options.path, message["duration"])

    asyncio.run(run())
    return 0


def _secret(path: str) -> str:
    """What a file holds, which in a flag everybody on the machine could read."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Bad token file '{path}', expected one that can be read: {error}") from error


def row_of(message: dict[str, object], file: str) -> dict[str, object]:
    """An ``emotion.final`` message with the fields of ``Diarization.rows``, in their order."""
    names = ("start", "end", "emotion", "confidence", "probs", "entropy", "arousal", "valence")
    head = {"file": file, "channel": message["channel"], "role": message["role"]}
    return head | {name: message[name] for name in names}


def score(options: argparse.Namespace) -> int:
    """A diarization against a reference."""
    import json

    from . import scoring

    settings = {name: getattr(options, name) for name in ("collar", "silence", "labels", "mapping")}
    if options.hypothesis is None:
        report = _score_zed(options, settings)
    else:
        report = scoring.score(options.reference, options.hypothesis, **settings)
    print(json.dumps(report.to_dict(), indent=2) if options.json else report.table().rstrip())
    return 0


def _score_zed(options: argparse.Namespace, settings: dict[str, Any]) -> scoring.Report:
    from .progress import FolderProgress
    from .zed import score_zed

    settings |= {name: getattr(options, name) for name in ("model", "plan", "device")}
    with FolderProgress(quiet=not sys.stderr.isatty()) as progress:
        return score_zed(options.reference, progress.show, **settings)


def bench(options: argparse.Namespace) -> int:
    """The sizing table of this machine, line by line as it is measured."""
    from . import capacity
    from .zoo import load

    for line in capacity.table(capacity.measure(load(options.model, options.device), options.plan, up_to=1.0)):
        print(line, flush=True)
    return 0


def models(options: argparse.Namespace) -> int:
    """The models at hand, or one: its card, whether it is whole, its weights."""
    from . import catalogue

    return catalogue.run(options)


def demo(options: argparse.Namespace) -> int:
    """The recordings that come with sedstream."""
    folder = Path(str(files("sedstream") / "demo"))
    options.channels, options.roles = "mix", None
    return _diarize_all(sorted(folder.glob("*.flac")), options)


def train(options: argparse.Namespace) -> int:
    """A model from a data folder."""
    from .training.command import run

    run(options)
    return 0


def _complain(error: SedstreamError) -> int:
    print(f"sedstream: {error}", file=sys.stderr)
    return 1


@contextmanager
def _screen(options: argparse.Namespace) -> Iterator[Screen]:
    names = _formats(options)
    if len(names) != 1 or names[0] not in ("table", "jsonl"):
        raise BadInput(f"Bad format {','.join(names)!r} for the screen, expected table or jsonl")
    with Screen(names[0], options.out) as screen:
        yield screen


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Progress]:
    from .progress import Progress

    with Progress(shown=not options.quiet and sys.stderr.isatty()) as progress:
        yield progress
