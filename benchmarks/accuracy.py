"""Emotion diarization error on concatenated utterances of speakers that training never saw.

    python -m benchmarks.accuracy --data ../shared/data --split test

Utterances cut to speech are joined in the four patterns of SpeechBrain's recipe (neutral+emotion,
emotion+neutral, neutral+emotion+neutral, emotion+emotion; one emotional span a file), and, apart, in pairs of two
different emotions. They go through `sedstream.diarize` like any recording. EDER = (false alarm + missed emotion +
confusion) / total time, collar 0 (one label at a time: overlap is 0). As in SpeechBrain's code all that is not an
emotion is neutral: silence that sedstream finds inside an utterance counts as neutral too, so inside an emotion it
is missed emotion.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from speechbrain.utils import EDER

from sedstream import diarize
from sedstream.grid import HOP, RATE, Plan, frames_of
from sedstream.speech.silero import CHUNK, CONTEXT, new_state
from sedstream.speech.vad import Segmenter, chunks_for
from sedstream.training.concatenations import PATTERNS
from sedstream.training.corpora import read_index, read_speech
from sedstream.zoo import Model, load

LABELS = ("neutral", "happy", "sad", "angry")
NEUTRAL = 0
TWO = "emotion+another"
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """One concatenation: samples float32 `[n]` at 16 kHz, and the class of each sample int64 `[n]`."""

    corpus: str
    speaker: str
    pattern: str
    samples: NDArray[np.float32]
    truth: Ints


@dataclass
class Score:
    """Sums over files: seconds of each kind of error, of all, and numbers of segments."""

    total: float = 0.0
    false_alarm: float = 0.0
    missed: float = 0.0
    confusion: float = 0.0
    segments: int = 0
    expected: int = 0

    def add(self, truth: Ints, answer: Ints, segments: int) -> None:
        """Count one file: classes per sample, `[n]` each, and the segments that were reported."""
        emotional, claimed = truth != NEUTRAL, answer != NEUTRAL
        self.total += len(truth) / RATE
        self.false_alarm += np.count_nonzero(~emotional & claimed) / RATE
        self.missed += np.count_nonzero(emotional & ~claimed) / RATE
        self.confusion += np.count_nonzero(emotional & claimed & (truth != answer)) / RATE
        self.segments += segments
        self.expected += runs(truth)

    @property
    def eder(self) -> float:
        """(false alarm + missed emotion + confusion) / total."""
        return (self.false_alarm + self.missed + self.confusion) / self.total


def runs(labels: Ints) -> int:
    """How many stretches of equal labels there are in `[n]`."""
    return 1 + int(np.count_nonzero(np.diff(labels)))


def cases(data: Path, corpus: str, split: str, repeats: int, seed: int) -> Iterator[Case]:
    """Every pattern for every speaker and emotion of a split, `repeats` times with utterances drawn at random."""
    voices: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for row in read_index(data):
        if row["corpus"] == corpus and row["split"] == split and row["emotion"] in LABELS:
            voices[row["speaker"]][row["emotion"]].append(data / row["path"])
    rng = np.random.default_rng(seed)
    for speaker in sorted(voices):
        said = voices[speaker]
        emotions = [label for label in LABELS[1:] if said[label]]
        for pattern in (*PATTERNS, TWO):
            for emotion in emotions:
                others = [label for label in emotions if label != emotion]
                steps = {"neutral": "neutral", "emotion": emotion, "another": ""}
                for _ in range(repeats):
                    if others:
                        steps["another"] = others[rng.integers(len(others))]
                    names = [steps[step] for step in pattern.split("+")]
                    if not all(name and said[name] for name in names):
                        continue
                    parts = [read_speech(said[name][rng.integers(len(said[name]))])[0] for name in names]
                    truth = np.repeat([LABELS.index(name) for name in names], [len(part) for part in parts])
                    samples = np.concatenate(parts).astype(np.float32) / 32768
                    yield Case(corpus, speaker, pattern, samples, truth)


def scores(model: Model, samples: NDArray[np.float32], plan: Plan) -> NDArray[np.float32]:
    """Log-probabilities of LABELS for each frame of a session over `samples`, float32 `[T, 4]`."""
    columns = [model.manifest.labels.index(label) for label in LABELS]
    frames = frames_of(len(samples))
    blocks = -(-frames // plan.step)
    padded = np.zeros((blocks * plan.step + plan.left + plan.right) * HOP, np.float32)
    padded[plan.left * HOP : plan.left * HOP + len(samples)] = samples
    windows = np.lib.stride_tricks.sliding_window_view(padded, plan.window * HOP)[:: plan.step * HOP]
    answers, _ = model(windows[:blocks], plan)
    chosen = answers[..., columns].reshape(-1, len(columns))[:frames]
    return chosen - np.log(np.exp(chosen).sum(-1, keepdims=True))


def speech(model: Model, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Silero's probability for each chunk of a session over `samples`, float32."""
    count = chunks_for(frames_of(len(samples)))
    padded = np.zeros(max(CONTEXT + count * CHUNK, CONTEXT + len(samples)), np.float32)
    padded[CONTEXT : CONTEXT + len(samples)] = samples
    rows = np.arange(count)[:, None] * CHUNK + np.arange(CONTEXT + CHUNK)
    ((probabilities, _),) = model.silero([padded[rows]], [new_state()])
    return probabilities


def flags(model: Model, samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each frame of a session over `samples` is speech."""
    return Segmenter(model.manifest.vad).hear(speech(model, samples), frames_of(len(samples)))


def per_sample(labels: Ints, samples: int) -> Ints:
    """Classes per frame `[T]` as classes per sample `[samples]`."""
    return np.repeat(labels, HOP)[:samples]


def speechbrain(case: Case, answer: Ints) -> float:
    """SpeechBrain's own EDER of classes per frame `[T]` on a file with one emotional span."""
    emotional = np.flatnonzero(case.truth)
    span = {
        "emo": LABELS[case.truth[emotional[0]]],
        "start": emotional[0] / RATE,
        "end": (emotional[-1] + 1) / RATE,
    }
    letters = [LABELS[label][0] for label in answer]
    return float(EDER.EDER(letters, "", len(case.truth) / RATE, [span], HOP / RATE, HOP / RATE))


@dataclass(frozen=True)
class Outcome:
    """What was answered to one case: classes per frame `[T]` and number of segments by name; SpeechBrain's figure."""

    case: Case
    answers: dict[str, tuple[Ints, int]]
    theirs: float

    @classmethod
    def of(cls, model: Model, case: Case, plan: str) -> "Outcome":
        """Run sedstream on a case, and the two simple answers beside it."""
        frames = frames_of(len(case.samples))
        segments = diarize(case.samples, rate=RATE, model=model, plan=plan, labels=LABELS).segments
        ours = np.zeros(frames, np.int64)
        for segment in segments:
            ours[segment.start : segment.end] = LABELS.index(segment.label)
        plain = scores(model, case.samples, model.manifest.plan(plan)).argmax(-1)
        plain[~flags(model, case.samples)] = NEUTRAL
        answers = {
            "sedstream": (ours, len(segments)),
            "plain argmax": (plain, runs(plain)),
            "all neutral": (np.zeros(frames, np.int64), 1),
        }
        return cls(case, answers, float("nan") if case.pattern == TWO else speechbrain(case, ours))


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Score]:
    """Scores of several cases by the name of the answer."""
    result: dict[str, Score] = defaultdict(Score)
    for outcome in outcomes:
        truth = outcome.case.truth
        for name, (labels, segments) in outcome.answers.items():
            result[name].add(truth, per_sample(labels, len(truth)), segments)
    return result


def report(title: str, outcomes: Sequence[Outcome]) -> Table:
    """The four patterns, the pairs of two emotions, and each speaker."""
    four = [outcome for outcome in outcomes if outcome.case.pattern != TWO]
    groups = [("four patterns", four), ("two emotions", [o for o in outcomes if o.case.pattern == TWO])]
    speakers = sorted({outcome.case.speaker for outcome in outcomes})
    groups += [(name, [o for o in four if o.case.speaker == name]) for name in speakers]
    table = Table(title=title, title_justify="left")
    columns = ("files", "answer", "EDER %", "false alarm", "missed", "confusion", "segments", "reference")
    for column in (*columns, "SpeechBrain's EDER %"):
        table.add_column(column, justify="left" if column in columns[:2] else "right", no_wrap=True)
    for group, some in groups:
        for name, score in summarise(some).items():
            if group in speakers and name != "sedstream":
                continue
            errors = (score.false_alarm, score.missed, score.confusion)
            figures = [f"{100 * part:.1f}" for part in (score.eder, *(error / score.total for error in errors))]
            theirs = float(np.mean([outcome.theirs for outcome in some]))
            mean = f"{100 * theirs:.1f}" if name == "sedstream" and theirs == theirs else ""
            table.add_row(group, name, *figures, str(score.segments), str(score.expected), mean)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table a corpus."""
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with index.csv")
    parser.add_argument("--split", choices=("valid", "test"), default="valid")
    parser.add_argument("--corpora", default="RAVDESS,EmoDB", help="names, with commas between")
    parser.add_argument("--plan", default="live")
    parser.add_argument("--model", default="sedstream-base")
    parser.add_argument("--repeats", type=int, default=4, help="files for each speaker, pattern and emotion")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model = load(options.model)
    console = Console(width=130)
    for corpus in options.corpora.split(","):
        found = cases(options.data, corpus, options.split, options.repeats, options.seed)
        outcomes = [Outcome.of(model, case, options.plan) for case in found]
        console.print(report(f"{corpus} {options.split}, plan {options.plan}", outcomes))


if __name__ == "__main__":
    main()
