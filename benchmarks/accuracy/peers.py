"""Others on the same data in the same run, and corpora left out of training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from sedstream.grid import RATE
from sedstream.scoring import compare
from sedstream.scoring.sheet import Span
from sedstream.zoo import load

from .acoustics import Acoustics, classes, machine
from .bench import Bench, errors, mean
from .calibration import spoken
from .cases import LABELS, Case, concatenations, spans
from .features import Whisper
from .heads import Peers, limited
from .hearing import Ear, Heard, tracks
from .measures import ece
from .tables import percent, table


def material(bench: Bench) -> dict[str, list[Case]]:
    """Concatenations of the train split, the same time of each corpus."""
    names = bench.material.names("train")
    every = {
        name: concatenations([u for _, u in bench.material.utterances("train", name)], 40, bench.seed)
        for name in names
        if not bench.corpora or name in bench.corpora
    }
    return limited(every, bench.hours, bench.seed)


def heads(bench: Bench, train: dict[str, list[Case]], encode: Whisper) -> Peers:
    """SpeechBrain's head on an encoder."""
    return Peers(train, bench.cases("valid"), encode, device=bench.device, seed=bench.seed)


def linear(bench: Bench, train: dict[str, list[Case]]) -> dict[str, list[list[list[Span]]]]:
    """SpeechBrain's head on each encoder at hand: its answers, by corpus and recording."""
    found = {}
    for name, weights in (("base", bench.whisper), ("small", bench.whisper_small)):
        if weights is None:
            continue
        encode = Whisper(weights, bench.device)
        trained = heads(bench, train, encode)
        head = trained.head()
        layers = ", ".join(str(encode.layers[n]) for n in head.chosen)
        found[f"SpeechBrain's head on Whisper {name} (layers {layers} of {encode.layers[-1]}), whole file"] = [
            trained.answers(head, cases) for cases in bench.cases().values()
        ]
    return found


def bounded(case: Case, heard: Heard) -> list[Span]:
    """The label with the greatest mean probability in each true segment: where the boundaries are is told."""
    labels = np.zeros(case.frames, np.int64)
    # Utterances of one emotion in a row are one segment.
    edges = [0, *(np.flatnonzero(np.diff(case.truth)) + 1).tolist(), case.frames]
    for start, end in pairwise(edges):
        speech = heard.speech[start:end]
        if speech.any():
            labels[start:end] = heard.probs[start:end][speech].mean(0).argmax()
    return spans(labels)


def peers(bench: Bench) -> str:
    """EDER of sedstream and of its peers."""
    corpora = bench.cases()
    train = material(bench)
    acoustics = Acoustics()
    svm = machine(
        [acoustics.sheet(cases) for cases in train.values()],
        [acoustics.sheet(cases) for cases in bench.cases("valid").values()],
    )
    manifest = bench.ear.model.manifest
    batch = max(manifest.plans, key=lambda name: manifest.plans[name].latency)
    found: dict[str, list[list[list[Span]]]] = {
        f"sedstream, plan {bench.plan}": [
            [h.spans for h in bench.ear.cases(cases, bench.plan)] for cases in corpora.values()
        ],
        f"sedstream, plan {batch}": [[h.spans for h in bench.ear.cases(cases, batch)] for cases in corpora.values()],
        **linear(bench, train),
        "eGeMAPS + SVM, windows of 2 s": [
            [spans(classes(svm, acoustics.windows(case.samples()), case.frames)) for case in cases]
            for cases in corpora.values()
        ],
        "emotion per utterance, boundaries told (our frames)": [
            [bounded(c, h) for c, h in zip(cases, bench.ear.cases(cases, bench.plan), strict=True)]
            for cases in corpora.values()
        ],
        "neutral everywhere": [[[] for _ in cases] for cases in corpora.values()],
    }
    rows = [row(name, list(corpora.values()), answers) for name, answers in found.items()]
    minutes = sum(case.ends[-1] for cases in train.values() for case in cases) / RATE / 60
    columns = ("", "macro EDER %", *corpora, "fragments / reference")
    ours, theirs = (float(row[1].strip("*")) for row in (rows[0], rows[2]))
    small = "" if bench.whisper_small else " None on Whisper small: it was not given (`--whisper-small`)."
    return f"""Four patterns, {", ".join(LABELS)}. The peers are trained within this run on {minutes:.0f} minutes of
the train split, concatenated, the same time of each corpus; what they leave open is chosen on valid. SpeechBrain's
recipe head: one linear layer on frozen features, cross-entropy, argmax, no VAD, full attention over the whole
file.{small}

{table(columns, rows)}

Live, sedstream's macro EDER is {beside(ours, theirs)} that of SpeechBrain's head, relative."""


def row(name: str, corpora: Sequence[Sequence[Case]], answers: Sequence[list[list[Span]]]) -> tuple[str, ...]:
    reports = [compare(tracks(cases, some)) for cases, some in zip(corpora, answers, strict=True)]
    rates = [report.result.eder.rate for report in reports]
    claimed, real = (sum(getattr(r.fragments, side) for r in reports) for side in ("hypothesis", "reference"))
    return (name, f"**{percent(mean(rates))}**", *map(percent, rates), f"{claimed / real:.2f}")


def beside(ours: float, theirs: float) -> str:
    """How far one number is below or above another, relative."""
    return f"{100 * abs(1 - ours / theirs):.0f} % {'below' if ours <= theirs else 'above'}"


def leave_out(bench: Bench) -> str:
    """EDER on corpora that training left out, beside SpeechBrain's head trained on the same remaining ones; and what
    our probabilities are worth there."""
    corpora = bench.cases()
    chosen = [name for name in bench.left_out if name in corpora]
    trained = heads(bench, material(bench), Whisper(bench.whisper, bench.device))
    rows, sums = [], []
    for name in chosen:
        cases = corpora[name]
        ear = Ear(load(bench.left_out[name], bench.device))
        heard = ear.cases(cases, bench.plan)
        ours = errors(tracks(cases, [h.spans for h in heard])).rate
        whole = errors(tracks(cases, [h.spans for h in bench.ear.cases(cases, bench.plan)])).rate
        theirs = trained.rate(trained.head(without=name), cases)
        nothing = errors(tracks(cases, [[] for _ in cases])).rate
        sums.append((ours, theirs, nothing, whole, ece(*spoken(cases, heard))))
        rows.append((name, str(len(cases)), *map(percent, sums[-1])))
    means = [mean(list(column)) for column in zip(*sums, strict=True)]
    rows.append(("**mean**", "", *(f"**{percent(value)}**" for value in means)))
    columns = (
        "left out",
        "files",
        "sedstream without it %",
        "SpeechBrain's head without it %",
        "neutral %",
        "sedstream with it %",
        "ECE without it %",
    )
    return f"""EDER on a corpus that neither saw, plan {bench.plan}, four patterns; "with it": the shipped
model. Both are trained on the others of
{", ".join(bench.material.names("train"))}; sedstream also on speech without these labels.
ECE: of the frames of speech, as under "Calibration", of sedstream without it.
Its models are made by `python -m benchmarks leaveout`, or otherwise if the card of the shipped one says so.

{table(columns, rows)}

The mean is {beside(means[0], means[1])} that of SpeechBrain's head, relative."""
