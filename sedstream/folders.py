"""A folder of answers that may be stopped at any moment: outputs appear whole, a rerun does what is missing or changed.

``run.jsonl`` in the folder is the journal: one line a recording that is done, with the sha256 of its content and all
settings that its outputs depend on, appended after the outputs stand. A killed run loses only what was under way.
At the end the journal is sorted, and ``summary.csv`` and ``errors.csv`` are written, so that the folder is the
same byte for byte however often the work was interrupted.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from .errors import BadInput, SedstreamError
from .exports import formats, summary
from .exports.naming import one_line
from .exports.screen import write_whole
from .offline import Diarization
from .recordings import diarize_many
from .zoo import Model

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".wma", ".aiff", ".au"}
"""What counts as a recording inside a folder; a file named outright may be called anything."""
LISTS = {".txt", ".lst"}
"""Files that name one recording a line."""


def find_recordings(names: Sequence[str]) -> list[tuple[Path, Path]]:
    """Recordings by file, folder (recursive), glob or list file: each with its name relative to where it was found.

    Raises ``BadInput`` for a folder that cannot be read or holds no recording, and for a pattern that fits nothing.
    """
    found: list[tuple[Path, Path]] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += _inside(path)
        elif path.suffix.lower() in LISTS and path.is_file():
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            listed = [Path(line.strip()) for line in lines if line.strip()]
            found += [(path.parent / one, Path(one.name)) for one in listed]
        elif glob.has_magic(name) and not path.exists():
            fitting = sorted(glob.glob(name, recursive=True))
            if not fitting:
                raise BadInput(f"Bad pattern {name!r}, expected one that fits a recording")
            found += [(Path(one), Path(Path(one).name)) for one in fitting if os.path.isfile(one)]
        else:
            found.append((path, Path(path.name)))
    return list(dict.fromkeys(found))


def _inside(folder: Path) -> list[tuple[Path, Path]]:
    def unreadable(error: OSError) -> None:
        raise BadInput(f"Bad folder '{error.filename}', expected one that can be read: {error.strerror}") from error

    found = []
    for place, _, names in os.walk(folder, onerror=unreadable):  # symbolic links to folders are not followed
        found += [Path(place, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    if not found:
        raise BadInput(f"Bad folder '{folder}', expected at least one recording in it")
    return [(path, path.relative_to(folder)) for path in sorted(found)]


@dataclass(slots=True)
class Totals:
    """How a run stands: files of ``files`` done, skipped and failed; seconds of audio answered."""

    files: int
    done: int = 0
    skipped: int = 0
    seconds: float = 0.0
    errors: list[tuple[Path, str]] = field(default_factory=list)


class AnswerFolder:
    """The answers to ``recordings`` in ``out``, one file each a format. Raises ``BadInput`` for unusable arguments."""

    def __init__(
        self,
        out: Path,
        recordings: Sequence[tuple[Path, Path]],
        names: Sequence[str],
        model: Model,
        **settings: Any,
    ) -> None:
        self._out = out
        self._recordings = recordings
        self._suffixes = {name: formats.find(name).SUFFIX for name in names}
        self._model = model
        self._settings = settings
        manifest = model.manifest
        keep = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
        weights = {"model": manifest.name, "version": manifest.version, "weights": manifest.sha256}
        self._asked = weights | keep | {"formats": sorted(names)}
        self._check_names()
        self._journal = self._read_journal()

    def _check_names(self) -> None:
        taken: dict[Path, Path] = {}
        for path, relative in self._recordings:
            for name in self._suffixes:
                output = self._output(relative, name)
                if (other := taken.setdefault(output, path)) != path:
                    raise BadInput(
                        f"Bad recordings '{other}' and '{path}', expected different names: both give '{output}'"
                    )

    def _output(self, relative: Path, name: str) -> Path:
        return self._out / relative.with_suffix(self._suffixes[name])

    def _read_journal(self) -> dict[str, dict[str, Any]]:
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            path = self._out / "run.jsonl"
            lines = path.read_bytes().split(b"\n") if path.exists() else []
            # A line that a kill cut short has no line break behind it, and what follows must not be glued to it.
            entries = [json.loads(line) for line in lines[:-1] if line]
            if lines and lines[-1]:
                write_whole(path, b"".join(line + b"\n" for line in lines[:-1]))
        except OSError as error:
            raise _unwritable(self._out, error) from error
        except ValueError as error:
            raise BadInput(f"Bad journal '{path}', expected JSON lines: {error}") from error
        return {entry["file"]: entry for entry in entries}

    def run(self, report: Callable[[Totals], None]) -> Totals:
        """Answer what is missing or changed; ``report`` is told after each recording. The folder is complete
        afterwards."""
        totals = Totals(len(self._recordings))
        relatives = dict(self._recordings)
        seen: dict[Path, tuple[str, tuple[int, int]]] = {}

        def missing() -> Iterator[Path]:
            for path, relative in self._recordings:
                try:
                    stamp, digest = _stamp(path), _digest(path)
                except OSError:
                    yield path  # the reader says what is wrong with it
                    continue
                if self._is_done(path, relative, digest):
                    totals.skipped += 1
                    report(totals)
                else:
                    seen[path] = (digest, stamp)
                    yield path

        report(totals)
        for path, answer in diarize_many(missing(), model=self._model, **self._settings):
            if isinstance(answer, Diarization):
                digest, stamp = seen.pop(path)
                if _stamp_now(path) == stamp:
                    self._keep(path, relatives[path], digest, answer)
                    totals.done += 1
                    totals.seconds += answer.duration
                else:
                    totals.errors.append(
                        (path, f"Bad recording '{path}', expected one that stays: it changed while it was read")
                    )
            else:
                totals.errors.append((path, str(answer)))
            report(totals)
        self._conclude(totals)
        return totals

    def _is_done(self, path: Path, relative: Path, digest: str) -> bool:
        entry = self._journal.get(str(path))
        if entry is None or entry["sha256"] != digest or entry["settings"] != self._asked:
            return False
        return all(self._output(relative, name).exists() for name in self._suffixes)

    def _keep(self, path: Path, relative: Path, digest: str, answer: Diarization) -> None:
        try:
            for name in self._suffixes:
                output = self._output(relative, name)
                output.parent.mkdir(parents=True, exist_ok=True)
                data = io.BytesIO()
                formats.write(answer, name, data)
                write_whole(output, data.getvalue())
            rows = list(summary.rows(answer))
            entry = {"file": str(path), "sha256": digest, "settings": self._asked, "summary": rows}
            self._journal[str(path)] = entry
            with (self._out / "run.jsonl").open("ab") as journal:
                journal.write(_line(entry))
        except OSError as error:
            raise _unwritable(self._out, error) from error

    def _conclude(self, totals: Totals) -> None:
        entries = [self._journal[name] for name in sorted(self._journal)]
        labels = self._settings.get("labels") or self._model.manifest.labels
        table, errors = io.StringIO(newline=""), io.StringIO(newline="")
        rows = [row for entry in entries if entry["settings"] == self._asked for row in entry["summary"]]
        summary.write_csv(rows, [label for label in self._model.manifest.labels if label in labels], table)
        writer = csv.writer(errors, lineterminator="\n")
        writer.writerow(["file", "error"])
        writer.writerows(sorted((one_line(str(path)), one_line(reason)) for path, reason in totals.errors))
        try:
            write_whole(self._out / "run.jsonl", b"".join(map(_line, entries)))
            write_whole(self._out / "summary.csv", table.getvalue().encode())
            if totals.errors:
                write_whole(self._out / "errors.csv", errors.getvalue().encode())
            else:
                (self._out / "errors.csv").unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self._out, error) from error


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode() + b"\n"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _stamp_now(path: Path) -> tuple[int, int] | None:
    try:
        return _stamp(path)
    except OSError:
        return None


def _unwritable(out: Path, error: OSError) -> SedstreamError:
    return BadInput(f"Bad output folder '{out}', expected one that can be written: {error.strerror or error}")
