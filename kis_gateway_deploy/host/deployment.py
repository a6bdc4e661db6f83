"""The containers, images and releases of one deployment, for a switch."""

from __future__ import annotations

import json
import os

from .client import client_address
from .compose import SECONDS, compose
from .containers import compose_file_of, kind_of, labels_of
from .engine import EngineError
from .in_place import Place, keeps_token
from .processes import run
from .releases import (
    COMPOSE_FILE,
    MANIFEST,
    compose_files,
    linked,
    make_dir,
    manifest_of,
    release_dir,
    text_of,
    write_file,
)
from .tokens import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .control import Control

NO_CHAIN = 1
"""The exit status of iptables if there is no such chain."""

DAY = 24 * 3600

PROBE = "kis-probe"
"""The bridge of the network that proves whether the engine can use iptables."""


class Deployment:
    """One deployment on this host. `request`: see `switch`."""

    def __init__(self, request: dict[str, Any], engine: Control) -> None:
        self.request, self.engine = request, engine
        self.app_dir, self.project = request["app_dir"], request["project"]
        self.is_in_place = request["in_place"] is not None

    def container(self) -> dict[str, Any] | None:
        """The gateway's container; one of several if an interrupted re-creation left several."""
        found = self.containers()
        running = [details for details in found if details["State"].get("Running")]
        return next(iter([*running, *found]), None)

    def containers(self) -> list[dict[str, Any]]:
        ids = [
            str(summary.get("Id"))
            for summary in self.engine.containers(all=True)
            if kind_of(labels_of(summary), self.request) == "ours"
        ]
        return [details for each in ids if (details := self.engine.inspect(each))]

    def remove(self, say: Callable[[str], None]) -> None:
        """Removes the gateway's containers and networks, as `docker compose down` does."""
        for details in self.containers():
            self.engine.stop(details["Id"])
            self.engine.remove(details["Id"])
        if self.is_in_place:
            Place(self.request["in_place"]).write("")
            return  # the networks are the operator's
        label = f"com.docker.compose.project={self.project}"
        for network in self.engine.get("/networks", {"filters": {"label": [label]}}):
            try:
                self.engine.remove_network(str(network["Id"]))
            except EngineError as error:  # another container uses it
                say(f"The network {network.get('Name')} was not removed: {error}")

    def why_no_start(self, details: dict[str, Any]) -> str:
        """Why the engine cannot start another container like this one; empty if it can.

        A firewall that is reloaded removes the engine's iptables chains. A running container stays
        reachable through docker-proxy, and no other one can publish a port until the engine has
        restarted. An engine may use no chains: a network, which needs them too, is the proof.
        """
        if details["HostConfig"].get("NetworkMode") == "host":
            return ""
        look = ["iptables", "-w", "2", "-n", "-L", "DOCKER", "-t"]
        if all(run([*look, table], 10)[0] != NO_CHAIN for table in ("nat", "filter")):
            return ""
        try:
            self.engine.remove_network(self.engine.create_network(f"{self.project}_probe", PROBE))
        except EngineError as error:
            if "iptables" in str(error).lower():
                return str(error).strip()
        return ""

    def running_release(self) -> str | None:
        """The release of the container, else the one that `current` points at."""
        details = self.container()
        if details and not self.is_in_place:
            labels = details["Config"].get("Labels") or {}
            path = compose_file_of(labels).split(",")[0]
            release = os.path.basename(os.path.dirname(path))
            if path.startswith(f"{self.app_dir}/releases/") and is_id(release):
                return release
        return linked(self.app_dir, "current")

    def noted_image(self, release: str) -> str:
        return text_of(f"{release_dir(self.app_dir, release)}/image").strip()

    def _with_image(self, image: str) -> str:
        """Writes a second compose file that names the image by its id; returns its path."""
        path = f"{self.app_dir}/.image.yml"
        services = {self.request["service"]: {"image": image}}
        write_file(path, json.dumps({"services": services}).encode(), 0o600)
        return path

    def note_image(self, release: str) -> str:
        """Stores the id of the image that a release runs; returns it, or empty if nothing runs."""
        details = self.container()
        if details is None:
            return ""
        path = f"{release_dir(self.app_dir, release)}/image"
        write_file(path, str(details["Image"]).encode(), 0o600)
        return str(details["Image"])

    def create(self, release: str, image: str | None, again: bool) -> None:
        """Creates a release's container with compose, which stops and removes the old one.

        `image`: the image's id if the release's reference names another image, else None.
        `again`: create it even if there is a container of this release.

        Raises:
            ComposeError: with compose's output. OSError: the override cannot be written.
        """
        if self.is_in_place:
            self._create_in_place(release)
            return
        files = compose_files(release_dir(self.app_dir, release))
        if image:
            files.append(self._with_image(image))
        flags = ["--force-recreate"] if again else []
        words = ["up", "--no-start", "--no-build", *flags]
        compose(self.project, files, words, self._seconds_to_create())

    def _seconds_to_create(self) -> float:
        """Compose first stops what runs, which may take as long as the container says."""
        graces = [each["Config"].get("StopTimeout") for each in self.containers()]
        return SECONDS + sum(min(DAY, max(0, 10 if each is None else each)) for each in graces)

    def _create_in_place(self, release: str) -> None:
        """The same with the operator's files, and this package's override if they need it."""
        place = Place(self.request["in_place"])
        details = self.container()
        labels = (details["Config"].get("Labels") or {}) if details else {}
        project = labels.get("com.docker.compose.project", "")
        manifest = manifest_of(self.app_dir, release) or {}
        token = manifest | manifest["in_place"] if manifest.get("in_place") else None
        text, files = "", place.own_files
        if token and not keeps_token(place.service_of(project, files), token):
            text = text_of(f"{release_dir(self.app_dir, release)}/{COMPOSE_FILE}")
            files = [*files, str(place.override)]
        place.write(text)
        flags = ["--no-start", "--no-build", "--no-deps", "--pull", "never"]
        words = ["up", *flags, place.service]
        place.compose(project, files, words, seconds=self._seconds_to_create())

    def store_baseline(self, details: dict[str, Any], manifest: dict[str, Any], path: str) -> str:
        """Stores, as a release to go back to, what runs without this package; returns its id.

        `manifest`: of the release that replaces it; `path`: where its token is in the container.
        """
        from hashlib import sha256

        content = json.dumps({"services": {}}).encode()
        stored = {COMPOSE_FILE: {"sha256": sha256(content).hexdigest(), "owner": [0o600, 0, 0]}}
        of_place = {"in_place": None, "baseline_of": manifest["in_place"]}
        baseline = manifest | of_place | {"token_path": path, "files": stored}
        text = json.dumps(baseline, indent=1, sort_keys=True).encode()
        release = sha256(text).hexdigest()[:12]
        directory = release_dir(self.app_dir, release)
        make_dir(directory)
        write_file(f"{directory}/{COMPOSE_FILE}", content, 0o600)
        write_file(f"{directory}/{MANIFEST}", text, 0o600)
        write_file(f"{directory}/image", str(details["Image"]).encode(), 0o600)
        return release


def manifest_of_container(details: dict[str, Any] | None) -> dict[str, Any] | None:
    """A manifest made from a container whose release has none; None if that is impossible."""
    if details is None:
        return None
    config, host = details["Config"], details["HostConfig"]
    variables = dict(str(each).partition("=")[::2] for each in config.get("Env") or [])
    mounts = {mount.get("Destination"): mount.get("Source") for mount in details["Mounts"]}
    token_file = os.path.basename(variables.get("KIS_TOKEN_FILE_PATH", ""))
    published = [
        each for ports in (host.get("PortBindings") or {}).values() for each in ports or []
    ]
    if "/app/tokens" not in mounts or not token_file:
        return None
    labels = config.get("Labels") or {}
    directory = os.path.dirname(compose_file_of(labels).split(",")[0])
    key = text_of(f"{directory}/app_key_fingerprint").strip()
    if not is_id(key):
        return None
    address = published[0]["HostIp"] if published else ""
    return {
        "user": config.get("User") or "0:0",
        "token_dir": mounts["/app/tokens"],
        "token_file": token_file,
        "address": client_address(address),
        "port": int(published[0]["HostPort"] if published else variables.get("PORT", "8080")),
        "health_path": "/health",
        "healthcheck": False,
        "token_at_start": False,
        "restart": "unless-stopped",
        "key": key,
        "image": config["Image"],
    }
