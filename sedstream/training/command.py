"""`sedstream train`: the recipe from the command line."""

import argparse
from pathlib import Path

from .recipe import train


def run(options: argparse.Namespace) -> None:
    """Train with the options `data`, `out`, `init`, `hours`, `without`, `device`, `seed` and `quiet`, and print the
    figures on valid."""
    given = {} if options.hours is None else {"hours": options.hours}
    report = train(
        Path(options.data),
        Path(options.out),
        seed=options.seed,
        init=options.init,
        without=tuple(options.without.split(",")) if options.without else (),
        device=options.device,
        quiet=getattr(options, "quiet", False),
        **given,
    )
    recall = ", ".join(f"{label} {value:.3f}" for label, value in report["recall"].items())
    print(f"valid, per frame: unweighted average recall {report['uar']:.3f} ({recall})")
    print("concordance: " + ", ".join(f"{track} {value:.3f}" for track, value in report["concordance"].items()))
    print(f"{report['minutes']} minutes; written to {options.out}")
