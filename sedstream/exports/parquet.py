"""Parquet with audformat's names and types: the columns of CSV, ``start`` and ``end`` as durations in nanoseconds.

pyarrow writes it; it is no dependency of sedstream and is loaded when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from ..errors import Unavailable
from .csv import COLUMNS, flat_rows

if TYPE_CHECKING:
    from ..offline import Diarization

SUFFIX = ".parquet"
BINARY = True

TEXT, WHOLE, REAL, DURATION = "string", "int64", "float64", "duration[ns]"
"""Types of columns, by pyarrow's names."""

_TYPES = dict.fromkeys(COLUMNS, REAL) | {
    "file": TEXT,
    "emotion": TEXT,
    "role": TEXT,
    "start": DURATION,
    "end": DURATION,
    "channel": WHOLE,
}


def write(diarization: Diarization, file: IO[bytes]) -> None:
    """A row a segment. Raises ``Unavailable`` without pyarrow."""
    rows = (row | {name: _nanoseconds(row[name]) for name in ("start", "end")} for row in flat_rows(diarization))
    write_rows(rows, _TYPES, file)


def write_rows(rows: Iterable[Mapping[str, Any]], types: Mapping[str, str], file: IO[bytes]) -> None:
    """``rows`` as a table whose columns are ``types``, name to type; None is null.

    Raises ``Unavailable`` without pyarrow, before anything is written.
    """
    arrow, parquet = require()
    schema = arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in types.items()])
    parquet.write_table(arrow.Table.from_pylist(list(rows), schema=schema), file)


def require() -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``. Raises ``Unavailable`` where they are missing."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise Unavailable(
            "Bad format 'parquet', expected pyarrow to be installed: pip install 'sedstream[parquet]'"
        ) from error


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1000) * 1_000_000  # a frame is a whole number of milliseconds
