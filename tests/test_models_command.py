"""`sedstream models` as a user runs it: the list, the cards, and what is not whole."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cli import fails, sedstream

from sedstream import catalogue
from sedstream.errors import BadModel
from sedstream.manifest import Manifest, installed, read


@pytest.fixture
def copy(manifest: Manifest, tmp_path: Path) -> Path:
    """The default model in a folder of its own, to spoil."""
    return Path(shutil.copytree(manifest.folder, tmp_path / "copy"))


def test_list(manifest: Manifest) -> None:
    done = sedstream("models")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4 * len(installed())
    first = next(n for n, line in enumerate(lines) if line.startswith("sedstream-base "))
    megabytes = f"{manifest.weights.stat().st_size / 2**20:.1f} MiB"
    for part in (manifest.version, manifest.kind, manifest.licence, megabytes, "verified"):
        assert part in lines[first]
    assert ", ".join(manifest.labels) in lines[first + 1]
    for name, plan in manifest.plans.items():
        assert f"{name} {plan.latency:.2f} s" in lines[first + 2]


def test_card(manifest: Manifest, copy: Path) -> None:
    text = (manifest.folder / "CARD.md").read_text(encoding="utf-8").rstrip() + "\n"
    assert sedstream("models", "sedstream-base").stdout == text
    (copy / "CARD.md").write_text("# mine\n")
    assert sedstream("models", copy).stdout == "# mine\n"
    (copy / "CARD.md").write_bytes(b"\xff")
    fails(sedstream("models", copy), "CARD.md', expected a readable file")
    (copy / "CARD.md").unlink()
    told = sedstream("models", copy)
    assert told.returncode == 0, told.stderr
    assert "verified, without a card\n  labels: neutral, " in told.stdout
    fails(sedstream("models", "nobody"), "Bad model 'nobody', expected one of")


def test_verify(copy: Path) -> None:
    done = sedstream("models", "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    came = [folder for folder in installed() if not any(file.url for file in read(folder).files)]
    assert done.stdout.count("verified, runs") == len(came) >= 1
    assert done.stdout.count("not pulled: sedstream models pull ") == len(installed()) - len(came)
    one = sedstream("models", copy, "--verify")
    assert one.returncode == 0, one.stderr
    assert str(copy) in one.stdout


def test_verify_finds_what_the_hash_does_not(copy: Path) -> None:
    """A manifest may be read and its weights be those it names, and yet the model not run."""
    path = copy / "manifest.toml"
    path.write_text(path.read_text().replace("hidden = 128", "hidden = 64"))
    assert catalogue.check(copy).name == "sedstream-base"
    with pytest.raises(BadModel, match="expected those of its manifest"):
        catalogue.check(copy, run=True)
    fails(sedstream("models", copy, "--verify"), "expected those of its manifest")


def test_verify_finds_a_changed_byte(copy: Path) -> None:
    weights = copy / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    fails(sedstream("models", copy, "--verify"), "expected sha256")


def test_numbers_that_are_none(copy: Path) -> None:
    """A training that went wrong may have saved them, with the right hash."""
    path = copy / "weights.safetensors"
    tensors = load_file(path)
    tensors["head.emotion.weight"][0, 0] = torch.nan
    save_file(tensors, path)
    manifest = copy / "manifest.toml"
    told = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(re.sub(r'sha256 = ".*"', f'sha256 = "{told}"', manifest.read_text()))
    fails(sedstream("models", copy, "--verify"), "expected finite numbers: not so 'head.emotion.weight'")
