"""The command ``diarize``: recordings to the screen, into a file or into a folder of answers.

Heavy modules are imported where they are used.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BadInput, SedstreamError
from .exports.screen import Screen
from .exports.writing import check_writable

if TYPE_CHECKING:
    from .progress import Progress


def run(options: argparse.Namespace) -> int:
    """Recordings and folders of them, to the screen, into a file or into a folder of answers."""
    from .sources import find_recordings

    out = options.out
    folder = out is not None and (out.endswith("/") or os.path.isdir(out) or not Path(out).suffix)
    if folder:
        if options.plot:
            raise BadInput(f"Bad plot '{options.plot}', expected no name: pictures stand beside the answers in '{out}'")
        return _run_folder(options)
    recordings = find_recordings(options.paths)
    if options.plot is not None and (not options.plot or len(recordings) != 1):
        raise BadInput(f"Bad plot '{options.plot}', expected a file for one recording, or a folder as --out")
    paths = [path for path, _ in recordings]
    names = _formats(options)
    to_file = out is not None and names not in (["jsonl"], ["table"])
    if to_file and not len(paths) == len(names) == 1:
        raise BadInput(f"Bad output '{out}', expected a folder for {len(paths)} recordings as {', '.join(names)}")
    if to_file or options.plot is not None:
        return _run_file(paths[0], names[0], options)
    return run_all(paths, options)


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


def _run_folder(options: argparse.Namespace) -> int:
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


def _run_file(path: Path, name: str, options: argparse.Namespace) -> int:
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
    with showing(options) if shown else nullcontext() as screen:
        answer = offline.diarize(path, frames=False, **settings)
        if options.plot is not None:
            plot.save(answer.plot(), options.plot)
        if screen is None:
            formats.save(answer, name, Path(options.out))
            return 0
        for row in answer.rows():
            screen.show(row)
    return 0


def run_all(paths: Sequence[Path], options: argparse.Namespace) -> int:
    """One recording after another, to the screen or into one file."""
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
    if not opened or (failed and options.out is not None):  # a file of some of them would look complete
        return 2
    with showing(options) as screen, progressing(options) as progress:
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
                    channels=options.channels,
                    roles=options.roles,
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
            if options.out is not None and len(opened) > 1:
                print(f"sedstream: '{options.out}' was not written, for it would look complete", file=sys.stderr)
    return 2 if failed else 0


def _complain(error: SedstreamError) -> int:
    print(f"sedstream: {error}", file=sys.stderr)
    return 1


@contextmanager
def showing(options: argparse.Namespace) -> Iterator[Screen]:
    """Where rows are shown. Raises ``BadInput`` for a format that no screen can show."""
    names = _formats(options)
    if len(names) != 1 or names[0] not in ("table", "jsonl"):
        raise BadInput(f"Bad format {','.join(names)!r} for the screen, expected table or jsonl")
    with Screen(names[0], options.out) as screen:
        yield screen


@contextmanager
def progressing(options: argparse.Namespace) -> Iterator[Progress]:
    """How far the work is, where somebody looks."""
    from .progress import Progress

    with Progress(shown=not options.quiet and sys.stderr.isatty()) as progress:
        yield progress
