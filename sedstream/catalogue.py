"""``sedstream models``: the models at hand, their cards, and whether they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .errors import BadModel
from .manifest import Manifest, find, installed, read


def folders(model: str | None = None) -> list[Path]:
    """The folder of a model by name or path, or those of all that are installed. Raises ``BadModel``."""
    return installed() if model is None else [find(model).folder]


def check(folder: Path, run: bool = False) -> Manifest:
    """Read a model's manifest and compare its weights with their sha256; with ``run``, load it too and let every plan
    answer once. Raises ``BadModel``."""
    manifest = read(folder)
    manifest.verify()
    if run:
        from .zoo import load

        model = load(manifest)
        for plan in manifest.plans.values():
            model.warm(plan)
    return manifest


def lines(manifest: Manifest, done: str = "verified") -> Iterator[str]:
    """What a list says of a model; ``done``: what has been done to check it."""
    size = sum(file.stat().st_size for file in (manifest.weights, manifest.folder / "manifest.toml"))
    kind = f"{manifest.kind} {manifest.family}"
    yield f"{manifest.name} {manifest.version}  {kind}, {manifest.licence}, {size / 2**20:.1f} MB, {done}"
    yield f"  labels: {', '.join(manifest.labels)}; arousal, valence"
    plans = ", ".join(
        f"{name} {'at the end' if plan.whole else f'{plan.latency:.2f} s'}" for name, plan in manifest.plans.items()
    )
    yield f"  algorithmic latency: {plans}"
    yield f"  {manifest.folder}"


def card(model: str) -> str:
    """The card of a model by name or path. Raises ``BadModel`` if it has none."""
    path = find(model).folder / "CARD.md"
    try:
        return path.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadModel(f"Bad card '{path}', expected a readable file: {error}") from error
