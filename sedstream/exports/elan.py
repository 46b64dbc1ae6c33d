"""ELAN annotation document (.eaf): a tier a channel, named after its role, an annotation a segment.

The recording is linked by its absolute address; ELAN also looks for it beside the document.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING
from xml.etree import ElementTree

from ..grid import HOP, RATE
from .naming import one_line, voices

if TYPE_CHECKING:
    from ..offline import Diarization

SUFFIX = ".eaf"
BINARY = False

_ROOT = {
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
    "AUTHOR": "sedstream",
    # The format wants a date; a constant one, so that the same recording gives the same bytes.
    "DATE": "1970-01-01T00:00:00+00:00",
    "FORMAT": "3.0",
    "VERSION": "3.0",
}
_TYPE = "emotion"
_MILLISECONDS = 1000 * HOP // RATE
"""Of a frame."""


def write(diarization: Diarization, file: IO[str]) -> None:
    """Times in whole milliseconds, exact to the frame."""
    root = ElementTree.Element("ANNOTATION_DOCUMENT", _ROOT)
    header = ElementTree.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if diarization.file:
        path = Path(diarization.file).absolute()
        kind = "audio/x-wav" if path.suffix.lower() == ".wav" else "audio/*"
        ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=path.as_uri(), MIME_TYPE=kind)
    order = ElementTree.SubElement(root, "TIME_ORDER")
    count = 0
    for track, voice in zip(diarization.tracks, voices(diarization.tracks), strict=True):
        tier = ElementTree.SubElement(root, "TIER", LINGUISTIC_TYPE_REF=_TYPE, TIER_ID=voice, PARTICIPANT=voice)
        for segment in track.segments:
            count += 1
            slots = (f"ts{2 * count - 1}", f"ts{2 * count}")
            for slot, frame in zip(slots, (segment.start, segment.end), strict=True):
                value = str(frame * _MILLISECONDS)
                ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=value)
            attributes = {"ANNOTATION_ID": f"a{count}", "TIME_SLOT_REF1": slots[0], "TIME_SLOT_REF2": slots[1]}
            holder = ElementTree.SubElement(tier, "ANNOTATION")
            annotation = ElementTree.SubElement(holder, "ALIGNABLE_ANNOTATION", attributes)
            ElementTree.SubElement(annotation, "ANNOTATION_VALUE").text = one_line(segment.label)
    ElementTree.SubElement(
        root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID=_TYPE, TIME_ALIGNABLE="true"
    )
    ElementTree.indent(root)
    file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
    file.write(ElementTree.tostring(root, encoding="unicode") + "\n")
