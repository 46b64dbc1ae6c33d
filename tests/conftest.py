"""Shared by the tests: the default model, the demonstration recordings, the data folder where there is one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import speechbrain
import torch
from hypothesis import settings
from numpy.typing import NDArray

from sedstream.manifest import Manifest, find
from sedstream.zoo import Model, load

# SpeechBrain leaves stand-ins in sys.modules that import what is not installed as soon as anybody looks at them, and
# hypothesis and pytest look at all modules.
for name, module in list(sys.modules.items()):
    if type(module).__module__ == speechbrain.utils.importutils.__name__:
        del sys.modules[name]

# How long an example takes says nothing about whether it is right.
settings.register_profile("sedstream", deadline=None)
settings.load_profile("sedstream")

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "sedstream" / "demo"
DATA = ROOT.parent / "shared" / "data"


# Threads that share a small layer wait for each other most of the time where another worker wants the cores, too.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "data" in item.keywords and not DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the recordings in ../shared/data"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return find("sedstream-base")


@pytest.fixture(scope="session")
def model(manifest: Manifest) -> Iterator[Model]:
    return load(manifest)


@pytest.fixture(scope="session")
def clip() -> Path:
    """A real recording: 16.6 s of read speech, 16 kHz mono."""
    return DEMO / "austen-1.flac"


@pytest.fixture(scope="session")
def speech(clip: Path) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = soundfile.read(clip, dtype="float32")[0]
    return samples
