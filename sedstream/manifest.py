"""A model's ``manifest.toml``: the only place where a model is configured. Read and checked without loading the
model."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from .decoding.settings import DecoderSettings
from .errors import BadInput, BadModel, SedstreamError
from .grid import Plan
from .speech.settings import VadSettings

DEFAULT = "sedstream-base"
KINDS = ("windowed", "cached")
"""A windowed encoder reads a block with its context anew each time; a cached one remembers, and reads it once."""


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
    weights: Path
    sha256: str
    encoder: Mapping[str, Any]
    head: Mapping[str, Any]
    plans: Mapping[str, Plan]
    vad: VadSettings
    decoder: DecoderSettings

    def plan(self, name: str) -> Plan:
        """The plan of that name. Raises ``BadModel`` when the model has none."""
        if name not in self.plans:
            raise BadModel(f"Bad plan {name!r}, expected one of {', '.join(self.plans)} of model {self.name!r}")
        return self.plans[name]

    def choose(self, labels: Sequence[str] | None) -> tuple[str, ...]:
        """Those of its labels, in its order; None: all. Raises ``BadInput`` for unknown ones or fewer than two."""
        if labels is None:
            return self.labels
        for label in labels:
            if label not in self.labels:
                raise BadInput(f"Bad label {label!r}, expected some of {', '.join(self.labels)}")
        chosen = tuple(label for label in self.labels if label in labels)
        if len(chosen) < 2:
            raise BadInput(f"Bad labels {', '.join(labels)!r}, expected two or more of {', '.join(self.labels)}")
        return chosen

    def verify(self) -> None:
        """Compare the weights with their sha256. Raises ``BadModel`` when they are missing or differ."""
        try:
            with self.weights.open("rb") as file:
                digest = sha256()
                while part := file.read(1 << 20):
                    digest.update(part)
        except OSError as error:
            raise BadModel(f"Bad weights '{self.weights}', expected a readable file: {error.strerror}") from error
        if digest.hexdigest() != self.sha256:
            raise BadModel(
                f"Bad weights '{self.weights}', expected sha256 {self.sha256[:12]}…, found {digest.hexdigest()[:12]}…"
            )


def installed() -> list[Path]:
    """The model folders that came with the package."""
    root = Path(str(files("sedstream.models")))
    return sorted(path.parent for path in root.glob("*/manifest.toml"))


def find(model: str | Path) -> Manifest:
    """The manifest of an installed model by name, or of a model folder by path. Raises ``BadModel``."""
    names = {folder.name: folder for folder in installed()}
    if str(model) in names:
        return read(names[str(model)])
    if (Path(model) / "manifest.toml").is_file():
        return read(Path(model))
    raise BadModel(f"Bad model '{model}', expected one of {', '.join(names)} or a folder with a manifest.toml")


def read(folder: Path) -> Manifest:
    """Read and check ``folder/manifest.toml``. Raises ``BadModel`` naming the file, the key and what was expected."""
    path = folder / "manifest.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
    _check("", table, _TOP)
    weights = _check("weights.", table["weights"], {"file": str, "sha256": str})
    for name, plan in table["plans"].items():
        _check(f"plans.{name}.", plan, {"left": int, "step": int, "right": int})
    if table["kind"] not in KINDS:
        raise BadModel(f"Bad kind {table['kind']!r}, expected {' or '.join(map(repr, KINDS))}")
    labels = tuple(table["labels"])
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(isinstance(name, str) for name in labels):
        raise BadModel(f"Bad labels {list(labels)}, expected two or more different names")
    if table["temperature"] <= 0:
        raise BadModel(f"Bad temperature {table['temperature']}, expected a positive number")
    file = Path(weights["file"])
    if file.name != weights["file"]:
        raise BadModel(f"Bad weights file {weights['file']!r}, expected a name inside the model's folder")
    return Manifest(
        folder=folder,
        name=table["name"],
        version=table["version"],
        family=table["family"],
        kind=table["kind"],
        licence=table["licence"],
        labels=labels,
        temperature=table["temperature"],
        weights=folder / file,
        sha256=weights["sha256"],
        encoder=table["encoder"],
        head=table["head"],
        plans={name: Plan(**plan) for name, plan in table["plans"].items()},
        vad=VadSettings(**_check("vad.", table["vad"], _types(VadSettings))),
        decoder=DecoderSettings(**_check("decoder.", table["decoder"], _types(DecoderSettings))),
    )


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
            value = table[key] = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BadModel(f"Bad value {value!r} of {prefix + key!r}, expected {kind.__name__}")
    return table
