"""Emotion names: what other corpora and tools call them, and what they are called here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import BadInput

NEUTRAL = "neutral"
EMOTIONS = (NEUTRAL, "happy", "sad", "angry", "fearful", "disgusted", "surprised")
"""Those that the default model knows, in the order of its labels."""

ALIASES = {
    **dict.fromkeys(("n", "neu", "neutrality", "no_emotion"), NEUTRAL),
    **dict.fromkeys(("h", "hap", "happiness", "joy", "joyful"), "happy"),
    **dict.fromkeys(("s", "sadness"), "sad"),
    **dict.fromkeys(("a", "ang", "anger"), "angry"),
    **dict.fromkeys(("fea", "fear"), "fearful"),
    **dict.fromkeys(("dis", "disgust"), "disgusted"),
    **dict.fromkeys(("sur", "surprise"), "surprised"),
}
"""Other spelling -> name here. Only spellings of one emotion: merging *excited* into *happy*, as some papers do, is a
decision about the task, so it is left to ``mapping``. Single letters are SpeechBrain's."""

SILENCE = frozenset({"silence", "sil", "no_speech"})
"""A span so labelled is no segment."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The emotions that may occur: ``labels`` (neutral always among them), after ``mapping`` and :data:`ALIASES`."""

    labels: tuple[str, ...]
    mapping: Mapping[str, str]

    def resolve(self, text: str) -> str | None:
        """The name here of ``text``, whatever its case; None for silence. Raises ``KeyError`` when it is unknown."""
        name = text.strip().lower()
        name = self.mapping.get(name, name)
        if name in self.labels:
            return name
        if name in SILENCE:
            return None
        alias = ALIASES[name]
        if alias not in self.labels:
            raise KeyError(name)
        return alias


def vocabulary(labels: Sequence[str] | None = None, mapping: Mapping[str, str] | None = None) -> Vocabulary:
    """``labels``: the emotions to score, by default :data:`EMOTIONS`. ``mapping``: label in the files -> emotion.

    Raises ``BadInput`` for a mapping to what is not among the labels.
    """
    told = [labels] if isinstance(labels, str) else [] if labels is None else list(labels)
    names = [name.strip().lower() for name in told] or list(EMOTIONS)
    names = [ALIASES.get(name, name) for name in names]
    allowed = tuple(dict.fromkeys([NEUTRAL, *names]))
    plain = Vocabulary(allowed, {})
    resolved = {}
    for source, target in (mapping or {}).items():
        try:
            resolved[source.strip().lower()] = plain.resolve(target) or "silence"
        except KeyError:
            raise BadInput(f"Bad mapping '{source}={target}', expected one of {', '.join(allowed)}") from None
    return Vocabulary(allowed, resolved)
