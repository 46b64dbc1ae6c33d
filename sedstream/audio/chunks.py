"""Files whose sound is one chunk among others: how much of it the header promises, and how much there is.

libsndfile tells what is there, which after a copy that broke off is less than the header says. A recorder that was
killed leaves 0 in the header, or the length of its first moment, and libsndfile reads no more than that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from io import RawIOBase
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

CHUNKS: Mapping[bytes, tuple[int, int, int, Literal["little", "big"], int]] = {
    b"RIFF": (12, 4, 4, "little", 2), b"RF64": (12, 4, 4, "little", 2), b"RIFX": (12, 4, 4, "big", 2),
    b"FORM": (12, 4, 4, "big", 2), b"riff": (40, 16, 8, "little", 8),
}  # fmt: skip
"""WAV, long and big-endian WAV, AIFF, W64: where the first chunk begins, bytes of a chunk's name and of its size, their
order, and what a chunk is filled up to a multiple of."""
BEHIND = (b"LIST", b"id3 ", b"ID3", b"TAG", b"APETAGEX", b"bext", b"iXML", b"_PMX", b"cue ", b"smpl", b"inst", b"fact",
          b"JUNK", b"junk", b"PAD ", b"acid", b"afsp", b"DISP", b"plst", b"PEAK", b"levl")  # fmt: skip
"""What begins that stands behind the sound of a WAV and is none."""
NIST = b"NIST_1A\n"
MOST = 0xFFFFFF00
"""Bytes of sound that a WAV can tell; all bits and little less are told by who does not know."""


class Sound(NamedTuple):
    """Bytes of sound that a header promises (0: none, its writer did not come back to it), and those that there are;
    both 0 where this is not known. ``repair``: a place and bytes that should stand there, so that all is read."""

    told: int
    there: int
    repair: tuple[int, bytes] | None = None


def sound(path: Path) -> Sound:
    """That of a file made of chunks."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(24)
        if head.startswith(NIST):
            return _sphere(file, size)
        if head[:4] == b".snd":  # AU has one header
            return Sound(_promise(int.from_bytes(head[8:12], "big")), max(0, size - int.from_bytes(head[4:8], "big")))
        long = 0
        chunks = _chunks(file, head[:4])
        for name, begin, length in chunks:
            if name == b"ds64":
                long = int.from_bytes(file.read(16)[8:], "little")
            if name[:4] not in (b"data", b"SSND", b"BODY"):
                continue
            before = 8 if name == b"SSND" else 0  # where the sound begins in its chunk
            told = max(0, _promise(long if long and length == 0xFFFFFFFF else length) - before)
            there = max(0, size - begin - before)
            if told >= there:
                return Sound(told, there)
            # Behind the chunk there is something else, or the header is of the first moment and sound goes on.
            if told and (told > there // 2 or _is_other(file, begin + before + told)):
                return Sound(told, told)
            deque(chunks, 0)
            if 0 <= file.tell() - size < 8:  # chunks to the end, of which the last one need not be filled up
                return Sound(told, told)
            repair = (begin - 4, there.to_bytes(4, "little")) if head[:4] == b"RIFF" and there < MOST else None
            return Sound(0, there, repair)
    return Sound(0, 0)


class Repaired(RawIOBase):
    """A file to read in which other bytes stand at one place."""

    def __init__(self, path: Path, place: int, content: bytes) -> None:
        self._file = path.open("rb", buffering=0)
        self._place = place
        self._content = content

    def readinto(self, buffer: Any) -> int:
        begin = self._file.tell()
        count = self._file.readinto(buffer) or 0
        for at, byte in enumerate(self._content, self._place - begin):
            if 0 <= at < count:
                memoryview(buffer).cast("B")[at] = byte
        return count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def _chunks(file: BinaryIO, kind: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, place of the content and its length, as far as there are chunks."""
    if kind not in CHUNKS:
        return
    place, letters, digits, order, multiple = CHUNKS[kind]
    file.seek(place)
    while (
        len(header := file.read(letters + digits)) == letters + digits
        and header[:4].isascii()
        and header[:4].decode().isprintable()
    ):
        length = int.from_bytes(header[letters:], order)
        if kind == b"riff":  # of a W64 the header counts
            length = max(0, length - len(header))
        begin = file.tell()
        yield header[:letters], begin, length
        file.seek(begin + -(-length // multiple) * multiple)


def _is_other(file: BinaryIO, place: int) -> bool:
    """Whether no sound goes on at a place: something begins there that is known, or all is 0 to the end."""
    if _begins(file, place) or _begins(file, place + 1):  # a chunk of odd length should be filled up, and is not always
        return True
    file.seek(place)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return False
    return True


def _begins(file: BinaryIO, place: int) -> bool:
    file.seek(place)
    return file.read(8).startswith(BEHIND)


def _sphere(file: BinaryIO, size: int) -> Sound:
    """That of NIST SPHERE, whose header is lines of name, type and value."""
    file.seek(0)
    try:
        header = int(file.read(16).split()[1])
        rows = [line.split() for line in file.read(header - 16).splitlines()]
        told = {row[0]: row[2] for row in rows if len(row) == 3}
        length = prod(int(told[name]) for name in (b"sample_count", b"channel_count", b"sample_n_bytes"))
    except (ValueError, IndexError, KeyError):
        return Sound(0, 0)
    return Sound(length, max(0, size - header))


def _promise(length: int) -> int:
    """What a header says of the length; 0 for what a writer leaves that could not seek back: all bits (ffmpeg), or
    about half of what 32 bits can say (SoX, arecord)."""
    return 0 if 0x7F000000 <= length <= 0x80000000 or length % (1 << 32) >= MOST else length
