"""Token files, certificates and limits without a server: what is read, what is refused, what a change does."""

import asyncio
import logging
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.datastructures import Headers

from sedstream.cli import main
from sedstream.errors import BadInput
from sedstream.serving import tokens
from sedstream.serving.access import ANYBODY, Access, Meter, Refusal, Visit, bearer
from sedstream.serving.client import Client
from sedstream.serving.server import Server
from sedstream.serving.tls import Certificate
from sedstream.serving.tokens import TokenFile, parse
from sedstream.zoo import Model

SHA = "a" * 64
GOOD = f'[[token]]\nname = "a"\nsha256 = "{SHA}"\nscopes = ["stream"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[token]", "Bad TOML"),
        ("token = 7", "Bad fields 'token'"),
        ("tokens = []", "Bad fields 'tokens'"),
        ("[[token]]", "Bad token name None"),
        (GOOD.replace('"a"\n', '"a\\nb"\n'), "Bad token name"),
        (GOOD.replace(SHA, SHA[1:]), "Bad sha256 of token 'a'"),
        (GOOD.replace(SHA, SHA.upper()), "Bad sha256"),
        (GOOD.replace("stream", "root"), "Bad scopes .* expected some of stream, watch, admin"),
        (GOOD.replace('["stream"]', "[]"), "Bad scopes"),
        (GOOD.replace('["stream"]', "[[1]]"), "Bad scopes"),
        (GOOD + "expire = 2027-01-01T00:00:00Z", "Bad field 'expire' of token 'a'"),
        (GOOD + "expires = 2027-01-01T00:00:00", "Bad expires 2027-01-01 00:00:00 of token 'a'"),
        (GOOD + 'expires = "never"', "Bad expires never"),
        (GOOD + "sessions = 0", "Bad sessions 0"),
        (GOOD + "sessions = true", "Bad sessions True"),
        (GOOD + "bytes_per_second = 1.5", "Bad bytes_per_second 1.5"),
        (GOOD + 'client_secret = "c2hvcnQ="', "Bad client_secret of token 'a', expected base64 of at least 16 bytes"),
        (GOOD + 'client_secret = "?"', "Bad client_secret of token 'a', expected"),
        (GOOD + GOOD, "Bad name 'a', expected each once"),
        (GOOD + GOOD.replace('"a"\n', '"b"\n'), "Bad sha256 'a+', expected each once"),
    ],
)
def test_a_bad_token_file_is_told(text: str, message: str) -> None:
    assert len(parse(GOOD)) == 1
    with pytest.raises(BadInput, match=message):
        parse(text)


def test_add_and_find(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    expires = datetime.now(UTC) + timedelta(days=1)
    secret = tokens.add(path, "a", scopes=["stream", "watch"], expires=expires, sessions=2, bytes_per_second=9)
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret not in path.read_text()
    file = TokenFile(path)
    token = file.find(secret)
    assert token is not None
    assert (token.name, token.scopes, token.sessions, token.bytes_per_second) == ("a", {"stream", "watch"}, 2, 9)
    assert not token.expired(datetime.now(UTC))
    assert token.expired(expires)
    for wrong in ("", secret[:-1], secret + "x", secret.lower(), token.sha256, "é", "\ud800"):
        assert file.find(wrong) is None
    path.write_text(path.read_text().rstrip())  # an editor that ends no line
    second = tokens.add(path, "b")
    assert file.find(second) is not None
    assert file.find(secret) == token


def test_a_failed_add_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    with pytest.raises(BadInput, match="Bad scopes"):
        tokens.add(path, "a", scopes=["root"])
    assert not path.exists()
    tokens.add(path, "a")
    before = path.read_bytes()
    with pytest.raises(BadInput, match="Bad name 'a', expected each once"):
        tokens.add(path, "a")
    assert path.read_bytes() == before
    path.write_text("[[token]]\n")
    with pytest.raises(BadInput, match="Bad token name None"):
        tokens.add(path, "b")
    assert path.read_text() == "[[token]]\n"
    with pytest.raises(BadInput, match="expected one that can be written"):
        tokens.add(tmp_path, "a")


def test_a_full_disk_leaves_the_tokens_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    tokens.add(path, "a")
    before = path.read_bytes()
    for room in (0, 60):  # nothing is written, or a part
        code = (
            "import resource, sys; from sedstream.serving import tokens\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + room},) * 2)\n"
            "tokens.add(sys.argv[1], 'b')"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        assert "BadInput: Bad token file" in done.stderr
        assert path.read_bytes() == before


def test_a_broken_change_leaves_the_last_good_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tokens.toml"
    secret = tokens.add(path, "a")
    good = path.read_text()
    file = TokenFile(path)
    path.write_text(good + "[[token")
    assert file.find(secret) is not None
    path.unlink()
    assert file.find(secret) is not None
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    path.write_text("")
    assert file.find(secret) is None
    with pytest.raises(BadInput, match="expected one that can be read"):
        TokenFile(tmp_path / "none.toml")


def test_a_link_to_a_folder_that_is_changed_for_another(tmp_path: Path) -> None:
    """As Kubernetes renews what it mounts: the file is a link that stays the same."""
    path, folder = tmp_path / "tokens.toml", tmp_path / "current"
    secrets = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        secrets.append(tokens.add(tmp_path / name / "tokens.toml", name))
    folder.symlink_to("old")
    path.symlink_to("current/tokens.toml")
    file = TokenFile(path)
    assert file.find(secrets[0]) is not None
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(folder)
    assert [file.find(secret) is not None for secret in secrets] == [False, True]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "tokens.toml")
    assert main(["tokens", path, "--add", "desk", "--scopes", "watch,admin", "--days", "2", "--sessions", "3"]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("sed_")
    found = TokenFile(path).find(secret)
    assert found is not None
    assert found.expires is not None
    assert timedelta(days=1.9) < found.expires - datetime.now(UTC) < timedelta(days=2)
    assert main(["tokens", path]) == 0
    assert capsys.readouterr().out.startswith("desk  admin, watch; until ")
    assert main(["tokens", path, "--add", "desk"]) == 2
    assert capsys.readouterr().err.startswith("sedstream: Bad token file")
    assert main(["tokens", path, "--add", "x", "--days", "1e12"]) == 2
    past = datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    tokens.add(path, "old", expires=past, bytes_per_second=9)
    assert main(["tokens", path]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith(" UTC; 3 sessions")
    assert told[1] == "old  stream; until 2019-12-31 22:00 UTC; expired; 9 bytes/s"
    for option, value in (("--scopes", "watch"), ("--days", "1"), ("--sessions", "1"), ("--bytes-per-second", "1")):
        assert main(["tokens", path, option, value]) == 2  # nobody may think that they changed a token
        assert capsys.readouterr().err == f"sedstream: Bad option {option}, expected it with --add\n"


def test_where_a_token_stands() -> None:
    assert bearer(Headers({"Authorization": "Bearer abc"})) == "abc"
    assert bearer(Headers({"authorization": "bearer  abc "})) == "abc"
    assert bearer(Headers({"Sec-WebSocket-Protocol": "sedstream.v1, sedstream.token.abc"})) == "abc"
    for headers in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}, {"Cookie": "Bearer abc"}):
        assert bearer(Headers(headers)) is None


def test_sessions_of_a_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    tokens.add(path, "a", sessions=2)
    access = Access(TokenFile(path))
    token = tokens.read(path)[0]
    visits = [access.enter(token, "stream") for _ in range(2)]
    refused = access.enter(token, "stream")
    assert isinstance(refused, Refusal)
    assert refused.status == 429
    assert isinstance(visits[0], Visit)
    visits[0].end()
    visits[0].end()
    assert isinstance(access.enter(token, "stream"), Visit)
    assert isinstance(access.enter(token, "stream"), Refusal)
    assert all(isinstance(Access().enter(ANYBODY, "stream"), Visit) for _ in range(3))


def test_whoever_comes_back_at_once_is_not_faster_for_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    tokens.add(path, "a", bytes_per_second=1000)
    access = Access(TokenFile(path))
    for number in range(5):
        visit = access.enter(tokens.read(path)[0], "stream")
        assert isinstance(visit, Visit)
        assert visit.wait(1000, 100.0) == number
        visit.end()


def test_the_meter_holds_the_rate_whatever_the_packets() -> None:
    for size in (10, 160, 5000):
        meter, now, sent = Meter(), 100.0, 0
        while now < 160.0:
            now += meter.take(size, 1000, now)
            sent += size
        assert 60_000 <= sent <= 62_000 + size
    meter = Meter()
    meter.take(1000, 1000, 0.0)
    assert meter.take(500, 1000, 1000.0) == 0.0  # an hour's silence allows a second's burst, not an hour's
    assert meter.take(1500, 1000, 1000.0) == pytest.approx(1.0)


@pytest.mark.parametrize("held", ["sed_one\nsed_two\n", "sed_one sed_two", "sed_one\0", "sed_oné", "\n"])
def test_a_client_never_shows_what_can_be_no_token(
    held: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "token"
    path.write_text(held)
    assert main(["stream", str(clip), "ws://127.0.0.1:1/v1/stream", "--token-file", str(path)]) == 2
    told = capsys.readouterr().err
    assert told == "sedstream: Bad token, expected one line of printable ASCII characters without blanks\n"


NO_PAGE = ["desk.example", "https://desk.example/", "ftp://x", "null", "*", "https://a@b.c", "https://[::1", "https://"]
NEVER_SAID = [
    "https://*.desk.example",
    "https://desk.example:443",
    "http://desk.example:80",
    "https://b\u00fccher.example",
]


@pytest.mark.parametrize("origin", [*NO_PAGE, *NEVER_SAID, "http://desk.example:99999", "http://desk.example:"])
def test_a_bad_origin_is_told(origin: str) -> None:
    """What no browser says is bad, too: nobody would come in by it."""
    Access(origins=["https://desk.example", "http://localhost:3000", "http://[::1]:8080", "https://Desk-2.example:80"])
    with pytest.raises(BadInput, match="Bad origin .* expected one as browsers say it"):
        Access(origins=[origin])


def test_a_bad_certificate_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = trustme.CA()
    one, two = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    cert, key, other, locked = (tmp_path / name for name in ("cert.pem", "key.pem", "other.pem", "locked.pem"))
    one.cert_chain_pems[0].write_to_path(cert)
    one.private_key_pem.write_to_path(key)
    two.private_key_pem.write_to_path(other)
    locked.write_bytes(_locked(key.read_bytes()))
    certificate = Certificate(cert, key)
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
    for wrong in (other, tmp_path / "none.pem", cert):
        with pytest.raises(BadInput, match="expected PEM files that belong together"):
            Certificate(cert, wrong)
    with pytest.raises(BadInput, match="expected one without a passphrase"):
        Certificate(cert, locked)
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    Certificate(both)
    key.write_bytes(other.read_bytes())
    certificate.refresh()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def _locked(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    loaded = form.load_pem_private_key(key, None)
    lock = form.BestAvailableEncryption(b"secret")
    return loaded.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)


def test_who_is_slowed_is_not_idle(model: Model, tmp_path: Path) -> None:
    """A message that its token lets in only after the time in which others must send something."""
    path = tmp_path / "tokens.toml"
    secret = tokens.add(path, "slow", bytes_per_second=8000)

    async def run() -> list[dict[str, Any]]:
        async with (
            Server(model, port=0, tokens=path, idle_seconds=1.0) as server,
            Client(server.url, rate=8000, encoding="mulaw", token=secret) as client,
        ):
            await client.send(bytes(24_000))
            await client.close()
            return [message async for message in client]

    assert asyncio.run(run())[-1]["duration"] == 3.0
