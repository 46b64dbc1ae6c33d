"""Installing: with and without a compiler, and with one that is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import ROOT

COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(
    COMPILER is None or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="needs a C++ compiler and Python's headers",
)
RECORD = "from sedstream.audio.microphone import NATIVE, capture_ring; ring = capture_ring(9); print(NATIVE, len(ring))"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, without weights and without what was built before."""
    for name in ("sedstream", "models", "native"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.safetensors", "*.flac")
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "tree")
    return tmp_path / "tree"


def install(tree: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``pip install`` into a folder beside the tree."""
    command = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    return subprocess.run(
        [sys.executable, *command, str(tree.parent / "installed"), str(tree)],
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def environment() -> dict[str, str]:
    """As for somebody who has set nothing."""
    chosen = ("SEDSTREAM_NATIVE", "CUDA_HOME", "CC", "CXX")
    return {name: value for name, value in os.environ.items() if name not in chosen}


def no_compiler(tmp_path: Path) -> Mapping[str, str]:
    empty = tmp_path / "empty"
    empty.mkdir()
    return {"PATH": str(empty)}


def broken_compiler(tmp_path: Path) -> Mapping[str, str]:
    program = tmp_path / "c++"
    program.write_text("#!/bin/sh\necho 'internal compiler error' >&2\nexit 1\n")
    program.chmod(0o755)
    return {"CC": str(program), "CXX": str(program)}


def told(tree: Path) -> str:
    """Whether what was installed is native, and how long an empty ring is."""
    installed = tree.parent / "installed"
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {RECORD}; print(sys.modules["
         "'sedstream'].__file__)"],
        cwd=tree.parent, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert answer[1].startswith(str(installed))
    return answer[0]


def libraries(tree: Path) -> list[str]:
    installed = tree.parent / "installed"
    return sorted(str(path.relative_to(installed)) for path in installed.rglob("*.so"))


@pytest.mark.parametrize("chosen", ["no", "auto"])
def test_without_a_compiler(chosen: str, tree: Path, tmp_path: Path) -> None:
    done = install(tree, SEDSTREAM_NATIVE=chosen, **(no_compiler(tmp_path) if chosen == "auto" else {}))
    assert done.returncode == 0, done.stderr
    assert libraries(tree) == []
    assert told(tree) == "False 0"
    (wheel,) = (tree.parent / "installed").glob("*.dist-info/WHEEL")
    assert "Tag: py3-none-any" in wheel.read_text()


@needs_compiler
@pytest.mark.parametrize("chosen", ["auto", "yes"])
def test_with_a_compiler_and_without_nvcc(chosen: str, tree: Path) -> None:
    done = install(tree, SEDSTREAM_NATIVE=chosen, **({"CUDA_HOME": str(tree)} if chosen == "yes" else {}))
    assert done.returncode == 0, done.stderr
    assert libraries(tree) == ["sedstream/audio/_capture.abi3.so"]
    assert told(tree) == "True 0"
    (wheel,) = (tree.parent / "installed").glob("*.dist-info/WHEEL")
    assert "Tag: cp311-abi3-" in wheel.read_text()  # one binary for every Python from 3.11 on


@needs_compiler
def test_a_broken_compiler_is_an_error_that_says_so(tree: Path, tmp_path: Path) -> None:
    done = install(tree, **broken_compiler(tmp_path))
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "internal compiler error" in said
    assert "Bad compiler for native/capture.cpp, expected one that works" in said
    assert "SEDSTREAM_NATIVE=no installs sedstream without its native parts" in said
    assert not (tree.parent / "installed").exists()


def test_yes_without_a_compiler_is_an_error(tree: Path, tmp_path: Path) -> None:
    done = install(tree, SEDSTREAM_NATIVE="yes", **no_compiler(tmp_path))
    assert done.returncode != 0
    assert "Bad SEDSTREAM_NATIVE 'yes', expected " in done.stdout + done.stderr


def test_an_unknown_choice_is_an_error(tree: Path) -> None:
    done = install(tree, SEDSTREAM_NATIVE="maybe")
    assert done.returncode != 0
    assert "Bad SEDSTREAM_NATIVE 'maybe', expected auto, yes or no" in done.stdout + done.stderr


@needs_compiler
@pytest.mark.skipif("CUDA_HOME" not in os.environ, reason="needs nvcc: CUDA_HOME")
def test_the_cuda_part_compiles_and_needs_no_gpu_to_load(tree: Path) -> None:
    done = install(tree, CUDA_HOME=os.environ["CUDA_HOME"])
    assert done.returncode == 0, done.stderr
    assert libraries(tree) == ["sedstream/audio/_capture.abi3.so", "sedstream/libfront.so"]
    script = "from sedstream.front import _library; print(_library().sedstream_error(0).decode())"
    installed = str(tree.parent / "installed")
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {installed!r}); {script}"],
        cwd=tree.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "no error\n"
