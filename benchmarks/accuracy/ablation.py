"""Decoders on identical probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sedstream.scoring import compare

from .bench import Bench, errors, mean
from .cases import Case, spans
from .decoders import Method, methods
from .hearing import Heard, tracks
from .tables import percent, table

Answers = Mapping[str, tuple[Sequence[Case], Sequence[Heard]]]


def ablation(bench: Bench) -> str:
    """EDER and fragments of each decoder, its parameters chosen on valid."""
    valid, wanted = (answers(bench, split) for split in ("valid", bench.split))
    rows = []
    for name, tried in methods(bench.ear.model.manifest.decoder).items():
        chosen = min(tried, key=lambda key: macro(valid, tried[key]))
        rows.append((name, chosen, str(len(tried)), *judged(wanted, tried[chosen])))
    columns = ("decoder", "chosen", "tried", "macro EDER %", *wanted, "segment F1 %", "fragments / reference")
    return f"""The same frame probabilities (plan {bench.plan}) and speech flags for all; parameters with the least
macro EDER on valid, at most a dozen tried for each. All but argmax and sedstream hear the whole recording first;
sedstream's labels are final after {bench.ear.model.manifest.decoder.lag * 20 / 1000:g} s at most. Four patterns.

{table(columns, rows)}"""


def answers(bench: Bench, split: str) -> Answers:
    return {name: (cases, bench.ear.cases(cases, bench.plan)) for name, cases in bench.cases(split).items()}


def macro(found: Answers, method: Method) -> float:
    """Mean EDER over corpora, 0…1."""
    return mean(
        [
            errors(tracks(cases, [spans(method(h.probs, h.speech)) for h in heard])).rate
            for cases, heard in found.values()
        ]
    )


def judged(found: Answers, method: Method) -> list[str]:
    """Macro EDER, that of each corpus, segment F1 and the ratio of fragments."""
    reports = [
        compare(tracks(cases, [spans(method(h.probs, h.speech)) for h in heard])) for cases, heard in found.values()
    ]
    rates = [report.result.eder.rate for report in reports]
    claimed, real = (sum(getattr(r.fragments, side) for r in reports) for side in ("hypothesis", "reference"))
    f1 = mean([report.segments.f1 for report in reports])
    return [f"**{percent(mean(rates))}**", *map(percent, rates), percent(f1), f"{claimed / real:.2f}"]
