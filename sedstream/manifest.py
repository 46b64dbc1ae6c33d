"""A model's ``manifest.toml``: the only place where a model is configured. Read and checked without loading the
model."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import file_digest, sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from .decoding.settings import DecoderSettings, VoiceSettings
from .errors import BadInput, BadModel, SedstreamError
from .grid import Plan
from .speech.settings import VadSettings

DEFAULT = "sedstream-base"
BASELINE = "neutral"
"""The label against which the others of a voice are told."""
SUMS = "SHA256SUMS"
"""Beside the weights that were pulled: what they were then, as the program sha256sum writes it."""
BESIDE = ("folder", "name", "version", "licence", "files")
"""What a manifest says that changes no answer."""
KINDS = ("windowed", "cached")
"""A windowed encoder reads a block with its context anew each time; a cached one remembers, and reads it once."""
COLDEST, HOTTEST = 0.001, 1000.0
"""Temperatures beyond leave no confidence that is a number, or none at all."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of weights. ``sha256`` empty: its publisher tells none, and what was pulled first counts. ``url``: where
    it comes from, empty for one that came with the model."""

    path: Path
    sha256: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.toml`` says. ``encoder`` and ``head`` are the keyword arguments of the family's modules."""

    folder: Path
    name: str
    version: str
    family: str
    kind: str
    licence: str
    labels: tuple[str, ...]
    temperature: float
    format: str
    files: tuple[File, ...]
    encoder: Mapping[str, Any]
    head: Mapping[str, Any]
    plans: Mapping[str, Plan]
    vad: VadSettings
    decoder: DecoderSettings
    voice: VoiceSettings | None
    """None: nothing is learned of a session's voice."""

    @property
    def weights(self) -> Path:
        """The file of weights; of several, the first."""
        return self.files[0].path

    @property
    def sha256(self) -> str:
        """That of the weights; of several files, theirs with + between."""
        return "+".join(self.digest(file) for file in self.files)

    @property
    def settings(self) -> str:
        """The sha256 of all that answers depend on beside the weights."""
        told = {name: value for name, value in asdict(self).items() if name not in BESIDE}
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def pulled(self) -> bool:
        """Whether all files are there."""
        return all(file.path.is_file() for file in self.files)

    def digest(self, file: File) -> str:
        """The sha256 that a file should have; empty where neither the manifest nor an earlier pull says it."""
        return file.sha256 or sums(self.folder).get(file.path.name, "")

    def plan(self, name: str) -> Plan:
        """The plan of that name. Raises ``BadModel`` when the model has none."""
        if not isinstance(name, str) or name not in self.plans:
            raise BadModel(f"Bad plan {name!r}, expected one of {', '.join(self.plans)} of model {self.name!r}")
        return self.plans[name]

    def choose(self, labels: Sequence[str] | None) -> tuple[str, ...]:
        """Those of its labels, in its order; None: all. Raises ``BadInput`` for unknown ones or fewer than two."""
        if labels is None:
            return self.labels
        labels = [labels] if isinstance(labels, str) else list(labels)
        for label in labels:
            if label not in self.labels:
                raise BadInput(f"Bad label {label!r}, expected some of {', '.join(self.labels)}")
        chosen = tuple(label for label in self.labels if label in labels)
        if len(chosen) < 2:
            raise BadInput(f"Bad labels {', '.join(labels)!r}, expected two or more of {', '.join(self.labels)}")
        return chosen

    def verify(self) -> None:
        """Compare the weights with their sha256. Raises ``BadModel`` when they are missing or differ."""
        for file in self.files:
            if file.url and not file.path.exists():
                raise BadModel(f"Bad weights '{file.path}', expected them pulled: sedstream models pull {self.name}")
            found, expected = digest(file.path), self.digest(file)
            if not expected:
                where = f"{SUMS}: sedstream models pull {self.name}" if file.url else "the manifest"
                raise BadModel(f"Bad weights '{file.path}', expected their sha256 in {where}")
            if found != expected:
                raise BadModel(f"Bad weights '{file.path}', expected sha256 {expected[:12]}…, found {found[:12]}…")


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal. Raises ``BadModel`` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadModel(f"Bad weights '{path}', expected a readable file: {error.strerror}") from error


def sums(folder: Path) -> dict[str, str]:
    """What ``SHA256SUMS`` in a folder says: the sha256 of files by name. Empty where there is none."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {name.lstrip(" *"): value for value, _, name in (line.partition(" ") for line in lines)}


def installed() -> list[Path]:
    """The model folders that came with the package."""
    root = Path(str(files("sedstream.models")))
    return sorted(path.parent for path in root.glob("*/manifest.toml"))


def find(model: str | Path) -> Manifest:
    """The manifest of an installed model by name, or of a model folder by path. Raises ``BadModel``."""
    names = {folder.name: folder for folder in installed()}
    if str(model) in names:
        return read(names[str(model)])
    if os.path.isfile(Path(model) / "manifest.toml"):  # False for names that no system takes, too
        return read(Path(model))
    raise BadModel(f"Bad model '{model}', expected one of {', '.join(names)} or a folder with a manifest.toml")


def read(folder: Path) -> Manifest:
    """Read and check ``folder/manifest.toml``. Raises ``BadModel`` naming the file, the key and what was expected."""
    path = folder / "manifest.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # a number of too many digits is no TOMLDecodeError
        raise BadModel(f"Bad manifest '{path}', expected readable TOML: {error}") from error
    try:
        return _parse(folder, table)
    except SedstreamError as error:
        raise BadModel(f"Bad manifest '{path}': {error}") from error


_TOP: dict[str, type] = {
    "name": str,
    "version": str,
    "family": str,
    "kind": str,
    "licence": str,
    "labels": list,
    "temperature": float,
    "weights": dict,
    "encoder": dict,
    "head": dict,
    "plans": dict,
    "vad": dict,
    "decoder": dict,
}


def _parse(folder: Path, table: dict[str, Any]) -> Manifest:
    voice = table.pop("voice", None)  # the one table that may be missing
    _check("", table, _TOP)
    if not table["plans"]:
        raise BadModel("Bad plans {}, expected one or more")
    for name, plan in table["plans"].items():
        _check(f"plans.{name}.", plan, {"left": int, "step": int, "right": int})
    if table["kind"] not in KINDS:
        raise BadModel(f"Bad kind {table['kind']!r}, expected {' or '.join(map(repr, KINDS))}")
    labels = tuple(table["labels"])
    if len(labels) < 2 or not all(isinstance(name, str) for name in labels) or len(set(labels)) < len(labels):
        raise BadModel(f"Bad labels {list(labels)}, expected two or more different names")
    if not COLDEST <= table["temperature"] <= HOTTEST:
        raise BadModel(f"Bad temperature {table['temperature']}, expected {COLDEST} to {HOTTEST}")
    weights = table["weights"]
    several = "files" in weights
    if several:
        _check("weights.", weights, {"format": str, "files": list})
    rows = weights["files"] if several else [weights]
    if not rows:
        raise BadModel("Bad weights files [], expected one or more")
    return Manifest(
        folder=folder,
        name=table["name"],
        version=table["version"],
        family=table["family"],
        kind=table["kind"],
        licence=table["licence"],
        labels=labels,
        temperature=table["temperature"],
        format=weights["format"] if several else "safetensors",
        files=tuple(_file(folder, row, {"url": str} if several else {}) for row in rows),
        encoder=table["encoder"],
        head=table["head"],
        plans={name: Plan(**plan) for name, plan in table["plans"].items()},
        vad=VadSettings(**_check("vad.", table["vad"], _types(VadSettings))),
        decoder=DecoderSettings(**_check("decoder.", table["decoder"], _types(DecoderSettings))),
        voice=None if voice is None else _voice(voice, labels),
    )


def _voice(table: Any, labels: tuple[str, ...]) -> VoiceSettings:
    _check("voice.", table, {"neutral": list, "after": int})
    means = table["neutral"]
    if BASELINE not in labels or len(means) != len(labels):
        raise BadModel(f"Bad neutral {means} of a voice, expected one number a label, and one of them {BASELINE!r}")
    numbers = _check("voice.neutral.", dict(zip(labels, means, strict=True)), dict.fromkeys(labels, float))
    return VoiceSettings(tuple(numbers.values()), table["after"], labels.index(BASELINE))


def _file(folder: Path, row: Any, more: Mapping[str, type]) -> File:
    row = _check("weights.", row, {"file": str, "sha256": str, **more})
    name = row["file"]
    if Path(name).name != name or "\0" in name:
        raise BadModel(f"Bad weights file {name!r}, expected a name inside the model's folder")
    return File(folder / name, row["sha256"], row.get("url", ""))


def _types(settings: type) -> dict[str, type]:
    return {field.name: {"int": int, "float": float}[str(field.type)] for field in fields(settings)}


def _check(prefix: str, table: Any, expected: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise BadModel(f"Bad value of {prefix.rstrip('.')!r}, expected a table")
    for key in table:
        if key not in expected:
            raise BadModel(f"Bad key {prefix + key!r}, expected one of {', '.join(expected)}")
    for key, kind in expected.items():
        value = table.get(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = table[key] = float(value) if abs(value) < 1 << 1000 else math.inf
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BadModel(f"Bad value {value!r} of {prefix + key!r}, expected {kind.__name__}")
    return table
