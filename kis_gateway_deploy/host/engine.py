"""A client of the Docker engine's unix socket.

It implements HTTP/1.1 itself, with one connection per request: importing `http.client` takes longer
than all requests of a reading. Every answer is bounded in size and time.
"""

from __future__ import annotations

import io
import json
import re
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    Kind = TypeVar("Kind")
    Chunks = Iterable[bytes] | None
    Filters = Mapping[str, list[str]] | None
    Query = Mapping[str, Any] | None

NEWEST = (1, 44)
"""The newest API version that is requested. Engines 25 to 29 all support it, so their answers have
one form: later versions drop fields, and Engine 29 refuses earlier ones."""

SECONDS = 20.0
"""Time limit of a request, from the connection to the last byte of the answer."""

BODY_LIMIT = 16 << 20
"""Maximum size of an answer's body, in bytes."""

HEAD_LIMIT = 64 << 10
"""Maximum size of an answer's status line and headers, in bytes."""

MESSAGE_LIMIT = 2000
"""Maximum length of an error's text, in characters."""


IMAGES_RUN = {
    "x86_64": ["amd64", "386"],
    "aarch64": ["arm64", "arm"],
    "armv7l": ["arm"],
    "armv6l": ["arm"],
    "riscv64": ["riscv64"],
    "ppc64le": ["ppc64le"],
    "s390x": ["s390x"],
}
"""The architectures of images, as Docker names them, that a machine of `uname -m` runs."""


class EngineError(Exception):
    """The engine refused, failed, or gave no usable answer; the text says which.

    `status`: the HTTP status of a refusal, 200 for an error inside a stream, or 0 without a
    complete, well-formed answer. The text is the engine's message if there is one; it may contain
    control characters.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text[:MESSAGE_LIMIT])
        self.status = status


def quote(text: str, keep: str = "") -> str:
    """The text as one component of a path or query: percent-encoded, except `keep` (ASCII)."""
    unsafe = f"[^A-Za-z0-9._~{keep}-]".encode("ascii")
    octets = text.encode("utf-8", "surrogatepass")
    return re.sub(unsafe, lambda found: b"%%%02X" % found[0][0], octets).decode("ascii")


class Engine:
    """The engine that listens on `socket_path`; `seconds` is the time limit of a request.

    Every failure of the engine raises `EngineError`. A container is named by its id or name, an
    image by its id or reference. Dictionaries have the engine's own keys: see the reference of the
    Engine API, versions 1.41 to 1.44.
    """

    def __init__(self, socket_path: str = "/var/run/docker.sock", seconds: float = SECONDS) -> None:
        self.socket_path = socket_path
        self.seconds = seconds
        self._version = ""

    def get(self, path: str, query: Query = None, limit: int = BODY_LIMIT) -> Any:
        """Sends a GET; returns the JSON value of the answer, which may have `limit` bytes.

        `path` begins with a slash and contains no API version; `quote` names from outside. In
        `query`, None values are left out and values other than str are sent as JSON.
        """
        with self._ask("GET", path, query) as answer:
            return parsed(answer.body(limit))

    def containers(self, all: bool = False, filters: Filters = None) -> list[dict[str, Any]]:
        """A summary of each running container; with `all`, of stopped ones, too.

        `filters` as in `{"label": ["com.docker.compose.project=kis"]}`.
        """
        found = self.get("/containers/json", {"all": all, "filters": filters})
        return [checked(item, dict) for item in checked(found, list)]

    def inspect(self, container: str) -> dict[str, Any] | None:
        """The engine's details of a container; None if there is none."""
        return self._find(f"/containers/{quote(container)}/json")

    def images(self) -> list[dict[str, Any]]:
        """A summary of each local image."""
        return [checked(item, dict) for item in checked(self.get("/images/json"), list)]

    def image(self, reference: str) -> dict[str, Any] | None:
        """The engine's details of a local image; None if there is none."""
        return self._find(f"/images/{quote(reference)}/json")

    def info(self) -> dict[str, Any]:
        """The engine's state and configuration."""
        return checked(self.get("/info"), dict)

    def can_start(self) -> bool:
        """Whether its containerd answers, without which it can start no container."""
        parts = checked(self.get("/version"), dict).get("Components") or []
        names = [checked(each, dict).get("Name") for each in checked(parts, list)]
        return not names or "containerd" in names

    def logs(
        self,
        container: str,
        since: float = 0,
        tail: int | None = None,
        timestamps: bool = False,
        limit: int = BODY_LIMIT,
    ) -> bytes:
        """The container's standard output and error, in the order of arrival.

        `since`: epoch seconds; `tail`: only this many lines, the last; `timestamps`: each line
        begins with its time; `limit`: only this many bytes, the last. A missing container is an
        error, and so is a log that cannot be read to its end (a damaged one).
        """
        kept = bytearray()
        query = {"since": since, "timestamps": timestamps, "tail": tail}
        for part in self._log(container, query, self.seconds):
            kept += part
            if len(kept) > 2 * limit:
                del kept[: len(kept) - limit]
        return bytes(kept[-limit:])

    def follow(self, container: str, since: float, seconds: float) -> Iterator[bytes]:
        """The same, piece by piece, and what comes until the container stops or is removed.

        `seconds`: the time limit, at which EngineError is raised.
        """
        return self._log(container, {"since": since, "follow": True}, seconds)

    def _log(self, container: str, query: dict[str, Any], seconds: float) -> Iterator[bytes]:
        terminal = self._config(container).get("Tty")
        path = f"/containers/{quote(container)}/logs"
        wanted = {"stdout": True, "stderr": True, **query}
        with self._ask("GET", path, wanted, seconds=seconds) as answer:
            # A terminal's output is one stream, which comes without frames.
            yield from answer.pieces() if terminal else _unframed(answer.pieces())

    def file(self, container: str, path: str, limit: int) -> bytes | None:
        """A regular file of a running or stopped container; None if missing or over `limit` bytes.

        The engine resolves links inside the container. It reads volumes as they are on the host
        now, and cannot read a tmpfs.
        """
        return _first_file(self._archive(container, path, limit + HEAD_LIMIT), limit)

    def directory(self, container: str, path: str, limit: int) -> dict[str, bytes]:
        """The regular files of a directory and its subdirectories, at most `limit` bytes in all.

        By path relative to the directory; empty if it is missing or larger.
        """
        import tarfile  # only needed for stopped containers

        archive = self._archive(container, path, limit)
        if not archive or len(archive) > limit:
            return {}
        try:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                return {
                    entry.name.partition("/")[2]: file.read()
                    for entry in tar
                    if entry.isreg() and (file := tar.extractfile(entry))
                }
        except (tarfile.TarError, ValueError):
            return {}

    def _archive(self, container: str, path: str, limit: int) -> bytes:
        """The tar of a path in a container, a little over `limit` bytes at most; empty if missing.

        The rest is not read.
        """
        archive = bytearray()
        try:
            with self._ask("GET", f"/containers/{quote(container)}/archive", {"path": path}) as got:
                for piece in got.pieces():
                    archive += piece
                    if len(archive) > limit:
                        break
        except EngineError as error:
            if error.status < 400:  # else missing, below a file, or behind too many links
                raise
        return bytes(archive)

    def _config(self, container: str) -> dict[str, Any]:
        found = self.get(f"/containers/{quote(container)}/json")
        return checked(checked(found, dict).get("Config"), dict)

    def _find(self, path: str) -> dict[str, Any] | None:
        try:
            return checked(self.get(path), dict)
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def _ask(
        self,
        method: str,
        path: str,
        query: Query = None,
        chunks: Chunks = None,
        seconds: float | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """A successful answer, its body unread. `chunks` are sent as a tar, `body` as JSON."""
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        fields = [
            f"{quote(name)}={quote(value if isinstance(value, str) else json.dumps(value))}"
            for name, value in (query or {}).items()
            if value is not None
        ]
        self._version = self._version or self._negotiate(deadline)
        request = f"{method} /v{self._version}{quote(path, '/%')}?{'&'.join(fields)}"
        answer = Answer(self.socket_path, deadline, request, chunks, body)
        # 304: the container is already started or stopped.
        if answer.status >= 300 and answer.status != 304:
            with answer:
                raise EngineError(answer.message(), answer.status)
        return answer

    def _negotiate(self, deadline: float) -> str:
        """The newest API version that engine and client know, or else the engine's oldest.

        Only the latter needs `/version`, for which the engine starts programs.
        """
        path = "/v{}.{}/_ping".format(*NEWEST)
        with Answer(self.socket_path, deadline, f"GET {path}") as ping:
            newest = _number(ping.headers.get("api-version") or ping.message())
        version = min(newest, NEWEST)
        if ping.status == 400 and newest > NEWEST:
            with Answer(self.socket_path, deadline, "GET /version") as answer:
                known = checked(parsed(answer.body(BODY_LIMIT)), dict)
            version = _number(known.get("MinAPIVersion"))
        return "{}.{}".format(*version)


class _Connection(io.RawIOBase):
    """A connection; every operation ends before `deadline` (time.monotonic)."""

    def __init__(self, path: str, deadline: float) -> None:
        self.path = path
        self.deadline = deadline
        self.socket = socket.socket(socket.AF_UNIX)
        self._do(self.socket.connect, path)

    def _do(self, step: Callable[[Any], Any], argument: object) -> Any:
        left = self.deadline - time.monotonic()
        try:
            if left > 0:
                self.socket.settimeout(left)
                return step(argument)
        except OSError as error:
            if time.monotonic() < self.deadline:
                raise EngineError(f"{self.path}: {error.strerror or error}") from error
        raise EngineError(f"{self.path}: no complete answer within the time limit")

    def send(self, data: bytes) -> bool:
        """False if the data could not be sent."""
        try:
            self._do(self.socket.sendall, data)
        except EngineError:
            return False
        return True

    def readinto(self, buffer: Any) -> int:
        return int(self._do(self.socket.recv_into, buffer))

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.socket.close()
        super().close()


class Answer(io.BufferedReader):
    """Sends a request and reads the status and headers of the answer."""

    def __init__(
        self,
        path: str,
        deadline: float,
        request: str,
        chunks: Chunks = None,
        body: bytes | None = None,
    ) -> None:
        connection = _Connection(path, deadline)
        super().__init__(connection, HEAD_LIMIT)
        # Failing to send is no error yet: an engine may refuse before it has read the request.
        all(map(connection.send, _sent(request, chunks, body)))
        lines: list[str] = []
        left = HEAD_LIMIT
        while not lines or lines[-1]:
            lines.append(self._line(left))
            left -= len(lines[-1]) + 2
        self.status = int(_match(r"HTTP/1\.[01] ([2-5][0-9][0-9])(?: .*)?", lines[0])[1])
        fields = (line.lower().partition(":") for line in lines)
        self.headers = {name.strip(): value.strip() for name, _, value in fields}

    def _line(self, limit: int = HEAD_LIMIT) -> str:
        line = self.readline(limit)
        if not line.endswith(b"\r\n"):
            raise EngineError("The engine's answer is too long or ends early")
        return line[:-2].decode("latin-1")

    def _take(self, count: int) -> Iterator[bytes]:
        while count:
            piece = self.read1(min(count, HEAD_LIMIT))
            if not piece:
                raise EngineError("The engine's answer ends early")
            count -= len(piece)
            yield piece

    def pieces(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        coding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if self.status in (204, 304):
            return
        if coding is not None:
            _match("chunked", coding)
            while size := int(_match("([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", self._line())[1], 16):
                yield from self._take(size)
                _match("", self._line())
        elif length is not None:
            yield from self._take(int(_match("[0-9]{1,18}", length)[0]))
        else:
            while piece := self.read1(HEAD_LIMIT):
                yield piece

    def body(self, limit: int) -> bytes:
        content = bytearray()
        for piece in self.pieces():
            content += piece
            if len(content) > limit:
                raise EngineError(f"The engine's answer has more than {limit} bytes")
        return bytes(content)

    def message(self) -> str:
        """The engine's error message, which is JSON or plain text."""
        content = b""
        try:
            content = self.body(HEAD_LIMIT)
            said = checked(parsed(content), dict).get("message")
        except EngineError:
            said = content.decode("utf-8", "replace").strip()
        return str(said or f"The engine answers with status {self.status}")


def _first_file(archive: bytes, limit: int) -> bytes | None:
    """The first entry of a tar (POSIX, pax), if it is a regular file of at most `limit` bytes."""
    at = 0
    while len(header := archive[at : at + 512]) == 512:
        try:
            size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        except ValueError:
            return None
        at += 512
        if header[156:157] in b"0\0":
            content = archive[at : at + size]
            return content if len(content) == size <= limit else None
        if header[156:157] not in b"xgL":  # headers of the next entry
            return None
        at += -(-size // 512) * 512
    return None


def _sent(request: str, chunks: Chunks, body: bytes | None = None) -> Iterator[bytes]:
    """The bytes of a request, whose body is `chunks`, or JSON."""
    head = f"{request} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n".encode("ascii")
    if chunks is None:
        kind = b"Content-Type: application/json\r\n" if body else b""
        yield head + kind + b"Content-Length: %d\r\n\r\n" % len(body or b"") + (body or b"")
        return
    yield head + b"Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunk in filter(None, chunks):
        yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
    yield b"0\r\n\r\n"


def parsed(content: bytes | bytearray) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"The engine's answer is not JSON: {error}") from error


def checked(value: object, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise EngineError(f"The engine's answer has an unknown form: not a {kind.__name__}")
    return value


def _match(pattern: str, text: str) -> re.Match[str]:
    found = re.fullmatch(pattern, text)
    if found is None:
        raise EngineError(f"The engine's answer is malformed: {text[:80]!r}")
    return found


def _number(version: object) -> tuple[int, int]:
    found = _match(r"([0-9]{1,3})\.([0-9]{1,3})", str(version))
    return int(found[1]), int(found[2])


def _unframed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The contents of frames. A header: the stream's number, three zeros, four bytes of length."""
    rest = bytearray()
    stream = left = 0
    for piece in pieces:
        rest += piece
        while rest and (left or len(rest) >= 8):
            if left:
                part = bytes(rest[:left])
                del rest[:left]
                left -= len(part)
                if stream == 3:  # an error message of the engine
                    raise EngineError(part.decode("utf-8", "replace").strip(), 200)
                yield part
            else:
                stream, left = rest[0], int.from_bytes(rest[4:8], "big")
                if stream > 3 or any(rest[1:4]):
                    raise EngineError("The engine's answer has a malformed frame")
                del rest[:8]
    if rest or left:
        raise EngineError("The engine's answer ends early")
