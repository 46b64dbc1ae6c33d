"""`sedstream train`: the recipe from the command line, or fine-tuning on a labelled folder."""

import argparse
from math import isnan
from pathlib import Path
from typing import Any

from .. import cores
from ..errors import BadInput
from .batches import MANY
from .recipe import train
from .rows import find_table
from .tune import tune


def run(options: argparse.Namespace) -> None:
    """Train with the options `data`, `out`, `init`, `hours`, `unfreeze`, `follow`, `without`, `device`, `seed` and
    `quiet`, and print the figures on valid."""
    data, out = Path(options.data), Path(options.out)
    common = {name: getattr(options, name) for name in ("init", "device", "seed", "quiet")}
    if options.hours is not None:
        common["hours"] = options.hours
    if find_table(data) is None:
        if options.unfreeze:
            raise BadInput(f"Bad option --unfreeze, expected it with a labels.csv in '{data}'")
        without = tuple(options.without.split(",")) if options.without else ()
        if options.device != "cpu":
            common |= {"rows": MANY, "workers": max(1, cores.count() - 1)}
        report = train(data, out, without=without, follow=options.follow, name=out.resolve().name, **common)
        _show(report, "valid")
    elif options.without:
        raise BadInput(f"Bad corpora '{options.without}' to leave out, expected none: '{data}' is one collection")
    elif options.follow:
        raise BadInput(f"Bad encoder '{options.follow}' to follow, expected none with the labels of '{data}'")
    else:
        report = tune(data, out, unfreeze=options.unfreeze, **common)
        if report["before"]:
            _show(report["before"], f"valid, {report['init']}")
        _show(report, f"valid, {out.resolve().name}")
    print(f"{report['minutes']} minutes; written to {out}")


def _show(report: dict[str, Any], what: str) -> None:
    recall = ", ".join(f"{label} {value:.3f}" for label, value in report["recall"].items() if not isnan(value))
    print(f"{what}, per frame: unweighted average recall {report['uar']:.3f} ({recall})")
    print("concordance: " + ", ".join(f"{track} {value:.3f}" for track, value in report["concordance"].items()))
