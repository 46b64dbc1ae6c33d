"""Every code block of the README is run, in order, in a folder that holds the files it names."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import soundfile
import trustme
from conftest import ROOT
from numpy.typing import NDArray

from sedstream.audio import pcm
from sedstream.serving.webhooks import read_alerts

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def desk(tmp_path: Path, speech: NDArray[np.float32], clip: Path) -> Path:
    """A working folder with the recordings that the README talks about."""
    call = np.stack([speech[:96_000], speech[96_000:192_000]], axis=1)
    soundfile.write(tmp_path / "call.wav", call[::2], 8000)
    (tmp_path / "call.ulaw").write_bytes(pcm.encode(speech[:96_000:2], "mulaw"))
    soundfile.write(tmp_path / "mono16k.wav", speech[:96_000], 16000)
    (tmp_path / "calls").mkdir()
    soundfile.write(tmp_path / "calls" / "one.wav", speech[:64_000], 16000)
    (tmp_path / "labelled").mkdir()
    for number, name in enumerate(("one", "two", "three")):
        said = speech[number * 64_000 : (number + 1) * 64_000]
        soundfile.write(tmp_path / "labelled" / f"{name}.wav", said, 16000)
    authority = trustme.CA().issue_cert("localhost")
    authority.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.private_key_pem.write_to_path(tmp_path / "key.pem")
    return tmp_path


def commands(block: str) -> Iterator[list[str]]:
    for line in block.strip().splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "sedstream", line
        yield [sys.executable, "-m", *words]


def test_the_first_two_blocks_are_the_set_up() -> None:
    (first, main), (second, tests) = BLOCKS[:2]
    assert first == second == "sh"
    assert main.count("\n") == tests.count("\n") == 1
    assert (ROOT / main.split("sedstream diarize ")[1].strip()).is_file()
    assert tests.rstrip().endswith("-m pytest")
    assert "command_of_block" in (ROOT / ".ci" / "run").read_text()


def test_every_other_block_runs(desk: Path) -> None:
    with ExitStack() as running:
        for language, block in BLOCKS[2:]:
            if language == "python":
                result = subprocess.run(
                    [sys.executable, "-c", block], cwd=desk, capture_output=True, text=True, timeout=120, check=False
                )
                assert result.returncode == 0, result.stderr
                assert result.stdout
                continue
            if language == "toml":
                (desk / "alerts.toml").write_text(block, encoding="utf-8")
                rules, webhooks = read_alerts(desk / "alerts.toml", ("angry",))
                assert rules
                assert webhooks
                continue
            if language == "csv":
                (desk / "labelled" / "labels.csv").write_text(block, encoding="utf-8")
                continue
            assert language == "sh"
            for command in commands(block):
                if command[3] == "serve":
                    server = subprocess.Popen(command, cwd=desk, stdout=subprocess.PIPE, text=True)
                    running.callback(server.wait, 20)
                    running.callback(server.send_signal, signal.SIGTERM)
                    assert server.stdout is not None
                    scheme = "wss" if "--tls-cert" in command else "ws"
                    port = command[command.index("--port") + 1]
                    assert server.stdout.readline() == f"listening on {scheme}://127.0.0.1:{port}/v1/stream\n"
                elif command[3] == "listen":
                    pass  # needs a sound card: tests/test_listen.py runs it on a virtual one
                else:
                    # Two steps of the hour that so few labels would get.
                    command += ["--hours", "0.02"] if command[3] == "train" else []
                    result = subprocess.run(command, cwd=desk, capture_output=True, text=True, timeout=240, check=False)
                    assert result.returncode == 0, result.stderr
                    assert result.stdout or (desk / command[command.index("--out") + 1]).exists()
