"""A folder of answers that may be stopped at any moment: outputs appear whole, a rerun does what is missing or changed.

``run.jsonl`` in the folder is the journal: one line a recording that is done, with the sha256 of its content and all
settings that its outputs depend on, appended after the outputs stand. A killed run loses only what was under way.
At the end the journal is sorted, and ``summary.csv``, ``errors.csv`` and, with pyarrow, ``summary.parquet`` are
written, so that the folder is the same byte for byte however often the work was interrupted.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BadInput, SedstreamError, Unavailable
from .exports import formats, parquet, plot, summary
from .exports.naming import one_line
from .exports.writing import LONGEST, write_whole
from .looks import Look, held, looks, stamp_of
from .offline import Diarization, check
from .recordings import diarize_many
from .zoo import Model

JOURNAL, SUMMARY, TABLE, ERRORS = "run.jsonl", "summary.csv", "summary.parquet", "errors.csv"
"""What stands in a folder beside the answers."""
ENTRY = ("file", "name", "sha256", "settings", "formats", "summary")
"""Keys of a line of the journal."""
PICTURE = ".png"
"""Suffix of the pictures in a folder."""


@dataclass(slots=True)
class Totals:
    """How a run stands: files of ``files`` done, skipped and failed; seconds of audio answered."""

    files: int
    done: int = 0
    skipped: int = 0
    seconds: float = 0.0
    errors: list[tuple[Path, str]] = field(default_factory=list)


class AnswerFolder:
    """The answers to ``recordings`` in ``out``, one file each a format, and with ``pictures`` a PNG.

    ``recordings``: as found by :func:`sedstream.sources.find_recordings`; ``unread``: what it could not read, and why.
    Raises ``BadInput`` for unusable arguments, ``BadModel`` for an unknown plan, ``Unavailable`` where the library for
    a format or a picture is missing.
    """

    def __init__(
        self,
        out: Path,
        recordings: Sequence[tuple[Path, Path]],
        names: Sequence[str],
        model: Model,
        unread: Sequence[tuple[Path, str]] = (),
        *,
        pictures: bool = False,
        **settings: Any,
    ) -> None:
        if pictures:
            plot.require()
        if "parquet" in names:
            parquet.require()
        self._out = out
        self._recordings = recordings
        self._unread = unread
        for name in names:
            formats.find(name)
        self._names = [*names, *(["plot"] if pictures else [])]
        self._model = model
        self._settings = settings
        manifest = model.manifest
        # Before anything is touched: where a setting changes, what stands there is of no use.
        check(manifest, **settings)
        keep = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
        told = {"model": manifest.name, "version": manifest.version}
        self._asked = told | {"weights": manifest.sha256, "manifest": manifest.settings} | keep
        self._check_names()
        self._journal = self._read_journal()
        self._owners: dict[Path, str] = {}  # the file in the journal whose answers have a name

    def _check_names(self) -> None:
        taken: dict[Path, Path] = {}
        own = {self._out / name for name in (JOURNAL, SUMMARY, TABLE, ERRORS)}
        for path, relative in self._recordings:
            for name in self._names:
                output = self._output(relative, name)
                if output in own:
                    raise BadInput(f"Bad recording '{path}', expected another name: '{output}' is the folder's own")
                if (other := taken.setdefault(output, path)) != path:
                    raise BadInput(
                        f"Bad recordings '{other}' and '{path}', expected different names: both give '{output}'"
                    )

    def _output(self, relative: Path, name: str) -> Path:
        suffix = PICTURE if name == "plot" else formats.find(name).SUFFIX
        return self._out / relative.with_suffix(suffix)

    def _read_journal(self) -> dict[str, dict[str, Any]]:
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            path = self._out / JOURNAL
            lines = path.read_bytes().split(b"\n") if path.exists() else []
            # A line that a kill cut short has no line break behind it, and what follows must not be glued to it.
            entries = [json.loads(line) for line in lines[:-1] if line]
            # A recording's last line counts, and of two whose answers would have one name, the later one's.
            owners = {_bare(entry["name"]): entry["file"] for entry in entries}
            journal = {
                entry["file"]: {key: entry[key] for key in ENTRY}
                for entry in entries
                if owners[_bare(entry["name"])] == entry["file"]
            }
            if lines and lines[-1]:
                write_whole(path, b"".join(line + b"\n" for line in lines[:-1]))
        except OSError as error:
            raise _unwritable(self._out, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"Bad journal '{path}', expected the lines of an earlier run; without it all is done anew: {error!r}"
            ) from error
        return {file: entry for file, entry in journal.items() if entry["formats"]}

    def run(self, report: Callable[[Totals], None]) -> Totals:
        """Answer what is missing or changed; ``report`` is told after each recording. The folder is complete
        afterwards. Raises ``BadInput`` while another run writes to the folder, or where the first one would write over
        what stands among the recordings."""
        with held(self._out):
            self._journal = self._read_journal()  # another run may have ended meanwhile
            self._owners = {_bare(entry["name"]): file for file, entry in self._journal.items()}
            self._begin()
            return self._run(report)

    def _begin(self) -> None:
        """Before the first run nothing that stands among the recordings is an answer."""
        if (self._out / JOURNAL).exists():
            return
        tables = [self._out / name for name in (SUMMARY, TABLE, ERRORS)]
        for path, relative in self._recordings:
            own = [self._output(relative, name) for name in self._names]
            for output in [*own, *tables]:
                if _stands_beside(output, path):
                    raise _taken(output)
        try:
            (self._out / JOURNAL).touch()
        except OSError as error:
            raise _unwritable(self._out, error) from error

    def _run(self, report: Callable[[Totals], None]) -> Totals:
        totals = Totals(len(self._recordings) + len(self._unread), errors=list(self._unread))
        relatives = dict(self._recordings)
        seen: dict[Path, Look] = {}

        def missing() -> Iterator[Path]:
            for path, look in looks([path for path, _ in self._recordings]):
                if look is not None and self._is_done(path, relatives[path], look.digest):
                    totals.skipped += 1
                    report(totals)
                    continue
                if look is not None:
                    seen[path] = look
                yield path  # without a look as well: the reader says what is wrong with it

        report(totals)
        for path, answer in diarize_many(missing(), model=self._model, **self._settings):
            look = seen.pop(path, None)
            try:
                if isinstance(answer, SedstreamError):
                    raise answer
                outputs = self._outputs(relatives[path], answer)
                self._check_free(path, relatives[path], outputs)
                if look is None or stamp_of(path) != look.stamp:
                    raise BadInput(f"Bad recording '{path}', expected one that stays: it changed while it was read")
            except SedstreamError as error:
                totals.errors.append((path, str(error)))
                if look is not None:  # it can be read, and what stands there is not what it says now
                    self._forget(path, relatives[path], look.digest)
            except OSError as error:
                totals.errors.append((path, f"Bad recording '{path}', expected one that stays: {error.strerror}"))
            else:
                self._forget(path, relatives[path], look.digest)
                self._displace(path, relatives[path])
                self._keep(path, relatives[path], look.digest, outputs, list(summary.rows(answer)))
                totals.done += 1
                totals.seconds += answer.duration
            report(totals)
        self._conclude(totals)
        return totals

    def _is_done(self, path: Path, relative: Path, digest: str) -> bool:
        return (
            self._is_same(path, relative, digest)
            and set(self._names) <= set(self._journal[str(path)]["formats"])
            and all(self._output(relative, name).exists() for name in self._names)
        )

    def _is_same(self, path: Path, relative: Path, digest: str) -> bool:
        """Whether what an earlier run made of a recording is of the same one, called and asked for as now."""
        entry = self._journal.get(str(path))
        known = None if entry is None else (entry["name"], entry["sha256"], entry["settings"])
        return known == (str(relative), digest, self._asked)

    def _forget(self, path: Path, relative: Path, digest: str) -> None:
        """Remove what an earlier run made of a recording that was another one then, or was asked for otherwise."""
        if str(path) in self._journal and not self._is_same(path, relative, digest):
            self._remove(str(path))

    def _displace(self, path: Path, relative: Path) -> None:
        """Remove what an earlier run made of another recording, whose answers have the name that this one's get."""
        owner = self._owners.get(_bare(relative), str(path))
        entry = self._journal.get(owner)
        if owner != str(path) and entry is not None and _bare(entry["name"]) == _bare(relative):
            self._remove(owner)

    def _remove(self, file: str) -> None:
        """Remove the answers of a recording. First the journal says so: whoever is killed behind that line does it
        again, and others' answers of the same name are never taken for its own."""
        entry = self._journal[file]
        try:
            with (self._out / JOURNAL).open("ab") as journal:
                journal.write(_line(entry | {"formats": []}))
            for name in entry["formats"]:
                self._output(Path(entry["name"]), name).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self._out, error) from error
        del self._journal[file]

    def _outputs(self, relative: Path, answer: Diarization) -> dict[Path, bytes]:
        found = {}
        for name in self._names:
            if len(os.fsencode(file := self._output(relative, name).name)) > LONGEST:
                raise BadInput(f"Bad recording '{relative}', expected a shorter name: '{file}' is too long for a file")
            data = io.BytesIO()
            if name == "plot":
                data.write(plot.encoded(answer.plot(), PICTURE))
            else:
                formats.write(answer, name, data)
            found[self._output(relative, name)] = data.getvalue()
        return found

    def _check_free(self, path: Path, relative: Path, outputs: dict[Path, bytes]) -> None:
        """Answers may stand beside their recordings, but not in the place of annotations by hand. Of what a killed run
        left the journal does not know: it is the same."""
        known = self._journal.get(self._owners.get(_bare(relative), str(path)), {"formats": []})["formats"]
        for name, (output, data) in zip(self._names, outputs.items(), strict=True):
            if name not in known and _stands_beside(output, path) and output.read_bytes() != data:
                raise _taken(output)

    def _keep(
        self, path: Path, relative: Path, digest: str, outputs: dict[Path, bytes], rows: list[summary.Row]
    ) -> None:
        try:
            for output, data in outputs.items():
                output.parent.mkdir(parents=True, exist_ok=True)
                write_whole(output, data)
            there = self._journal.get(str(path), {"formats": []})["formats"]
            parts = (str(path), str(relative), digest, self._asked, sorted({*there, *self._names}), rows)
            entry = dict(zip(ENTRY, parts, strict=True))
            self._journal[str(path)] = entry
            with (self._out / JOURNAL).open("ab") as journal:
                journal.write(_line(entry))
        except OSError as error:
            raise _unwritable(self._out, error) from error

    def _conclude(self, totals: Totals) -> None:
        entries = [self._journal[name] for name in sorted(self._journal)]
        labels = self._settings.get("labels") or self._model.manifest.labels
        labels = [label for label in self._model.manifest.labels if label in labels]
        rows = [row for entry in entries if entry["settings"] == self._asked for row in entry["summary"]]
        tables: dict[str, bytes | None] = {JOURNAL: b"".join(map(_line, entries))}
        text = io.StringIO(newline="")
        summary.write_csv(rows, labels, text)
        tables[SUMMARY] = text.getvalue().encode()
        tables[TABLE] = tables[ERRORS] = None
        with suppress(Unavailable):
            data = io.BytesIO()
            summary.write_parquet(rows, labels, data)
            tables[TABLE] = data.getvalue()
        if totals.errors:
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["file", "error"])
            writer.writerows(sorted((one_line(str(path)), one_line(reason)) for path, reason in totals.errors))
            tables[ERRORS] = text.getvalue().encode()
        try:
            for name, table in tables.items():
                if table is None:
                    (self._out / name).unlink(missing_ok=True)  # of an earlier run, and no longer true
                else:
                    write_whole(self._out / name, table)
        except OSError as error:
            raise _unwritable(self._out, error) from error


def _bare(name: str | Path) -> Path:
    """What the answers to recordings of one name have in common."""
    return Path(name).with_suffix("")


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode() + b"\n"


def _stands_beside(output: Path, recording: Path) -> bool:
    return os.path.exists(output) and output.parent.samefile(recording.parent)


def _taken(output: Path) -> SedstreamError:
    return BadInput(f"Bad output '{output}', expected none yet: it is no answer that {JOURNAL} knows of")


def _unwritable(out: Path, error: OSError) -> SedstreamError:
    return BadInput(f"Bad output folder '{out}', expected one that can be written: {error.strerror or error}")
