"""The command line. Heavy imports wait until a command needs them: ``sedstream --help`` answers at once."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from . import __version__, commands
from .errors import SedstreamError
from .manifest import DEFAULT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 2 with one line ``sedstream: …`` on stderr, 130 interrupted."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed by whoever started us, as some daemons do
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # a file name that is not UTF-8 must not end the run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        code = command(options)
        sys.stdout.flush()
        return code
    except SedstreamError as error:
        print(f"sedstream: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough; keep the interpreter from complaining at exit.
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is not None:
            raise
        # The one file that no command opens, and so tells of, is the screen's.
        expected = f"expected a file that can be written: {error.strerror}"
        print(f"sedstream: Bad output '/dev/stdout', {expected}", file=sys.stderr)
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # not once more at the exit
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sedstream", description="Which emotion appears when: streaming speech emotion diarization."
    )
    parser.add_argument("--version", action="version", version=f"sedstream {__version__}")
    verbs = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    diarize = verbs.add_parser("diarize", help="emotion segments of recordings")
    diarize.add_argument(
        "paths",
        nargs="+",
        type=_path,
        metavar="PATH",
        help="a recording, a folder, a glob, or a .txt that names one a line",
    )
    _add_model(diarize, plan="batch")
    _add_channels(diarize)
    _add_output(diarize)
    diarize.add_argument(
        "--plot",
        nargs="?",
        const="",
        metavar="FILE",
        help="picture of one recording: png, svg or pdf; without FILE, a png of each in the folder --out",
    )
    diarize.set_defaults(run=commands.diarize)

    listen = verbs.add_parser("listen", help="watch a microphone live")
    listen.add_argument("--device", metavar="NAME", help="microphone, by number or part of its name")
    listen.add_argument("--list-devices", action="store_true", help="show the microphones and stop")
    listen.add_argument("--seconds", type=_positive, metavar="S", help="stop after so much audio")
    _add_model(listen, plan="live", device=False)
    _add_output(listen, "table or jsonl", "each row at once")
    listen.set_defaults(run=commands.listen)

    serve = verbs.add_parser("serve", help="answer many live calls over WebSocket")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, default=8765, help="port to listen on, 0 for a free one (%(default)s)")
    serve.add_argument("--model", default=DEFAULT, help="name or folder (%(default)s)")
    serve.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    serve.add_argument("--log-format", choices=["text", "json"], default="text", help="on stderr (%(default)s)")
    serve.add_argument("--tokens", metavar="FILE", help="who may connect (see sedstream tokens); changes are followed")
    serve.add_argument("--tls-cert", metavar="FILE", help="PEM certificate chain: wss; a renewal is followed")
    serve.add_argument("--tls-key", metavar="FILE", help="PEM key (default: in the file of --tls-cert)")
    serve.add_argument(
        "--allow-origin", type=_names, default=[], metavar="URL,…", help="web pages that may connect from a browser"
    )
    serve.add_argument(
        "--allow-agent", action="store_true", help="analyse channels with role agent too: in the EU mostly forbidden"
    )
    serve.add_argument("--insecure", action="store_true", help="listen beyond this machine without --tokens")
    serve.add_argument("--audiosocket", type=int, metavar="PORT", help="take Asterisk's calls on this TCP port")
    serve.add_argument(
        "--max-sessions",
        type=_room,
        metavar="N",
        help="channels analysed at once, or auto: measured at the start (default: auto)",
    )
    serve.add_argument(
        "--max-speed",
        type=_positive,
        default=20.0,
        metavar="X",
        help="times real time that a session is answered at most (%(default)s)",
    )
    serve.add_argument("--alerts", metavar="FILE", help="TOML with rules [[alert]] and where to post them [[webhook]]")
    serve.add_argument(
        "--resume-seconds",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="how long a session waits for a client whose connection broke, 0: not at all (%(default)s)",
    )
    serve.add_argument(
        "--idle-seconds",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="when a connection that sends nothing is closed, 0: never (%(default)s)",
    )
    serve.set_defaults(run=commands.serve)

    tokens = verbs.add_parser("tokens", help="list or add the tokens that open a server")
    tokens.add_argument("file", metavar="FILE", help="where hashes of the tokens are kept; a removed block is revoked")
    tokens.add_argument("--add", metavar="NAME", help="make a token, append its hash, print it: it is kept nowhere")
    tokens.add_argument("--scopes", type=_names, metavar="A,…", help="stream, watch, admin (default: stream)")
    tokens.add_argument("--days", type=_positive, metavar="N", help="until it expires (default: never)")
    tokens.add_argument("--sessions", type=int, metavar="N", help="at most so many at a time")
    tokens.add_argument("--bytes-per-second", type=int, metavar="N", help="what all its sessions may send together")
    tokens.set_defaults(run=commands.tokens)

    stream = verbs.add_parser("stream", help="send a recording to a server as a live call")
    stream.add_argument("path", metavar="FILE", help="a recording")
    stream.add_argument("url", metavar="URL", help="ws://host:port/v1/stream")
    stream.add_argument("--speed", type=float, default=1.0, help="1: as a call; 0: as fast as the server takes it")
    stream.add_argument("--token-file", metavar="FILE", help="file that holds the token, where the server wants one")
    stream.add_argument("--tls-ca", metavar="FILE", help="PEM of who signed its certificate, if not known here")
    stream.add_argument("--reconnect", action="store_true", help="go on when the connection breaks")
    stream.add_argument("--packet", type=_positive, default=0.1, metavar="S", help="seconds a packet (%(default)s)")
    stream.add_argument("--plan", default="live", help="plan of the server's model (%(default)s)")
    _add_labels(stream)
    _add_channels(stream)
    _add_output(stream, "table or jsonl")
    stream.set_defaults(run=commands.stream)

    score = verbs.add_parser("score", help="compare a diarization with a reference annotation")
    score.add_argument(
        "reference", type=_path, metavar="REF", help="file or folder: RTTM, CSV, JSONL, TextGrid, ZED's folder or JSON"
    )
    score.add_argument(
        "hypothesis",
        nargs="?",
        type=_path,
        metavar="HYP",
        help="file or folder of the same recordings; may be left out if REF is ZED's folder: what --model makes of it",
    )
    score.add_argument("--model", default=DEFAULT, help="name or folder, without HYP (%(default)s)")
    score.add_argument(
        "--plan", default="batch", help="live, batch, or another that the model has, without HYP (%(default)s)"
    )
    score.add_argument("--device", default="cpu", help="cpu or cuda, without HYP (%(default)s)")
    score.add_argument(
        "--collar", type=float, default=0.0, metavar="S", help="unscored on each side of a boundary (%(default)s s)"
    )
    score.add_argument(
        "--no-silence", dest="silence", action="store_false", help="leave out time outside the reference's segments"
    )
    score.add_argument("--labels", type=_names, metavar="A,B,…", help="emotions that may occur (default: the seven)")
    score.add_argument("--mapping", type=_mapping, metavar="A=B,…", help="label in the files=emotion: excited=happy")
    score.add_argument("--json", action="store_true", help="everything, as JSON")
    score.set_defaults(run=commands.score)

    bench = verbs.add_parser("bench", help="measure this machine")
    bench.add_argument("what", choices=["capacity"], help="capacity: how many calls it holds")
    _add_model(bench, plan="live", labels=False)
    bench.set_defaults(run=commands.bench)

    models = verbs.add_parser("models", help="list and verify the models at hand, show their cards, pull weights")
    models.add_argument(
        "model", nargs="*", metavar="MODEL", help="name or folder: show its card; pull MODEL: fetch its weights"
    )
    models.add_argument("--verify", action="store_true", help="load each, or MODEL alone, and let it answer")
    models.add_argument(
        "--to", type=_path, metavar="FOLDER", help="with pull: a model folder to make, if not where it is installed"
    )
    models.add_argument("--quiet", action="store_true", help="no progress bar")
    models.set_defaults(run=commands.models)

    demo = verbs.add_parser("demo", help="diarize the recordings that come with sedstream")
    _add_model(demo, plan="live")
    _add_output(demo, "table or jsonl")
    demo.set_defaults(run=commands.demo)

    train = verbs.add_parser("train", help="fine-tune a model on your recordings, or train the default one")
    train.add_argument(
        "data",
        type=_path,
        metavar="DATA",
        help="folder of recordings with labels.csv (file,start,end,emotion) to fine-tune on, or with index.csv",
    )
    train.add_argument(
        "--out", type=_path, default="trained-model", metavar="DIR", help="model folder to write (%(default)s)"
    )
    train.add_argument(
        "--init",
        default=DEFAULT,
        metavar="MODEL|NAME|FILE",
        help="what to start from: a model; a checkpoint of wav2vec 2.0, HuBERT or WavLM, or torchaudio's name of one, "
        "WAVLM_BASE_PLUS or WAVLM_BASE_PLUS=FILE; with an index.csv safetensors of a Whisper encoder (%(default)s)",
    )
    train.add_argument(
        "--unfreeze", action="store_true", help="with a labels.csv all of a windowed encoder learns, not only its head"
    )
    train.add_argument(
        "--hours",
        type=_positive,
        metavar="H",
        help="of speech to train with (default: 1 to 8, ten times what is labelled; with an index.csv 28)",
    )
    train.add_argument(
        "--follow", metavar="FILE", help="safetensors of Whisper base's or small's encoder, followed with an index.csv"
    )
    train.add_argument("--without", metavar="NAMES", help="corpora of an index.csv to leave out, with commas between")
    train.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    train.add_argument("--seed", type=_seed, default=1, help="of what is drawn at random (%(default)s)")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    train.set_defaults(run=commands.train)
    return parser


def _path(text: str) -> str:
    """Not empty: what a shell makes of a variable that is not set would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("Bad path '', expected a name")
    return text


def _number(text: str) -> float:
    """NaN, which is in no range, for what is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"Bad number {text!r}, expected more than 0")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"Bad seed {text!r}, expected a whole number from 0 on")
    return int(text)


def _room(text: str) -> int | None:
    """A number of sessions; None: to be measured."""
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"Bad number {text!r}, expected 1 or more, or auto")
    return int(text)


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"Bad number {text!r}, expected 0 or more")
    return value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _mapping(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(source and target for source, _, target in pairs):
        raise argparse.ArgumentTypeError(f"Bad mapping {text!r}, expected label=emotion,…")
    return {source.strip(): target.strip() for source, _, target in pairs}


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", type=_names, metavar="A,B,…", help="restrict to these emotions")


def _add_model(parser: argparse.ArgumentParser, plan: str, device: bool = True, labels: bool = True) -> None:
    parser.add_argument("--model", default=DEFAULT, help="name or folder (%(default)s)")
    parser.add_argument("--plan", default=plan, help="live, batch, or another that the model has (%(default)s)")
    if device:
        parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    if labels:
        _add_labels(parser)


def _add_channels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", choices=["mix", "split"], default="mix", help="of stereo files (%(default)s)")
    parser.add_argument("--roles", type=_names, metavar="A,B", help="names of the channels: customer,agent")


def _add_output(parser: argparse.ArgumentParser, formats: str = "", how: str = "all or nothing") -> None:
    """``formats``: those that there are, if one is to be chosen."""
    told, among = ("NAME", formats) if formats else ("A,B,…", "rttm, csv, …")
    parser.add_argument("--format", type=_names, metavar=told, help=f"{among} (table on a terminal, else jsonl)")
    parser.add_argument("--out", type=_path, metavar="FILE", help=f"write here, {how}, instead of to the screen")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
