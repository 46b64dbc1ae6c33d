"""What a training needs to go on where it was interrupted: whole checkpoints, and those of no other training."""

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import Checkpointer

from ..errors import BadInput
from ..exports.writing import write_whole
from .publish import writing


class WholeCheckpointer(Checkpointer):  # type: ignore[misc]
    """A checkpointer that goes on from none that was cut off: SpeechBrain notes one down before it is written."""

    def recover_if_possible(self, *arguments: Any, **named: Any) -> Any:
        """As SpeechBrain does it, from the last checkpoint that is whole."""
        for checkpoint in self.list_checkpoints():
            files = checkpoint.paramfiles
            if set(self.recoverables) - set(files) or not all(_is_whole(path) for path in files.values()):
                shutil.rmtree(checkpoint.path)
        return super().recover_if_possible(*arguments, **named)

    def save_and_keep_only(self, *arguments: Any, **named: Any) -> None:
        """As SpeechBrain does it. Raises `BadInput` where it cannot be written."""
        try:
            with writing(self.checkpoints_dir):
                super().save_and_keep_only(*arguments, **named)
        except RuntimeError as error:  # torch's, of a full disk
            reason = " ".join(str(error).split())
            raise BadInput(f"Bad folder '{self.checkpoints_dir}' to write, expected room in it: {reason}") from error


def _is_whole(path: Path) -> bool:
    """What torch saves is a ZIP, whose directory stands at its end; the rest is short and has something in it."""
    with path.open("rb") as file:
        head = file.read(2)
    return zipfile.is_zipfile(path) if head == b"PK" else bool(head)


def claim(work: Path, name: str, now: Mapping[str, Any]) -> None:
    """Note in `work/name` what is trained there.

    Raises:
        BadInput: the checkpoints there are those of a training that was another.
    """
    note = work / name
    try:
        before = json.loads(note.read_text("utf-8")) if note.is_file() else None
    except ValueError:
        before = None
    if (work / "checkpoints").is_dir() and before != now:
        # A model whose training is gone is nobody's to write over: it goes with it.
        place = work.parent if (work.parent / "manifest.toml").exists() else work
        others = [key for key in now if before is None or before.get(key) != now[key]]
        raise BadInput(
            f"Bad folder '{work.parent}' to write, expected none of a training with other {' and '.join(others)}: "
            f"remove '{place}' to begin anew"
        )
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(now).encode())
