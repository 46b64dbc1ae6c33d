"""Folders of recordings: the same answers as one by one, whatever stops the run and whatever lies in the folder."""

from __future__ import annotations

import csv
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import DATA, DEMO
from nobody import as_nobody, readable_by_nobody
from numpy.typing import NDArray
from PIL import Image

import sedstream
from sedstream import progress
from sedstream.decoding.settings import DecoderSettings
from sedstream.errors import BadInput, SedstreamError, Unavailable
from sedstream.exports import formats, plot
from sedstream.folders import AnswerFolder, Totals
from sedstream.offline import Diarization
from sedstream.recordings import diarize_many
from sedstream.scoring.annotations import read as read_annotations
from sedstream.sources import find_recordings
from sedstream.zoo import Model

Array = NDArray[np.float32]


@pytest.fixture
def calls(tmp_path: Path, speech: Array) -> Path:
    """A tree of recordings: mono and stereo, two rates, one without speech."""
    root = tmp_path / "calls"
    (root / "north").mkdir(parents=True)
    soundfile.write(root / "a.wav", speech[:64_000], 16_000)
    soundfile.write(root / "north" / "b.flac", np.stack([speech[:60_000:2], speech[60_000:120_000:2]], 1), 8_000)
    soundfile.write(root / "north" / "a.wav", speech[100_000:180_000], 16_000)
    soundfile.write(root / "silence.wav", np.zeros(16_000), 16_000)
    (root / "notes.md").write_text("no recording")
    return root


def quiet(totals: Totals) -> None:
    assert totals.done + totals.skipped + len(totals.errors) <= totals.files


def answer(root: Path, out: Path, model: Model, names: list[str] | None = None, **settings: object) -> Totals:
    options: dict[str, object] = {"plan": "batch", "labels": None, "channels": "mix", "roles": None}
    found = find_recordings([str(root)])
    return AnswerFolder(out, found, names or ["jsonl"], model, **(options | settings)).run(quiet)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same_tables(folder: Path) -> bool:
    """Whether summary.csv and summary.parquet hold the same."""
    parquet = pd.read_parquet(folder / "summary.parquet")
    assert [str(parquet[name].dtype) for name in ("channel", "speech", "changes")] == ["int64", "float64", "int64"]
    table = pd.read_csv(folder / "summary.csv")
    pd.testing.assert_frame_equal(parquet, table, check_dtype=False)  # a column without any value has no type in CSV
    return len(table) > 0


def errors(folder: Path) -> dict[str, str]:
    """The last words about each file in errors.csv."""
    with (folder / "errors.csv").open() as file:
        return {row["file"]: row["error"].rpartition(": ")[2] for row in csv.DictReader(file)}


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sedstream", "diarize", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("channels", ["mix", "split"])
def test_side_by_side_is_one_by_one(channels: str, calls: Path, model: Model) -> None:
    paths = [path for path, _ in find_recordings([str(calls)])]
    together = dict(diarize_many(paths, model=model, plan="live", channels=channels))
    assert set(together) == set(paths)
    for path in paths:
        assert together[path] == sedstream.diarize(path, model=model, plan="live", channels=channels)


def test_a_consumer_that_stops_early_leaves_no_thread(calls: Path, model: Model) -> None:
    before = threading.active_count()
    answers = diarize_many([path for path, _ in find_recordings([str(calls)])] * 5, model=model)
    assert isinstance(next(answers)[1], Diarization)
    answers.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("paths", ["a.wav", b"a.wav", Path("a.wav"), None])
def test_paths_are_several(paths: Any, model: Model) -> None:
    with pytest.raises(BadInput, match="^Bad paths .*(a.wav|None).*, expected a list of them$"):
        next(diarize_many(paths, model=model))


def test_what_is_no_path_ends_nothing_in_silence(calls: Path, model: Model) -> None:
    with pytest.raises(BadInput, match="^Bad path None, expected that of a recording$"):
        list(diarize_many([calls / "a.wav", None, calls / "silence.wav"], model=model))  # type: ignore[list-item]


class Watched(Model):
    """The model itself; it notes how many rows each call has."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.manifest, model.network, model.device)
        self.calls: list[int] = []

    def __call__(self, blocks: Array, *arguments: Any) -> Any:
        self.calls.append(len(blocks))
        return super().__call__(blocks, *arguments)


def test_what_nobody_foresaw_in_a_reader_ends_the_run(
    calls: Path, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised, as it is no fault of a recording, and leaves no thread: here, an ffprobe that talks nonsense."""
    for name in ("ffprobe", "ffmpeg"):
        (tmp_path / name).write_text("#!/bin/sh\necho nonsense\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "odd.mka").write_bytes(b"nothing that libsndfile knows")
    before = threading.active_count()
    with pytest.raises(ValueError, match="^Expecting value"):
        list(diarize_many([calls / "a.wav", tmp_path / "odd.mka", calls / "silence.wav"], model=model))
    assert threading.active_count() == before


def test_recordings_share_the_calls_of_the_model(speech: Array, tmp_path: Path, model: Model) -> None:
    paths = [tmp_path / f"{n}.wav" for n in range(4)]
    for path in paths:
        soundfile.write(path, speech, 16_000)
    together, alone = Watched(model), Watched(model)
    assert len(list(diarize_many(paths, model=together))) == 4
    sedstream.diarize(paths[0], model=alone)
    assert max(together.calls) > 1 == max(alone.calls)
    assert sum(together.calls) == 4 * len(alone.calls)


def test_answers_come_as_they_are_done(calls: Path, tmp_path: Path, model: Model, speech: Array) -> None:
    soundfile.write(tmp_path / "long.wav", np.tile(speech, 8), 16_000)
    order = [path.name for path, _ in diarize_many([tmp_path / "long.wav", calls / "silence.wav"], model=model)]
    assert order == ["silence.wav", "long.wav"]


def test_two_sides_of_a_call_have_their_roles(calls: Path, tmp_path: Path) -> None:
    (calls / os.fsdecode(b"caf\xe9")).mkdir()
    shutil.copy(calls / "north" / "b.flac", calls / os.fsdecode(b"caf\xe9/b.flac"))
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"calls/north/b.flac\ncalls/caf\xe9/b.flac\ncalls/a.wav\n")
    out = tmp_path / "answers"
    names = ["--format", ",".join(formats.NAMES)]
    assert command(listed, "--out", out, "--channels", "split", "--roles", "customer,agent", *names).returncode == 1
    assert errors(out) == {f"{calls}/a.wav": "Bad roles 'customer,agent', expected one name for each of 1 channels"}
    table = pd.read_csv(out / "summary.csv")
    assert list(table["role"]) == ["customer", "agent"] * 2
    assert list(table["channel"]) == [0, 1] * 2
    for name in formats.NAMES:
        suffix = formats.find(name).SUFFIX
        assert (out / "calls" / os.fsdecode(b"caf\xe9") / f"b{suffix}").is_file()
    roles = {json.loads(line)["role"] for line in (out / "calls" / "north" / "b.jsonl").read_text().splitlines()}
    assert roles == {"customer", "agent"}
    again = command(listed, "--out", out, "--channels", "split", "--roles", "customer,agent", *names)
    assert "0 done, 2 unchanged, 1 failed" in again.stderr


def test_every_format_and_the_tables(calls: Path, tmp_path: Path, model: Model) -> None:
    out = tmp_path / "answers"
    names = list(formats.NAMES)
    totals = answer(calls, out, model, names)
    assert (totals.done, totals.skipped, totals.errors) == (4, 0, [])
    for relative in ("a", "silence", "north/a", "north/b"):
        for name in names:
            assert (out / f"{relative}{formats.find(name).SUFFIX}").is_file()
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["a.wav", "a.wav", "b.flac", "silence.wav"]
    assert same_tables(out)
    assert not (out / "errors.csv").exists()
    rows_of_a = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
    assert rows_of_a == list(sedstream.diarize(calls / "a.wav", model=model).rows())


def test_a_rerun_skips_what_is_done_and_redoes_what_changed(
    calls: Path, tmp_path: Path, model: Model, speech: Array
) -> None:
    out = tmp_path / "answers"
    answer(calls, out, model)
    first = tree(out)
    assert answer(calls, out, model).skipped == 4
    assert tree(out) == first
    summed = pd.read_parquet(out / "summary.parquet")
    soundfile.write(calls / "a.wav", speech[:96_000], 16_000)  # another content
    (out / "north" / "a.jsonl").unlink()  # an output is gone
    os.utime(calls / "north" / "b.flac")  # only touched
    again = answer(calls, out, model)
    assert (again.done, again.skipped) == (2, 2)
    assert tree(out)["north/a.jsonl"] == first["north/a.jsonl"]
    assert tree(out)["a.jsonl"] != first["a.jsonl"]
    assert same_tables(out)
    changed = pd.read_parquet(out / "summary.parquet")
    assert list(changed["duration"]) == [6.0, *summed["duration"][1:]]
    assert answer(calls, out, model, labels=["neutral", "angry"]).done == 4  # other settings
    assert answer(calls, out, model, labels=["neutral", "angry"], plan="live").done == 4
    files = tuple(replace(file, sha256="0" * 64) for file in model.manifest.files)
    other = Model(replace(model.manifest, files=files), model.network, model.device)
    assert answer(calls, out, other, labels=["neutral", "angry"], plan="live").done == 4  # other weights
    for change in ({"temperature": 1.5}, {"voice": None}, {"decoder": DecoderSettings(switch=1)}):
        other = Model(replace(model.manifest, **change), model.network, model.device)  # another manifest
        anew = tmp_path / next(iter(change))
        assert answer(calls, out, other).done == answer(calls, anew, other).done == 4
        assert (anew / "a.jsonl").read_bytes() == (out / "a.jsonl").read_bytes()
    moved = replace(other.manifest, folder=tmp_path, licence="another one")
    assert answer(calls, out, Model(moved, model.network, model.device)).skipped == 4
    assert answer(calls, out, model, ["jsonl", "rttm"]).done == 4
    assert answer(calls, out, model, ["rttm"]).skipped == 4  # they are there
    assert (out / "a.jsonl").is_file()


def test_bad_files_are_told_and_the_rest_goes_on(calls: Path, tmp_path: Path) -> None:
    (calls / "broken.wav").write_text("not audio at all")
    (calls / "empty.flac").touch()
    (calls / os.fsdecode(b"caf\xe9.wav")).write_bytes((calls / "a.wav").read_bytes())
    (calls / "loop.wav").symlink_to("loop.wav")
    (calls / "circle").symlink_to(calls, target_is_directory=True)
    out = tmp_path / "answers"
    result = command(calls, "--out", out)
    assert result.returncode == 1, result.stderr
    assert "5 done, 0 unchanged, 3 failed" in result.stderr
    with (out / "errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["broken.wav", "empty.flac", "loop.wav"]
    assert all(row["error"].startswith("Bad ") for row in rows)
    for name in ("broken.wav", "empty.flac", "loop.wav"):
        (calls / name).unlink()
    assert command(calls, "--out", out).returncode == 0
    assert not (out / "errors.csv").exists()


def test_no_answer_of_before_stands_beside_those_of_now(calls: Path, tmp_path: Path, model: Model) -> None:
    out = tmp_path / "answers"
    answer(calls, out, model, ["jsonl", "csv"])
    answer(calls, out, model, ["rttm"])  # the same answers in one more format
    formats = {suffix for name in tree(out) if name.startswith("a.") for suffix in [Path(name).suffix]}
    assert formats == {".jsonl", ".csv", ".rttm"}
    answer(calls, out, model, ["rttm"], labels=["neutral", "angry"])
    assert [name for name in tree(out) if name.startswith("a.")] == ["a.rttm"]
    (calls / "a.wav").write_text("not audio at all")
    totals = answer(calls, out, model, ["rttm"], labels=["neutral", "angry"])
    assert (len(totals.errors), totals.skipped) == (1, 3)
    assert not [name for name in tree(out) if name.startswith("a.")]
    assert str(calls / "a.wav") not in (out / "run.jsonl").read_text()
    assert len(pd.read_csv(out / "summary.csv")["file"].unique()) == 3


def test_what_is_no_file_or_has_too_long_a_name(calls: Path, tmp_path: Path, model: Model) -> None:
    """One is told, and the rest is done."""
    os.mkfifo(calls / "pipe.wav")
    shutil.copy(calls / "a.wav", calls / f"{'b' * 246}.wav")
    shutil.copy(calls / "a.wav", calls / f"{'c' * 251}.wav")
    totals = answer(calls, tmp_path / "answers", model, ["csv", "jsonl"])
    assert totals.done == 5
    assert sorted(reason[:40] for _, reason in totals.errors) == [
        f"Bad file '{calls / 'pipe.wav'}', expected"[:40], f"Bad recording '{'c' * 251}"[:40],
    ]  # fmt: skip
    assert f"{'b' * 246}.csv" in tree(tmp_path / "answers")


def test_globs_and_list_files(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("calls/a.wav\n\ncalls/north/b.flac\n")
    assert [p.name for p, _ in find_recordings([str(tmp_path / "list.txt")])] == ["a.wav", "b.flac"]
    (tmp_path / "list.lst").write_text(f"{calls}/north/b.flac\n../{tmp_path.name}/calls/a.wav\n")
    assert [str(r) for _, r in find_recordings([str(tmp_path / "list.lst")])] == ["b.flac", "a.wav"]
    assert [str(r) for _, r in find_recordings([str(tmp_path / "list.txt")])] == ["calls/a.wav", "calls/north/b.flac"]
    (tmp_path / "list.txt").write_bytes("\ufeffcalls/a.wav\r\n".encode())  # as Windows' editors write it
    assert [(p.name, str(r)) for p, r in find_recordings([str(tmp_path / "list.txt")])] == [("a.wav", "calls/a.wav")]
    shutil.copy(calls / "a.wav", tmp_path / "call [1].wav")
    assert [r.name for _, r in find_recordings([str(tmp_path / "call [1].wav")])] == ["call [1].wav"]
    shutil.copytree(calls / "north", tmp_path / "loud")
    (tmp_path / "loud" / "b.flac").rename(tmp_path / "loud" / "B.FLAC")
    assert [r.name for _, r in find_recordings([str(tmp_path / "loud")])] == ["B.FLAC", "a.wav"]
    for link in ("circle", "wheel", "north/loop"):  # a walk that followed two of these would never end
        (calls / link).symlink_to(calls, target_is_directory=True)
    found = [str(r) for _, r in find_recordings([str(calls / "**" / "*.wav")])]
    assert found == ["a.wav", "north/a.wav", "silence.wav"]
    assert [str(r) for _, r in find_recordings([str(calls), str(calls / "north")])] == [
        "a.wav",
        "north/a.wav",
        "north/b.flac",
        "silence.wav",
    ]
    with pytest.raises(BadInput, match=r"Bad pattern '.*a\*\*', expected one like"):
        find_recordings([str(calls / "a**")])
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(BadInput, match=r"Bad list '.*', expected the path of a recording in each line"):
        find_recordings([str(tmp_path / "list.txt")])
    with pytest.raises(BadInput, match=r"Bad pattern '.*\*\.opus', expected one that fits"):
        find_recordings([str(calls / "*.opus")])


def test_bad_arguments(calls: Path, tmp_path: Path, model: Model) -> None:
    (calls / "a.flac").write_bytes((calls / "north" / "b.flac").read_bytes())
    with pytest.raises(BadInput, match=r"a\.flac' and .*a\.wav', expected different names: both give .*a\.jsonl'"):
        answer(calls, tmp_path / "answers", model)
    for name, owned in (("run", "run.jsonl"), ("summary", "summary.csv"), ("errors", "errors.csv")):
        shutil.copy(calls / "a.wav", calls / "north" / f"{name}.wav")
        with pytest.raises(BadInput, match=rf"{name}\.wav', expected another name: '.*{owned}' is the folder's own"):
            answer(calls / "north", tmp_path / "answers", model, [owned.split(".")[1]])
        (calls / "north" / f"{name}.wav").unlink()
    assert not (tmp_path / "answers").exists()
    with pytest.raises(BadInput, match="Bad format 'docx', expected one of rttm"):
        answer(calls / "north", tmp_path / "answers", model, ["docx"])
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadInput, match="Bad output folder .*taken"):
        answer(calls / "north", tmp_path / "taken", model)
    (tmp_path / "bare").mkdir()
    with pytest.raises(BadInput, match="at least one recording"):
        find_recordings([str(tmp_path / "bare")])


def test_a_folders_own_names_are_free_below_it(calls: Path, tmp_path: Path, model: Model) -> None:
    """What a folder's accounts are called is a recording's name like any other in the folders in it, for score too."""
    shutil.copy(calls / "a.wav", calls / "north" / "summary.wav")
    for name in ("csv", "jsonl"):
        out = tmp_path / name
        assert not answer(calls, out, model, [name]).errors
        assert (out / "north" / f"summary.{name}").is_file()
        assert str(calls / "north" / "summary.wav") in set(pd.read_csv(out / "summary.csv")["file"])
        assert "summary" in read_annotations(out)


@pytest.mark.parametrize("line", [b"no JSON", b"[]", b'"file"', b'{"file": "a.wav"}'])
def test_a_journal_that_is_none(line: bytes, calls: Path, tmp_path: Path, model: Model) -> None:
    (tmp_path / "run.jsonl").write_bytes(line + b"\n")
    with pytest.raises(BadInput, match=r"Bad journal '.*run\.jsonl', expected the lines of an earlier run"):
        answer(calls, tmp_path, model)
    assert tree(tmp_path)["run.jsonl"] == line + b"\n"


def test_what_cannot_be_read_or_written_is_told() -> None:
    with readable_by_nobody() as folder:
        for name in ("shut", "deep/shut", "calls/shut", "sealed"):
            (folder / name).mkdir(parents=True)
        shutil.copy(DEMO / "austen-1.flac", folder / "shut" / "call.flac")
        shutil.copy(DEMO / "austen-1.flac", folder / "calls" / "open.flac")
        shutil.copy(DEMO / "austen-1.flac", folder / "calls" / "secret.flac")
        (folder / "list.txt").write_text("calls/open.flac\n")
        for name in ("shut", "deep/shut", "calls/shut", "calls/secret.flac", "list.txt"):
            (folder / name).chmod(0o000)
        (folder / "sealed").chmod(0o555)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        culprits = {
            "shut": "Bad folder '{}/shut', expected one that can be read",
            "deep": "Bad folder '{}/deep/shut', expected one that can be read",
            "list.txt": "Bad list '{}/list.txt', expected one that can be read",
            "shut/call.flac": "Bad file '{}/shut/call.flac', expected a readable recording",
        }
        *unread, unwritten, some, fitting, nothing, refused = as_nobody(
            *(["diarize", folder / path] for path in culprits),
            ["diarize", folder / "calls" / "open.flac", "--out", f"{folder}/sealed/"],
            ["diarize", folder / "calls", folder / "shut" / "call.flac", "--out", f"{folder}/out/"],
            ["diarize", f"{folder}/calls/**/*.flac", "--out", f"{folder}/out/fitting"],
            ["diarize", folder / "deep", "--out", f"{folder}/out/deep"],
            ["diarize", folder / "shut", "--out", f"{folder}/out/shut"],
        )
        for (code, told), culprit in zip(unread, culprits.values(), strict=True):
            assert (code, told) == (2, f"sedstream: {culprit.format(folder)}: Permission denied\n")
        bad = f"sedstream: Bad output folder '{folder}/sealed', expected one that can be written"
        assert unwritten == (2, f"{bad}: Permission denied\n")
        assert not tree(folder / "sealed")
        assert some[0] == 1
        assert "1 done, 0 unchanged, 3 failed" in some[1]
        assert (folder / "out" / "open.jsonl").is_file()
        assert errors(folder / "out") == {
            f"{folder}/calls/secret.flac": "Permission denied",
            f"{folder}/calls/shut": "Permission denied",  # a folder below: the rest of the tree is answered
            f"{folder}/shut/call.flac": "Permission denied",
        }
        assert "1 done, 0 unchanged, 2 failed" in fitting[1]
        assert errors(folder / "out" / "fitting") == {
            f"{folder}/calls/secret.flac": "Permission denied",
            f"{folder}/calls/shut": "Permission denied",  # `**` alone would pass over it
        }
        assert (nothing[0], errors(folder / "out" / "deep")) == (1, {f"{folder}/deep/shut": "Permission denied"})
        assert refused == (2, f"sedstream: {culprits['shut'].format(folder)}: Permission denied\n")


def test_progress_on_a_terminal_and_elsewhere(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, hours of audio, times real time and time left."""
    master, terminal = pty.openpty()
    line = [sys.executable, "-m", "sedstream", "diarize", str(calls), "--out", f"{tmp_path}/answers/"]
    with subprocess.Popen(line, stderr=terminal, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}) as process:
        os.close(terminal)
        seen = b""
        with suppress(OSError):  # Linux: the other end of a terminal that is closed is an error, not an end
            while part := os.read(master, 65536):
                seen += part
    os.close(master)
    assert process.returncode == 0
    shown = seen.decode()
    assert re.search(r"4/4 files, 0\.00 h, \d+x real time", shown)
    assert re.search(r"\d:\d\d:\d\d|-:--:--", shown)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    with progress.FolderProgress(quiet=False) as plain:
        plain.show(Totals(8, done=3, skipped=1, seconds=7200.0))
    assert re.fullmatch(r"sedstream: 4/8 files, 2\.00 h, \d+x real time, \d+ s left\n", capsys.readouterr().err)
    with progress.FolderProgress(quiet=True) as silent:
        silent.show(Totals(8, done=3, seconds=7200.0))
    assert capsys.readouterr().err == ""


def test_pictures(calls: Path, tmp_path: Path, model: Model) -> None:
    out = tmp_path / "answers"
    line = [calls, "--out", f"{out}/", "--channels", "split", "--plot"]
    assert command(*line).returncode == 0
    names = ["a", "north/a", "north/b", "silence"]
    assert sorted(name for name in tree(out) if name.endswith(".png")) == [f"{name}.png" for name in names]
    with Image.open(out / "north" / "b.png") as image:
        assert image.width == 800
    first = tree(out)
    plot.save(sedstream.diarize(calls / "north" / "b.flac", model=model, channels="split").plot(), tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == first["north/b.png"]
    one = [calls / "north" / "b.flac", "--channels", "split", "--plot", tmp_path / "one.png"]
    shown = command(*one, "--out", tmp_path / "one.vtt")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert (tmp_path / "one.png").read_bytes() == first["north/b.png"]
    assert (tmp_path / "one.vtt").read_text().startswith("WEBVTT")
    (out / "north" / "b.png").unlink()
    again = command(*line)
    assert "1 done, 3 unchanged, 0 failed" in again.stderr
    assert tree(out) == first
    assert "0 done, 4 unchanged" in command(*line[:-1]).stderr  # nothing is missing without pictures
    for arguments, reason in (
        ([*line, "call.png"], "Bad plot 'call.png', expected no name"),
        ([calls / "a.wav", "--plot"], "Bad plot '', expected a file for one recording"),
        ([calls, "--plot", "call.png"], "Bad plot 'call.png', expected a file for one recording"),
    ):
        result = command(*arguments)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert reason in result.stderr


def test_libraries_that_are_missing_are_told_before_the_work(
    calls: Path, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "answers"
    answer(calls, out, model)
    for name in ("pyarrow", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say that there is none
        monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(Unavailable, match="expected pyarrow to be installed"):
        answer(calls, tmp_path / "others", model, ["parquet"])
    with pytest.raises(Unavailable, match="Bad matplotlib 'missing', expected it for plots"):
        answer(calls, tmp_path / "others", model, pictures=True)
    assert not (tmp_path / "others").exists()
    soundfile.write(calls / "a.wav", np.zeros(16_000), 16_000)
    assert answer(calls, out, model).done == 1
    assert (out / "summary.csv").is_file()
    assert not (out / "summary.parquet").exists()  # it would be that of before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root to mount")
def test_a_full_disk_leaves_nothing_half_written(calls: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        (disk / "ballast").write_bytes(b"\0" * 11_000)
        result = command(calls, "--out", f"{disk}/", "--format", "textgrid,elan,jsonl")
        assert result.returncode == 2
        assert result.stderr.startswith("sedstream: Bad output ")
        assert "No space left" in result.stderr
        assert result.stderr.count("\n") == 1
        left = [p.name for p in disk.rglob("*") if p.is_file()]
        assert not [name for name in left if name.endswith(".part")]
        journal = disk / "run.jsonl"
        done = journal.read_text().count("\n") if journal.exists() else 0
        assert done < 4
        for path in (disk / "ballast", disk / "more"):
            with suppress(OSError), path.open("ab", buffering=0) as file:
                while file.write(b"\0" * 512):
                    pass
        for name in ("one.jsonl", "one.rttm", "one.png"):
            result = command(calls / "a.wav", *(["--plot"] if name.endswith("png") else ["--out"]), disk / name)
            assert result.returncode == 2
            assert result.stderr == (
                f"sedstream: Bad output '{disk / name}', expected a file that can be written: No space left on device\n"
            )
            assert not [path.name for path in disk.iterdir() if "one" in path.name]
        with Path("/dev/full").open("w") as full:
            line = [sys.executable, "-m", "sedstream", "diarize", str(calls / "a.wav")]
            result = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert result.stderr.startswith("sedstream: Bad output '/dev/stdout', expected a file that can be written: No")
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_changes_while_it_is_read(calls: Path, tmp_path: Path, model: Model, speech: Array) -> None:
    """A recorder still writes to it: no answer about a state that never was."""
    growing = calls / "long.wav"
    soundfile.write(growing, np.tile(speech, 8), 16_000)
    before = os.stat(growing).st_mtime_ns

    def touch(totals: Totals) -> None:
        if totals.done and os.stat(growing).st_mtime_ns == before:
            os.utime(growing, ns=(before + 10**9, before + 10**9))

    found = find_recordings([str(calls)])
    found.sort(key=lambda pair: pair[0] == growing)  # the long one is not the first to be done
    settings = {"plan": "batch", "labels": None, "channels": "mix", "roles": None}
    totals = AnswerFolder(tmp_path / "answers", found, ["jsonl"], model, **settings).run(touch)
    assert totals.done == 4
    assert [(path, "changed while it was read" in reason) for path, reason in totals.errors] == [(growing, True)]
    assert not (tmp_path / "answers" / "long.jsonl").exists()
    assert "long.wav" not in (tmp_path / "answers" / "summary.csv").read_text()


def test_a_file_that_goes_while_it_is_read(calls: Path, tmp_path: Path, model: Model) -> None:
    def take_away(totals: Totals) -> None:
        if totals.done:
            (calls / "silence.wav").unlink(missing_ok=True)

    for n in range(12):  # so that the last one is still to come when the first is done
        shutil.copy(calls / "a.wav", calls / f"copy{n:02d}.wav")
    settings = {"plan": "batch", "labels": None, "channels": "mix", "roles": None}
    folder = AnswerFolder(tmp_path / "answers", find_recordings([str(calls)]), ["jsonl"], model, **settings)
    totals = folder.run(take_away)
    assert totals.done == 15
    ((path, reason),) = totals.errors
    assert path == calls / "silence.wav"
    assert reason.startswith("Bad ")


def kill_and_rerun(root: Path, out: Path, kills: int, seed: int) -> None:
    """Run, killed ``kills`` times at random moments, then to the end. What was done once is never done again."""
    dice = random.Random(seed)
    line = [sys.executable, "-m", "sedstream", "diarize", str(root), "--out", str(out), "--quiet"]
    line += ["--format", "jsonl,rttm,textgrid"]
    done: dict[str, int] = {}
    for _ in range(kills):
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        # Mostly a while after the first outputs appear: start-up alone takes seconds.
        journal = out / "run.jsonl"
        size = journal.stat().st_size if journal.exists() else 0
        patience = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < patience:
            if journal.exists() and journal.stat().st_size != size:
                break
            time.sleep(0.01)
        time.sleep(dice.random() * 1.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
        names = [json.loads(text)["file"] for text in lines]
        assert len(names) == len(set(names)), "done twice"
        assert set(done) <= set(names)
        for name in names:
            output = out / Path(name).relative_to(root).with_suffix(".jsonl")
            stamp = output.stat().st_mtime_ns
            assert done.setdefault(name, stamp) == stamp, "written again"
        for path in out.rglob("*.jsonl"):
            if not path.name.startswith("."):
                [json.loads(text) for text in path.read_text().splitlines() if path != journal]
    assert subprocess.run(line, check=False).returncode == 0


def test_killed_and_rerun(calls: Path, tmp_path: Path) -> None:
    for n in range(12):
        shutil.copy(calls / "a.wav", calls / f"copy{n}.wav")
    kill_and_rerun(calls, tmp_path / "killed", 3, seed=1)
    undisturbed = tmp_path / "undisturbed"
    assert command(calls, "--out", undisturbed, "--format", "jsonl,rttm,textgrid", "--quiet").returncode == 0
    assert tree(tmp_path / "killed") == tree(undisturbed)


@pytest.mark.data
def test_500_recordings_killed_ten_times(tmp_path: Path) -> None:
    root = tmp_path / "recordings"
    root.mkdir()
    index = csv.DictReader((DATA / "index.csv").open(encoding="utf-8"))
    paths = [DATA / row["path"] for row in index if row["corpus"] in ("RAVDESS", "EmoDB", "TurEV-DB")]
    for n, path in enumerate(random.Random(5).sample(paths, 500)):
        (root / f"{n:03d}{path.suffix}").symlink_to(path)
    kill_and_rerun(root, tmp_path / "killed", 10, seed=2)
    undisturbed = tmp_path / "undisturbed"
    assert command(root, "--out", undisturbed, "--format", "jsonl,rttm,textgrid", "--quiet").returncode == 0
    assert tree(tmp_path / "killed") == tree(undisturbed)
    assert len(tree(undisturbed)) == 500 * 3 + 3


@pytest.mark.parametrize(
    "wrong",
    [{"plan": "lvie"}, {"labels": ["neutral", "hapy"]}, {"channels": "left"}, {"roles": ["a", "b", "c"]}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_typing_error_costs_no_answers(wrong: dict[str, Any], calls: Path, tmp_path: Path, model: Model) -> None:
    out = tmp_path / "answers"
    answer(calls, out, model)
    before = tree(out)
    with pytest.raises(SedstreamError, match=f"Bad {next(iter(wrong)).rstrip('s')}"):
        answer(calls, out, model, **wrong)
    assert tree(out) == before
    with pytest.raises(SedstreamError, match=f"Bad {next(iter(wrong)).rstrip('s')}"):
        next(diarize_many([calls / "a.wav"], model=model, **wrong))


def test_one_name_is_one_recordings(calls: Path, tmp_path: Path, model: Model) -> None:
    """Of two recordings whose answers are called the same, in two runs, the later has them, and only it is told of."""
    out = tmp_path / "answers"
    answer(calls / "a.wav", out, model)
    assert answer(calls / "north" / "a.wav", out, model, ["csv"]).done == 1
    assert [path.name for path in out.glob("a.*")] == ["a.csv"]
    assert len(pd.read_csv(out / "summary.csv")) == 1
    assert answer(calls / "a.wav", out, model).done == 1
    assert len(pd.read_csv(out / "summary.csv")) == 1
    os.chdir(tmp_path)
    assert answer(Path("calls/a.wav"), out, model).done == 1  # the same one by another path
    assert len(pd.read_csv(out / "summary.csv")) == 1


def test_one_name_is_one_recordings_after_an_interruption(calls: Path, tmp_path: Path, model: Model) -> None:
    """What was begun and not ended leaves no answer that others would take for theirs."""
    out = tmp_path / "answers"
    settings = {"plan": "batch", "labels": None, "channels": "mix", "roles": None}

    def stop(totals: Totals) -> None:
        if totals.done:
            raise KeyboardInterrupt

    answer(calls / "a.wav", out, model)
    expected = (out / "a.jsonl").read_bytes()
    others = find_recordings([str(calls / "north" / "a.wav")])
    for change in (settings, settings | {"plan": "live"}):
        with pytest.raises(KeyboardInterrupt):
            AnswerFolder(out, others, ["jsonl"], model, **change).run(stop)
        assert (out / "a.jsonl").read_bytes() != expected
        assert answer(calls / "a.wav", out, model).done == 1
        assert (out / "a.jsonl").read_bytes() == expected
        assert len(pd.read_csv(out / "summary.csv")) == 1


def test_two_runs_into_one_folder(calls: Path, tmp_path: Path, model: Model) -> None:
    out = tmp_path / "answers"

    def meanwhile(totals: Totals) -> None:
        with pytest.raises(BadInput, match="expected one that no other run writes to"):
            answer(calls, out, model)

    found = find_recordings([str(calls / "a.wav")])
    settings = {"plan": "batch", "labels": None, "channels": "mix", "roles": None}
    assert AnswerFolder(out, found, ["jsonl"], model, **settings).run(meanwhile).done == 1
    assert answer(calls, out, model).done == 3


def test_a_table_of_silence_has_the_types_of_others(calls: Path, model: Model) -> None:
    tables = [sedstream.diarize(calls / name, model=model).to_dataframe() for name in ("silence.wav", "a.wav")]
    assert [len(table) > 0 for table in tables] == [False, True]
    assert tables[0].dtypes.to_dict() == tables[1].dtypes.to_dict()
    assert pd.concat(tables).dtypes.to_dict() == tables[1].dtypes.to_dict()


def test_an_answer_shows_itself_in_one_line(calls: Path, model: Model) -> None:
    shown = repr(sedstream.diarize(calls / "a.wav", model=model))
    assert re.fullmatch(r"<Diarization of '.*a.wav': 4.00 s, 1 channel, \d+ segments>", shown)


def test_a_recording_that_gets_another_name(calls: Path, tmp_path: Path, model: Model) -> None:
    """Run on the folder, then on one inside it, into the same output: the answer called `a` is that of the recording
    called `a` now, and the one called as before is gone."""
    out = tmp_path / "answers"
    answer(calls, out, model)
    assert answer(calls / "north", out, model).done == 2
    rows = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
    assert {row["file"] for row in rows} == {str(calls / "north" / "a.wav")}
    assert not list((out / "north").iterdir())
    files = list(pd.read_csv(out / "summary.csv")["file"])
    assert files == [str(calls / name) for name in ("north/a.wav", "north/b.flac", "silence.wav")]
    assert answer(calls / "north", out, model).skipped == 2


def test_a_journal_whose_last_line_was_cut(calls: Path, tmp_path: Path, model: Model) -> None:
    """By a kill; and the run behind it is killed as well: what that one did is not glued to the rest of a line."""
    out = tmp_path / "answers"
    answer(calls, out, model)
    whole = tree(out)
    *lines, last = whole["run.jsonl"].splitlines(keepends=True)
    (out / "run.jsonl").write_bytes(b"".join(lines) + last[:50])

    def stop(totals: Totals) -> None:
        if totals.done:
            raise KeyboardInterrupt

    settings = {"plan": "batch", "labels": None, "channels": "mix", "roles": None}
    with pytest.raises(KeyboardInterrupt):
        AnswerFolder(out, find_recordings([str(calls)]), ["jsonl"], model, **settings).run(stop)
    assert answer(calls, out, model).skipped == 4
    assert tree(out) == whole


def test_annotations_by_hand_are_not_written_over(calls: Path, model: Model) -> None:
    """Answers may stand beside their recordings, but in the place of nothing else."""
    hand = calls / "a.TextGrid"
    hand.write_text("by hand")
    (calls / "summary.csv").write_text("by hand")
    before = tree(calls)
    for names, taken in ((["textgrid"], hand), (["rttm"], calls / "summary.csv")):
        with pytest.raises(BadInput, match=f"Bad output '{taken}', expected none yet: it is no answer that run.jsonl"):
            answer(calls, calls, model, names)
    assert tree(calls) == before
    (calls / "summary.csv").unlink()
    assert answer(calls, calls, model, ["rttm"]).done == 4
    totals = answer(calls, calls, model, ["textgrid", "rttm"])  # the first run is over: the others are answered
    assert (totals.done, [path for path, _ in totals.errors]) == (3, [calls / "a.wav"])
    assert "Bad output" in totals.errors[0][1]
    assert hand.read_text() == "by hand"
    assert (calls / "north" / "a.TextGrid").is_file()
    assert (calls / "a.rttm").is_file()  # what it was asked before still stands
    assert answer(calls, calls, model, ["rttm"]).skipped == 4


def test_what_a_killed_run_left_beside_a_recording_is_no_annotation(calls: Path, model: Model) -> None:
    """It wrote the answer, and not yet its line of the journal."""
    answer(calls, calls, model, ["rttm"])
    whole = tree(calls)
    lines = whole["run.jsonl"].splitlines(keepends=True)
    (calls / "run.jsonl").write_bytes(b"".join(lines[1:]))
    totals = answer(calls, calls, model, ["rttm"])
    assert (totals.done, totals.skipped, totals.errors) == (1, 3, [])
    assert tree(calls) == whole


def test_the_tables_are_of_one_kind_of_answers(calls: Path, tmp_path: Path, model: Model) -> None:
    """Those asked for now: numbers of other settings would not be comparable. Each table has a row a line."""
    out = tmp_path / "answers"
    answer(calls / "a.wav", out, model)
    answer(calls / "silence.wav", out, model, plan="live")
    assert list(pd.read_csv(out / "summary.csv")["file"]) == [str(calls / "silence.wav")]
    (calls / "new\nline.wav").write_text("not audio at all")
    answer(calls / "new\nline.wav", out, model, plan="live")
    assert (out / "errors.csv").read_text().count("\n") == 2


def test_what_another_run_did_meanwhile_is_done(calls: Path, tmp_path: Path, model: Model) -> None:
    settings = {"plan": "batch", "labels": None, "channels": "mix", "roles": None}
    late = AnswerFolder(tmp_path / "answers", find_recordings([str(calls)]), ["jsonl"], model, **settings)
    assert answer(calls, tmp_path / "answers", model).done == 4
    assert late.run(quiet).skipped == 4
