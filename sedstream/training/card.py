"""The CARD.md of a fine-tuned model: what is known of it, and what nobody has measured."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from ..manifest import Manifest

PAGE = """\
# {name}

Which emotion appears when, for every 20 ms of speech: {labels}, and arousal and valence from 0 to 1. Fine-tuned from
{start} on recordings of its owner.

## What it is

- **Start**: {start}, a {family} encoder that is {kind}; everything that its card says it cannot do holds here too.
- **Licence**: {licence}, that of the start; the recordings may ask for more.
- **Algorithmic latency**: {plans}.

## Trained on

{hours:g} hours of augmented speech (noise, echo, telephone band, level; half of it as it was recorded where a recording
has several labels, the rest joined of one speaker's utterances), drawn from:

| | train | valid |
|---|---|---|
{speech}

{voices} Where the recordings come from, who agreed to their use, and who set the labels, is not known to this page.

## How well

Per frame, on the valid recordings, once as they are and once augmented, in the live plan; both models calibrated on the
same recordings. {recall}

| recall % | {start} | {name} |
|---|---|---|
{figures}

Temperature {temperature:g}. `metrics.json` holds the same figures. These are figures of a held-out part of the same
collection: other rooms, lines, languages and ways of labelling were not measured. For segments, `sedstream diarize` and
`sedstream score` on recordings that were not used here say more.

## What it cannot do

{limits}

## Use

Not for decisions about a person. The EU AI Act, Art. 5(1)(f), forbids inferring emotions of people at their workplace
or in education from biometric data, medical or safety reasons apart. Art. 50(3) asks that people who are exposed to
emotion recognition be told.
"""


def card(name: str, start: Manifest, figures: Mapping[str, Any]) -> str:
    """The page of a model of that name, from its start and from what `tune` found out."""
    speech = figures["speech"]
    shared = speech["shared_speakers"]
    voices = f"{shared} speakers are in both." if shared else "No speaker is in both."
    return PAGE.format(
        name=name,
        start=f"{start.name} {start.version}",
        labels=", ".join(start.labels),
        family=start.family,
        kind=start.kind,
        licence=start.licence,
        plans=", ".join(f"{key} {plan.latency:.2f} s" for key, plan in start.plans.items()),
        hours=figures["hours"],
        speech="\n".join(_speech(speech, start.labels)),
        voices=voices,
        recall=_gain(figures),
        figures="\n".join(_figures(figures)),
        temperature=figures["temperature"],
        limits="\n".join(_limits(speech, start)),
    )


def _speech(speech: Mapping[str, Any], labels: tuple[str, ...]) -> list[str]:
    train, valid = speech["train"], speech["valid"]
    rows = [f"| {what} | {train[what]} | {valid[what]} |" for what in ("recordings", "speakers")]
    rows.append(f"| labelled speech, minutes | {train['minutes']:g} | {valid['minutes']:g} |")
    return rows + [f"| {label} | {train['emotions'][label]:g} | {valid['emotions'][label]:g} |" for label in labels]


def _gain(figures: Mapping[str, Any]) -> str:
    before, now = figures["before"]["uar"], figures["uar"]
    told = f"Unweighted average recall {100 * before:.1f} before, {100 * now:.1f} after."
    return told if now > before else f"{told} **The start is no worse here: use that.**"


def _figures(figures: Mapping[str, Any]) -> list[str]:
    before = figures["before"]
    rows = [
        f"| {label} | {_percent(before['recall'][label])} | {_percent(v)} |" for label, v in figures["recall"].items()
    ]
    rows.append(f"| mean | {_percent(before['uar'])} | {_percent(figures['uar'])} |")
    tracks = figures["concordance"].items()
    return rows + [f"| concordance of {track} | {before['concordance'][track]:.2f} | {v:.2f} |" for track, v in tracks]


def _percent(value: float) -> str:
    return "not in valid" if isnan(value) else f"{100 * value:.1f}"


def _limits(speech: Mapping[str, Any], start: Manifest) -> list[str]:
    silent = [label for label, minutes in speech["train"]["emotions"].items() if not minutes]
    unheard = [label for label, minutes in speech["valid"]["emotions"].items() if not minutes and label not in silent]
    told = [f"- What {start.name} cannot do, it cannot: see that card."]
    if silent:
        told.append(
            f"- No recording was labelled {', '.join(silent)}: expect these less than from the start, or wrongly."
        )
    if unheard:
        told.append(f"- How well it finds {', '.join(unheard)} is not known: the valid recordings have none.")
    if speech["shared_speakers"]:
        told.append("- The figures above are partly of voices that it was trained on: new voices will be worse.")
    elif speech["valid"]["speakers"] < 5:
        told.append(
            f"- {speech['valid']['speakers']} voices are few to judge by: voices differ more than anything else."
        )
    return told
