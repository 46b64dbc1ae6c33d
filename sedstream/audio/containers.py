"""What the length that libsndfile tells of an MP3 or an Ogg is worth: it stops there, whatever else the file holds.

An MP3 is frames and nothing else. Most encoders put a first frame in front that holds no sound but how many frames and
bytes there are (Xing or Info, Fraunhofer's VBRI); without it libsndfile guesses from the bit rate of one frame. Files
that were put together, as recorders and broadcasts do, go on behind the end of the first. An Ogg may be chained in the
same way: RFC 3533, section 4, and there each stream has pages that begin it.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

START = 65_536
"""Bytes behind an ID3 tag within which the first frame of an MP3 begins."""


def lengths(path: Path) -> tuple[bool, bool]:
    """Of an MP3: whether it says how long it is, and whether another one follows there."""
    with path.open("rb") as file:
        begin = _behind_tags(file)
        head = file.read(START)
        frame = next((n for n in range(len(head) - 3) if _is_frame(head[n : n + 4])), None)
        told = None if frame is None else _told(head[frame:])
        if frame is None or told is None:
            return False, False
        file.seek(begin + frame + told)
        _behind_tags(file)
        return True, _is_frame(file.read(4))


def _behind_tags(file: BinaryIO) -> int:
    """The place in a file behind an ID3v2 tag, whose length is 4 times 7 bits, where it stands now."""
    place = file.tell()
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        length = 0
        for byte in head[6:]:
            length = length << 7 | byte & 0x7F
        place += 10 + length
    return file.seek(place)


def _is_frame(head: bytes) -> bool:
    """Eleven ones, and a layer, bit rate and sample rate that there are."""
    if len(head) < 4:
        return False
    return head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 6 != 0 and head[2] >> 4 < 15 and head[2] & 12 != 12


def _told(frame: bytes) -> int | None:
    """Bytes from the first frame on, as that frame tells; None if it tells not both frames and bytes."""
    first = frame[1] & 8 == 8  # MPEG 1, whose side information is longer
    mono = frame[3] >> 6 == 3
    tag = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    both = int.from_bytes(frame[tag + 4 : tag + 8], "big") & 3 == 3
    if frame[tag : tag + 4] in (b"Xing", b"Info") and both:
        return int.from_bytes(frame[tag + 12 : tag + 16], "big")
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[46:50], "big")
    return None


def pages(path: Path) -> tuple[bool, bool]:
    """Of an Ogg: whether one stream follows another, and whether it breaks off within a page."""
    size = path.stat().st_size
    begun = chained = False
    place = 0
    with path.open("rb") as file:
        while len(head := file.read(27)) == 27 and head[:4] == b"OggS":
            place += 27 + head[26] + sum(file.read(head[26]))
            if place > size:
                return chained, True
            beginning = head[5] & 2 == 2
            chained |= beginning and begun
            begun |= not beginning
            file.seek(place)
    return chained, 0 < len(head) < 27
