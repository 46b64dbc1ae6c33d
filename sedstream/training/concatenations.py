"""Recordings in which the emotion changes: utterances of one speaker, joined, and fixed windows cut from them.

The four patterns are those of SpeechBrain's emotion diarization recipe (Wang et al., "Speech Emotion Diarization:
Which Emotion Appears When?", ASRU 2023).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly  # type: ignore[import-untyped]

from ..grid import HOP, RATE
from .corpora import OWN, Utterance
from .rows import UNKNOWN

NEUTRAL = 0
PATTERNS = ("neutral+emotion", "emotion+neutral", "neutral+emotion+neutral", "emotion+emotion")
# Share of the training windows by corpus; what is missing here does not take part.
SHARES = {
    "RAVDESS": 0.20,
    "EmoDB": 0.11,
    "nEMO": 0.20,
    "ASED": 0.15,
    "TESS": 0.10,
    "TurEV-DB": 0.06,
    "IndianEmoSpeech": 0.05,
    "BAVED": 0.04,
    "LibriSpeech_Resemblyzer": 0.05,
    "Picovoice_intent": 0.02,
    "AMI_pyannote": 0.02,
    OWN: 1.0,
}
WHOLE = 0.5  # share of the recordings that are drawn as they are, where there are such
LENGTH = 8  # utterances and gaps of them
SPEEDS = ((10, 9), (20, 19), (1, 1), (20, 21), (10, 11))  # up, down of the resampling: 0.9 to 1.1 times the length
UNHEARD = 40
"""Frames at the left of a window in mid-session that are not trained: no plan answers for them."""


@dataclass(frozen=True)
class Targets:
    """What a window should be answered with, per frame `[T]`: emotion int8 (UNKNOWN: do not train), arousal and valence
    float32 (NaN: do not train), the weight float32 of the frame, and of which piece of the recording it is, int16 (-1:
    of none)."""

    emotion: NDArray[np.int8]
    arousal: NDArray[np.float32]
    valence: NDArray[np.float32]
    weight: NDArray[np.float32]
    piece: NDArray[np.int16]


@dataclass(frozen=True)
class Piece:
    """An utterance and what goes with it: silence after it in samples, and its gain."""

    utterance: Utterance
    silence: int = 0
    gain: float = 1.0


class Speakers:
    """Utterances by corpus, speaker and emotion, to draw from evenly; of corpora by SHARES or, `blind`, by the root of
    what they say: for a training that learns nothing from labels."""

    def __init__(
        self, utterances: Sequence[Utterance], passages: Sequence[list[Utterance]] = (), blind: bool = False
    ) -> None:
        speakers: dict[str, dict[str, dict[int, list[Utterance]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        for u in utterances:
            speakers[u.corpus][u.speaker][u.emotion].append(u)
        self.corpora = [name for name in speakers if name in SHARES]
        if blind:
            said = {name: sum(len(u.samples) for u in utterances if u.corpus == name) for name in self.corpora}
            shares = np.sqrt([said[name] for name in self.corpora])
        else:
            shares = np.array([SHARES[name] for name in self.corpora])
        self.shares = shares / shares.sum()
        self.by_emotion = {name: list(speakers[name].values()) for name in self.corpora}
        # A voice is drawn in proportion to the root of what it says: neither the talkative nor the terse rule.
        self.chances = {name: _roots(voices) for name, voices in self.by_emotion.items()}
        self.passages = passages
        self.lengths = np.array([len(passage) for passage in passages])

    def recording(self, rng: np.random.Generator) -> list["Piece"]:
        """What `draw` gives as one recording."""
        said, as_it_is = self.draw(rng)
        return [Piece(u) for u in said] if as_it_is else pieces(said, rng)

    def draw(self, rng: np.random.Generator) -> tuple[list[Utterance], bool]:
        """Utterances of a pattern to be joined, or a part of a passage as it is; and whether it is that."""
        if not self.passages or rng.random() >= WHOLE:
            return self.pattern(rng), False
        passage = self.passages[rng.choice(len(self.passages), p=self.lengths / self.lengths.sum())]
        start = int(rng.integers(len(passage) - 1))
        return passage[start : start + LENGTH], True

    def pattern(self, rng: np.random.Generator) -> list[Utterance]:
        """Utterances of one random voice in one of the four patterns, or two to six as they come."""
        corpus = self.corpora[rng.choice(len(self.corpora), p=self.shares)]
        voices = self.by_emotion[corpus]
        voice = voices[rng.choice(len(voices), p=self.chances[corpus])]
        emotions = [e for e in voice if e != NEUTRAL]
        if NEUTRAL in voice and emotions and rng.random() < 0.7:
            emotion = emotions[rng.integers(len(emotions))]
            return follow(PATTERNS[rng.integers(len(PATTERNS))], voice, emotion, rng)
        known = list(voice)
        return [_any(voice[known[rng.integers(len(known))]], rng) for _ in range(rng.integers(2, 7))]


def follow(pattern: str, voice: dict[int, list[Utterance]], emotion: int, rng: np.random.Generator) -> list[Utterance]:
    """Random utterances of a voice in the order of a pattern; in emotion+emotion both are of the same emotion."""
    steps = {"neutral": NEUTRAL, "emotion": emotion}
    return [_any(voice[steps[step]], rng) for step in pattern.split("+")]


def pieces(utterances: Sequence[Utterance], rng: np.random.Generator) -> list[Piece]:
    """Utterances made one recording: joined as they are, or with pauses of up to 1.5 s; levels differ by some 3 dB."""
    pauses = rng.random() < 0.4
    return [
        Piece(u, int(rng.integers(int(1.5 * RATE))) if pauses else 0, float(10 ** (rng.normal(0, 3) / 20)))
        for u in utterances
    ]


def window(
    parts: Sequence[Piece], frames: int, right: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Targets]:
    """A random window of a recording, as a session would cut it.

    Args:
        parts: the recording.
        frames: length of the window; what lies before the first or after the last piece is zeros.
        right: look-ahead in frames; frames with less of it are trained only at the end of the recording.
        rng: source of the cut and of a change of speed by at most a tenth.

    Returns:
        Samples float32 `[frames * 320]` and the targets of the frames.
    """
    up, down = SPEEDS[rng.integers(len(SPEEDS))]
    length = -(-frames * HOP * down // up)
    lengths = [len(p.utterance.samples) + p.silence for p in parts]
    total = sum(lengths)
    end = int(rng.integers(UNHEARD * HOP, total + right * HOP))
    first = end - length
    samples = np.zeros(length, np.float32)
    centres = first + ((np.arange(frames) + 0.5) * HOP * down / up).astype(np.int64)
    emotion = np.full(frames, UNKNOWN, np.int8)
    affect = np.full((2, frames), np.nan, np.float32)
    weight = np.zeros(frames, np.float32)
    piece = np.full(frames, -1, np.int16)
    start = 0
    for number, (part, size) in enumerate(zip(parts, lengths, strict=True)):
        u = part.utterance
        a, b = max(start, first), min(start + len(u.samples), end)
        if a < b:
            samples[a - first : b - first] = u.samples[a - start : b - start] * (part.gain / 32768)
            here = np.flatnonzero((centres >= a) & (centres < b))
            here = here[u.speech[(centres[here] - start) // HOP]]
            emotion[here] = u.emotion
            affect[:, here] = [[u.arousal], [u.valence]]
            weight[here] = u.weight
        piece[(centres >= start) & (centres < min(start + size, end))] = number
        start += size
    if first > 0:
        weight[:UNHEARD] = 0
    if end < total:
        weight[frames - right :] = 0
    if up != down:
        samples = resample_poly(samples, up, down).astype(np.float32)
    return samples[: frames * HOP], Targets(emotion, affect[0], affect[1], weight, piece)


def _any(utterances: list[Utterance], rng: np.random.Generator) -> Utterance:
    return utterances[rng.integers(len(utterances))]


def _roots(voices: list[dict[int, list[Utterance]]]) -> NDArray[np.float64]:
    sizes = np.sqrt([sum(map(len, voice.values())) for voice in voices])
    result: NDArray[np.float64] = sizes / sizes.sum()
    return result
