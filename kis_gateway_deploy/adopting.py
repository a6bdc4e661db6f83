"""Asks a host what a container is, and writes the inventory for it on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyinfra.api.host import Host

from kis_gateway_deploy.adopted_inventory import SUFFIXES, Written, write
from kis_gateway_deploy.description import parse_description
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.refusals import BE_ROOT
from kis_gateway_deploy.remote import NoPythonError, RemoteError, ask
from kis_gateway_deploy.session import CANNOT_READ, Refused
from kis_gateway_deploy.settings import Settings

SECONDS = 120
STEM = "adopted"
"""Name of an inventory that is only printed."""


@dataclass(frozen=True)
class Described:
    """What is to be written, or why there is nothing; `path`: where, None to print it."""

    path: Path | None
    written: Written | None = field(default=None, repr=False)
    problems: tuple[str, ...] = ()


def checked(data: Any, hosts: Sequence[str]) -> tuple[str, Path | None]:
    """The container's name and the inventory's path, None if it is to be printed.

    Raises Refused: before anything is asked or written.
    """
    if len(hosts) != 1:
        names = ", ".join(hosts[:10])
        raise Refused(f"a container is on one host, not on {len(hosts)} ({names}): set LIMIT=host")
    container, path = data.get("container", ""), data.get("write", "")
    if not container:
        raise Refused("which container? Set CONTAINER=name (`docker ps` on the host shows it)")
    if not isinstance(container, str) or not isinstance(path, str):
        raise Refused("write the values in quotes of their own: --data 'container=\"NAME\"'")
    if not path:
        return container, None
    inventory = Path(path)
    if inventory.suffix != ".py":
        raise Refused(f"the inventory {escaped(path)} must end with .py")
    if not inventory.parent.is_dir():
        raise Refused(f"there is no directory {escaped(str(inventory.parent))}")
    for file in (inventory, *(inventory.with_suffix(suffix) for suffix in SUFFIXES)):
        if os.path.lexists(file):
            raise Refused(f"{escaped(str(file))} exists, and is not overwritten: set another WRITE")
    return container, inventory


def describe(host: Host, container: str, path: Path | None) -> Described:
    """Asks a host about a container; touches nothing."""
    try:
        request = {"container": container, "app_dir": Settings.model_fields["app_dir"].default}
        described = parse_description(ask(host, "describe", request, SECONDS))
    except NoPythonError:
        return Described(path, problems=("this host has no python3: install it",))
    except (RemoteError, ValueError) as error:
        return Described(path, problems=(*map(escaped, str(error).splitlines()), CANNOT_READ))
    if described.uid:
        return Described(path, problems=(f"only root may look into a container: {BE_ROOT}",))
    if described.engine_error:
        return Described(path, problems=(f"Docker: {described.engine_error}",))
    found = described.container
    if found is None:
        running = ", ".join(described.running) or "none"
        what = f"there is no container {escaped(container)} on this host; these run: {running}"
        return Described(path, problems=(what,))
    if found.is_ours:
        what = f"the container {found.name} is a deploy of this package: it has an inventory"
        return Described(path, problems=(what,))
    of_flags = {"container", "write"}
    data = {name: value for name, value in host.data.dict().items() if name not in of_flags}
    return Described(
        path, write(host.name, data, found, described.clock, path.stem if path else STEM)
    )


def write_files(written: Written, path: Path | None) -> None:
    """Writes the inventory and the files beside it, or none of them.

    Raises OSError; FileExistsError if a file exists.
    """
    if path is None:
        return
    made: list[Path] = []
    files: Mapping[str, bytes] = written.companions | {".py": written.inventory.encode()}
    try:
        for suffix, content in files.items():
            file = path.with_suffix(suffix)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(file, flags, 0o600), "wb") as opened:  # noqa: PTH123 - with its mode
                made.append(file)
                opened.write(content)
    except OSError:
        for file in made:
            with suppress(OSError):
                file.unlink()
        raise


def what_was_written(described: Described) -> list[str]:
    """The files and the names of the variables in them; no value."""
    written, path = described.written, described.path
    if written is None:
        return []
    files = [
        str(path.with_suffix(each)) if path else f"{STEM}{each}" for each in written.companions
    ]
    lines = []
    if path:
        lines.append(f"written: {', '.join([str(path), *files])}")
        lines.append(f"next: make plan INVENTORY={path}")
    elif files:
        lines.append(
            f"set WRITE=path.py to write it, with the files that it names: {', '.join(files)}"
        )
    if written.kept_apart:
        lines.append(f"variables in the env file: {', '.join(written.kept_apart)}")
    return list(map(escaped, lines))
