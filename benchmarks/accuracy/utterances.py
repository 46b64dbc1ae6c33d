"""Whole utterances: one emotion for each, as most papers measure it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sedstream.grid import frames_of
from sedstream.scoring.labels import EMOTIONS
from sedstream.training.corpora import Utterance

from .bench import Bench
from .cases import Row, sound
from .features import Whisper, states
from .hearing import Heard
from .measures import uar
from .tables import percent, table

CORPORA = ("RAVDESS", "EmoDB")
COSTS = (0.01, 0.1, 1.0)
Found = list[tuple[Row, Utterance]]


def said(heard: Heard) -> int:
    """The class with the greatest mean probability over the speech."""
    return int((heard.probs[heard.speech] if heard.speech.any() else heard.probs).mean(0).argmax())


def seven(bench: Bench, some: Found) -> float:
    """UAR of the means of our frames, over the labels that model and corpus share (calm is neutral)."""
    known = [u for _, u in some if u.emotion >= 0]
    return uar([u.emotion for u in known], [said(heard) for heard in bench.ear.utterances(known, bench.plan)])


def means(some: Found, frames: Callable[[Utterance], NDArray[np.float32]]) -> NDArray[np.float64]:
    """Mean over the speech of each utterance of what `frames` gives, `[n, D]`."""
    rows = []
    for _, u in some:
        found = frames(u)
        speech = u.speech[: len(found)]
        rows.append(found[speech].mean(0, dtype=np.float64))
    return np.array(rows)


def regression(
    train: NDArray[np.float64], truth: list[str], valid: NDArray[np.float64], wanted: list[str], test: NDArray
) -> list[str]:
    """The answers to `test` of a logistic regression on scaled features, its strength chosen on valid."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for cost in COSTS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=cost, max_iter=2000)).fit(train, truth)
        found.append((uar(wanted, model.predict(valid)), -cost, model))
    best = max(found, key=lambda row: row[:2])[2]
    answers: list[str] = best.predict(test).tolist()
    return answers


def utterances(bench: Bench) -> str:
    """UAR on utterances of unseen speakers."""
    whisper = Whisper(bench.whisper, bench.device)

    def frozen(u: Utterance) -> NDArray[np.float32]:
        return whisper(sound((u,)))[:, :2].reshape(frames_of(len(u.samples)), -1).astype(np.float32)

    def own(u: Utterance) -> NDArray[np.float32]:
        return states(bench.ear.model, sound((u,)))

    rows = []
    for corpus in CORPORA:
        if bench.corpora and corpus not in bench.corpora:
            continue
        parts = [bench.material.utterances(split, corpus) for split in ("train", "valid", bench.split)]
        train, valid, wanted = parts
        if not (train and valid and wanted):
            continue
        truth = [[row["label_original"].lower() for row, _ in part] for part in parts]
        figures = []
        for frames in (own, frozen):
            x = [means(part, frames) for part in parts]
            figures.append(uar(truth[2], regression(x[0], truth[0], x[1], truth[1], x[2])))
        shared = {u.emotion for _, u in wanted if u.emotion >= 0}
        first = f"{percent(seven(bench, wanted))} ({len(shared)})"
        rows.append((corpus, str(len(wanted)), first, *(f"{percent(f)} ({len(set(truth[2]))})" for f in figures)))
    return f"""Unweighted average recall in % (number of classes) on utterances of unseen speakers. First the greatest
mean probability of our frames, plan {bench.plan}, over the labels of the model ({", ".join(EMOTIONS)}; calm
is neutral, boredom is left out). Then logistic regressions on mean features, for the classes that the corpus itself
names, trained on its train speakers alone, their strength chosen on valid: on the model's own features, and on those of
frozen Whisper base (layers 2 and 3, whole utterance), which is the probe that the model has to beat.

{table(("corpus", "utterances", "our frames", "regression on our features", "on frozen Whisper base"), rows)}"""
