"""The commands as a user runs them: a process, its output, its exit code."""

import asyncio
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import DEMO, ROOT
from numpy.typing import NDArray

from sedstream.cli import main
from sedstream.exports.screen import clock
from sedstream.serving import tokens
from sedstream.serving.server import Server
from sedstream.zoo import Model

FIELDS = ["file", "channel", "role", "start", "end", "emotion", "confidence", "probs", "entropy", "arousal", "valence"]


def sedstream(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sedstream", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def fails(result: subprocess.CompletedProcess[str], says: str) -> None:
    """Exit code 2 and one clear line, no traceback."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("sedstream: Bad "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert says in result.stderr


def on_a_terminal(*arguments: str | Path) -> str:
    """Standard output of a command that believes it writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sedstream", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:  # Linux's way to say that the other side closed
        pass
    assert process.stderr is not None
    complaint = process.stderr.read().decode()
    assert process.wait() == 0, complaint
    return text.decode().replace("\r\n", "\n")


def test_a_file_to_json_lines(clip: Path) -> None:
    result = sedstream("diarize", clip)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows
    assert all(list(row) == FIELDS for row in rows)
    assert all(row["file"] == str(clip) for row in rows)
    assert all(0 <= row["start"] < row["end"] <= 16.6 for row in rows)


def test_a_folder_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    result = sedstream("diarize", DEMO, "--out", out, "--plan", "live", "--labels", "neutral,happy,sad,angry")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {Path(row["file"]).name for row in rows} == {path.name for path in DEMO.glob("*.flac")}
    assert all(list(row["probs"]) == ["neutral", "happy", "sad", "angry"] for row in rows)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_table_on_a_terminal(clip: Path) -> None:
    text = on_a_terminal("diarize", clip, "--quiet")
    lines = text.strip().splitlines()
    assert lines[0] == str(clip)
    assert lines[1].split() == ["start", "end", "channel", "emotion", "conf.", "arousal", "valence"]
    assert len(lines) > 2
    for line in lines[2:]:
        cells = line.split()
        assert len(cells) == 7
        assert float(cells[0]) < float(cells[1])


def test_channels_and_roles(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack([speech[:80_000], np.zeros(80_000, np.float32)], axis=1), 16000)
    split = sedstream("diarize", path, "--channels", "split", "--roles", "customer,agent")
    rows = [json.loads(line) for line in split.stdout.splitlines()]
    assert rows
    assert {(row["channel"], row["role"]) for row in rows} == {(0, "customer")}
    fails(sedstream("diarize", path, "--channels", "split", "--roles", "customer"), "Bad roles")


def test_server_and_client(clip: Path, tmp_path: Path) -> None:
    """`serve` prints where it listens, `stream` gives what `diarize --plan live` gives, SIGTERM ends the server."""
    command = [sys.executable, "-m", "sedstream", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("listening on ws://127.0.0.1:")
            url = line.split()[-1]
            out = tmp_path / "live.jsonl"
            streamed = sedstream("stream", clip, url, "--speed", "0", "--packet", "0.02", "--out", out)
            assert streamed.returncode == 0, streamed.stderr
            offline = sedstream("diarize", clip, "--plan", "live")
            assert out.read_text() == offline.stdout
            port = url.split(":")[2].split("/")[0]
            fails(sedstream("serve", "--port", port), "it is in use")
            fails(sedstream("stream", clip, url, "--labels", "neutral,cross"), "Bad label 'cross'")
            quiet = tmp_path / "quiet.wav"
            soundfile.write(quiet, np.zeros(80_000), 16_000)
            table = sedstream("stream", quiet, url, "--speed", "0", "--format", "table")
            assert table.stdout == f"\n{quiet}\n  no speech in 5.00 s\n", table.stderr
            assert table.stdout == sedstream("diarize", quiet, "--format", "table").stdout
            for speed in ("nan", "inf", "-1"):
                fails(sedstream("stream", clip, url, "--speed", speed), f"Bad speed {float(speed)}, expected")
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    fails(sedstream("stream", clip, url), "expected one that listens")


def test_what_stream_is_told_the_server_hears(model: Model, tmp_path: Path, speech: NDArray[np.float32]) -> None:
    """Channels, roles, plan and labels, and a connection that breaks on the way: the rows are those of ``diarize``."""
    call, secret, rows = (tmp_path / name for name in ("call.wav", "token", "rows.jsonl"))
    soundfile.write(call, np.stack([speech[:160_000], speech[::-1][:160_000]], axis=1), 16_000)
    told = ["--channels", "split", "--roles", "customer, other", "--plan", "batch", "--labels", "neutral, happy"]
    secret.write_text(tokens.add(tmp_path / "tokens.toml", "one") + "\n")

    async def run() -> int:
        async with Server(model, port=0, tokens=tmp_path / "tokens.toml") as server:
            options = ["--speed", "0", "--reconnect", "--token-file", str(secret), "--out", str(rows)]
            client = asyncio.create_task(asyncio.to_thread(main, ["stream", str(call), server.url, *options, *told]))
            async with asyncio.timeout(120):
                while not (client.done() or any(heard.received for heard in server.sessions.values())):
                    await asyncio.sleep(0.001)
            for connection in server._server.connections:  # type: ignore[union-attr]
                connection.transport.abort()
            return await client

    assert asyncio.run(run()) == 0
    assert main(["diarize", str(call), *told, "--out", str(tmp_path / "expected.jsonl")]) == 0
    found, expected = (
        sorted(path.read_text().splitlines(), key=lambda line: (json.loads(line)["start"], json.loads(line)["channel"]))
        for path in (rows, tmp_path / "expected.jsonl")
    )
    assert {json.loads(line)["role"] for line in found} == {"customer", "other"}
    assert found == expected


def test_score(clip: Path, tmp_path: Path) -> None:
    """A folder of answers against itself, in two formats."""
    for name in ("rttm", "csv"):
        out = tmp_path / name
        assert sedstream("diarize", DEMO, "--out", out, "--format", name).returncode == 0
    same = sedstream("score", tmp_path / "rttm", tmp_path / "csv", "--json")
    assert same.returncode == 0, same.stderr
    report = json.loads(same.stdout)
    assert report["files"] == 2, report.keys()
    table = sedstream("score", tmp_path / "rttm", tmp_path / "csv")
    assert "EDER" in table.stdout
    fails(sedstream("score", tmp_path / "rttm", "missing.rttm"), "missing.rttm")


def test_zed_by_one_command(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    zed, out = tmp_path / "ZED", tmp_path / "answers"
    (zed / "spk1").mkdir(parents=True)
    entry = {"duration": "4.0", "emotion": [{"emo": "sad", "start": 1.0, "end": 3.0}], "transcription": "oh"}
    for name in ("spk1_1", "spk1_2"):
        soundfile.write(zed / "spk1" / f"{name}.wav", speech[: 4 * 16_000], 16_000)
    layout = {name: {"wav": f"datafolder/spk1/{name}.wav"} | entry for name in ("spk1_1", "spk1_2")}
    (zed / "ZED.json").write_text(json.dumps(layout))
    result = sedstream("score", zed, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["files"], found["seconds"]) == (2, 8.0)
    labels = ["--labels", "neutral,happy,sad,angry"]
    assert sedstream("diarize", zed, "--out", out, *labels).returncode == 0
    assert json.loads(sedstream("score", zed, out, "--json", *labels).stdout) == found
    (zed / "spk1" / "spk1_2.wav").unlink()
    fails(sedstream("score", zed), "spk1_2.wav")
    fails(sedstream("score", out), "expected ZED's folder, or a hypothesis beside it")


def test_demo_models_and_version() -> None:
    result = sedstream("demo")
    assert result.returncode == 0, result.stderr
    assert {Path(json.loads(line)["file"]).name for line in result.stdout.splitlines()} == {
        "austen-1.flac",
        "austen-2.flac",
    }
    listed = sedstream("models")
    assert listed.returncode == 0
    assert "sedstream-base 0." in listed.stdout
    assert "verified" in listed.stdout
    assert sedstream("--version").stdout.startswith("sedstream 0.")


def test_bad_input(clip: Path, tmp_path: Path, speech: NDArray[np.float32]) -> None:
    fails(sedstream("diarize", "missing.wav"), "missing.wav")
    (tmp_path / "empty.wav").touch()
    fails(sedstream("diarize", tmp_path / "empty.wav"), "is empty")
    (tmp_path / "text.wav").write_text("hello " * 100)
    fails(sedstream("diarize", tmp_path / "text.wav"), "text.wav")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 16000)
    fails(sedstream("diarize", tmp_path / "zero.wav"), "at least one sample")
    soundfile.write(tmp_path / "three.wav", np.zeros((99, 3)), 16000)
    fails(sedstream("diarize", tmp_path / "three.wav"), "3 channels")
    for rate in (1000, 400_000):
        soundfile.write(tmp_path / "rate.wav", np.zeros(99), rate)
        fails(sedstream("diarize", tmp_path / "rate.wav"), f"{rate} Hz")
    (tmp_path / "folder").mkdir()
    fails(sedstream("diarize", tmp_path / "folder"), "at least one recording")
    fails(sedstream("diarize", clip, "--model", "nobody"), "Bad model 'nobody'")
    fails(sedstream("diarize", clip, "--plan", "slowest"), "Bad plan 'slowest'")
    fails(sedstream("diarize", clip, "--labels", "happy"), "two or more")
    fails(sedstream("diarize", clip, "--device", "cuda:99"), "Bad device 'cuda:99'")
    fails(sedstream("diarize", clip, "--out", tmp_path / "no" / "out.jsonl"), "Bad output")
    fails(sedstream("serve", "--host", "0.0.0.0"), "Bad host '0.0.0.0'")
    fails(sedstream("serve", "--host", "a..b", "--insecure"), "Bad host 'a..b'")
    never = ("--idle-seconds", "0.0", "--resume-seconds", "0")
    fails(sedstream("serve", "--port", "99999", *never), "Bad port 99999, expected 0 to 65535")
    fails(sedstream("serve", "--audiosocket", "-1"), "Bad port -1, expected 0 to 65535")
    for url in ("http://127.0.0.1:1", "ws://127.0.0.1:99999/v1/stream", "ws://[::1", "ws://a..b/v1/stream"):
        fails(sedstream("stream", clip, url), f"Bad server '{url}', expected one that listens")


@pytest.mark.parametrize("number", ["-1", "nan", "inf", "soon"])
def test_a_time_that_is_none(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--idle-seconds", number])
    assert f"Bad number '{number}', expected 0 or more\n" in capsys.readouterr().err


def test_times_of_a_table() -> None:
    times = {41.28: "41.28", 59.99: "59.99", 59.999: "1:00.00", 62.5: "1:02.50", 119.996: "2:00.00"}
    times |= {3599.98: "59:59.98", 3599.999: "1:00:00.00", 3671.5: "1:01:11.50", 36_305.0: "10:05:05.00"}
    assert {seconds: clock(seconds) for seconds in times} == times


OUTPUTS = {
    "--plot p.jpg": "Bad suffix '.jpg', expected one of .png, .svg, .pdf",
    "--plot no/p.png": "Bad output 'no/p.png', expected a file that can be written: No such file or directory",
    "--plot p.png": "Bad output 'p.png', expected a file, found something else of that name",
    "--out cut.flac/a.csv": "Bad output 'cut.flac/a.csv', expected a file that can be written: Not a directory",
    "--out no/a.jsonl": "Bad output 'no/a.jsonl', expected a file that can be written: No such file or directory",
    f"--out {'a' * 252}.csv": f"Bad output '{'a' * 252}.csv', expected a file that can be written: File name too long",
    "--out a.parquet": "Bad format 'parquet', expected pyarrow to be installed: pip install 'sedstream[parquet]'",
    "--plot a.png": "Bad matplotlib 'missing', expected it for plots: pip install 'sedstream[plot]'",
    "--plot b.png --format rttm": "Bad format 'rttm' for the screen, expected table or jsonl",
    "--plot b.png --out b.csv --format csv,vtt": "Bad output 'b.csv', expected a folder for 1 recordings as csv, vtt",
}


@pytest.mark.parametrize("options", OUTPUTS)
def test_a_bad_output_is_told_before_the_work(
    options: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work would say that the recording breaks off."""
    (tmp_path / "cut.flac").write_bytes(clip.read_bytes()[:200_000])
    (tmp_path / "p.png").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in {"--out a.parquet": ["pyarrow"], "--plot a.png": ["matplotlib", "matplotlib.figure"]}.get(options, []):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say that there is none
    assert main(["diarize", "cut.flac", *options.split()]) == 2
    assert capsys.readouterr() == ("", f"sedstream: {OUTPUTS[options]}\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.flac", "p.png"]


def test_an_empty_name_is_not_the_folder_one_is_in(clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path)
    for *arguments, which in (
        ("diarize", "", "PATH"),
        ("diarize", clip, "--out", "", "--out"),
        ("demo", "--out", "", "--out"),
        ("train", "", "DATA"),
        ("train", tmp_path, "--out", "", "--out"),
    ):
        result = sedstream(*arguments, cwd=tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.endswith(f" error: argument {which}: Bad path '', expected a name\n")
    assert [p.name for p in tmp_path.iterdir()] == [clip.name]


def test_nothing_half_written(clip: Path, tmp_path: Path, speech: NDArray[np.float32]) -> None:
    """A file that breaks off, or NaN in the middle: no output file is left that looks complete."""
    samples = np.tile(speech, 3)
    samples[-1000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    (tmp_path / "cut.flac").write_bytes(clip.read_bytes()[:200_000])
    for name in ("nan.wav", "cut.flac"):
        fails(sedstream("diarize", tmp_path / name, "--out", tmp_path / "out.jsonl"), name)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.flac", "nan.wav"]


def test_a_bad_file_among_good_ones(clip: Path) -> None:
    """The good ones are answered, the bad one is one line, the exit code tells."""
    result = sedstream("diarize", "missing.wav", clip)
    fails(result, "missing.wav")
    assert result.stdout


@pytest.mark.parametrize("arguments", [["models"], ["score", "ref.csv", "ref.csv"], ["diarize", "--plan", "live"]])
def test_an_output_that_is_full(arguments: list[str], tmp_path: Path, clip: Path) -> None:
    (tmp_path / "ref.csv").write_text("start,end,emotion\n0,1,sad\n")
    command = [sys.executable, "-m", "sedstream", *arguments, *([str(clip)] if arguments[0] == "diarize" else [])]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "sedstream: Bad output '/dev/stdout', expected a file that can be written: No space left on device\n"
    )


def test_a_reader_that_has_seen_enough() -> None:
    command = f"{sys.executable} -m sedstream diarize {DEMO}/*.flac --plan live | head -n 1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def test_a_wrong_name_costs_no_work(tmp_path: Path, clip: Path) -> None:
    """Into a file all or nothing goes: told before an hour of work, not after it, so no model is asked for."""
    out = tmp_path / "all.jsonl"
    command = [sys.executable, "-m", "sedstream", "diarize", str(clip), str(tmp_path / "nope.wav"), "--out", str(out)]
    done = subprocess.run([*command, "--model", "nobody"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"sedstream: Bad file '{tmp_path}/nope.wav', expected an existing recording\n"
    assert not out.exists()


def test_closed_streams_and_other_encodings(clip: Path, tmp_path: Path) -> None:
    """As daemons start programs; and JSON stays JSON."""
    odd = tmp_path / "caf\u00e9.flac"
    shutil.copy(clip, odd)
    command = f"{sys.executable} -m sedstream diarize '{odd}' --quiet"
    subprocess.run(f"{command} --out '{tmp_path}/o.jsonl' >&- 2>&-", shell=True, check=True, cwd=ROOT)
    for encoding in ("ascii", "utf-8"):
        env = os.environ | {"PYTHONIOENCODING": encoding}
        line = subprocess.run(command, shell=True, check=True, cwd=ROOT, env=env, capture_output=True).stdout
        assert json.loads(line.splitlines()[0].decode(encoding))["file"] == str(odd)
    assert json.loads((tmp_path / "o.jsonl").read_text("utf-8").splitlines()[0])["file"] == str(odd)
