"""A progress bar on stderr for long work: file, share, times real time, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

if TYPE_CHECKING:
    from .folders import Totals

PLAIN_SECONDS = 10.0
"""Between lines where there is no terminal to draw a bar on."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}x real time" if speed else "")


class Progress:
    """``with Progress(shown) as progress``: ``add`` a recording, then tell the returned function the seconds done."""

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), _Rate(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=Console(stderr=True), transient=True, disable=not shown)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def add(self, name: str, seconds: float | None, number: int, of: int) -> Callable[[float], None]:
        """The next recording, ``number`` of ``of``; ``seconds`` None: length unknown."""
        for task in self._bars.task_ids:
            self._bars.update(task, visible=False)
        task = self._bars.add_task(name if of == 1 else f"{number + 1}/{of} {name}", total=seconds)
        return lambda done: self._bars.update(task, completed=done)


class Download:
    """Files on their way, on stderr: ``with Download(shown) as bars``; ``add`` a file, then tell the returned function
    the bytes that are there, and of how many."""

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bars = Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown)

    def __enter__(self) -> Download:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def add(self, name: str) -> Callable[[int, int | None], None]:
        """The next file; None: nobody knows of how many bytes."""
        task = self._bars.add_task(name, total=None)
        return lambda done, of: self._bars.update(task, completed=done, total=of)


class FolderProgress:
    """Progress of a folder on stderr: a bar on a terminal, a line every ten seconds elsewhere, nothing when
    ``quiet``."""

    def __init__(self, quiet: bool) -> None:
        self._bar = not quiet and sys.stderr.isatty()
        self._lines = not quiet and not self._bar
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=Console(stderr=True), transient=True, disable=not self._bar)
        self._task = self._bars.add_task("")
        self._began = self._told = time.monotonic()

    def __enter__(self) -> FolderProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, totals: Totals) -> None:
        """After each recording."""
        now = time.monotonic()
        over = totals.done + totals.skipped + len(totals.errors)
        spent = now - self._began
        text = f"{over}/{totals.files} files, {totals.seconds / 3600:.2f} h"
        if spent > 0 and totals.seconds:
            text += f", {totals.seconds / spent:.0f}x real time"
        self._bars.update(self._task, description=text, completed=over, total=totals.files)
        if self._lines and now - self._told >= PLAIN_SECONDS:
            self._told = now
            answered = over - totals.skipped
            if answered:
                text += f", {spent / answered * (totals.files - over):.0f} s left"
            print(f"sedstream: {text}", file=sys.stderr, flush=True)
