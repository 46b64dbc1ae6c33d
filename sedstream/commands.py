"""What each command does; the command line only parses. Heavy modules are imported where they are used."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadInput

if TYPE_CHECKING:
    from . import scoring


def diarize(options: argparse.Namespace) -> int:
    """Recordings and folders of them, to the screen, into a file or into a folder of answers."""
    from . import diarizing

    return diarizing.run(options)


def listen(options: argparse.Namespace) -> int:
    """The microphone, live."""
    if sys.stderr.isatty() and not options.quiet and not options.list_devices:
        # Somebody waits: some seconds, and more where nothing was compiled before.
        print(f"sedstream: loading {options.model}", file=sys.stderr, flush=True)
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
            format=None if options.format is None else ",".join(options.format),
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
    limits = {name: getattr(options, name) for name in ("sessions", "bytes_per_second")}
    if options.add is None:
        for name, value in {"scopes": options.scopes, "days": options.days, **limits}.items():
            if value is not None:
                raise BadInput(f"Bad option --{name.replace('_', '-')}, expected it with --add")
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
    scopes = {} if options.scopes is None else {"scopes": options.scopes}
    print(tokens_of.add(options.file, options.add, expires=expires, **scopes, **limits))
    return 0


def stream(options: argparse.Namespace) -> int:
    """One recording through a server, paced like a call or as fast as it goes."""
    import asyncio

    from .audio.files import open_recording
    from .diarizing import progressing, showing
    from .serving.client import stream_recording

    if not 0 <= options.speed < float("inf"):
        raise BadInput(f"Bad speed {options.speed}, expected a number above 0, or 0: as fast as it goes")
    recording = open_recording(options.path)
    token = None if options.token_file is None else _secret(options.token_file)

    async def run() -> None:
        seconds = recording.frames / recording.rate if recording.frames else None
        with showing(options) as screen, progressing(options) as progress:
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
    from .diarizing import run_all

    folder = Path(str(files("sedstream") / "demo"))
    options.channels, options.roles = "mix", None
    return run_all(sorted(folder.glob("*.flac")), options)


def train(options: argparse.Namespace) -> int:
    """A model from a data folder."""
    from .training.command import run

    run(options)
    return 0
