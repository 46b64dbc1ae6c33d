"""What a fine-tuning can start from, beside a cached model: a windowed model, a checkpoint of wav2vec 2.0, HuBERT or
WavLM as transformers or torchaudio saves it, or one of torchaudio's bundles by its name.

A backbone has no head yet: it gets one for the emotions that the labels name, on a sum of all its layers whose weights
are learned (Yang et al., "SUPERB", 2021). A windowed model that was made so goes on with its own.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchaudio.pipelines
from torch import Tensor
from torchaudio.pipelines import Wav2Vec2Bundle

from ..download import fetch
from ..encoders import checkpoints
from ..encoders.heads import FrameHead
from ..encoders.wav2vec import Wav2VecEncoder
from ..errors import BadModel, Unavailable
from ..grid import Plan
from ..manifest import File, Manifest, digest, find
from ..progress import Download
from ..zoo import FORMATS, SPEECHBRAIN, find_any
from ..zoo import load as load_model
from .batches import RIGHT
from .recipe import HEAD
from .rows import emotions
from .start import fill
from .windowed import Windowed

SHELF = "https://download.pytorch.org/torchaudio/models/"
"""Where torchaudio's bundles are."""
BUNDLES = {
    name: bundle
    for name, bundle in vars(torchaudio.pipelines).items()
    if type(bundle) is Wav2Vec2Bundle  # not its subclasses, which were trained to write down what is said
}
"""Those that nobody has yet trained for anything but speech itself; all of them under the MIT licence."""
PLANS = {"live": Plan(250 - 24 - RIGHT, 24, RIGHT), "batch": Plan(150, 480, 50), "whole": Plan(0, 0, 0)}
"""Of a new head: windows of 5 s, with the look-ahead that every frame had when it learned; of 13.6 s; all at once."""
ALONE = {"width": HEAD["width"], "hidden": HEAD["hidden"], "outputs": 1}


class Start(NamedTuple):
    """What the model to be made has of its start: the manifest, and, of a windowed one, what is to learn."""

    manifest: Manifest
    learner: Windowed | None


def begin(init: str | Path, table: Path, *, unfreeze: bool = False, quiet: bool = False) -> Start:
    """Find and read a start; a new head is drawn from torch's random numbers.

    Args:
        init: a model by name or folder; a safetensors or `torch.save` file, or the folder of one; a bundle of
            torchaudio's by its name, or as NAME=FILE.
        table: CSV with the labels, whose emotions a new head will know.
        unfreeze: the transformer of a windowed encoder learns too.
        quiet: show no progress of a download.

    Raises:
        BadInput: the labels cannot be used.
        BadModel: there is no such start, or it is not what it should be.
        Unavailable: a bundle cannot be downloaded.
    """
    found = _backbone(init, quiet)
    if found is None:
        manifest = _model(init)
        if manifest.kind == "cached":
            return Start(manifest, None)
        tensors = {name: tensor.float() for name, tensor in FORMATS[manifest.format](manifest).items()}
        own = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
        if manifest.family == "wav2vec":
            head = {name.removeprefix("head."): t for name, t in tensors.items() if name.startswith("head.")}
            return Start(manifest, _filled(manifest, own, head, unfreeze))
        found = manifest, own
    manifest, own = found
    encoder = {key: value for key, value in manifest.encoder.items() if key != "together"}
    encoder |= {"outputs": list(range(encoder["layers"] + 1)), "weighted": True}
    manifest = replace(
        manifest,
        family="wav2vec",
        labels=emotions(table),
        encoder=encoder,
        head={"features": encoder["width"], **ALONE},
    )
    weights = torch.zeros(len(encoder["outputs"]))
    return Start(manifest, _filled(manifest, {**own, "weights": weights}, None, unfreeze))


def _filled(manifest: Manifest, encoder: dict[str, Tensor], head: dict[str, Tensor] | None, unfreeze: bool) -> Windowed:
    try:
        made = Wav2VecEncoder(**manifest.encoder)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadModel(f"Bad checkpoint '{manifest.weights}', expected one of these families: {error}") from error
    fill(made, encoder, manifest.weights)
    head_arguments: dict[str, Any] = {**manifest.head, "dropout": HEAD["dropout"]}
    learner = Windowed(made, FrameHead(labels=len(manifest.labels), **head_arguments), unfreeze=unfreeze)
    learner.fresh = head is None
    if head is not None:
        fill(learner.head, head, manifest.weights)
    return learner


def _model(init: str | Path) -> Manifest:
    """The manifest of a model that is whole and of a family that can be trained."""
    try:
        manifest = find_any(init)
    except BadModel as error:
        if Path(init).is_dir():
            raise
        raise BadModel(
            f"Bad start '{init}', expected a model or its folder, a checkpoint of wav2vec 2.0, HuBERT or WavLM, or one "
            f"of {', '.join(BUNDLES)}"
        ) from error
    if manifest.kind != "cached" and manifest.family not in ("wav2vec", "speechbrain"):
        raise BadModel(
            f"Bad start '{init}', expected a cached model, or one of the family wav2vec or speechbrain: it is "
            f"{manifest.kind} {manifest.family}"
        )
    manifest.verify()
    load_model(manifest)  # says what is wrong with it, if anything
    return manifest


def _backbone(init: str | Path, quiet: bool) -> tuple[Manifest, dict[str, Tensor]] | None:
    """A manifest that describes a pretrained encoder alone, and its tensors; None if `init` names none."""
    name, _, file = str(init).partition("=")
    bundle = BUNDLES.get(name)
    if bundle is not None:
        path = Path(file) if file else _fetched(name, bundle, quiet)
        tensors = checkpoints.convert(checkpoints.read(path))
        encoder = checkpoints.describe(tensors)
        shape = bundle._params
        encoder["heads"] = encoder["width"] // (shape["encoder_embed_dim"] // shape["encoder_num_heads"])
        return _described(path, name, "MIT", encoder, bundle._normalize_waveform), tensors
    folder = Path(init)
    path = next((p for p in (folder / name for name in checkpoints.FILES) if p.is_file()), folder)
    if not path.is_file():
        return None
    tensors = checkpoints.convert(checkpoints.read(path))
    encoder = checkpoints.describe(tensors, path.parent / "config.json")
    normalised = checkpoints.normalises(path.parent, encoder)
    if (path.parent / checkpoints.PREPROCESSOR).is_file():  # it was saved by transformers
        encoder["epsilon"] = checkpoints.EPSILON
    name = folder.resolve().name if folder.is_dir() else folder.name
    return _described(path, name, "unknown", encoder, normalised), tensors


def _described(path: Path, name: str, licence: str, encoder: Mapping[str, Any], normalised: bool) -> Manifest:
    told = digest(path)
    return replace(
        find(SPEECHBRAIN),  # whose decoder and VAD it gets
        folder=path.parent,
        name=name,
        version=told[:12],
        kind="windowed",
        licence=licence,
        files=(File(path, told),),
        encoder={**encoder, "wave": "normalised" if normalised else "raw"},
        plans=PLANS,
    )


def _fetched(name: str, bundle: Wav2Vec2Bundle, quiet: bool) -> Path:
    """A bundle's file, where torchaudio itself would keep it."""
    path = Path(torch.hub.get_dir(), "checkpoints", bundle._path)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with Download(shown=not quiet) as bars:
                fetch(SHELF + bundle._path, path, tell=bars.add(path.name))
        except Unavailable as error:
            raise Unavailable(f"{error}, or give the file: {name}=FILE") from error
    return path
