"""This machine's Docker engine, in which a lab's hosts run: starts it and builds the images."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import BinaryIO

from kis_gateway_deploy import remote, requests
from kis_gateway_deploy.packages import missing_packages
from kis_gateway_deploy.reading import Reading, parse_reading
from kis_gateway_deploy.release import Image, archive

BASE_IMAGE = "kis-lab-base:trixie"
# The name of the same image in `kis_gateway_deploy/host/fetch.py`, here and on the hosts.
PRODUCT_BASE_IMAGE = "kis-base:trixie"
AS_ROOT = [] if os.geteuid() == 0 else ["sudo"]


class LabError(Exception):
    """A problem of the lab and what to do about it, for the operator."""


def say(text: str) -> None:
    print(f"lab: {text}", flush=True)


def run(*command: str, content: bytes | None = None, stdin: BinaryIO | None = None) -> str:
    """The command's standard output; it reads `content` or `stdin`.

    Raises:
        LabError: it failed; the message has the last lines of what it wrote.
    """
    try:
        result = subprocess.run(command, input=content, stdin=stdin, capture_output=True)
    except OSError as error:
        raise LabError(f"{command[0]} cannot be run: {error.strerror}. Install it.") from None
    if result.returncode:
        said = result.stderr.strip() or result.stdout.strip()
        words = said.decode(errors="replace").splitlines()[-15:]
        raise LabError("\n".join([f"`{' '.join(command)[:200]}` failed:", *words]))
    return result.stdout.decode().strip()


def succeeds(*command: str) -> bool:
    try:
        run(*command)
    except LabError:
        return False
    return True


def docker(*arguments: str, content: bytes | None = None) -> str:
    """What the docker command prints.

    Raises:
        LabError: it failed.
    """
    return run(*AS_ROOT, "docker", *arguments, content=content)


def exists(kind: str, name: str) -> bool:
    """Whether the engine has this `image`, `network` or `container`."""
    return succeeds(*AS_ROOT, "docker", kind, "inspect", name)


def ensure_engine() -> None:
    """Installs and starts an engine as `up` does on a host; a running one is left alone."""
    if succeeds(*AS_ROOT, "docker", "version"):
        return
    say("installing or starting the Docker engine")
    packages = missing_packages(read_this_machine())
    run(*AS_ROOT, "sh", "-c", requests.bootstrap_script(engine=True, packages=packages))


def read_this_machine() -> Reading:
    """The reading of this machine, without a deployment."""
    frame, stdin = remote.question("read", requests.machine_request())
    said = run(*AS_ROOT, "sh", "-c", remote.command(), content=stdin.encode())
    return parse_reading(remote.answer(frame, said.splitlines()))


def ensure_program(program: str, *packages: str) -> None:
    """Installs these Debian packages if the program is missing."""
    if not shutil.which(program):
        say(f"installing {', '.join(packages)}")
        run(*AS_ROOT, "apt-get", "update", "-q")
        run(*AS_ROOT, "apt-get", "install", "-q", "-y", "--no-install-recommends", *packages)


def make_base_image(directory: Path) -> None:
    """Makes a Debian 13 image from the distribution's packages, without a registry.

    `directory` must have room for its tar, which is removed afterwards.
    """
    if exists("image", BASE_IMAGE):
        return
    if exists("image", PRODUCT_BASE_IMAGE):
        docker("tag", PRODUCT_BASE_IMAGE, BASE_IMAGE)
        return
    say("making a Debian 13 image (once)")
    ensure_program("mmdebstrap", "mmdebstrap", "debian-archive-keyring")
    tar = str(directory / "base.tar")
    # Not in /tmp, which may be mounted noexec: programs of the new system run there.
    run(*AS_ROOT, "env", "TMPDIR=/var/tmp", "mmdebstrap", "--variant=minbase", "trixie", tar)
    docker("import", tar, BASE_IMAGE)
    run(*AS_ROOT, "rm", tar)


def build(image: Image, *options: str) -> str:
    """Builds the image unless it exists; its reference. The tag is the hash of its context."""
    if not exists("image", image.reference):
        say(f"building {image.reference} (once)")
        docker(
            "build", "--tag", image.reference, "--build-arg", f"BASE_IMAGE={BASE_IMAGE}",
            *options, "-", content=archive((image.context or {}).items()),
        )  # fmt: skip
    return image.reference
