"""Emotional speech as the training sees it: utterances cut to speech, with targets, read from an index.csv."""

import csv
import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..errors import BadInput
from ..grid import HOP, RATE, frames_of
from ..scoring.labels import EMOTIONS
from ..speech.settings import VadSettings
from ..speech.silero import CHUNK, CONTEXT, Silero, new_state
from ..speech.vad import Segmenter
from .publish import writing
from .rows import UNKNOWN

COLUMNS = ("path", "corpus", "speaker", "emotion", "label_original", "intensity", "split")
# Pauses shorter than 0.3 s belong to the word around them; utterances of one word still count as speech.
VAD = VadSettings(threshold=0.4, release=0.25, min_speech=3, min_silence=15)
NOISE = ("ESC-10", "SpeechCommands_noise", "Music_hold_and_game")
NEUTRAL = ("LibriSpeech_Resemblyzer", "Picovoice_intent", "AMI_pyannote")
"""Corpora of unacted reading, commands and meetings without labels, taken as neutral."""
# Arousal and valence of a category at full intensity: after the circumplex of Russell (1980), scaled to 0…1. Weak.
AFFECT = {
    "neutral": (0.35, 0.50),
    "happy": (0.72, 0.90),
    "sad": (0.20, 0.15),
    "angry": (0.90, 0.10),
    "fearful": (0.75, 0.20),
    "disgusted": (0.55, 0.20),
    "surprised": (0.75, 0.60),
    "calm": (0.15, 0.60),
    "boredom": (0.10, 0.35),
}
LEVELS = {"0": 0.20, "1": 0.50, "2": 0.85}  # BAVED's own three steps of arousal
OWN = "own"
"""The corpus that a user's labelled folder is."""
CUT = 4096
"""Chunks that the VAD hears at a time: 2 minutes."""

Speech: TypeAlias = tuple[NDArray[np.int16], NDArray[np.bool_]]
"""Samples int16 `[n]` at 16 kHz, and which of their frames are speech, bool `[ceil(n / 320)]`."""
Source = TypeVar("Source")


@dataclass(frozen=True)
class Utterance:
    """One recording, cut to speech.

    `samples` int16 `[n]` at 16 kHz, from the first to the last speech; `speech` bool `[ceil(n / 320)]`, false in its
    pauses; `emotion` an index of the labels or UNKNOWN; `arousal` and `valence` in 0…1 or NaN; `weight` of its labels
    in the loss; `file` that it was cut from, where that matters.
    """

    samples: NDArray[np.int16]
    speech: NDArray[np.bool_]
    corpus: str
    speaker: str
    split: str
    emotion: int
    arousal: float
    valence: float
    weight: float
    file: str = ""


@dataclass(frozen=True)
class Corpora:
    """Everything that is read from a data folder: utterances, noises int16 `[n]` to mix in, and passages: utterances
    that follow each other in a recording, with what lies between them."""

    utterances: list[Utterance]
    noises: list[NDArray[np.int16]] = field(default_factory=list)
    passages: list[list[Utterance]] = field(default_factory=list)

    def split(self, name: str, without: Sequence[str] = ()) -> list[Utterance]:
        """The utterances of one split (train, valid or test), but those of the corpora `without`.

        Raises:
            BadInput: one of `without` is not there.
        """
        there = {u.corpus for u in self.utterances}
        for corpus in without:
            if corpus not in there:
                raise BadInput(f"Bad corpus {corpus!r} to leave out, expected one of {', '.join(sorted(there))}")
        return [u for u in self.utterances if u.split == name and u.corpus not in without]


def targets(row: dict[str, str]) -> tuple[int, float, float]:
    """Emotion index, arousal and valence of a row of the index; weak ones, from the category and the intensity."""
    if row["corpus"] in NEUTRAL:
        return EMOTIONS.index("neutral"), *AFFECT["neutral"]
    if row["corpus"] == "BAVED":
        return UNKNOWN, LEVELS.get(row["intensity"], np.nan), np.nan
    emotion = EMOTIONS.index(row["emotion"]) if row["emotion"] in EMOTIONS else UNKNOWN
    original = row["label_original"].lower()
    arousal, valence = AFFECT.get(original, AFFECT.get(row["emotion"], (np.nan, np.nan)))
    if row["intensity"] == "normal":  # RAVDESS speaks each emotion normally and strongly
        calm, plain = AFFECT["neutral"]
        # Strong sadness is farther from neutral than normal sadness, but no one is calmer for crying.
        arousal, valence = arousal - 0.3 * abs(arousal - calm), plain + 0.7 * (valence - plain)
    return emotion, arousal, valence


def read_index(data: Path) -> list[dict[str, str]]:
    """Rows of `data/index.csv`.

    Raises:
        BadInput: there is no such file, or a column is missing.
    """
    path = data / "index.csv"
    if not path.is_file():
        raise BadInput(f"Bad data folder '{data}', expected an index.csv or a labels.csv in it")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise BadInput(f"Bad index '{path}', expected the columns {', '.join(missing)} as well")
            return list(rows)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Bad index '{path}', expected readable UTF-8: {error}") from error


@cache
def _silero() -> Silero:
    return Silero()


def speech_flags(samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each 20 ms frame of samples float32 `[n]` is speech, bool `[ceil(n / 320)]`."""
    frames = frames_of(len(samples))
    count = -(-len(samples) // CHUNK)
    padded = np.zeros(CONTEXT + count * CHUNK, np.float32)
    padded[CONTEXT : CONTEXT + len(samples)] = samples
    chunks = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK]
    state, heard = new_state(), []
    for first in range(0, count, CUT):
        ((probabilities, state),) = _silero()([np.ascontiguousarray(chunks[first : first + CUT])], [state])
        heard.append(probabilities)
    return Segmenter(VAD).hear(np.concatenate(heard), frames)


def read_speech(path: Path) -> Speech:
    """A mono 16 kHz file cut to speech (whole if none is found): samples int16 `[n]`, flags `[ceil(n / 320)]`.

    Raises:
        BadInput: the file cannot be read or is not mono at 16 kHz.
    """
    samples = read_audio(path)
    flags = speech_flags(samples.astype(np.float32) / np.float32(32768))
    speech = np.flatnonzero(flags)
    if not len(speech):
        return samples, np.ones(frames_of(len(samples)), np.bool_)
    first, last = speech[0], speech[-1] + 1
    return samples[first * HOP : last * HOP], flags[first:last]


def usable(row: dict[str, str]) -> bool:
    """Whether a row of the index is speech to learn from: of an emotion, taken as neutral, or with BAVED's arousal."""
    return bool(row["emotion"]) or row["corpus"] == "BAVED" or row["corpus"] in NEUTRAL


def read_audio(path: Path) -> NDArray[np.int16]:
    """A mono 16 kHz file as int16 `[n]`; raises BadInput as `read_speech` does."""
    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except (OSError, soundfile.LibsndfileError) as error:
        raise BadInput(f"Bad file '{path}', expected audio ({error})") from error
    if rate != RATE or samples.ndim != 1:
        raise BadInput(f"Bad file '{path}', expected mono audio at {RATE} Hz")
    if not len(samples):
        raise BadInput(f"Bad file '{path}', expected at least one sample")
    result: NDArray[np.int16] = samples
    return result


def load(data: Path, store: Path, *, workers: int = 2) -> Corpora:
    """Read every labelled utterance and noise of the index; decoded once, then kept in `store` for the next time.

    Args:
        data: folder with index.csv, whose paths are relative to it.
        store: folder for the decoded speech, about 2 GB for 15 hours.
        workers: processes that decode; 0: this one.

    Raises:
        BadInput: the index or a file cannot be read.
    """
    rows = read_index(data)
    speech = [row for row in rows if usable(row)]
    noise = [row for row in rows if row["corpus"] in NOISE]
    if not speech:
        raise BadInput(f"Bad data folder '{data}', expected labelled speech in its index.csv")
    paths = [data / row["path"] for row in speech]
    parts = decode(read_speech, paths, "\n".join(map(str, paths)), store, workers)
    utterances = list(_utterances(speech, parts))
    return Corpora(utterances, [read_audio(data / row["path"]) for row in noise])


def decode(
    read: Callable[[Source], Speech], sources: Sequence[Source], key: str, store: Path, workers: int
) -> Iterator[Speech]:
    """What `read` makes of each source, in their order: once for each `key` and VAD, then it is kept in `store`.

    `read` and the sources go to `workers` processes; 0: this one. Raises `BadInput` where the store cannot be written.
    """
    digest = hashlib.sha256(f"{VAD}\n{key}".encode(errors="surrogateescape")).hexdigest()[:12]
    file = store / f"speech-{digest}.i16"
    ends_file = store / f"speech-{digest}.npz"
    if not ends_file.is_file():
        with writing(store):
            store.mkdir(parents=True, exist_ok=True)
            _decode(read, sources, file, ends_file, workers)
    with np.load(ends_file, allow_pickle=False) as table:
        ends, flags = table["ends"], table["flags"]
    samples = np.memmap(file, np.int16, "r")
    start = frame = 0
    for end in ends.tolist():
        frames = frames_of(end - start)
        yield np.asarray(samples[start:end]), flags[frame : frame + frames]
        start, frame = end, frame + frames


def _decode(
    read: Callable[[Source], Speech], sources: Sequence[Source], file: Path, ends_file: Path, workers: int
) -> None:
    ends, flags, end = [], [], 0
    with file.open("wb") as out, ProcessPoolExecutor(workers or 1, get_context("spawn")) as pool:
        for samples, speech in _spread(pool, read, sources, workers) if workers else map(read, sources):
            out.write(samples.tobytes())
            end += len(samples)
            ends.append(end)
            flags.append(speech)
    whole = ends_file.with_suffix(".part.npz")
    np.savez(whole, ends=np.array(ends, np.int64), flags=np.concatenate(flags))
    os.replace(whole, ends_file)


def _spread(
    pool: ProcessPoolExecutor, read: Callable[[Source], Speech], sources: Sequence[Source], workers: int
) -> Iterator[Speech]:
    """What a pool's processes read. They start here, and Ctrl-C does not reach them: their parent tells."""
    share = max(1, min(64, len(sources) // (4 * workers)))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.map(partial(_unless_interrupted, read), sources, chunksize=share)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _unless_interrupted(read: Callable[[Source], Speech], source: Source) -> Speech:
    if signal.SIGINT in signal.sigpending():  # the parent waits for us
        raise KeyboardInterrupt
    return read(source)


def _utterances(rows: list[dict[str, str]], parts: Iterable[Speech]) -> Iterator[Utterance]:
    for number, (row, (samples, speech)) in enumerate(zip(rows, parts, strict=True)):
        emotion, arousal, valence = targets(row)
        corpus = row["corpus"]
        # Without a name every recording is somebody else's: nothing is concatenated over two voices.
        speaker = f"{corpus}/{row['speaker'] or number}"
        split = "train" if corpus in NEUTRAL and row["split"] == "other" else row["split"]
        weight = 0.4 if corpus == "IndianEmoSpeech" else 1.0  # labels by the crowd, noisy
        yield Utterance(samples, speech, corpus, speaker, split, emotion, arousal, valence, weight)
