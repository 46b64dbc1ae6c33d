"""Any recording to blocks of float32: libsndfile for wav, flac, ogg/opus and mp3, ffmpeg for the rest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput, Unavailable
from . import chunks, containers
from .pcm import LOUDEST, Samples
from .resample import MAX_RATE, MIN_RATE

BLOCK_SECONDS = 4
UNTOLD = 1 << 62
"""Frames that libsndfile tells of a FLAC whose writer could not seek back, and more; it cannot read it then."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that can be read: ``rate`` in Hz, ``channels`` 1 or 2, ``frames`` per channel (None: unknown)."""

    path: Path
    rate: int
    channels: int
    frames: int | None
    encoding: str
    """The wire encoding that carries this file without loss: s16le or f32le."""
    by_ffmpeg: bool = False
    repair: tuple[int, bytes] | None = None
    """A place in its header and what should stand there."""

    def blocks(self) -> Iterator[Samples]:
        """Blocks ``[n, channels]`` f32 of at most 4 s. Raises ``BadInput`` where the file breaks off or holds NaN."""
        count = 0
        for block in self._ffmpeg_blocks() if self.by_ffmpeg else self._soundfile_blocks():
            if not np.abs(block).max() <= LOUDEST:
                first = count + int((~(np.abs(block) <= LOUDEST)).any(axis=1).argmax())
                raise BadInput(
                    f"Bad audio sample in '{self.path}' after {first / self.rate:.2f} s, expected finite values in -1…1"
                )
            count += len(block)
            yield block
        if count == 0:
            raise BadInput(f"Bad audio '{self.path}', expected at least one sample")
        if self.frames is not None and count < self.frames:
            raise BadInput(
                f"Bad audio '{self.path}', expected {self.frames / self.rate:.2f} s as its header says, "
                f"but it breaks off after {count / self.rate:.2f} s"
            )

    def _soundfile_blocks(self) -> Iterator[Samples]:
        import soundfile

        try:
            with ExitStack() as stack:
                place: Any = os.fsencode(self.path)
                if self.repair is not None:
                    place = stack.enter_context(chunks.Repaired(self.path, *self.repair))
                file = stack.enter_context(soundfile.SoundFile(place))
                while len(block := file.read(BLOCK_SECONDS * self.rate, dtype="float32", always_2d=True)):
                    yield block
        except (soundfile.LibsndfileError, OSError) as error:
            raise BadInput(f"Bad audio '{self.path}', expected a readable recording: {_reason(error)}") from error

    def _ffmpeg_blocks(self) -> Iterator[Samples]:
        command = ["ffmpeg", "-v", "error", "-nostdin", "-xerror", "-i", f"file:{self.path}", "-map", "0:a:0"]
        command += ["-f", "f32le", "-c:a", "pcm_f32le", "pipe:1"]
        size = BLOCK_SECONDS * self.rate * self.channels * 4
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                while data := process.stdout.read(size):
                    yield np.frombuffer(data, "<f4").reshape(-1, self.channels)
                complaint = process.stderr.read().decode(errors="replace").strip()
                # Whoever is killed from outside has no complaint, and what came of it is not all.
                ended = process.wait()
            finally:
                process.kill()
        if ended or complaint:
            reason = _last_line(complaint) if complaint else f"ffmpeg ended with {ended}"
            raise BadInput(f"Bad audio '{self.path}', expected a readable recording: {reason}")


def open_recording(path: str | Path) -> Recording:
    """Look at a file without decoding it.

    Raises ``BadInput`` for a missing, empty or unreadable file, for more than 2 channels or a rate outside
    8 000…192 000 Hz; ``Unavailable`` when only ffmpeg could read it and ffmpeg is missing.
    """
    import soundfile

    path = Path(path)
    try:
        if path.is_dir():
            raise BadInput(f"Bad file '{path}', expected a recording, not a folder")
        if not path.exists():
            raise BadInput(f"Bad file '{path}', expected an existing recording")
        if not path.is_file():  # to open a pipe is to wait for who writes to it
            raise BadInput(f"Bad file '{path}', expected a regular file, not a pipe or device")
        size = path.stat().st_size
        sound = chunks.sound(path)
    except OSError as error:
        raise BadInput(f"Bad file '{path}', expected a readable recording: {error.strerror}") from error
    if size == 0:
        raise BadInput(f"Bad audio '{path}', expected a recording, but the file is empty")
    try:
        info = soundfile.info(os.fsencode(path))  # bytes: a name need not be UTF-8
        if sound.repair is not None:
            with chunks.Repaired(path, *sound.repair) as file:
                info = soundfile.info(file)
        doubt = _doubt(path, info.format, info.frames, sound)
    except soundfile.LibsndfileError as error:
        recording = _probe(path, _reason(error))
    else:
        recording = _probe(path, doubt) if doubt else _described(path, info, sound)
    if not 1 <= recording.channels <= 2:
        raise BadInput(f"Bad audio '{path}' with {recording.channels} channels, expected 1 or 2")
    if not MIN_RATE <= recording.rate <= MAX_RATE:
        raise BadInput(f"Bad sample rate {recording.rate} Hz of '{path}', expected {MIN_RATE} to {MAX_RATE}")
    return recording


def _described(path: Path, info: Any, sound: chunks.Sound) -> Recording:
    frames = info.frames
    if sound.there < sound.told:  # libsndfile only tells what is there
        frames = -(-frames * sound.told // max(1, sound.there))
    encoding = "s16le" if info.subtype in ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW") else "f32le"
    return Recording(path, info.samplerate, info.channels, frames, encoding, repair=sound.repair)


def _doubt(path: Path, form: str, frames: int, sound: chunks.Sound) -> str:
    """Why libsndfile would not read all of a file that it can read; empty: it will."""
    if sound.there and not sound.told and not frames:
        raise BadInput(f"Bad audio '{path}', expected its length in its header, which whoever wrote it did not finish")
    if form in ("WAV", "WAVEX") and sound.there > chunks.MOST and sound.told < sound.there and not sound.repair:
        raise BadInput(f"Bad audio '{path}', expected at most 4 GiB, which is all that a WAV can tell, or RF64")
    told, chained, broken = True, False, False
    if form == "MP3":
        told, chained = containers.lengths(path)
    elif form == "FLAC":
        told = frames < UNTOLD
    elif form == "OGG":
        chained, broken = containers.pages(path)
    if broken:
        raise BadInput(f"Bad audio '{path}', expected whole pages, but it breaks off within one")
    if chained:
        raise BadInput(f"Bad audio '{path}', expected one recording, but another one follows in the file")
    return "" if told else f"{'an MP3' if form == 'MP3' else 'a FLAC'} that does not tell its length"


def _probe(path: Path, reason: str) -> Recording:
    """The same through ffprobe, for containers libsndfile does not know."""
    if shutil.which("ffprobe") is None or shutil.which("ffmpeg") is None:
        raise Unavailable(
            f"Bad audio '{path}', expected wav, flac, ogg, opus or mp3 ({reason}); install ffmpeg for others"
        )
    command = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-of", "json"]
    command += ["-show_entries", "stream=sample_rate,channels", f"file:{path}"]
    result = subprocess.run(command, capture_output=True, check=False)
    streams = json.loads(result.stdout or b"{}").get("streams") if result.returncode == 0 else None
    if not streams:
        raise BadInput(f"Bad audio '{path}', expected a recording: {reason}")
    return Recording(path, int(streams[0]["sample_rate"]), int(streams[0]["channels"]), None, "f32le", by_ffmpeg=True)


def _reason(error: Exception) -> str:
    """What libsndfile says, who takes a file that it does not know, and that is there, for a missing one."""
    reason = str(error).split(": ", 1)[-1].strip().rstrip(".")
    return "no format that libsndfile knows" if reason.startswith("File does not exist") else reason


def _last_line(complaint: str) -> str:
    """What ffmpeg says last, without where in its memory it says so."""
    return re.sub(r"^\[[\w,]+ @ 0x[0-9a-f]+\] ", "", complaint.splitlines()[-1])
