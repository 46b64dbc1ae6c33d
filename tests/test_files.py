import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from sedstream.audio import chunks, containers
from sedstream.audio.files import open_recording
from sedstream.errors import BadInput, Unavailable

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def read(path: Path) -> NDArray[np.float32]:
    return np.concatenate(list(open_recording(path).blocks()))


@pytest.mark.parametrize(
    ("name", "subtype", "encoding"),
    [
        ("a.wav", "PCM_16", "s16le"),
        ("a.wav", "FLOAT", "f32le"),
        ("a.wav", "PCM_24", "f32le"),
        ("a.wav", "ULAW", "s16le"),
        ("a.flac", "PCM_16", "s16le"),
        ("a.ogg", "VORBIS", "f32le"),
        ("a.opus", "OPUS", "f32le"),
        ("a.mp3", "MPEG_LAYER_III", "f32le"),
    ],
)
def test_what_libsndfile_reads(
    name: str, subtype: str, encoding: str, tmp_path: Path, speech: NDArray[np.float32]
) -> None:
    path = tmp_path / name
    stereo = np.stack([speech, -speech], axis=1)
    soundfile.write(path, stereo, 16000, subtype=subtype, format="OGG" if name.endswith("opus") else None)
    recording = open_recording(path)
    assert (recording.rate, recording.channels, recording.encoding) == (16000, 2, encoding)
    samples = read(path)
    assert samples.dtype == np.float32
    # mpg123 rounds a little differently where a read ends; everything else is the same to the bit.
    tolerance = 1e-6 if name.endswith("mp3") else 0.0
    assert np.abs(samples - soundfile.read(path, dtype="float32")[0]).max() <= tolerance


@needs_ffmpeg
def test_what_only_ffmpeg_reads(clip: Path, speech: NDArray[np.float32], tmp_path: Path) -> None:
    path = tmp_path / "-odd name: 1.mka"
    command = ["ffmpeg", "-v", "error", "-i", str(clip), "-c:a", "pcm_s16le", "-f", "matroska", f"file:{path}"]
    subprocess.run(command, check=True)
    assert np.array_equal(read(path)[:, 0], speech)


def encoded(clip: Path, path: Path, *options: str) -> Path:
    command = ["ffmpeg", "-v", "error", "-i", str(clip), *options, str(path)]
    subprocess.run(command, check=True)
    return path


@needs_ffmpeg
@pytest.mark.parametrize("rate", ["16000", "44100"])
@pytest.mark.parametrize("channels", ["1", "2"])
@pytest.mark.parametrize("options", [["-q:a", "6"], ["-b:a", "64k"], ["-q:a", "6", "-write_xing", "0"]])
def test_all_of_an_mp3(
    rate: str, channels: str, options: list[str], clip: Path, speech: NDArray[np.float32], tmp_path: Path
) -> None:
    """Whether it tells its length or not; where another one is glued to it that is told."""
    path = encoded(clip, tmp_path / "a.mp3", "-ar", rate, "-ac", channels, *options)
    told = "-write_xing" not in options
    assert containers.lengths(path) == (told, False)
    # An encoder begins and ends with silence.
    assert len(read(path)) / int(rate) == pytest.approx(len(speech) / 16_000, abs=0.15)
    once = path.read_bytes()
    path.write_bytes(once + b"TAG" + bytes(125))
    assert containers.lengths(path) == (told, False)
    path.write_bytes(once * 2)
    with pytest.raises(BadInput, match="another one follows" if told else "expected a readable recording"):
        read(path)


def test_a_chained_ogg(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, speech, 16000)
    assert containers.pages(path) == (False, False)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(BadInput, match="expected one recording, but another one follows in the file"):
        open_recording(path)


@needs_ffmpeg
def test_an_mp3_of_unknown_length_wants_ffmpeg(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encoded(clip, tmp_path / "a.mp3", "-write_xing", "0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"an MP3 that does not tell its length.*install ffmpeg"):
        open_recording(path)


def test_ffmpeg_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 100)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="install ffmpeg"):
        open_recording(path)


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected an existing recording"):
        open_recording(tmp_path / "no.wav")
    with pytest.raises(BadInput, match="not a folder"):
        open_recording(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(BadInput, match="expected a regular file"):
        open_recording(tmp_path / "pipe.wav")
    (tmp_path / "empty.wav").touch()
    with pytest.raises(BadInput, match="the file is empty"):
        open_recording(tmp_path / "empty.wav")


@needs_ffmpeg
@pytest.mark.parametrize(
    "content", [b"hello, this is text\n" * 50, bytes(range(256)) * 20, b"RIFF\xff\xff\xff\xffWAVE"]
)
def test_not_audio(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "note.wav"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="note.wav"):
        read(path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.opus", "a.mp3"])
def test_truncated(name: str, tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = tmp_path / name
    soundfile.write(path, speech, 16000, **({"format": "OGG", "subtype": "OPUS"} if name.endswith("opus") else {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match="breaks off|expected a readable"):
        read(path)


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW", "FLOAT"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST"])
def test_a_chunk_that_breaks_off(form: str, subtype: str, tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = tmp_path / "a.bin"
    if not soundfile.check_format(form, subtype):
        pytest.skip(f"{form} does not hold {subtype}")
    soundfile.write(path, speech, 16_000, format=form, subtype=subtype)
    assert len(read(path)) == len(speech)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match=r"expected 16\.\d\d s as its header says, but it breaks off after 8\.\d\d s"):
        read(path)


def killed(program: str, path: Path) -> None:
    """Let a program write to a path, and end without having closed it."""
    code = f"import os, sys\npath, sound = sys.argv[1], bytes(range(256)) * 8\n{program}\nos._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.parametrize(
    "program",
    [
        # the header is of its first block
        "import wave\nf = wave.open(path, 'wb')\nf.setparams((1, 2, 16000, 0, 'NONE', ''))\n"
        "for _ in range(50): f.writeframesraw(sound)\nf._file.flush()",
        # the header says 0
        "import soundfile\nf = soundfile.SoundFile(path, 'w', 16000, 1, format='WAV')\n"
        "for _ in range(50): f.buffer_write(sound, 'int16')\nf.flush()",
    ],
    ids=["wave", "libsndfile"],
)
def test_a_recorder_that_was_killed(program: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    killed(program, path)
    expected = np.frombuffer(bytes(range(256)) * 8 * 50, "<i2").astype(np.float32) / 32768
    assert np.array_equal(read(path)[:, 0], expected)


def test_what_stands_behind_the_sound_is_not_heard(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    """Chunks of other things, and less than there is of sound; a file without sound is no unfinished one."""
    path = tmp_path / "a.wav"
    notes = b"LIST" + (100_000).to_bytes(4, "little") + bytes(100_000)
    dice = np.random.default_rng(0)
    others = [
        notes,
        notes[:50_000],
        b"id3 " + (99_999).to_bytes(4, "little") + dice.bytes(99_999),
        b"LIST" + (101).to_bytes(4, "little") + b"INFO" + dice.bytes(97) + b"id3 " + dice.bytes(90_000),
        b"ID3\x04\0\0\0\x06\x0d\x20" + dice.bytes(100_000),
        b"TAG" + bytes(125),
        bytes(100_000),
    ]
    sound = speech[:3_000]
    for behind in others:
        soundfile.write(path, sound, 16_000)
        path.write_bytes(path.read_bytes() + behind)
        assert len(read(path)) == len(sound)
    soundfile.write(path, np.zeros(3001), 16_000, subtype="PCM_U8")  # an odd length that is not filled up
    path.write_bytes(path.read_bytes()[: 44 + 3001] + notes)
    assert len(read(path)) == 3001
    soundfile.write(path, speech[:0], 16_000)
    path.write_bytes(path.read_bytes() + notes)
    with pytest.raises(BadInput, match="expected at least one sample"):
        read(path)


@pytest.mark.parametrize("told", [1 << 30, 0x7FFFFF00, 0xFFFFFFFF])
def test_a_wav_that_is_longer_than_a_wav_can_be(told: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(1000, 0.1), 16_000)
    with path.open("r+b") as file:
        file.seek(40)
        file.write(told.to_bytes(4, "little"))
        file.seek(44 + (1 << 30))
        file.write(b"\1\2" * 50)
        file.truncate(44 + (5 << 30))
    with pytest.raises(BadInput, match="expected at most 4 GiB"):
        open_recording(path)


def test_a_length_that_was_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a.au"
    killed(
        "import soundfile\nf = soundfile.SoundFile(path, 'w', 16000, 1, subtype='PCM_16')\n"
        "f.buffer_write(sound, 'int16')\nf.flush()",
        path,
    )
    with pytest.raises(BadInput, match="expected its length in its header, which whoever wrote it did not finish"):
        read(path)


def test_zero_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 16000)
    with pytest.raises(BadInput, match="expected at least one sample"):
        read(tmp_path / "zero.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float, tmp_path: Path, speech: NDArray[np.float32]) -> None:
    samples = speech.copy()
    samples[100_000] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(BadInput, match=r"after 6\.25 s, expected finite values"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("rate", "channels", "says"), [(1000, 1, "1000 Hz"), (400_000, 1, "400000 Hz"), (16000, 3, "3 channels")]
)
def test_rates_and_channels(rate: int, channels: int, says: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((100, channels)), rate)
    with pytest.raises(BadInput, match=says):
        open_recording(tmp_path / "a.wav")


def test_a_header_without_a_promise_is_no_truncation(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    """What a recorder leaves that could not seek back to fill in the length."""
    path = tmp_path / "a.wav"
    soundfile.write(path, speech, 16000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read(path)) == len(speech)


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFF00, 0x80000000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_promises_no_length(size: int, clip: Path, tmp_path: Path) -> None:
    """ffmpeg, SoX and arecord write a header before they know how long it will be, and cannot come back to it."""
    path = tmp_path / "pipe.wav"
    soundfile.write(path, soundfile.read(clip, dtype="int16")[0][:16_000], 16_000)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(data)
    assert sum(map(len, open_recording(path).blocks())) == 16_000


@needs_ffmpeg
def test_a_killed_ffmpeg_has_not_read_all(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.mka"
    command = ["ffmpeg", "-v", "error", "-stream_loop", "9", "-i", str(clip), "-c:a", "pcm_s16le", str(path)]
    subprocess.run(command, check=True)
    blocks = open_recording(path).blocks()
    next(blocks)
    ours = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    reading = [pid for pid in ours if "ffmpeg" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(int(reading[0]), signal.SIGKILL)
    with pytest.raises(BadInput, match="ffmpeg ended with -9"):
        list(blocks)


@needs_ffmpeg
def test_a_flac_from_a_pipe_promises_no_length(clip: Path, speech: NDArray[np.float32], tmp_path: Path) -> None:
    path = tmp_path / "pipe.flac"
    command = ["ffmpeg", "-v", "error", "-i", str(clip), "-f", "flac", "pipe:1"]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    assert np.array_equal(np.concatenate(list(open_recording(path).blocks()))[:, 0], speech)


@needs_ffmpeg
def test_of_several_tracks_the_first_is_heard(clip: Path, speech: NDArray[np.float32], tmp_path: Path) -> None:
    """ffmpeg would take another one by itself: that with more channels, or the default."""
    path = tmp_path / "two.mkv"
    command = ["ffmpeg", "-v", "error", "-i", str(clip), "-i", str(clip), "-map", "0:a", "-map", "1:a"]
    command += ["-c:a", "pcm_s16le", "-ar:a:1", "48000", "-ac:a:1", "2", "-disposition:a:0", "0"]
    subprocess.run([*command, "-disposition:a:1", "default", str(path)], check=True)
    recording = open_recording(path)
    assert (recording.rate, recording.channels) == (16_000, 1)
    assert np.array_equal(np.concatenate(list(recording.blocks()))[:, 0], speech)


def test_what_is_known_to_be_no_sound_is_not_heard(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    """Behind a sound of odd length that is filled up; chunks nobody knows, the last not filled up; a little rubbish."""
    path = tmp_path / "a.wav"
    dice = np.random.default_rng(0)
    soundfile.write(path, np.zeros(3001), 16_000, subtype="PCM_U8")
    path.write_bytes(path.read_bytes()[: 44 + 3001] + b"\0TAG" + dice.bytes(100_000))
    assert len(read(path)) == 3001
    for behind in (b"xyz " + (99_999).to_bytes(4, "little") + dice.bytes(99_999), dice.bytes(1000)):
        soundfile.write(path, speech[:3_000], 16_000)
        path.write_bytes(path.read_bytes() + behind)
        assert len(read(path)) == 3_000


def test_a_big_endian_wav_that_breaks_off(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech, 16_000, endian="BIG", subtype="PCM_16")
    assert path.read_bytes()[:4] == b"RIFX"
    assert len(read(path)) == len(speech)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match=r"expected 16\.\d\d s as its header says, but it breaks off after 8\.\d\d s"):
        read(path)


def test_a_repaired_file_is_another_at_one_place(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(40)))
    expected = bytes(range(10)) + b"abcd" + bytes(range(14, 40))
    with chunks.Repaired(path, 10, b"abcd") as file:
        for first in range(20):
            for count in (1, 3, 30):
                file.seek(first)
                assert file.read(count) == expected[first : first + count]


@needs_ffmpeg
def test_an_mp3_with_a_picture(clip: Path, speech: NDArray[np.float32], tmp_path: Path) -> None:
    """In its tag, which is longer than where a frame is looked for, and may hold what looks like one."""
    path = encoded(clip, tmp_path / "a.mp3")
    picture = b"\xff\xfb\x90\x00" * 30_000
    size = bytes(len(picture) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x04\0\0" + size + picture + path.read_bytes())
    assert containers.lengths(path) == (True, False)
    assert len(read(path)) / 16_000 == pytest.approx(len(speech) / 16_000, abs=0.15)


def test_streams_of_an_ogg_side_by_side_are_no_chain(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    """All of them begin before any goes on."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, speech, 16000)
    other = b"OggS\0\2" + bytes(20) + b"\1\x10" + bytes(16)
    path.write_bytes(other + path.read_bytes())
    assert containers.pages(path) == (False, False)
