"""Changes containers, images and networks through the Docker engine's unix socket."""

from __future__ import annotations

import json
import re
import time

from .engine import BODY_LIMIT, Answer, Engine, EngineError, checked, parsed, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .engine import Query

LOAD_SECONDS = 3600.0
"""Time limit of a request that loads images."""

LINE_LIMIT = 1 << 20
"""Maximum size of one JSON document of a stream, in bytes."""


class Control(Engine):
    """An `Engine` with methods that change something."""

    def post(self, path: str, query: Query = None, seconds: float | None = None) -> Any:
        """Sends a POST without a body; returns the answer's JSON value, None if it is empty.

        `seconds`: the time limit; None: the engine's default.
        """
        with self._ask("POST", path, query, seconds=seconds) as answer:
            content = answer.body(BODY_LIMIT)
        return parsed(content) if content else None

    def start(self, container: str) -> None:
        """Starts a container; no error if it already runs."""
        self.post(f"/containers/{quote(container)}/start")

    def stop(self, container: str, grace: int | None = None) -> None:
        """Stops a container; no error if it does not run.

        `grace`: seconds from the stop signal to SIGKILL, added to the request's time limit; None:
        the container's own setting.
        """
        if grace is None:
            grace = checked(self._config(container).get("StopTimeout", 10), int)
        path = f"/containers/{quote(container)}/stop"
        self.post(path, {"t": grace}, self.seconds + grace)

    def load(self, chunks: Iterable[bytes], seconds: float = LOAD_SECONDS) -> list[str]:
        """Loads the images of an archive (`docker save`), which may be compressed.

        Returns the name of each image, or its id (`sha256:…`) if it has no name. An exception
        raised by `chunks` is passed on.
        """
        loaded: list[str] = []
        with self._ask("POST", "/images/load", {"quiet": True}, chunks, seconds) as answer:
            for document in _documents(answer):
                said = str(document.get("stream"))
                loaded += re.findall(r"^Loaded image(?: ID)?: (\S+)", said, re.MULTILINE)
        return loaded

    def put(
        self, container: str, directory: str, files: dict[str, bytes], owner: tuple[int, int]
    ) -> None:
        """Writes files of mode 0600 into an existing directory of a container."""
        import io
        import tarfile  # only needed to go back to a gateway without a token directory

        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
                entry.uid, entry.gid = owner
                tar.addfile(entry, io.BytesIO(content))
        path = f"/containers/{quote(container)}/archive"
        with self._ask("PUT", path, {"path": directory}, [archive.getvalue()]) as answer:
            answer.body(BODY_LIMIT)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Gives an image a name; an image that had this name loses it."""
        self.post(f"/images/{quote(image)}/tag", {"repo": repository, "tag": tag})

    def set_restart_policy(self, container: str, name: str, retries: int = 0) -> None:
        """Sets the restart policy: `no`, `unless-stopped`, `always` or `on-failure`."""
        policy = {"RestartPolicy": {"Name": name, "MaximumRetryCount": retries}}
        body = json.dumps(policy).encode()
        self._do("POST", f"/containers/{quote(container)}/update", body=body)

    def remove(self, container: str) -> None:
        """Removes a stopped container; no error if there is none. Its volumes stay."""
        self._do("DELETE", f"/containers/{quote(container)}")

    def create_network(self, name: str, bridge: str) -> str:
        """Creates a network whose device has the name `bridge`; returns its id."""
        options = {"com.docker.network.bridge.name": bridge}
        body = json.dumps({"Name": name, "Options": options}).encode()
        with self._ask("POST", "/networks/create", body=body) as answer:
            return str(checked(parsed(answer.body(BODY_LIMIT)), dict).get("Id"))

    def remove_network(self, network: str) -> None:
        """Removes a network; no error if there is none."""
        self._do("DELETE", f"/networks/{quote(network)}")

    def _do(self, method: str, path: str, body: bytes | None = None) -> None:
        try:
            with self._ask(method, path, body=body) as answer:
                answer.body(BODY_LIMIT)
        except EngineError as error:
            if method != "DELETE" or error.status != 404:
                raise


def _documents(answer: Answer) -> Iterator[dict[str, Any]]:
    """The JSON documents of a stream, one per line. Raises EngineError for an error document."""
    rest = bytearray()
    for piece in answer.pieces():
        rest += piece
        if b"\n" in piece:
            *lines, rest = rest.split(b"\n")
            yield from (_document(line) for line in lines if line.strip())
        if len(rest) > LINE_LIMIT:
            raise EngineError(f"The engine's answer has a line of over {LINE_LIMIT} bytes")
    if rest.strip():
        yield _document(rest)


def _document(line: bytearray) -> dict[str, Any]:
    document = checked(parsed(line), dict)
    error = document.get("errorDetail") or document.get("error")
    if error:
        raise EngineError(str(error.get("message") if isinstance(error, dict) else error), 200)
    return document
