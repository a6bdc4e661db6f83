"""The client of the engine's socket, against a fake engine with prepared answers."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from kis_gateway_deploy.host.control import LINE_LIMIT, Control
from kis_gateway_deploy.host.engine import HEAD_LIMIT, MESSAGE_LIMIT, EngineError, quote
from kis_gateway_deploy.paths import ROOT


def reply(
    body: bytes | str = b"", status: str = "200 OK", headers: str = "", version: str = "1.41"
) -> bytes:
    content = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\nApi-Version: {version}\r\nContent-Length: {len(content)}\r\n"
    return f"{head}{headers}\r\n".encode() + content


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def chunked(*contents: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(map(chunk, contents)) + end


def frame(content: bytes, stream: int = 1) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


TOO_NEW = reply('{"message": "client version 1.44 is too new"}', "400 Bad Request")


class FakeEngine(ThreadingUnixStreamServer):
    """Finds its answer by the path, without version and query; any other path gets a 404."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler)
        self.answers: dict[str, bytes | Callable[[], Iterable[bytes]]] = {"/_ping": TOO_NEW}
        self.requests: list[tuple[str, bytes]] = []
        self.over = threading.Event()
        self.reads_bodies = True

    def targets(self) -> list[str]:
        return [line.split()[1] for line, _ in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores errors: in many of these tests the client closes the connection early."""


class Handler(StreamRequestHandler):
    server: FakeEngine

    def handle(self) -> None:
        first = self.rfile.readline().decode()
        headers = b"".join(iter(self.rfile.readline, b"\r\n"))
        body = b""
        if b"chunked" in headers and self.server.reads_bodies:
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        elif length := re.search(rb"Content-Length: ([1-9][0-9]*)", headers):
            body = self.rfile.read(int(length[1]))
        self.server.requests.append((first, body))
        path = urlsplit(first.split()[1]).path
        if path.startswith("/v1."):
            path = path[path.index("/", 1) :]
        missing = reply('{"message": "page not found"}', "404 Not Found")
        answer = self.server.answers.get(unquote(path), missing)
        for part in [answer] if isinstance(answer, bytes) else answer():
            self.wfile.write(part)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "engine.sock") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(fake: FakeEngine) -> Control:
    return Control(str(fake.server_address), seconds=5)


def error_of(call: Callable[[], Any]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        call()
    return caught.value


# Requests


@pytest.mark.parametrize(
    ("newest", "status", "oldest", "used"),
    [
        ("1.41", "400 Bad Request", "1.12", "1.41"),  # Engine 20.10
        ("1.9", "400 Bad Request", "1.1", "1.9"),  # compared as numbers, not as decimals
        ("1.44", "200 OK", "1.24", "1.44"),
        ("1.52", "200 OK", "1.44", "1.44"),  # Engine 29
        ("1.60", "400 Bad Request", "1.48", "1.48"),  # a future version
    ],
)
def test_the_newest_version_that_both_sides_support_is_used(
    fake: FakeEngine, engine: Control, newest: str, status: str, oldest: str, used: str
) -> None:
    fake.answers["/_ping"] = reply("OK", status, version=newest)
    fake.answers["/version"] = reply(f'{{"MinAPIVersion": "{oldest}"}}')
    fake.answers["/info"] = reply("{}")
    assert engine.info() == engine.info() == {}
    assert fake.targets()[-2:] == [f"/v{used}/info?"] * 2
    assert len([target for target in fake.targets() if "_ping" in target]) == 1


@pytest.mark.parametrize("version", ["", "1", "1.x", "1.41.1", "\u0663.\u0661", "9" * 5000 + ".1"])
def test_an_answer_without_a_version_is_an_error(
    fake: FakeEngine, engine: Control, version: str
) -> None:
    fake.answers["/_ping"] = reply("OK", version=version)
    assert error_of(engine.info).status == 0


def test_query_values_arrive_unchanged(fake: FakeEngine, engine: Control) -> None:
    fake.answers["/containers/json"] = reply('[{"Id": "a"}]')
    filters = {"label": ["a=b&c", "한국=1 2"]}
    assert engine.containers(all=True, filters=filters) == [{"Id": "a"}]
    fields = parse_qs(urlsplit(fake.targets()[-1]).query)
    assert fields == {
        "all": ["true"],
        "filters": ['{"label": ["a=b&c", "\\ud55c\\uad6d=1 2"]}'],
    }


@pytest.mark.parametrize("name", ["a/b", "../x", "a?b#c", "a b\r\nX: y", "이름", "\udc80", "%2f"])
def test_a_name_is_encoded_as_one_component_of_the_path(
    fake: FakeEngine, engine: Control, name: str
) -> None:
    assert engine.inspect(name) is None
    assert engine.image(name) is None
    for target, kind in zip(fake.targets()[-2:], ["containers", "images"], strict=True):
        path = urlsplit(target).path
        assert path == f"/v1.41/{kind}/{quote(name)}/json"
        assert unquote(path.split("/")[3], errors="surrogatepass") == name


def test_an_archive_is_sent_unchanged(fake: FakeEngine, engine: Control) -> None:
    parts = [b'{"stream":"Loaded image: kis:1\\nLoaded image: ', b'kis:2\\n"}\r\n']
    fake.answers["/images/load"] = chunked(*parts, b'{"stream":"Loaded image ID: sha256:ab\\n"}\n')
    chunks = [b"x" * 70_000, b"", b"0\r\n\r\n", b"end"]
    assert engine.load(iter(chunks)) == ["kis:1", "kis:2", "sha256:ab"]
    assert fake.requests[-1][1] == b"".join(chunks)


def test_an_unreadable_archive_is_not_an_engine_error(fake: FakeEngine, engine: Control) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"begin"
        raise OSError("the archive is damaged")

    with pytest.raises(OSError, match="the archive is damaged"):
        engine.load(chunks())
    assert fake.targets() == ["/v1.44/_ping"]  # the second request was never completed


def test_a_refusal_before_the_end_of_the_archive_is_reported(
    fake: FakeEngine, engine: Control
) -> None:
    fake.reads_bodies = False
    fake.answers["/images/load"] = reply('{"message": "no space left"}', "500 Internal")
    error = error_of(lambda: engine.load(b"x" * 100_000 for _ in range(1000)))
    assert (error.status, str(error)) == (500, "no space left")


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        reply('{"a": [1]}'),
        chunked(b'{"a"', b": [", b"1]}"),
        chunked(b'{"a": [1]}', end=b"0;last\r\nTrailer: x\r\n\r\n"),
        b'HTTP/1.0 200 OK\r\n\r\n{"a": [1]}',
        b'HTTP/1.1 200\r\nCONTENT-LENGTH:10\r\n\r\n{"a": [1]}and more',
    ],
)
def test_a_body_of_every_form_is_read(fake: FakeEngine, engine: Control, answer: bytes) -> None:
    fake.answers["/info"] = answer
    assert engine.info() == {"a": [1]}
    fake.answers["/info"] = lambda: (bytes([byte]) for byte in answer)
    assert engine.info() == {"a": [1]}


@pytest.mark.parametrize(
    ("parts", "can_start"),
    [(["Engine", "containerd", "runc"], True), (["Engine", "runc"], False), ([], True)],
)
def test_without_containerd_an_engine_starts_nothing(
    fake: FakeEngine, engine: Control, parts: list[str], can_start: bool
) -> None:
    fake.answers["/_ping"] = reply("OK")
    fake.answers["/version"] = reply(json.dumps({"Components": [{"Name": name} for name in parts]}))
    assert engine.can_start() is can_start


def test_an_empty_answer_returns_none(fake: FakeEngine, engine: Control) -> None:
    fake.answers["/containers/a/start"] = b"HTTP/1.1 204 No Content\r\n\r\n"
    fake.answers["/containers/a/stop"] = b"HTTP/1.1 304 Not Modified\r\n\r\n"
    engine.start("a")
    engine.stop("a", grace=1)
    assert engine.post("/containers/a/start") is None
    assert "POST /v1.41/containers/a/stop?t=1 " in fake.requests[-2][0]


def test_a_stop_may_take_as_long_as_the_containers_stop_timeout(
    fake: FakeEngine, engine: Control
) -> None:
    def late() -> Iterator[bytes]:
        fake.over.wait(0.5)  # longer than the time limit of other requests
        yield reply()

    fake.answers["/containers/a/json"] = reply('{"Config": {"StopTimeout": 3}}')
    fake.answers["/containers/a/stop"] = late
    engine.seconds = 0.25
    engine.stop("a")
    assert fake.targets()[-1].endswith("/stop?t=3")
    assert error_of(lambda: engine.post("/containers/a/stop")).status == 0


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (reply('{"message": "it is\\nbroken"}', "500 Internal Server Error"), 500, "it is\nbroken"),
        (reply("client is too old\n", "400 Bad Request"), 400, "client is too old"),
        (reply(b"\xff\xfe", "502 Bad Gateway"), 502, "\ufffd\ufffd"),
        (reply("[1]", "500 Internal Server Error"), 500, "[1]"),
        (reply('{"message": [1]}', "500 Internal Server Error"), 500, "[1]"),
        (reply("", "500 Internal Server Error"), 500, "The engine answers with status 500"),
        (reply("{}", "503 Unavailable"), 503, "The engine answers with status 503"),
        (reply("", "301 Moved", "Location: /info\r\n"), 301, "The engine answers with status 301"),
        (reply("x" * 5000, "500 Internal Server Error"), 500, "x" * MESSAGE_LIMIT),
        (reply("[" * 60_000, "500 Internal Server Error"), 500, "[" * MESSAGE_LIMIT),
        (reply("x" * HEAD_LIMIT * 2, "500 Oh"), 500, "The engine answers with status 500"),
        (
            b"HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\nx",
            500,
            "The engine answers with status 500",
        ),
    ],
)
def test_a_refusal_has_the_message_of_the_engine(
    fake: FakeEngine, engine: Control, answer: bytes, status: int, text: str
) -> None:
    fake.answers["/info"] = answer
    error = error_of(engine.info)
    assert (error.status, str(error)) == (status, text)


def test_inspecting_a_missing_object_returns_none(fake: FakeEngine, engine: Control) -> None:
    assert engine.inspect("a") is None
    assert engine.image("a") is None
    assert error_of(lambda: engine.logs("a")).status == 404
    assert error_of(lambda: engine.start("a")).status == 404
    fake.answers["/containers/a/json"] = reply("{}", "500 Internal Server Error")
    assert error_of(lambda: engine.inspect("a")).status == 500


def name_of(answer: bytes) -> str:
    return repr(answer[:60] + answer[-20:])


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/2 200 OK\r\n\r\n{}",
        b"HTTP/1.1 1000 OK\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * HEAD_LIMIT + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * HEAD_LIMIT + b"Content-Length: 2\r\n\r\n{}",
        chunked(b"{}", end=b""),
        chunked(b"{}", end=b"-1\r\n"),
        chunked(b"{}", end=b"0x0\r\n\r\n"),
        chunked(b"{}", end=b"fffffffff\r\n"),
        chunked(b"{}", end=b"ffffffff\r\n "),
        chunked(b"{}", end=b"1" * 2 * HEAD_LIMIT),
        chunked(b"{", end=b"1\r\n}}\r\n0\r\n\r\n"),
        reply(""),
        reply("{"),
        reply("[]"),
        reply("null"),
        reply("{}{}"),
        reply(b'{"a": "\xff"}'),
        reply(b"\xff\xfe{"),
        reply("1" * 10_000),
        reply("[" * 1_000_000),
        reply('{"a":' * 1_000_000),
    ],
    ids=name_of,
)
def test_a_malformed_answer_is_an_error(fake: FakeEngine, engine: Control, answer: bytes) -> None:
    fake.answers["/info"] = answer
    error = error_of(engine.info)
    assert error.status == 0
    assert 0 < len(str(error)) <= MESSAGE_LIMIT


@pytest.mark.parametrize("answer", ["{}", "[1]", "[{}, null]"])
def test_a_list_with_wrong_items_is_an_error(
    fake: FakeEngine, engine: Control, answer: str
) -> None:
    fake.answers["/containers/json"] = fake.answers["/images/json"] = reply(answer)
    assert error_of(engine.containers).status == 0
    assert error_of(engine.images).status == 0


def test_a_truncated_answer_is_always_an_error(fake: FakeEngine, engine: Control) -> None:
    for complete, end in [(chunked(b'{"a"', b": 1}"), b"\r\n"), (reply('{"a": 1}'), b"")]:
        for length in range(len(complete) - len(end)):
            fake.answers["/info"] = complete[:length]
            assert error_of(engine.info).status == 0, complete[:length]


def test_a_damaged_answer_returns_a_value_or_raises_an_error(
    fake: FakeEngine, engine: Control
) -> None:
    choose = random.Random(13)  # noqa: S311 - the same answers every time
    fake.answers["/containers/a/json"] = reply('{"Config": {}}')
    complete = chunked(frame(b"out\n"), frame(b"err\n", 2), b'{"stream":"Loaded image: a"}\n')
    for _ in range(150):
        damaged = bytearray(complete)
        for _ in range(choose.randint(1, 4)):
            damaged[choose.randrange(len(damaged))] = choose.choice(b"\0\r\n019aZ:{[\xff")
        for path in ["/info", "/images/load", "/containers/a/logs"]:
            fake.answers[path] = bytes(damaged)
        calls: list[Callable[[], object]] = [
            engine.info,
            lambda: engine.load([b"x"]),
            lambda: engine.logs("a"),
        ]
        for call in calls:
            try:
                call()
            except EngineError as error:
                assert str(error)


# Limits of size and time


def test_a_body_has_a_limit(fake: FakeEngine, engine: Control) -> None:
    fake.answers["/info"] = reply('{"a": 1}')
    assert engine.get("/info", limit=8) == {"a": 1}
    assert "more than 7 bytes" in str(error_of(lambda: engine.get("/info", limit=7)))


def test_reading_an_endless_body_stops_at_the_limit(fake: FakeEngine, engine: Control) -> None:
    sent: list[int] = []

    def endless(piece: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while not fake.over.is_set():
            yield piece
            sent.append(len(piece))

    fake.answers["/info"] = fake.answers["/images/load"] = lambda: endless(b"x" * 100_000)
    assert "more than" in str(error_of(engine.info))
    assert f"a line of over {LINE_LIMIT} bytes" in str(error_of(lambda: engine.load([b"x"])))
    assert sum(sent) < 24 << 20


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_the_time_limit_covers_the_complete_request(
    fake: FakeEngine, engine: Control, begin: bytes
) -> None:
    def trickle() -> Iterator[bytes]:
        yield begin
        while not fake.over.wait(0.02):  # each step is much shorter than the limit
            yield b"x"

    fake.answers["/info"] = trickle
    engine.seconds = 0.3
    began = time.monotonic()
    error = error_of(engine.info)
    assert 0.3 <= time.monotonic() - began < 2
    assert (error.status, "within the time limit" in str(error)) == (0, True)


def test_the_time_limit_also_covers_an_engine_that_does_not_read(
    fake: FakeEngine, engine: Control
) -> None:
    def wait() -> Iterator[bytes]:
        fake.over.wait()
        yield b""

    fake.reads_bodies = False
    fake.answers["/images/load"] = wait
    chunks = (b"x" * 100_000 for _ in range(1000))
    assert "within the time limit" in str(error_of(lambda: engine.load(chunks, seconds=0.3)))
    assert next(chunks)  # the archive was not read completely


def test_without_an_engine_the_error_names_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    assert str(error_of(Control(str(path)).info)) == f"{path}: No such file or directory"
    path.write_text("")
    assert str(error_of(Control(str(path)).info)) == f"{path}: Connection refused"
    assert error_of(Control("/" + "x" * 200).info).status == 0


# Streams


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b'{"errorDetail":{"code":1,"message":"no space"},"error":"no space"}', "no space"),
        (b'{"error":"no space"}', "no space"),
        (b'{"errorDetail":{"message":"no space"}}', "no space"),
        (b'{"errorDetail":[],"error":{"message":["no space"]}}', "['no space']"),
    ],
)
def test_an_error_inside_a_stream_is_an_error(
    fake: FakeEngine, engine: Control, document: bytes, text: str
) -> None:
    fake.answers["/images/load"] = chunked(b'{"stream":"Loaded image: a"}\n', document + b"\n")
    error = error_of(lambda: engine.load([b"x"]))
    assert (error.status, str(error)) == (200, text)


LINES = [(b"out 1\n", 1), (b"err 1\n", 2), (b"", 1), (b"out 2\n", 1)]
FRAMES = b"".join(frame(content, stream) for content, stream in LINES)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 1000])
def test_frames_are_removed_from_logs(fake: FakeEngine, engine: Control, size: int) -> None:
    fake.answers["/containers/a/json"] = reply('{"Config": {"Tty": false}}')
    pieces = [FRAMES[at : at + size] for at in range(0, len(FRAMES), size)]
    fake.answers["/containers/a/logs"] = chunked(*pieces)
    assert engine.logs("a") == b"out 1\nerr 1\nout 2\n"
    assert engine.logs("a", limit=8) == b"1\nout 2\n"
    assert engine.logs("a", limit=0) == b""
    engine.logs("a", since=5, tail=2, timestamps=True)
    asked = parse_qs(urlsplit(fake.targets()[-1]).query)
    both = {"stdout": ["true"], "stderr": ["true"]}
    assert asked == both | {"since": ["5"], "tail": ["2"], "timestamps": ["true"]}


def test_a_followed_log_comes_piece_by_piece(fake: FakeEngine, engine: Control) -> None:
    fake.answers["/containers/a/json"] = reply('{"Config": {"Tty": false}}')
    fake.answers["/containers/a/logs"] = chunked(FRAMES)
    assert list(engine.follow("a", 5.5, 10)) == [b"out 1\n", b"err 1\n", b"out 2\n"]
    asked = parse_qs(urlsplit(fake.targets()[-1]).query)
    assert (asked["follow"], asked["since"]) == (["true"], ["5.5"])


def test_a_followed_log_has_a_time_limit(fake: FakeEngine, engine: Control) -> None:
    def endless() -> Iterator[bytes]:
        yield chunked(FRAMES).removesuffix(b"0\r\n\r\n")
        fake.over.wait(10)

    fake.answers["/containers/a/json"] = reply('{"Config": {"Tty": false}}')
    fake.answers["/containers/a/logs"] = endless
    heard: list[bytes] = []
    error = error_of(lambda: heard.extend(engine.follow("a", 0, 0.5)))
    assert "no complete answer within the time limit" in str(error)
    assert b"".join(heard) == b"out 1\nerr 1\nout 2\n"


def test_the_logs_of_a_terminal_have_no_frames(fake: FakeEngine, engine: Control) -> None:
    fake.answers["/containers/a/json"] = reply('{"Config": {"Tty": true}}')
    fake.answers["/containers/a/logs"] = chunked(b"\x01\0\0\0\0", b"\0\0\x01$ ")
    assert engine.logs("a") == b"\x01\0\0\0\0\0\0\x01$ "


@pytest.mark.parametrize(
    ("logs", "status"),
    [
        (FRAMES[:-1], 0),
        (FRAMES[:5], 0),
        (FRAMES + frame(b"x", 4), 0),
        (b"plain text", 0),
        (FRAMES + frame(b"Error grabbing logs: invalid character\n", 3), 200),
    ],
)
def test_logs_that_cannot_be_read_are_an_error(
    fake: FakeEngine, engine: Control, logs: bytes, status: int
) -> None:
    fake.answers["/containers/a/json"] = reply('{"Config": {"Tty": false}}')
    fake.answers["/containers/a/logs"] = chunked(logs)
    error = error_of(lambda: engine.logs("a"))
    assert error.status == status
    if status:
        assert str(error) == "Error grabbing logs: invalid character"


@pytest.mark.parametrize(
    ("act", "request_line", "body"),
    [
        (
            lambda engine: engine.set_restart_policy("a/b", "on-failure", 3),
            "POST /v1.41/containers/a%2Fb/update?",
            b'{"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}',
        ),
        (lambda engine: engine.remove("a"), "DELETE /v1.41/containers/a?", b""),
        (lambda engine: engine.remove_network("n"), "DELETE /v1.41/networks/n?", b""),
        (
            lambda engine: engine.tag("sha256:1", "kis", "2"),
            "POST /v1.41/images/sha256%3A1/tag?repo=kis&tag=2",
            b"",
        ),
    ],
)
def test_each_change_is_one_request(
    fake: FakeEngine,
    engine: Control,
    act: Callable[[Control], None],
    request_line: str,
    body: bytes,
) -> None:
    path = urlsplit(request_line.split()[1]).path.removeprefix("/v1.41")
    fake.answers[unquote(path)] = reply("{}")
    act(engine)
    line, sent = fake.requests[-1]
    assert line == f"{request_line} HTTP/1.1\r\n"
    assert sent == body


def test_removing_a_missing_container_is_no_error(fake: FakeEngine, engine: Control) -> None:
    fake.answers["/containers/a"] = reply('{"message": "No such container"}', "404 Not Found")
    engine.remove("a")
    fake.answers["/containers/a/update"] = reply(
        '{"message": "No such container"}', "404 Not Found"
    )
    assert error_of(lambda: engine.set_restart_policy("a", "no")).status == 404


# Imports and open files on a host


def test_no_slow_module_is_imported_and_no_file_stays_open(fake: FakeEngine) -> None:
    """Runs as on a host: isolated, without site packages; a warning is an error."""
    fake.answers["/info"] = reply("{}")
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from kis_gateway_deploy.host.control import Control
from kis_gateway_deploy.host.engine import EngineError
Control({str(fake.server_address)!r}).info()
for path in ("/", {str(fake.server_address)!r}):
    try:
        Control(path).get("/missing")
        sys.exit("no error")
    except EngineError:
        pass
slow = {{"http", "urllib", "typing", "dataclasses", "email", "ssl", "subprocess", "logging"}}
sys.exit(", ".join(slow & set(sys.modules)) or None)
"""
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "dev", "-W", "error", "-c", program],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
