"""``sedstream models``: the models at hand, their cards, whether they are whole, and how their weights come."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import BadInput, BadModel, Unavailable
from .exports.writing import write_whole
from .manifest import SUMS, Manifest, digest, find, installed, read, sums


def run(options: argparse.Namespace) -> int:
    """``sedstream models``: the exit code."""
    match options.model:
        case ["pull", name]:
            pulled = pull(name, options.to, options.quiet)
            print("\n".join(lines(pulled, "pulled")))
            return 0
        case [] | [_]:
            model = options.model[0] if options.model else None
        case _:
            raise BadInput(f"Bad arguments '{' '.join(options.model)}', expected MODEL, pull MODEL, or nothing")
    if options.to is not None:
        raise BadInput(f"Bad option --to '{options.to}', expected it with pull MODEL")
    if model is not None and not options.verify:
        print(card(model))
        return 0
    failed = 0
    for name in installed() if model is None else [model]:
        try:
            manifest = check(name, run=options.verify)
        except BadModel as error:
            print(f"sedstream: {error}", file=sys.stderr)
            failed += 1
            continue
        done = "verified, runs" if options.verify else "verified"
        if not manifest.pulled:
            done = f"not pulled: sedstream models pull {manifest.name}"
        print("\n".join(lines(manifest, done)), flush=True)
    return 2 if failed else 0


def check(model: str | Path | Manifest, run: bool = False) -> Manifest:
    """The manifest of a model, by name or path, once its weights are compared with their sha256; with ``run``, load it
    too and let every plan answer once. Weights that can still be pulled may be missing. Raises ``BadModel``."""
    manifest = model if isinstance(model, Manifest) else found(model)
    if any(file.url for file in manifest.files) and not manifest.pulled:
        return manifest
    manifest.verify()
    if run:
        from .zoo import load

        loaded = load(manifest)
        for plan in manifest.plans.values():
            loaded.warm(plan)
    return manifest


def found(model: str | Path) -> Manifest:
    """The manifest of a model by name or path, which may be a SpeechBrain checkpoint's. Raises ``BadModel``."""
    try:
        return find(model)
    except BadModel:
        if not os.path.isdir(model):
            raise
        from .zoo import find_any

        return find_any(model)


def lines(manifest: Manifest, done: str = "verified") -> Iterator[str]:
    """What a list says of a model; ``done``: what has been done to check it."""
    files = [*(file.path for file in manifest.files), manifest.folder / "manifest.toml"]
    size = sum(path.stat().st_size for path in files if path.is_file())
    kind = f"{manifest.kind} {manifest.family}"
    yield f"{manifest.name} {manifest.version or '-'}  {kind}, {manifest.licence}, {size / 2**20:.1f} MiB, {done}"
    yield f"  labels: {', '.join(manifest.labels)}{'' if manifest.family == 'speechbrain' else '; arousal, valence'}"
    plans = ", ".join(
        f"{name} {'at the end' if plan.whole else f'{plan.latency:.2f} s'}" for name, plan in manifest.plans.items()
    )
    yield f"  algorithmic latency: {plans}"
    yield f"  {manifest.folder}"


def card(model: str) -> str:
    """The card of a model by name or path; of one that has none, what a list says. Raises ``BadModel``."""
    manifest = found(model)
    path = manifest.folder / "CARD.md"
    if not path.exists():
        return "\n".join(lines(check(manifest), "verified, without a card"))
    try:
        return path.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadModel(f"Bad card '{path}', expected a readable file: {error}") from error


def pull(model: str, to: str | None = None, quiet: bool = False) -> Manifest:
    """Fetch the weights of a model by name or path; into ``to``, a folder that then is the model, if it is given. With
    ``to`` the model may also be a SpeechBrain checkpoint on the Hugging Face hub, as ``owner/name``.

    What came is written to ``SHA256SUMS``: where the manifest says no sha256, the first pull is trusted if it can be
    loaded, and every later pull and load compares with it. Raises ``BadModel``, ``BadInput`` and ``Unavailable``.
    """
    from .download import fetch
    from .progress import Download

    if to is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).exists():
        return _from_hub(model, Path(to))
    manifest = find(model)
    if not any(file.url for file in manifest.files):
        raise BadInput(f"Bad model '{model}', expected one whose weights are pulled: this one came with them")
    if to is not None:
        manifest = _copied(manifest, Path(to))
    if not os.access(manifest.folder, os.W_OK):
        raise BadInput(f"Bad folder '{manifest.folder}', expected one that can be written: choose another with --to")
    with Download(not quiet) as bars:
        for file in manifest.files:
            known = manifest.digest(file)
            if not file.url or (known and file.path.is_file() and digest(file.path) == known):
                continue
            found = fetch(file.url, file.path, known, bars.add(file.path.name))
            _note(manifest.folder, sums(manifest.folder) | {file.path.name: found})
    manifest.verify()
    _try(manifest)
    return manifest


def _try(manifest: Manifest) -> None:
    """Load a model whose files have no sha256 but that of what came: a page that says sorry has one too."""
    from .zoo import load

    trusted = [file.path for file in manifest.files if file.url and not file.sha256]
    if not trusted:
        return
    try:
        load(manifest)
    except BadModel as error:
        for path in trusted:
            path.unlink()
        names = {path.name for path in trusted}
        _note(manifest.folder, {name: told for name, told in sums(manifest.folder).items() if name not in names})
        raise BadModel(f"{error}; what was pulled is removed, pull it again") from error


def _note(folder: Path, rows: Mapping[str, str]) -> None:
    write_whole(folder / SUMS, "".join(f"{value}  {name}\n" for name, value in rows.items()).encode())


def _from_hub(name: str, folder: Path, endpoint: str | None = None) -> Manifest:
    """A SpeechBrain checkpoint from the hub in a folder, read. ``endpoint``: another server than huggingface.co."""
    from huggingface_hub import hf_hub_download

    from .encoders.speechbrain import FILES
    from .zoo import find_any

    try:
        for file in FILES:
            hf_hub_download(name, file, local_dir=folder, endpoint=endpoint)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise Unavailable(f"Bad hub model '{name}', expected {', '.join(FILES)}: {reason}") from error
    return find_any(folder)


def _copied(manifest: Manifest, folder: Path) -> Manifest:
    """The same model without its weights in another folder, unless it is there already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("CARD.md", "manifest.toml"):
            source, target = manifest.folder / name, folder / name
            if target.exists() and target.read_bytes() != source.read_bytes():
                raise BadInput(f"Bad folder '{folder}', expected none with another model in it")
            if not target.exists():
                shutil.copyfile(source, target)
    except OSError as error:
        raise BadInput(f"Bad folder '{folder}', expected one that can be written: {error.strerror}") from error
    return read(folder)
