"""Tables in Markdown, and the block of a model card that is generated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

BEGIN = "<!-- measured by `python -m benchmarks accuracy`: {} -->"
END = "<!-- end of {} -->"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    head = f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def percent(value: float | None) -> str:
    """A share 0…1 in per cent, one decimal; empty when it is unknown."""
    return "" if value is None or value != value else f"{100 * value:.1f}"


def insert(text: str, section: str, body: str) -> str:
    """A card with `body` in the block of `section`: in place of the old one, else at the end."""
    begin, end = BEGIN.format(section), END.format(section)
    block = f"{begin}\n\n{body.strip()}\n\n{end}"
    pattern = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    if pattern.search(text):
        return pattern.sub(lambda _: block, text)
    return f"{text.rstrip()}\n\n{block}\n"


def write_card(card: Path, section: str, body: str) -> None:
    """Replace the block of a section in a model card."""
    card.write_text(insert(card.read_text(encoding="utf-8"), section, body), encoding="utf-8")
