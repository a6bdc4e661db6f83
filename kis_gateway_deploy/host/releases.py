"""The files of this package in the app directory, where only root can write.

`releases/ID/` holds a release and its manifest, `release.json`; `current` and `previous` point at
two of them. `state.json` describes the last change and its generation; `history.jsonl` has a line
for each change. A running switch holds the lock of `.switch.lock`.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time

from .tokens import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MANIFEST = "release.json"
COMPOSE_FILE = "docker-compose.yml"
OVERRIDE_FILE = "override.yml"
RELEASES_KEPT = 5
MANIFEST_NAMES = frozenset(
    [
        *("v", "user", "token_dir", "token_file", "tokens_expected", "token_mount", "address"),
        *("port", "network_mode", "health_path", "healthcheck", "probe", "token_at_start"),
        *("restart", "key", "image", "files"),
    ]
)
"""What every manifest has (see `make_manifest` in `kis_gateway_deploy/release.py`)."""
FILE_LIMIT = 4 << 20
TEXT_LIMIT = 1 << 20


def release_dir(app_dir: str, release: str) -> str:
    return f"{app_dir}/releases/{release}"


def manifest_of(app_dir: str, release: str | None) -> dict[str, Any] | None:
    """The manifest of a release on this host; None if there is none that can be read."""
    if not is_id(release):
        return None
    found = json_of(text_of(f"{app_dir}/releases/{release}/{MANIFEST}"))
    if not isinstance(found, dict) or not found.keys() >= MANIFEST_NAMES or found["v"] != 1:
        return None
    return found if isinstance(found["files"], dict) else None


def compose_files(directory: str) -> list[str]:
    """What compose is given for a release: its compose file, and its override if it has one."""
    override = f"{directory}/{OVERRIDE_FILE}"
    return [f"{directory}/{COMPOSE_FILE}", *([override] if os.path.isfile(override) else [])]


def token_target(app_dir: str, release: str | None) -> str:
    """The directory in a release's container at which the token directory is mounted."""
    return str((manifest_of(app_dir, release) or {}).get("token_mount", "/app/tokens"))


def current_place(app_dir: str) -> dict[str, Any] | None:
    """Where the current release's gateway is in place (see `place_of`); None if it is not."""
    manifest = manifest_of(app_dir, linked(app_dir, "current")) or {}
    return manifest.get("in_place") or manifest.get("baseline_of")


def as_deployed(request: dict[str, Any]) -> dict[str, Any]:
    """The request with the token settings of the release that it is about, if that is here.

    `about`: `current`, `previous` or an id; empty for the desired release.
    """
    about = request["about"]
    if about in ("current", "previous"):
        about = linked(request["app_dir"], about)
    manifest = manifest_of(request["app_dir"], about)
    if manifest is None:
        return request
    return {
        **request,
        "token_dir": manifest["token_dir"],
        "token_file": manifest["token_file"],
        "token_mount": manifest["token_mount"],
    }


def damage_of(app_dir: str, release: str, manifest: dict[str, Any] | None) -> str:
    """What is wrong with a release's files; empty if they match its manifest."""
    if manifest is None:
        directory = release_dir(app_dir, release)
        return f"{MANIFEST} is missing" if os.path.isdir(directory) else "is not on the host"
    from hashlib import sha256

    for name, stored in sorted(manifest["files"].items()):
        path = f"{release_dir(app_dir, release)}/{os.path.basename(name)}"
        try:
            at = os.lstat(path)
            with open(path, "rb") as file:
                digest = sha256(file.read(FILE_LIMIT)).hexdigest()
        except OSError:
            return f"{name} is missing"
        if digest != stored["sha256"]:
            return f"{name} was changed on the host"
        if [stat.S_IMODE(at.st_mode), at.st_uid, at.st_gid] != stored["owner"]:
            return f"{name} has another owner or mode"
    return ""


def linked(app_dir: str, name: str) -> str | None:
    """The release that `current` or `previous` points at."""
    try:
        target = os.path.basename(os.readlink(f"{app_dir}/{name}"))
    except OSError:
        return None
    return target if is_id(target) else None


def point(app_dir: str, name: str, release: str | None) -> None:
    """Points the link `current` or `previous` at a release; None removes the link.

    A directory of this name is renamed, not removed.
    """
    path = f"{app_dir}/{name}"
    if os.path.isdir(path) and not os.path.islink(path):
        os.rename(path, f"{path}.was-a-directory-{time.time_ns()}")
    if release is None:
        if os.path.lexists(path):
            os.unlink(path)
        return
    new = f"{app_dir}/.{name}.new"
    if os.path.lexists(new):
        os.unlink(new)
    os.symlink(f"releases/{release}", new)
    os.replace(new, path)
    sync(app_dir)


def state_of(app_dir: str) -> dict[str, Any]:
    """The last change on this host; empty if there was none."""
    found = json_of(text_of(f"{app_dir}/state.json"))
    return found if isinstance(found, dict) and isinstance(found.get("generation"), str) else {}


def store_state(app_dir: str, state: dict[str, Any]) -> None:
    """Stores the state on disk: when this returns, it survives a power failure."""
    write_file(f"{app_dir}/state.json", json.dumps(state).encode(), 0o600)
    sync(app_dir)


class State(dict):  # type: ignore[type-arg]
    """The content of `state.json`; `note` changes and stores it."""

    def __init__(self, app_dir: str, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.app_dir = app_dir

    def note(self, **changes: Any) -> None:
        self.update(changes)
        store_state(self.app_dir, self)


def changed_since(state: dict[str, Any]) -> str:
    """The message that a host has changed since it was read, and who changed it."""
    if not state:
        return "changed since it was read: its state was removed; run plan again"
    ago = max(0, int(time.time() - state["began"]))
    what = f"release {state['to']}" if state.get("to") else state["action"]
    return f"changed since it was read: {what} by {state['by']}, {ago} s ago; run plan again"


def record(app_dir: str, event: dict[str, Any]) -> None:
    """Adds a line to the history. A line cut off by a full disk gets its line break first."""
    with open(f"{app_dir}/history.jsonl", "ab+") as file:
        os.fchmod(file.fileno(), 0o600)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(event).encode() + b"\n")


def prune(app_dir: str, kept: set[str | None]) -> None:
    """Removes old releases, except the newest five and those in `kept`."""
    from shutil import rmtree

    names = filter(is_id, os.listdir(f"{app_dir}/releases"))
    by_age = sorted(names, key=lambda name: -os.stat(release_dir(app_dir, name)).st_mtime)
    for name in by_age[RELEASES_KEPT:]:
        if name not in kept:
            rmtree(release_dir(app_dir, name), ignore_errors=True)


def write_file(path: str, content: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
    """Replaces a file atomically; the new file has its final mode and owner."""
    new = f"{path}.new"
    if os.path.lexists(new):
        os.unlink(new)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        if os.geteuid() == 0:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)
    os.replace(new, path)


def sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dir(path: str) -> None:
    """Makes a directory that only root can read, and its parents."""
    os.makedirs(path, 0o700, exist_ok=True)


def lock(path: str, seconds: float) -> int | None:
    """Locks this file; returns its descriptor, or None if others hold the lock for `seconds`.

    The lock ends with the last process that has the descriptor.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.05)


def is_locked(path: str) -> bool:
    """Whether another process holds the lock of this file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def text_of(path: str, limit: int = TEXT_LIMIT) -> str:
    """The text of a file that only root can write; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
