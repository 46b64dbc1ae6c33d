"""Arousal: stronger against weaker acting, Arabic's three levels, high against low categories."""

from __future__ import annotations

from collections import defaultdict

from sedstream.training.corpora import Utterance
from sedstream.zoo import load

from .bench import Bench
from .cases import Row
from .hearing import Ear
from .measures import auc, spearman
from .tables import percent, table

HIGH = {"angry", "happy", "fearful", "surprised"}
LOW = {"sad", "neutral", "calm", "boredom"}
LEVELS = "BAVED"
ACTED = "RAVDESS"


def category(row: Row) -> str:
    """The label of the corpus where it says more (calm, boredom), else the common one."""
    original = row["label_original"].lower()
    return original if original in LOW else row["emotion"]


def pair(row: Row) -> tuple[str, ...]:
    """What the normal and the strong reading of a RAVDESS sentence have in common: actor, sentence, emotion, take."""
    take = row["path"].rsplit("/", 1)[-1].split("-")[5]
    return row["speaker"], row["sentence"], row["label_original"], take


def pairs(found: list[tuple[Row, float]]) -> tuple[int, int]:
    """Of rows with their arousal: pairs of a normal and a strong reading, and those whose strong one is higher."""
    sides: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for row, arousal in found:
        sides[pair(row)][row["intensity"]] = arousal
    whole = [side for side in sides.values() if len(side) == 2]
    return len(whole), sum(side["strong"] > side["normal"] for side in whole)


def arousals(ear: Ear, plan: str, some: list[tuple[Row, Utterance]]) -> list[tuple[Row, float]]:
    """The rows of utterances with the mean arousal of their speech."""
    answers = ear.utterances([u for _, u in some], plan)
    return [(row, heard.arousal) for (row, _), heard in zip(some, answers, strict=True)]


def affect(bench: Bench) -> str:
    """The three measures, by corpus."""
    material, plan = bench.material, bench.plan
    splits = ("valid",) if bench.split == "valid" else ("valid", "test")
    acted = [both for split in splits for both in material.utterances(split, ACTED)]
    count, right = pairs(arousals(bench.ear, plan, acted)) if acted else (0, 0)
    rows = []
    if count:
        title = f"RAVDESS ({', '.join(splits)}): strong above normal"
        rows.append((title, f"{count} pairs", f"{percent(right / count)} %"))
    ears = {"as shipped": bench.ear}
    if LEVELS in bench.left_out:
        ears[f"{LEVELS} left out of training"] = Ear(load(bench.left_out[LEVELS], bench.device))
    levels = material.utterances(bench.split, LEVELS)
    for name, ear in ears.items():
        if levels:
            found = arousals(ear, plan, levels)
            rho = spearman([arousal for _, arousal in found], [int(row["intensity"]) for row, _ in found])
            title = f"BAVED, three levels, Spearman; model {name}"
            rows.append((title, f"{len(found)} utterances", f"{rho:.2f}"))
    areas = []
    for corpus in material.names(bench.split):
        if bench.corpora and corpus not in bench.corpora:
            continue
        some = [(row, u) for row, u in material.utterances(bench.split, corpus) if category(row) in HIGH | LOW]
        found = arousals(bench.ear, plan, some)
        high = [a for row, a in found if category(row) in HIGH]
        low = [a for row, a in found if category(row) in LOW]
        if high and low:
            areas.append(auc(high, low))
            rows.append((f"{corpus}: high against low arousal, AUC", f"{len(high)} / {len(low)}", f"{areas[-1]:.3f}"))
    if areas:
        rows.append(("**mean over corpora**, AUC", "", f"**{sum(areas) / len(areas):.3f}**"))
    return f"""Mean arousal of the speech of single utterances, plan {plan}. High: {", ".join(sorted(HIGH))}; low:
{", ".join(sorted(LOW))}. Arousal of the acted corpora is trained on constants of the category and the intensity; BAVED
has levels of its own, and is in the training of the default model unless a row says otherwise.

{table(("", "of", "result"), rows)}"""
