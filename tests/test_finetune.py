"""Fine-tuning on a user's labelled folder: what is read of it, what is refused, and a model made end to end."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import audformat
import numpy as np
import pandas
import pytest
import soundfile
import torch
from conftest import ROOT
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from test_cli import fails, sedstream
from test_training import ENCODER, HEAD, hum, utterance

import sedstream as package
from sedstream.encoders.cached import CachedEncoder
from sedstream.encoders.heads import CachedHead
from sedstream.errors import BadInput, BadModel
from sedstream.grid import HOP, RATE, frames_of
from sedstream.manifest import read
from sedstream.training import labelled
from sedstream.training.batches import FRAMES, ROWS, Batches, Source
from sedstream.training.card import card
from sedstream.training.concatenations import Speakers
from sedstream.training.corpora import Corpora
from sedstream.training.holdout import Told, hold_out
from sedstream.training.labelled import Source as Named
from sedstream.training.labelled import load, read_recording
from sedstream.training.publish import publish
from sedstream.training.recipe import SETTINGS, train
from sedstream.training.rows import UNKNOWN, find_table, read_rows
from sedstream.training.tune import account, tune

LABELS = ("angry", "bored", "neutral")
PITCH = {"neutral": 110.0, "angry": 330.0}


def write(folder: Path, *lines: str, header: str = "file,start,end,emotion", name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cached model that knows nothing yet, with labels, plans and a decoder of its own."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start") / "nobody"
    head = {key: value for key, value in HEAD.items() if key != "dropout"}
    changed = {"version": "3.1.4", "labels": LABELS, "plans": {"live": {"left": 4, "step": 16, "right": 15}}}
    changed |= {"licence": "CC0-1.0", "decoder": {**SETTINGS["decoder"], "switch": 999}}
    table = {**SETTINGS, **changed, "name": "nobody", "temperature": 1.0, "encoder": ENCODER, "head": head}
    publish(folder, table, CachedEncoder(**ENCODER), CachedHead(labels=3, **HEAD))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four voices in recordings of four kinds, low for neutral, high for angry: a call with both, and clips of each."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "calls").mkdir()
    kinds = (("wav", 8000, 1), ("flac", 44_100, 2), ("ogg", 48_000, 1), ("wav", RATE, 2))
    rows = []
    for voice, (suffix, rate, channels) in enumerate(kinds):

        def save(name: str, sound: NDArray[np.float32], rate: int = rate, channels: int = channels) -> None:
            there = np.interp(np.arange(len(sound) * rate // RATE) * RATE / rate, np.arange(len(sound)), sound)
            soundfile.write(folder / name, np.stack([there] * channels, 1).astype(np.float32), rate)

        shift = 1 + 0.04 * voice
        parts = [hum(PITCH[e] * shift, 2.0, voice) for e in ("neutral", "angry", "neutral")]
        save(f"calls/{voice}.{suffix}", np.concatenate([np.zeros(RATE // 2, np.float32), *parts]))
        rows += [(f"calls/{voice}.{suffix}", 0.5 + 2 * n, 2.5 + 2 * n, e) for n, e in enumerate(("neutral", "Anger"))]
        for emotion in PITCH:
            save(f"{voice}-{emotion}.{suffix}", hum(PITCH[emotion] * shift, 1.8, 9 + voice))
            rows.append((f"{voice}-{emotion}.{suffix}", "", "", emotion))
    with (folder / "ours.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["speaker", "file", "start", "end", "emotion", "note"])
        table.writerows([row[0].removeprefix("calls/")[0], *row, "as heard"] for row in rows)
    write(folder, "1,2", header="file,duration", name="lengths.csv")
    return folder


def test_tune(data: Path, start: Path, tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "ours"
    quick = {"head_rate": 0.02, "encoder_rate": 0.005, "average": 0.8, "workers": 0, "quiet": True}
    figures = tune(data, out, init=start, hours=0.5, **quick)
    assert figures["uar"] > max(0.8, figures["before"]["uar"]), figures
    assert figures["speech"]["train"]["speakers"] == 3
    assert figures["speech"]["valid"]["speakers"] == 1
    assert figures["speech"]["shared_speakers"] == 0
    # What is not learned is what the start has.
    made, began = read(out), read(start)
    assert (made.name, made.kind, made.licence) == ("ours", "cached", "CC0-1.0")
    for name in ("labels", "plans", "decoder", "vad", "encoder", "head"):
        assert getattr(made, name) == getattr(began, name), name
    assert made.sha256 != began.sha256
    # What is written says what was measured.
    told = json.loads((out / "metrics.json").read_text())
    assert told["uar"] == figures["uar"]
    assert told["recall"]["bored"] is None
    card = (out / "CARD.md").read_text()
    assert card.startswith("# ours\n")
    assert "Fine-tuned from\nnobody 3.1.4" in card
    assert f"| mean | {100 * figures['before']['uar']:.1f} | {100 * figures['uar']:.1f} |" in card
    assert "No recording was labelled bored" in card
    assert f"| angry | {figures['speech']['train']['emotions']['angry']:g} |" in card
    assert not any(line.rstrip() != line or "{" in line for line in card.splitlines())
    # It is a model as any other.
    answer = package.diarize(clip, model=out, plan="live")
    assert answer.segments
    assert {segment.label for segment in answer.segments} <= set(LABELS)
    # A training that is through is not done again; one from another start must not go on from it.
    again = tune(data, out, init=start, hours=0.5, **quick)
    assert again["recall"]["angry"] == figures["recall"]["angry"]
    with pytest.raises(BadInput, match="expected none of a training with other seed:"):
        tune(data, out, init=start, hours=0.5, seed=2, **quick)
    with pytest.raises(BadInput, match=f"expected none of a training with other hours: remove '{out}' to begin anew"):
        tune(data, out, init=start, hours=1, **quick)
    with pytest.raises(BadInput, match="expected another one than that of the start"):
        tune(data, out, init=out, **quick)
    # Small rates and little of it, as it is by default, change little.
    gentle = tune(data, tmp_path / "gentle", init=out, hours=0.05, workers=0, quiet=True)
    assert gentle["uar"] > 0.8


def test_the_start_tells_what_neutral_sounds_like_where_nothing_held_out_is(
    data: Path, start: Path, tmp_path: Path
) -> None:
    """Or a neutral voice would be told against angry ones, and sound angry after some minutes."""
    voiced = tmp_path / "voiced"
    shutil.copytree(start, voiced)
    manifest = voiced / "manifest.toml"
    manifest.write_text(manifest.read_text() + "\n[voice]\nneutral = [-5.5, -2.25, -0.5]\nafter = 7\n")
    rows = ["0-angry.wav,,,angry,train", "1-angry.flac,,,angry,valid"]
    for neutral, expected in (("train", True), ("valid", False)):
        (folder := tmp_path / neutral).mkdir()
        for name in ("0-angry.wav", "1-angry.flac", "0-neutral.wav", "1-neutral.flac"):
            shutil.copy(data / name, folder)
        more = ["0-neutral.wav,,,neutral,train", f"1-neutral.flac,,,neutral,{neutral}"]
        write(folder, *rows, *more, header="file,start,end,emotion,split")
        tune(folder, tmp_path / f"of {neutral}", init=voiced, hours=0.001, workers=0, quiet=True)
        made = read(tmp_path / f"of {neutral}").voice
        assert made is not None
        assert (made.neutral == (-5.5, -2.25, -0.5)) is expected
        assert (made.after, made.column) == (7, LABELS.index("neutral"))


def test_what_is_kept_of_the_start(data: Path, start: Path, tmp_path: Path) -> None:
    """A quarter of its weights, unless told."""
    settings = {"init": start, "encoder": ENCODER, "head": HEAD, "settings": {**SETTINGS, "labels": LABELS}}
    settings |= {"hours": 0.001, "every": 0.001, "head_rate": 1.0, "workers": 0, "quiet": True, "rows": 2}
    began = load_file(start / "weights.safetensors")["head.enter.weight"].float()
    moved = []
    for name, kept in (("usual", None), ("nothing", 0.0)):
        train(data, tmp_path / name, kept=kept, **settings)
        moved.append(load_file(tmp_path / name / "weights.safetensors")["head.enter.weight"].float() - began)
    torch.testing.assert_close(moved[0].norm(), 0.75 * moved[1].norm(), atol=0, rtol=0.02)


def test_a_card_warns(start: Path) -> None:
    """Of a start that is no worse, of voices that were trained, and of emotions that nobody measured."""
    spoken = {"recordings": 9, "speakers": 7, "minutes": 3.0, "emotions": {"angry": 1.0, "bored": 2.0, "neutral": 0.5}}
    held = {"recordings": 2, "speakers": 6, "minutes": 1.0, "emotions": {"angry": 0.0, "bored": 1.0, "neutral": 0.25}}
    measured = {"concordance": {"arousal": 0.5, "valence": 0.25}, "recall": {"angry": math.nan, "bored": 0.75}}
    figures = {"uar": 0.75, **measured, "before": {"uar": 0.75, **measured}, "frozen": False, "hours": 1.0}
    figures |= {"temperature": 1.5, "speech": {"train": spoken, "valid": held, "shared_speakers": 2}}
    text = card("ours", read(start), figures)
    assert "75.0 before, 75.0 after. **The start is no worse here: use that.**" in text
    assert "\nSpeakers in both: 2. " in text
    assert "\n- The figures above are partly of voices that it was trained on" in text
    assert "\n- How well it finds angry is not known" in text
    assert "| angry | not in valid | not in valid |" in text
    assert "| speakers | 7 | 6 |" in text
    assert "| neutral | 0.5 | 0.25 |" in text
    assert "was labelled" not in text
    figures |= {"uar": 0.76}
    figures["speech"] = {"train": spoken, "valid": held, "shared_speakers": 0}
    text = card("ours", read(start), figures)
    assert "75.0 before, 76.0 after.\n" in text
    assert "\nNo speaker is in both. " in text
    assert "Few voices" not in text
    assert "voices that it was trained on" not in text


def test_the_command(data: Path, start: Path, tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "mine"
    done = sedstream("train", data, "--init", start, "--out", out, "--hours", "0.001", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("valid, nobody 3.1.4, per frame: unweighted average recall 0.")
    assert "\nvalid, mine, per frame: unweighted average recall 0." in done.stdout
    assert sedstream("diarize", "--model", out, "--plan", "live", clip).returncode == 0
    card = sedstream("models", out).stdout
    assert card.startswith("# mine\n")
    assert json.loads((out / "metrics.json").read_text())["hours"] == 0.001
    assert "\n0.001 h of augmented speech (" in card
    assert "\n- Few voices to judge by, 1: " in card
    fails(
        sedstream("train", data, "--init", start, "--out", tmp_path / "no", "--without", "EmoDB"), "Bad corpora 'EmoDB'"
    )
    fails(sedstream("train", data, "--init", start, "--out", tmp_path / "no", "--follow", start), "Bad encoder '")
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(sedstream("train", empty, "--init", start, "--out", tmp_path / "no"), "an index.csv or a labels.csv")
    fails(sedstream("train", tmp_path / "gone", "--out", tmp_path / "no"), "expected a folder that exists")
    for device in ("tpu", *(() if torch.cuda.is_available() else ("cuda",))):
        fails(sedstream("train", data, "--init", start, "--out", tmp_path / "no", "--device", device), "Bad device '")
    assert not (tmp_path / "no").exists()


def test_bad_outputs(data: Path, start: Path, tmp_path: Path, clip: Path) -> None:
    """They are told before the work, which would say that there is no such start."""
    before = {path.name: path.read_bytes() for path in start.iterdir()}
    for out, says in (
        (start, "expected none with a model that was not trained there"),
        (clip, "expected one that can be written: File exists"),
        (clip / "model", "expected one that can be written: Not a directory"),
        (Path("/proc/model"), "expected one that can be written: No such file or directory"),
        *(
            (tmp_path / name, "expected a name in UTF-8 without control characters")
            for name in ("n\nl", "\x7f", "\udcff")
        ),
    ):
        told = re.escape(str(out) if str(out).isprintable() else repr(out.name)[1:-1])
        with pytest.raises(BadInput, match=f"^Bad folder '{told}' to write, {says}$"):
            tune(data, out, init=tmp_path / "none")
        with pytest.raises(BadInput, match=f"^Bad folder '{told}' to write, {says}$"):
            train(data, out, init=tmp_path / "none.safetensors")
    with pytest.raises(BadModel, match="Bad start"):
        tune(data, tmp_path / "a" / "b", init=tmp_path / "none")
    assert {path.name: path.read_bytes() for path in start.iterdir()} == before
    assert not list(tmp_path.iterdir())


def test_bad_starts(data: Path, start: Path, tmp_path: Path) -> None:
    windowed = Path(shutil.copytree(start, tmp_path / "windowed"))
    text = (windowed / "manifest.toml").read_text()
    (windowed / "manifest.toml").write_text(text.replace('"cached"', '"windowed"'))
    with pytest.raises(
        BadModel, match="expected a cached model, or one of the family wav2vec .* it is windowed whisper"
    ):
        tune(data, tmp_path / "out", init=windowed)
    save_file({"x": torch.zeros(1)}, tmp_path / "raw.safetensors")
    with pytest.raises(BadModel, match="Bad checkpoint with 1 tensors"):
        tune(data, tmp_path / "out", init=tmp_path / "raw.safetensors")
    spoilt = Path(shutil.copytree(start, tmp_path / "spoilt"))
    (spoilt / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(BadModel, match="expected sha256"):
        tune(data, tmp_path / "out", init=spoilt)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ("a.wav,0,1,angry", "a.wav,1,2,cross"),
            "Bad emotion 'cross' in .*labels.csv' line 3, expected one of angry, bor",
        ),
        (("a.wav,0,1,angry", "a.wav,1,2,happy"), "Bad emotion 'happy' .*line 3"),
        (("a.wav,0,1,angry", "a.wav,1,2,"), "Bad emotion '' .*line 3.*or arousal or valence"),
        (("a.wav,0,1,angry", "a.wav,2,1,bored"), "Bad span '2 to 1' in .*line 3, expected 0 ≤ start < end"),
        (("a.wav,-1,1,angry", "a.wav,1,2,bored"), "Bad span '-1 to 1' in .*line 2"),
        (("a.wav,0,1,angry", "a.wav,1,1.001,bored"), "Bad span .*line 3.*0.02 or more apart"),
        (("a.wav,0,inf,angry", "a.wav,1,2,bored"), "Bad span '0 to inf' in .*line 2"),
        (("a.wav,noon,1,angry", "a.wav,1,2,bored"), "Bad span 'noon to 1' in .*line 2"),
        (("a.wav,0,1,angry", "a.wav,0.5,2,bored"), "Bad span in .*line 3, expected no overlap with line 2, .* 1 s"),
        (("a.wav,0,1,angry", "./a.wav,0.5,2,bored"), "expected no overlap with line 2"),
        (("a.wav,,,angry", "a.wav,1,2,bored"), "Bad span in .*line 3, expected no overlap with line 2, .* the end"),
        (("a.wav,0,1,angry", "b.wav,0,1,angry"), "with angry alone, expected two or more of angry, bored"),
        (("a.wav,0,1,silence",), "with no emotion alone"),
        ((",0,1,angry",), "Bad file '' in .*line 2"),
        (("a.wav,0,1",), "Bad row of 3 fields in .*line 2, expected 4"),
        (('"a.wav,0,1,angry',), "Bad row in .*expected comma-separated values"),
    ],
)
def test_bad_rows(lines: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=says):
        read_rows(write(tmp_path, *lines), LABELS)


@pytest.mark.parametrize(
    ("column", "lines", "says"),
    [
        (
            "split",
            ("a.wav,0,1,angry,dev", "b.wav,0,1,bored,train"),
            "Bad split 'dev' in .*line 2, expected one of train",
        ),
        ("split", ("a.wav,0,1,angry,train", "b.wav,0,1,bored,"), "Bad split '' in .*line 3, expected one in each line"),
        ("split", ("a.wav,0,1,angry,train", "a.wav,1,2,bored,valid"), "Bad split 'valid' in .*line 3, .*as in line 2"),
        ("arousal", ("a.wav,0,1,angry,2",), "Bad arousal '2' in .*line 2, expected a number from 0 to 1"),
        ("valence", ("a.wav,0,1,angry,good",), "Bad valence 'good' in .*line 2"),
        ("channel", ("a.wav,0,1,angry,left",), "Bad channel 'left' in .*line 2, expected 0 or 1"),
    ],
)
def test_bad_columns(column: str, lines: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=says):
        read_rows(write(tmp_path, *lines, header=f"file,start,end,emotion,{column}"), LABELS)


def test_bad_tables(tmp_path: Path) -> None:
    assert find_table(tmp_path) is None
    with pytest.raises(BadInput, match=r"expected a labels\.csv with the columns file, start, end, emotion in it"):
        load(tmp_path, tmp_path, LABELS, workers=0)
    for name in ("one.csv", "two.csv"):
        write(tmp_path, "a.wav,,,angry", name=name)
    with pytest.raises(BadInput, match=r"with one\.csv, two\.csv, expected one, or a labels\.csv"):
        find_table(tmp_path)
    table = write(tmp_path, "a.wav,angry", header="file,emotion")
    assert find_table(tmp_path) == table  # by its name
    with pytest.raises(BadInput, match="Bad header in .*line 1, expected the columns start, end as well"):
        read_rows(table, LABELS)
    table = write(tmp_path, "a.wav,0,1,angry,0,0", header="file,start,end,emotion,Channel,channel")
    with pytest.raises(BadInput, match="Bad header in .*line 1, expected 'channel' once"):
        read_rows(table, LABELS)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="expected a readable file in UTF-8"):
        read_rows(table, LABELS)
    table.write_text("")
    with pytest.raises(BadInput, match="with no emotion alone"):
        read_rows(table, LABELS)


def test_bad_recordings(tmp_path: Path, clip: Path) -> None:
    shutil.copy(clip, tmp_path / "good.flac")
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "short.wav", np.ones(1, np.float32), RATE)
    for line, says in (
        ("text.wav,0,1,angry", r"text\.wav'.*\('.*labels\.csv' line 3\)"),
        ("gone.wav,0,1,angry", r"gone\.wav', expected an existing recording \('.*labels\.csv' line 3\)"),
        ("good.flac,10,17,angry", r"Bad span in .*line 3, expected it within the 16\.59 s of 'good\.flac'"),
        ("good.flac,20,,angry", "Bad span in .*line 3"),
        ("a\0b.wav,0,1,angry", r"a\0b\.wav', expected an existing recording \('.*labels\.csv' line 3\)"),
        ("short.wav,,,angry", r"Bad span in .*line 3, expected 0\.02 s or more of 'short\.wav'"),
    ):
        write(tmp_path, "good.flac,0,2,neutral", line)
        with pytest.raises(BadInput, match=says):
            load(tmp_path, tmp_path / "store", LABELS, workers=0)
    with pytest.raises(BadInput, match="Bad channel 1 of .*here"):
        read_recording(Named(clip, 1, "here"))
    write(tmp_path, "good.flac,0,2,neutral,1", "good.flac,2,4,angry,1", header="file,start,end,emotion,channel")
    with pytest.raises(BadInput, match=r"Bad channel 1 of .*good\.flac', expected a recording that has it"):
        load(tmp_path, tmp_path / "store", LABELS, workers=0)


def test_rows(tmp_path: Path) -> None:
    header = "\ufefffile, Start,end,emotion,speaker,split,arousal,valence,channel"
    table = write(
        tmp_path,
        "a.wav,0 days 00:00:01.500000,0 days 00:01:00,ANGER,Ann,valid,0.9,,0",
        "",
        "a.wav,,1.5,n,Ann,valid,,,0",
        "b.wav,NaT,NaT,,Bob,train,,0.25,1",
        "b.wav,1,2,sil,Bob,train,,,0",
        "b.wav,2,3,bored,Eve,train,,,0",
        "c.wav,2,3,bored,Eve\u2028or\x85Ann\x0c,train,,,1",
        header=header,
    )
    one, two, three, four, five = read_rows(table, LABELS)
    assert (one.line, one.start, one.end, one.emotion) == (2, 75, 3000, 0)
    assert (one.speaker, one.split, one.arousal) == ("Ann", "valid", 0.9)
    assert math.isnan(one.valence)
    assert one.channel is None  # the only one that is named, as in an answer about the mix
    assert (two.line, two.start, two.end, two.emotion) == (4, 0, 75, 2)
    assert (three.start, three.end, three.emotion, three.valence, three.channel) == (0, None, UNKNOWN, 0.25, 1)
    assert (four.line, four.channel, four.speaker) == (7, 0, "Eve")
    assert (five.line, five.channel, five.speaker) == (8, 1, "Eve\u2028or\x85Ann")
    table.write_bytes(table.read_bytes().replace(b"\n", b"\r"))
    assert [row.line for row in read_rows(table, LABELS)] == [2, 4, 5, 7, 8]


def test_a_table_of_audformat(tmp_path: Path) -> None:
    """Labels of whole recordings, whose starts pandas writes as days without hours."""
    index = audformat.utils.to_segmented_index(audformat.filewise_index(["a.wav", "b.wav"]), allow_nat=True)
    pandas.Series(["angry", "neutral"], index, name="emotion").to_csv(tmp_path / "labels.csv")
    rows = read_rows(tmp_path / "labels.csv", LABELS)
    assert [(row.file, row.start, row.end, row.emotion) for row in rows] == [
        ("a.wav", 0, None, 0),
        ("b.wav", 0, None, 2),
    ]


def test_times_are_those_of_the_nearest_frames(tmp_path: Path) -> None:
    table = write(tmp_path, "a.wav,0.009,0.991,angry", "a.wav,0.991,1.969,bored")
    assert [(row.start, row.end) for row in read_rows(table, LABELS)] == [(0, 50), (50, 98)]


def test_what_was_kept_of_another_recording_is_not_taken(tmp_path: Path) -> None:
    """Another channel, or other sound under the same name and of the same size."""
    call = np.stack([hum(110, 3, 0), hum(330, 3, 1)], 1)
    heard = []
    for channel, sound in (("1", call), ("", None), ("", call[:, ::-1] * 0.5)):
        for name in ("a.wav", "b.wav") if sound is not None else ():
            soundfile.write(tmp_path / name, sound, RATE)
        rows = [f"{name}.wav,0,1,angry,{split},{channel}" for name, split in (("a", "train"), ("b", "valid"))]
        header = "file,start,end,emotion,split,channel"
        write(tmp_path, *rows, f"a.wav,1,2,bored,train,{channel}", header=header)
        heard.append(load(tmp_path, tmp_path / "store", LABELS, workers=0).utterances[0].samples.copy())
    first, second, third = (samples[: 10 * HOP] for samples in heard)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


def test_too_loud_is_clipped(tmp_path: Path) -> None:
    wave = np.tile(np.repeat(np.float32([1.5, -1.5]), 200), 40)
    soundfile.write(tmp_path / "loud.wav", wave, RATE, subtype="FLOAT")
    samples, _ = read_recording(Named(tmp_path / "loud.wav", None, "here"))
    np.testing.assert_array_equal(samples, np.sign(wave) * 32767)


def test_what_is_heard_where(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    """Samples of a span are those of the recording, at any rate; what no row covers is known to nobody."""
    call = np.stack([speech, np.zeros_like(speech)], 1)
    soundfile.write(tmp_path / "call.wav", call[::2], RATE // 2)
    soundfile.write(tmp_path / "long.flac", speech, RATE)
    write(
        tmp_path,
        "call.wav,1,3,neutral,0,train,0.2",
        "call.wav,4,6,bored,0,train,",
        "call.wav,14,15,angry,0,train,",
        "call.wav,7,9,neutral,1,train,",
        "long.flac,,,angry,,valid,",
        header="file,start,end,emotion,channel,split,arousal",
    )
    found = load(tmp_path, tmp_path / "store", LABELS, workers=0)
    first, second, third, other, *rest = found.utterances
    assert [u.emotion for u in (first, second, third, other)] == [2, 1, 0, 2]
    assert {u.speaker for u in (first, second, third)} == {"call.wav, channel 0"}
    assert (other.speaker, bool(other.samples.any())) == ("call.wav, channel 1", False)
    assert (first.arousal, first.valence) == (0.2, 0.5)
    assert math.isnan(second.arousal)  # nothing is known of bored
    assert second.speech[0]
    assert second.speech[-1]
    assert 50 < len(second.speech) <= 100
    # The long one is cut, evenly and at whole frames.
    assert len({len(u.speech) for u in rest}) <= 2
    assert all(u.split == "valid" and u.emotion == 0 and len(u.speech) <= labelled.LONGEST for u in rest)
    whole = np.concatenate([u.samples for u in rest]) / 32768
    begin = next(n for n in range(100) if np.allclose(speech[n * HOP :][: len(whole)], whole, atol=1e-4))
    assert begin * HOP + len(whole) > 0.9 * len(speech)
    # A passage is the recording as it is, its gaps with no label; a gap of 8 s ends it.
    one, two = found.passages
    assert [u.emotion for u in one] == [2, UNKNOWN, 1]
    assert [u.weight for u in one] == [1, 0, 1]
    span = np.concatenate([u.samples for u in one]) / 32768
    assert len(span) % HOP == 0
    place = np.argmax(np.correlate(speech[: 7 * RATE], span, "valid"))
    assert place % HOP < 3 or place % HOP > HOP - 3
    assert np.corrcoef(speech[place:][: len(span)], span)[0, 1] > 0.98  # but for the upper half of the spectrum
    assert two == rest
    # Kept, until a recording changes.
    kept = set((tmp_path / "store").iterdir())
    load(tmp_path, tmp_path / "store", LABELS, workers=0)
    assert set((tmp_path / "store").iterdir()) == kept
    soundfile.write(tmp_path / "long.flac", speech[: 8 * RATE], RATE)
    assert len(load(tmp_path, tmp_path / "store", LABELS, workers=0).utterances) < len(found.utterances)


def test_windows(data: Path, tmp_path: Path) -> None:
    """Recordings as they are and joined ones, of one split alone."""
    source = Source(data, tmp_path, labels=LABELS)
    batch = Batches(source, 1, 1)[0]
    assert batch.emotion.shape == (ROWS, FRAMES)
    assert {LABELS.index("angry"), LABELS.index("neutral"), UNKNOWN} == set(batch.emotion.unique().tolist())
    corpora = load(data, tmp_path, LABELS, workers=0)
    voices = Speakers(corpora.split("train"), [p for p in corpora.passages if p[0].split == "train"])
    rng = np.random.default_rng(0)
    drawn = [voices.draw(rng) for _ in range(200)]
    assert 60 < sum(whole for _, whole in drawn) < 140
    assert {u.split for said, _ in drawn for u in said} == {"train"}
    whole = next(said for said, whole in drawn if whole)
    assert len({u.file for u in whole}) == 1
    assert sum(frames_of(len(u.samples)) for u in whole) == sum(len(u.speech) for u in whole)


@pytest.mark.parametrize("least", [0, 1], ids=["while readers start", "while they read"])
def test_interrupted_while_recordings_are_read(least: int, start: Path, tmp_path: Path, clip: Path) -> None:
    for n in range(200):
        (tmp_path / f"{n}.flac").symlink_to(clip)
    write(tmp_path, *(f"{n}.flac,,,{LABELS[n % 2]}" for n in range(200)))
    line = [sys.executable, "-m", "sedstream", "train", tmp_path, "--init", start, "--out", tmp_path / "out", "--quiet"]
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not any(p.stat().st_size >= least for p in (tmp_path / "out").glob("training/speech/*.i16")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3 * (1 - least))
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")


def test_hold_out() -> None:
    speech = [Told(f"v{n}", f"f{n}-{e}", e, 100) for n in range(40) for e in range(3)]
    held = hold_out(speech)
    assert held == hold_out(speech[::-1])
    assert len(held) == 12  # a tenth of forty, with all that they say
    assert len({name.split("-")[0] for name in held}) == 4
    # Voices in one file stay together, over any number of files.
    linked = [*speech, *(Told(f"v{n}", f"both{n // 2}", 0, 10) for n in range(40))]
    held = hold_out(linked)
    voices = {t.speaker for t in linked if t.file in held}
    assert voices.isdisjoint(t.speaker for t in linked if t.file not in held)
    assert all((f"v{n}" in voices) == (f"v{n + 1}" in voices) for n in range(0, 40, 2))
    # The only voice of an emotion is not taken away; of two voices the one is held out that can be spared.
    assert hold_out([Told("a", "1", 0, 10), Told("a", "2", 1, 10), Told("b", "3", 0, 990)]) == {"3"}
    for bad, says in (
        ([Told("a", "1", 0, 9), Told("a", "2", 1, 9)], "all recordings are of 'a' or share a file"),
        ([Told("a", "1", 0, 9), Told("b", "1", 1, 9)], "expected two voices apart"),
        ([Told("a", "1", 0, 9), Told("b", "2", 1, 9)], "every voice has an emotion of its own"),
    ):
        with pytest.raises(BadInput, match=says):
            hold_out(bad)


def test_hold_out_of_any_speech() -> None:
    """As much as there should be, or as much as can be spared: no more than a quarter where one voice is less."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        voices = rng.integers(2, 9)
        speech = [
            Told(f"v{n % voices}", f"f{n % voices}", int(rng.integers(3)), int(rng.integers(1, 300)))
            for n in range(rng.integers(voices, 30))
        ]
        frames = {f"f{n}": sum(t.frames for t in speech if t.file == f"f{n}") for n in range(voices)}
        every, total = {t.emotion for t in speech}, sum(frames.values())

        def spared(files: set[str], speech: list[Told] = speech, every: set[int] = every) -> bool:
            return {t.emotion for t in speech if t.file not in files} == every

        alone = [frames[file] / total for file in frames if spared({file})]
        if not alone:
            with pytest.raises(BadInput, match="every voice has an emotion of its own"):
                hold_out(speech)
            continue
        held = hold_out(speech)
        share = sum(frames[file] for file in held) / total
        most = next(most for most in (0.25, 0.5, 1.0) if min(alone) <= most)
        assert spared(held)
        assert share <= most
        if share < 0.1:
            assert not any(share + frames[f] / total <= most and spared({*held, f}) for f in frames if f not in held)


def test_hold_out_of_many_voices() -> None:
    began = time.process_time()
    speech = [Told(f"v{n}", f"f{n}", e, 100) for n in range(9_000) for e in range(3)]
    assert len(hold_out(speech)) == 900
    linked = [Told(f"v{n + m}", f"f{n}", m, 100) for n in range(9_000) for m in range(2)]
    with pytest.raises(BadInput, match="or share a file"):
        hold_out(linked)
    assert time.process_time() - began < 10


def test_little_is_not_nothing() -> None:
    """A fifth of a second is told, or the card would say that the emotion never came."""
    found = account(Corpora([utterance(0, 10), utterance(1, 500, split="valid")]), LABELS)
    assert (found["train"]["emotions"]["angry"], found["train"]["minutes"]) == (0.003333, 0.003333)
    assert found["valid"]["emotions"] == {"angry": 0.0, "bored": 0.1667, "neutral": 0.0}


def test_splits_without_enough(tmp_path: Path, clip: Path) -> None:
    shutil.copy(clip, tmp_path / "a.flac")
    shutil.copy(clip, tmp_path / "b.flac")
    header = "file,start,end,emotion,split"
    write(tmp_path, "a.flac,0,2,angry,train", "a.flac,2,4,bored,train", header=header)
    with pytest.raises(BadInput, match="Bad split 'valid' with 0 emotions, expected 1 or more"):
        load(tmp_path, tmp_path, LABELS, workers=0)
    write(tmp_path, "a.flac,0,2,angry,train", "b.flac,2,4,bored,valid", header=header)
    with pytest.raises(BadInput, match="Bad split 'train' with 1 emotions, expected 2 or more"):
        load(tmp_path, tmp_path, LABELS, workers=0)
