"""EDER and the other measures of `sedstream.scoring`, by corpus and speaker; EDER against latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from speechbrain.utils import EDER

from sedstream.grid import HOP, RATE
from sedstream.scoring import Eder, Report, compare

from .bench import Bench, mean
from .cases import LABELS, NEUTRAL, TWO, Case
from .hearing import Heard, tracks
from .tables import percent, table


def speechbrain(case: Case, heard: Heard) -> float:
    """SpeechBrain's own EDER, 0…1, of an answer to a recording with one emotional span."""
    labels = np.full(case.frames, NEUTRAL)
    for segment in heard.segments:
        labels[segment.start : segment.end] = LABELS.index(segment.label)
    emotional = [n for n, label in enumerate(case.classes) if label != NEUTRAL]
    start = case.ends[emotional[0] - 1] if emotional[0] else 0
    span = {
        "emo": LABELS[case.classes[emotional[0]]],
        "start": start / RATE,
        "end": case.ends[emotional[-1]] / RATE,
    }
    letters = [LABELS[label][0] for label in labels]
    return float(EDER.EDER(letters, "", case.ends[-1] / RATE, [span], HOP / RATE, HOP / RATE))


def eder(bench: Bench) -> str:
    """All measures on the four patterns and, apart, on two emotions in a row."""
    rows, voices, reports = [], [], []
    for name, cases in bench.every().items():
        heard = bench.ear.cases(cases, bench.plan)
        for two, title in ((False, name), (True, f"{name}, two emotions")):
            chosen = [(c, h) for c, h in zip(cases, heard, strict=True) if (c.pattern == TWO) == two]
            if not chosen:
                continue
            report = compare(tracks([c for c, _ in chosen], [h.spans for _, h in chosen]))
            theirs = None if two else float(np.mean([speechbrain(c, h) for c, h in chosen]))
            rows.append((title, str(report.tracks), *map(percent, figures(report, theirs)), *fragments([report])))
            if not two:
                voices.append(speakers(name, report))
                reports.append((report, figures(report, theirs)))
    macro = [percent(mean(list(column))) for column in zip(*(found for _, found in reports), strict=True)]
    found = [report for report, _ in reports]
    rows.append(("**macro over corpora**", "", f"**{macro[0]}**", *macro[1:], *fragments(found)))
    pooled, neutral = (sum(some, Eder()) for some in zip(*(sides(report) for report in found), strict=True))
    shares = [percent(share) for share in (pooled.rate, *parts(pooled))]
    files = str(sum(report.tracks for report in found))
    rows.append(("**all files, micro**", files, *shares, "", "", percent(neutral.rate), "", "", *fragments(found)))
    columns = ("", "files", "EDER %", "false alarm", "missed", "confusion", "mean over files", "SpeechBrain's code")
    columns += ("all neutral", "frame F1", "segment F1", "fragments a minute", "the reference's", "ratio")
    lag = bench.ear.model.manifest.plan(bench.plan).latency
    return f"""Labels {", ".join(LABELS)}; plan {bench.plan}, {lag:.2f} s of algorithmic latency; after VAD and decoder;
collar 0. What is no emotion is neutral, the silence found inside an utterance too. Shares of the time in %, pooled over
files; frame F1: mean over classes, 20 ms; segment F1: event-based, 200 ms at the onset, half the segment at most at the
end. SpeechBrain's code averages over files. Four patterns unless it says two emotions.

{table(columns, rows)}

{table(("EDER % by speaker", "speakers", "mean", "best", "worst"), voices)}"""


def sides(report: Report) -> tuple[Eder, Eder]:
    """The errors of the answer, and of neutral everywhere."""
    return report.result.eder, report.neutral.result.eder


def parts(found: Eder) -> tuple[float, float, float]:
    """False alarm, missed and confusion as shares of the time."""
    return found.false_alarm / found.total, found.missed / found.total, found.confusion / found.total


def figures(report: Report, theirs: float | None) -> tuple[float | None, ...]:
    """What stands in a row between the number of files and the fragments."""
    found, neutral = sides(report)
    f1 = report.frames.macro_f1, report.segments.f1
    return found.rate, *parts(found), report.result.macro, theirs, neutral.rate, *f1


def fragments(reports: Sequence[Report]) -> tuple[str, str, str]:
    """Fragments a minute of the answer and of the reference, and their ratio."""
    claimed = sum(report.fragments.hypothesis for report in reports)
    real = sum(report.fragments.reference for report in reports)
    minutes = sum(report.fragments.minutes for report in reports)
    return f"{claimed / minutes:.1f}", f"{real / minutes:.1f}", f"{claimed / real:.2f}"


def speakers(name: str, report: Report) -> tuple[str, ...]:
    """Mean, best and worst EDER over the speakers of a corpus."""
    rates = sorted((e.rate, speaker.split("/")[-1]) for speaker, e in report.speakers.items() if e.rate is not None)
    best, worst = (f"{percent(rate)} ({who})" for rate, who in (rates[0], rates[-1]))
    return (name, str(len(rates)), percent(mean([rate for rate, _ in rates])), best, worst)


def latency(bench: Bench) -> str:
    """EDER under each plan of the manifest."""
    corpora = bench.cases()
    rows = []
    plans = sorted(bench.ear.model.manifest.plans.items(), key=lambda item: item[1].latency)
    for name, plan in plans:
        rates, fragmented = [], [0, 0]
        for cases in corpora.values():
            report = compare(tracks(cases, [h.spans for h in bench.ear.cases(cases, name)]))
            rates.append(report.result.eder.rate)
            fragmented[0] += report.fragments.hypothesis
            fragmented[1] += report.fragments.reference
        lag = f"{plan.latency:.2f}"
        cells = [f"**{percent(mean(rates))}**", *map(percent, rates), f"{fragmented[0] / fragmented[1]:.2f}"]
        rows.append((name, lag, *cells))
    columns = ("plan", "latency s", "macro EDER %", *corpora, "fragments / reference")
    return f"""Algorithmic latency: a frame has its first label at most so long after its sound (step + look-ahead). It
is final when the decoder is sure, {bench.ear.model.manifest.decoder.lag * 20 / 1000:g} s later at most. Four patterns.

{table(columns, rows)}"""
