"""`sedstream models pull`: from a real server that breaks off, lies, or has another file; and what is left then."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import recipe
from test_cli import fails, sedstream
from test_wav2vec import LARGE, SIZE

from sedstream import catalogue, download
from sedstream.download import fetch
from sedstream.encoders.speechbrain import FILES
from sedstream.errors import BadModel, Unavailable
from sedstream.manifest import SUMS, find, sums
from sedstream.zoo import load


class Shelf:
    """Files that a server has, and how it behaves."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.tagged = True
        self.break_after: int | None = None
        """Bytes of a body after which the connection is closed."""
        self.busy = 0
        """Requests that it cannot answer yet."""
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""


@contextmanager
def serving(shelf: Shelf) -> Iterator[Shelf]:
    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            wanted = self.headers.get("Range")
            shelf.asked.append((name, wanted))
            if shelf.busy:
                shelf.busy -= 1
                self.send_error(503)
                return
            if name.startswith("moved/"):
                self.send_response(302)
                self.send_header("Location", name.removeprefix("moved/"))
                self.end_headers()
                return
            if name not in shelf.files:
                self.send_error(404)
                return
            data = shelf.files[name]
            tag = f'"{sha256(data).hexdigest()[:16]}"'
            first = 0
            if shelf.ranges and wanted and self.headers.get("If-Range") == tag:
                first = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if first >= len(data):
                    self.send_error(416)
                    return
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - first))
            if shelf.tagged:
                self.send_header("ETag", tag)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command == "HEAD":
                return
            body = data[first:]
            self.wfile.write(body if shelf.break_after is None else body[: shelf.break_after])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    shelf.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield shelf
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with serving(Shelf()) as shelf:
        shelf.files["it"] = bytes(range(256)) * 4_000
        yield shelf


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole(shelf: Shelf, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    digest = sha256(shelf.files["it"]).hexdigest()
    for known in ("", digest):
        assert fetch(f"{shelf.url}/it", tmp_path / "it", known, lambda *now: told.append(now)) == digest
        assert (tmp_path / "it").read_bytes() == shelf.files["it"]
        assert names(tmp_path) == ["it"]
    assert told[0] == (0, 1_024_000)
    assert told[-1] == (1_024_000, 1_024_000)


def test_a_connection_that_breaks_is_gone_on_with(shelf: Shelf, tmp_path: Path) -> None:
    shelf.break_after = 300_000
    digest = fetch(f"{shelf.url}/it", tmp_path / "it")
    assert digest == sha256(shelf.files["it"]).hexdigest()
    assert [wanted for _, wanted in shelf.asked] == [None, *(f"bytes={n}00000-" for n in (3, 6, 9))]
    assert names(tmp_path) == ["it"]


def test_what_came_is_kept_for_the_next_run(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "it.part").write_bytes(shelf.files["it"][:500_000])
    (tmp_path / "it.etag").write_text(f'"{sha256(shelf.files["it"]).hexdigest()[:16]}"')
    shelf.break_after = 0
    with pytest.raises(Unavailable, match="run it again to go on"):
        fetch(f"{shelf.url}/it", tmp_path / "it")
    assert len(shelf.asked) == download.TRIES
    assert names(tmp_path) == ["it.etag", "it.part"]
    shelf.break_after = None
    fetch(f"{shelf.url}/it", tmp_path / "it")
    assert shelf.asked[-1] == ("it", "bytes=500000-")
    assert (tmp_path / "it").read_bytes() == shelf.files["it"]


def test_a_server_that_is_busy_is_asked_again(shelf: Shelf, tmp_path: Path) -> None:
    shelf.busy = download.TRIES - 1
    fetch(f"{shelf.url}/it", tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == shelf.files["it"]
    shelf.busy = download.TRIES
    with pytest.raises(Unavailable, match="expected a file: answer 503; run it again to go on"):
        fetch(f"{shelf.url}/it", tmp_path / "again")
    assert shelf.busy == 0


@pytest.mark.parametrize("left", [bytes(300), bytes(2_000_000)])
@pytest.mark.parametrize("mark", ['"another"', '"another"\n', '"änother"'])
@pytest.mark.parametrize("tagged", [True, False])
def test_another_file_or_no_ranges_begin_anew(
    shelf: Shelf, tmp_path: Path, tagged: bool, mark: str, left: bytes
) -> None:
    """What is left of another version of the file never gets into it."""
    shelf.ranges, shelf.tagged = tagged, tagged
    (tmp_path / "it.part").write_bytes(left)
    (tmp_path / "it.etag").write_text(mark)
    fetch(f"{shelf.url}/it", tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == shelf.files["it"]
    assert names(tmp_path) == ["it"]


def test_a_part_that_is_too_long(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "it.part").write_bytes(shelf.files["it"] + b"more")
    (tmp_path / "it.etag").write_text(f'"{sha256(shelf.files["it"]).hexdigest()[:16]}"')
    fetch(f"{shelf.url}/it", tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == shelf.files["it"]


def test_what_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="expected sha256 000000000000…, found"):
        fetch(f"{shelf.url}/it", tmp_path / "it", "0" * 64)
    assert not names(tmp_path)
    with pytest.raises(Unavailable, match="Bad answer 404 for"):
        fetch(f"{shelf.url}/nothing", tmp_path / "it")
    fetch(f"{shelf.url}/moved/{shelf.url}/it", tmp_path / "there")
    for url in ("http://example.org/it", "file:///etc/passwd", "ftp://127.0.0.1/it", "it"):
        for asked in (url, f"{shelf.url}/moved/{url}") if "://" in url else (url,):
            with pytest.raises((BadModel, Unavailable), match="expected https|Bad answer 302"):
                fetch(asked, tmp_path / "it")
    assert "it" not in names(tmp_path)


@pytest.fixture
def model(tmp_path: Path, shelf: Shelf) -> Path:
    """The folder of a model whose weights are on the server."""
    checkpoint = recipe.save(tmp_path, "WavLM", {**SIZE, **LARGE, "conv_bias": False})
    folder = tmp_path / "tiny-sed"
    folder.mkdir()
    text = (find("wavlm-large-sed").folder / "manifest.toml").read_text()
    rows = {"width": 128, "heads": 2, "layers": 3, "hidden": 96, "outputs": [3], "features": 128}
    lines = []
    for line in text.replace("https://huggingface.co", shelf.url).splitlines():
        key = line.partition(" = ")[0]
        lines.append(f"{key} = {rows[key]}" if key in rows else line)
    sizes = f"positions = 16\ngroups = 4\nconvolutions = {[[16, n] for n in (10, 3, 3, 3, 3, 2, 2)]}\n"
    text = "\n".join(lines).replace("[encoder]\n", "[encoder]\n" + sizes).replace("wavlm-large-sed", "tiny-sed")
    (folder / "manifest.toml").write_text(text + "\n")
    (folder / "CARD.md").write_text("# tiny\n")
    for file in find(folder).files:
        shelf.files[file.url.removeprefix(shelf.url + "/")] = (checkpoint / file.path.name).read_bytes()
    return folder


def test_pull(model: Path, shelf: Shelf, clip: Path, tmp_path: Path) -> None:
    shelf.break_after = 200_000
    told = sedstream("models", model, "--verify")
    assert (told.returncode, told.stderr) == (0, "")
    assert "not pulled: sedstream models pull tiny-sed" in told.stdout
    fails(sedstream("diarize", clip, "--model", model), "expected them pulled: sedstream models pull tiny-sed")
    done = sedstream("models", "pull", model)
    assert done.returncode == 0, done.stderr
    assert "pulled" in done.stdout
    assert "wav2vec2.ckpt" in done.stderr
    assert len(sums(model)) == 4
    assert names(model) == sorted(["CARD.md", "manifest.toml", SUMS, *sums(model)])
    asked = len(shelf.asked)
    again = sedstream("models", "pull", model, "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    assert len(shelf.asked) == asked
    found = load(model)
    assert found.manifest.labels == ("neutral", "happy", "sad", "angry")
    answer = sedstream("diarize", clip, "--model", model, "--plan", "whole")
    assert answer.returncode == 0, answer.stderr
    assert '"arousal": {"mean": null, "peak": null}' in answer.stdout


def test_the_first_pull_is_trusted_and_no_other(model: Path, shelf: Shelf) -> None:
    assert sedstream("models", "pull", model, "--quiet").returncode == 0
    (model / "model.ckpt").write_bytes(b"spoilt")
    with pytest.raises(BadModel, match="model.ckpt', expected sha256"):
        load(model)
    name = next(name for name in shelf.files if name.endswith("model.ckpt"))
    shelf.files[name] += b"changed"
    fails(sedstream("models", "pull", model, "--quiet"), "expected sha256")
    shelf.files[name] = shelf.files[name].removesuffix(b"changed")
    assert sedstream("models", "pull", model, "--quiet").returncode == 0
    load(model)


@pytest.mark.parametrize(
    ("name", "share", "came"),
    [*((name, 0, came) for name in FILES for came in (b"<html>Sorry", b"")), *((name, 0.5, b"") for name in FILES[2:])],
)
def test_a_first_pull_that_is_no_model(model: Path, shelf: Shelf, name: str, share: float, came: bytes) -> None:
    """It is not trusted, and another pull repairs it."""
    (place,) = (place for place in shelf.files if place.endswith(name))
    whole = shelf.files[place]
    shelf.files[place] = came or whole[: int(share * len(whole))]
    with pytest.raises(BadModel, match="Bad .*; what was pulled is removed, pull it again$"):
        catalogue.pull(str(model), quiet=True)
    assert (names(model), sums(model)) == (["CARD.md", SUMS, "manifest.toml"], {})
    shelf.files[place] = whole
    assert load(catalogue.pull(str(model), quiet=True)).manifest.pulled


def test_pull_elsewhere(model: Path, tmp_path: Path) -> None:
    there = tmp_path / "some" / "where"
    done = sedstream("models", "pull", model, "--to", there, "--quiet")
    assert done.returncode == 0, done.stderr
    assert SUMS not in names(model)
    load(there)
    again = sedstream("models", "pull", there, "--to", there, "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    (there / SUMS).unlink()
    with pytest.raises(BadModel, match="expected their sha256 in SHA256SUMS: sedstream models pull tiny-sed$"):
        load(there)
    assert sedstream("models", there).stdout == "# tiny\n"
    fails(sedstream("models", "pull", "sedstream-base", "--to", there), "expected one whose weights are pulled")
    (there / "manifest.toml").write_text("other = 1\n")
    fails(sedstream("models", "pull", model, "--to", there), "expected none with another model")
    fails(sedstream("models", model, "--to", there), "expected it with pull MODEL")
    fails(sedstream("models", "pull"), "Bad model 'pull'")
    fails(sedstream("models", "pull", "a", "b"), "Bad arguments")
    shutil.rmtree(there)


def test_from_the_hub(shelf: Shelf, tmp_path: Path) -> None:
    """The hub's own client against a server that speaks as the hub does."""
    checkpoint = recipe.save(tmp_path, "WavLM", {**SIZE, **LARGE, "conv_bias": False})
    for name in FILES:
        shelf.files[f"somebody/tiny-sed/resolve/main/{name}"] = (checkpoint / name).read_bytes()
    there = tmp_path / "there"
    for name in ("config.json", "preprocessor_config.json"):  # the sizes of no published model
        there.mkdir(exist_ok=True)
        shutil.copy(checkpoint / name, there / name)
    manifest = catalogue._from_hub("somebody/tiny-sed", there, shelf.url)
    assert manifest.labels == ("neutral", "sad", "happy", "angry")
    assert all((there / name).read_bytes() == (checkpoint / name).read_bytes() for name in FILES)
    load(there)
    with pytest.raises(Unavailable, match="Bad hub model 'nobody/nothing', expected hyperparams.yaml"):
        catalogue._from_hub("nobody/nothing", tmp_path / "nowhere", shelf.url)
