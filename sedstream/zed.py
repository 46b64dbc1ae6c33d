"""ZED in one command: its recordings diarized and scored against its boundaries, for the figure that papers report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .errors import BadInput, SedstreamError
from .exports import formats
from .folders import Totals
from .manifest import DEFAULT
from .recordings import diarize_many
from .scoring import Report, read, score
from .scoring.annotations import ZED
from .zoo import Model

LABELS = ("neutral", "happy", "sad", "angry")
"""The emotions of ZED; a model that knows more is restricted to them, as the ones in the literature are."""


def score_zed(
    folder: str | Path,
    report: Callable[[Totals], None],
    *,
    model: str | Path | Model = DEFAULT,
    plan: str = "batch",
    device: str = "cpu",
    labels: Sequence[str] | None = None,
    **settings: Any,
) -> Report:
    """What ``model`` gets on ZED (``ZED.json`` and the recordings that it names, in ``folder``).

    ``labels``: by default those of ZED. ``settings``: those of :func:`sedstream.scoring.score`. ``report`` is told
    after each recording. Papers and SpeechBrain give the report's ``macro`` EDER, without a collar, with silence.

    Raises ``BadInput`` for a folder that is not ZED's and for the first recording that cannot be read, ``BadModel``.
    """
    labels = list(labels or LABELS)
    read(Path(folder), labels=labels, mapping=settings.get("mapping"))  # what is wrong with it is told at once
    paths = _recordings(Path(folder))
    totals = Totals(len(paths))
    with TemporaryDirectory(prefix="sedstream-") as place:
        for path, answer in diarize_many(paths, model=model, plan=plan, labels=labels, device=device):
            if isinstance(answer, SedstreamError):
                raise answer
            data = io.BytesIO()
            formats.write(answer, "jsonl", data)
            Path(place, f"{path.stem}.jsonl").write_bytes(data.getvalue())
            totals.done += 1
            totals.seconds += answer.duration
            report(totals)
        return score(folder, place, labels=labels, **settings)


def _recordings(folder: Path) -> list[Path]:
    """``datafolder`` at the start of a path stands for the folder, wherever it is."""
    if not (folder / ZED).is_file():
        raise BadInput(f"Bad reference '{folder}', expected ZED's folder, or a hypothesis beside it")
    utterances = json.loads((folder / ZED).read_bytes())
    named = [str(utterance.get("wav") or f"{identifier}.wav") for identifier, utterance in utterances.items()]
    return [folder / name.replace("\\", "/").removeprefix("datafolder/") for name in named]
