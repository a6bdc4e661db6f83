"""Puts one image on the host: pulls it, builds it, or loads it from standard input."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from binascii import a2b_base64

from .containers import engine_address, socket_path
from .control import Control
from .engine import IMAGES_RUN, EngineError
from .processes import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PULL_SECONDS = 1800
BUILD_SECONDS = 1800
BASE_SECONDS = 120
PIECE = 1 << 16


class FetchError(Exception):
    """The image could not be fetched; the text says why, in lines."""


def fetch(request: dict[str, Any]) -> dict[str, Any]:
    """`outcome`: `fetched` or `failed`; and `why`.

    `request`: `reference`; `how`: `pull`, `build` or `load`; `login`: a docker config.json in
    base64, or empty; `base`: the default of `ARG BASE_IMAGE` in the Dockerfile, or empty;
    `make_base`: a shell script that makes such an image from the distribution's packages. The build
    context (tar.gz) or the image (as `docker save` writes it) follows the request.
    """
    os.environ["DOCKER_HOST"] = engine_address()
    how = {"pull": _pull, "build": _build, "load": _load}[request["how"]]
    engine = Control(socket_path(os.environ["DOCKER_HOST"]))
    try:
        how(engine, request)
        _expect_architecture(engine, request["reference"])
    except FetchError as error:
        return {"outcome": "failed", "why": str(error)}
    return {"outcome": "fetched", "why": ""}


def _expect_architecture(engine: Control, reference: str) -> None:
    """A container of another architecture would fail with `exec format error`."""
    found = str((engine.image(reference) or {}).get("Architecture") or "")
    runs = _runs()
    if found and runs and found not in runs:
        raise FetchError(
            f"The image {reference} is for {found}, and this host runs {' and '.join(runs)}: "
            f"build it for that (docker build --platform linux/{runs[0]}). Nothing that runs was "
            "changed."
        )


def _runs() -> list[str]:
    """The architectures that this host runs, best first; empty if unknown."""
    return IMAGES_RUN.get(os.uname().machine, [])


def _pull(_: Control, request: dict[str, Any]) -> None:
    # The docker command, not the socket: it uses its user's logins and credential helpers.
    with tempfile.TemporaryDirectory() as own:  # of mode 0700
        if request["login"]:
            with open(f"{own}/config.json", "wb") as file:
                file.write(a2b_base64(request["login"]))
            os.environ["DOCKER_CONFIG"] = own
        _must(
            ["docker", "pull", "--quiet", request["reference"]],
            PULL_SECONDS,
            f"The image {request['reference']} could not be pulled: check gateway_image, that it "
            f"is built for {' or '.join(f'linux/{each}' for each in _runs()) or 'this host'}, and "
            "that this host reaches the registry and may read from it (docker login, or "
            "gateway_registry_auth_file). Nothing was changed.",
        )


def _build(engine: Control, request: dict[str, Any]) -> None:
    base = request["base"]
    with tempfile.TemporaryFile() as context:
        for piece in _stream():
            context.write(piece)
        if base and engine.image(base) is None:
            base = _base(engine, base, request["make_base"])
        argument = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
        context.seek(0)  # also flushes the buffer
        _must(
            ["docker", "build", "--tag", request["reference"], *argument, "-"],
            BUILD_SECONDS,
            f"The image {request['reference']} could not be built: see above.",
            context.fileno(),
        )


def _base(engine: Control, base: str, script: str) -> str:
    """Pulls the base image, or makes an equal one; returns its name."""
    status, said = run(["docker", "pull", "--quiet", base], BASE_SECONDS)
    if status == 0:
        return base
    suite = base[len("debian:") : -len("-slim")]
    if base != f"debian:{suite}-slim" or not suite.isalnum():
        raise FetchError(f"{said}\nThe base image {base} could not be pulled: see above.")
    own = f"kis-base:{suite}"
    if engine.image(own) is None:
        _must(
            ["sh", "-c", script, "base_image", suite, own],
            BUILD_SECONDS,
            f"{base} could neither be pulled nor made from Debian's packages: see above.",
        )
    return own


def _load(engine: Control, request: dict[str, Any]) -> None:
    reference = request["reference"]
    stream = _stream()
    try:
        loaded = engine.load(stream)
    except EngineError as error:
        for _ in stream:  # the sender reads no answer until it has sent everything
            pass
        raise FetchError(
            f"{error}\nThe image {reference} could not be loaded: see the engine's message above. "
            "Usually the disk is full or the archive is damaged. If an image that shares layers "
            "was removed from this host just now, deploy again. Nothing was changed."
        ) from None
    name, _, tag = reference.rpartition(":")
    try:
        engine.tag(loaded[0], name, tag)
    except (EngineError, IndexError) as error:
        raise FetchError(
            f"The image was loaded, but could not be named {reference}: {error}"
        ) from None


def _stream() -> Iterator[bytes]:
    stdin: Any = sys.stdin.buffer
    while piece := stdin.read1(PIECE):
        yield piece


def _must(words: list[str], seconds: float, otherwise: str, stdin: int | None = None) -> None:
    status, said = run(words, seconds, stdin)
    if status:
        last = "\n".join(said.splitlines()[-20:])
        raise FetchError(f"{last}\n{otherwise}")


SIMULATOR = "kis-simulator"
SIMULATOR_PORTS = (9443, 29443)


def simulator(request: dict[str, Any]) -> dict[str, Any]:
    """(Re)starts the KIS simulator; `outcome`: `started` or `failed`; and `why`.

    Only this host and its containers can reach it: it listens on 127.0.0.1 and on the address of
    host.docker.internal. `request`: `image`.
    """
    os.environ["DOCKER_HOST"] = engine_address()
    engine = Control(socket_path(os.environ["DOCKER_HOST"]))
    addresses = ["127.0.0.1", _bridge_address(engine)]
    published = [f"{address}:{port}:{port}" for address in addresses for port in SIMULATOR_PORTS]
    run(["docker", "rm", "--force", SIMULATOR], BASE_SECONDS)
    words = ["docker", "run", "--detach", "--name", SIMULATOR, "--label", SIMULATOR]
    words += ["--restart", "unless-stopped", "--init", "--read-only", "--tmpfs", "/tmp"]  # noqa: S108
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]
    for each in published:
        words += ["--publish", each]
    try:
        _must([*words, request["image"]], BASE_SECONDS, "The KIS simulator could not be started.")
    except FetchError as error:
        return {"outcome": "failed", "why": str(error)}
    return {"outcome": "started", "why": ""}


def _bridge_address(engine: Control) -> str:
    """The address of this host on Docker's default network."""
    for each in engine.get("/networks/bridge")["IPAM"]["Config"] or []:
        if "." in str(each.get("Gateway")):  # the network may have an IPv6 gateway, too
            return str(each["Gateway"])
    _, said = run(["ip", "-4", "-o", "address", "show", "docker0"], BASE_SECONDS)
    found = re.search(r"inet ([0-9.]+)/", said)
    return found[1] if found else "127.0.0.1"
