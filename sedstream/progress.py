"""A progress bar on stderr for long work: file, share, times real time, time left."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}x real time" if speed else "")


class Progress:
    """``with Progress(shown) as progress``: ``add`` a recording, then tell the returned function the seconds done."""

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), _Rate(), TimeRemainingColumn())
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
