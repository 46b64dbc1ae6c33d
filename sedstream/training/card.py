"""The CARD.md of a fine-tuned model: what is known of it, and what nobody has measured."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from ..grid import HOP, RATE
from ..manifest import Manifest
from .batches import FRAMES

PAGE = """\
# {name}

Which emotion appears when, for every 20 ms of speech: {labels}, and arousal and valence from 0 to 1. Fine-tuned from
{start} on recordings of its owner.

## What it is

- **Start**: {start}, a {family} encoder that is {kind}; {inherited}.
- **Learned**: {learned}.
- **Licence**: {licence}, that of the start; the recordings may ask for more.
- **Algorithmic latency**: {plans}.

## Trained on

{hours:g} h of augmented speech (noise, other voices, echo, tone, telephone band, lost packets, level; half of it as it
was recorded where a recording has several labels, the rest joined of one speaker's utterances), drawn from:

| | train | valid |
|---|---|---|
{speech}

{voices} Where the recordings come from, who agreed to their use, and who set the labels, is not known to this page.

## How well

Per frame, on the valid recordings, once as they are and once augmented, {heard}; calibrated on the same recordings.
{recall}

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


INHERITED = "everything that its card says it cannot do holds here too"
FROZEN = "the head, and how much each layer counts; the encoder is as it was"


def card(name: str, start: Manifest, figures: Mapping[str, Any]) -> str:
    """The page of a model of that name, from its start and from what `tune` found out."""
    speech = figures["speech"]
    shared = speech["shared_speakers"]
    voices = f"Speakers in both: {shared}." if shared else "No speaker is in both."
    return PAGE.format(
        name=name,
        start=f"{start.name} {start.version}",
        labels=", ".join(start.labels),
        family=start.family,
        kind=start.kind,
        inherited=INHERITED if figures["before"] else "it had no head",
        learned=FROZEN if figures["frozen"] else "encoder and head",
        heard="in the live plan" if start.kind == "cached" else f"in windows of {FRAMES * HOP / RATE:.1f} s",
        licence=start.licence,
        plans=", ".join(
            f"{key} {'at the end' if plan.whole else f'{plan.latency:.2f} s'}" for key, plan in start.plans.items()
        ),
        hours=figures["hours"],
        speech="\n".join(_speech(speech, start.labels)),
        voices=voices,
        recall=_gain(figures),
        figures="\n".join(_figures(figures)),
        temperature=figures["temperature"],
        limits="\n".join(_limits(figures, start)),
    )


def _speech(speech: Mapping[str, Any], labels: tuple[str, ...]) -> list[str]:
    train, valid = speech["train"], speech["valid"]
    rows = [f"| {what} | {train[what]} | {valid[what]} |" for what in ("recordings", "speakers")]
    rows.append(f"| labelled speech, minutes | {train['minutes']:g} | {valid['minutes']:g} |")
    return rows + [f"| {label} | {train['emotions'][label]:g} | {valid['emotions'][label]:g} |" for label in labels]


def _gain(figures: Mapping[str, Any]) -> str:
    if not figures["before"]:
        chance = 1 / sum(not isnan(value) for value in figures["recall"].values())
        return f"Unweighted average recall {100 * figures['uar']:.1f}, by chance {100 * chance:.1f}."
    before, now = figures["before"]["uar"], figures["uar"]
    told = f"Unweighted average recall {100 * before:.1f} before, {100 * now:.1f} after."
    return told if now > before else f"{told} **The start is no worse here: use that.**"


def _figures(figures: Mapping[str, Any]) -> list[str]:
    before = _column(figures["before"])
    return [f"| {what} | {before.get(what, '–')} | {value} |" for what, value in _column(figures).items()]


def _column(found: Mapping[str, Any] | None) -> dict[str, str]:
    """A model's figures by name; none of no model."""
    if not found:
        return {}
    column = {label: _percent(value) for label, value in found["recall"].items()} | {"mean": _percent(found["uar"])}
    return column | {f"concordance of {track}": f"{value:.2f}" for track, value in found["concordance"].items()}


def _percent(value: float) -> str:
    return "not in valid" if isnan(value) else f"{100 * value:.1f}"


def _limits(figures: Mapping[str, Any], start: Manifest) -> list[str]:
    speech = figures["speech"]
    silent = [label for label, minutes in speech["train"]["emotions"].items() if not minutes]
    unheard = [label for label, minutes in speech["valid"]["emotions"].items() if not minutes and label not in silent]
    told = [f"- What {start.name} cannot do, it cannot: see that card."]
    if not figures["before"]:
        told = ["- It learned emotions from these recordings alone: what they do not have, it never heard."]
    if silent:
        told.append(
            f"- No recording was labelled {', '.join(silent)}: expect these less than from the start, or wrongly."
        )
    if unheard:
        told.append(f"- How well it finds {', '.join(unheard)} is not known: the valid recordings have none.")
    if speech["shared_speakers"]:
        told.append("- The figures above are partly of voices that it was trained on: new voices will be worse.")
    elif speech["valid"]["speakers"] < 5:
        told.append(f"- Few voices to judge by, {speech['valid']['speakers']}: voices differ more than anything else.")
    return told
