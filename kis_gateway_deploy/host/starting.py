"""Starts a gateway: prepares its token, starts the container, runs the health gate."""

from __future__ import annotations

import os
import time

from .directory import Directory
from .engine import EngineError
from .gate import KIS_MINUTE, Rules
from .hiding import secrets_of, tokens_in
from .neighbour import addresses
from .token_files import Kept, TokenFiles
from .tokens import MARGIN
from .watch import LOG_LIMIT, TokenWatch, Watch, excerpt, first_error, lines_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .control import Control
    from .releases import State
    from .tokens import Evidence


class FailedError(Exception):
    """A step failed; the text says why."""


class Starter:
    """Starts containers for one change, and counts their issuances.

    `step` is called with the name of each step.
    """

    def __init__(
        self,
        request: dict[str, Any],
        engine: Control,
        state: State,
        say: Callable[[str], None],
        step: Callable[[str], None],
    ) -> None:
        self.request, self.engine, self.state = request, engine, state
        self.say, self.step = say, step
        self.issuances, self.rewritten, self.last_asked = 0, False, 0.0
        self.gate_seconds: float | None = None  # of the gate that passed last
        self.heard = self.log_error = ""  # of the gate that failed first
        self.may_ask_at: float = time.monotonic() + request["kis_wait"]

    def start(
        self,
        details: dict[str, Any],
        manifest: dict[str, Any],
        before: dict[str, Any] | None,
    ) -> None:
        """Starts a stopped container (`details`), which replaces the container `before`.

        Raises FailedError.
        """
        kept = kept_of(self.request, manifest)
        self.note_restart_policy(details, manifest)
        self._make_ready(kept, manifest)
        if manifest.get("token_path"):
            self._put_into_container(details, kept, manifest)
        self.step("ready")
        # The engine gives the new container the old one's address, which has just become free.
        self._start_and_watch(details, manifest, kept, addresses(before))

    def note_restart_policy(self, details: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Stores the restart policy that a container gets once it has passed the gate."""
        policy = details["HostConfig"].get("RestartPolicy") or {}
        name, known = policy.get("Name") or "no", self.state.get("restart") or {}
        if manifest["restart"]:
            noted = {"name": manifest["restart"], "retries": 0}
        elif known.get("id") == details["Id"] and name == "no":
            return  # set to `no` by a gate that was cut off
        else:  # in place, the operator's compose file says it
            noted = {"name": name, "retries": policy.get("MaximumRetryCount") or 0}
        self.state.note(restart=noted | {"id": details["Id"]})

    def set_restart_policy(self, container: str) -> None:
        """Gives a container the noted policy; one that was never started here still has its own."""
        policy = self.state.get("restart")
        if policy and policy["id"] == container:
            self.engine.set_restart_policy(container, policy["name"], policy["retries"])

    def left_of_kis_minute(self) -> float:
        """Seconds until KIS may be asked: by the request's `kis_wait`, and the last time asked."""
        asked = self.last_asked + KIS_MINUTE if self.last_asked else 0.0
        return max(0.0, self.may_ask_at - time.monotonic(), asked - time.monotonic())

    def _make_ready(self, kept: Kept, manifest: dict[str, Any]) -> None:
        uid, _, gid = str(manifest["user"]).partition(":")
        try:
            for said in kept.ready(manifest["key"], (int(uid), int(gid))):
                self.say(said)
        except OSError as error:
            raise FailedError(
                f"the token directory {manifest['token_dir']} could not be made ready: {error}"
            ) from None

    def _put_into_container(
        self, details: dict[str, Any], kept: Kept, manifest: dict[str, Any]
    ) -> None:
        """Copies the token to where a gateway without this package's mount keeps it."""
        path = manifest["token_path"]
        with Directory(manifest["token_dir"]) as directory:
            names = kept.files.next_names(directory)
            files = {name: content for name in names if (content := directory.read(name))}
        parent = os.path.dirname(path) if kept.files.is_one else path
        if kept.files.is_one:
            files = {os.path.basename(path): content for content in files.values()}
        uid, _, gid = str(manifest["user"]).partition(":")
        try:
            self.engine.put(details["Id"], parent, files, (int(uid), int(gid)))
        except EngineError as error:
            self.say(f"the token could not be put back at {path} in the container: {error}")

    def _start_and_watch(
        self,
        details: dict[str, Any],
        manifest: dict[str, Any],
        kept: Kept,
        waiting: list[tuple[str, bytes, bytes]],
    ) -> None:
        """Disables restarts until the gate has passed: each could be a request to KIS."""
        container = str(details["Id"])
        tokens = TokenWatch(manifest["token_dir"], kept.files, kept.expected)
        request = self.request
        rules = Rules(
            request["min_healthy"],
            request["deadline"],
            manifest["health_path"] is not None,
            manifest["token_at_start"],
            manifest["healthcheck"],
            not must_ask(kept, manifest),
            manifest.get("probe") is not None,
        )
        watch = Watch(self.engine, container, manifest, rules, tokens, self.say, waiting)
        passed, why = False, ""
        try:
            self.engine.set_restart_policy(container, "no")
            self.step("started")
            passed, why = watch.run(lambda: self._set_token_aside(manifest))
        except EngineError as error:
            why = str(error)
        finally:
            tokens.look()  # the last probe may have led to an issuance
            self.issuances += tokens.issuances
            self.rewritten = self.rewritten or tokens.rewritten
            self.last_asked = max(self.last_asked, tokens.last_issued, watch.was_refused)
        if not passed:
            self.put_token_back(manifest)
            self._explain(container, watch, manifest)
            raise FailedError(why)
        self.gate_seconds = round(time.monotonic() - watch.opened, 1)
        self.set_restart_policy(container)
        if (watch.details["State"].get("Health") or {}).get("Status") == "unhealthy":
            self.say(
                "Warning: Docker says that this container is unhealthy, though it answers: see the "
                f"HEALTHCHECK of the image {manifest['image']}"
            )

    def _set_token_aside(self, manifest: dict[str, Any]) -> float:
        """Sets aside the token files that may be why the gateway exits: those that have expired,
        and those of unknown form. Returns the seconds until KIS may be asked.

        Of a gateway that may keep other files beside its tokens, an unknown one is left alone.
        """
        token_dir, files = manifest["token_dir"], TokenFiles(manifest["token_file"])
        aside = []
        with Directory(token_dir) as directory:
            for name in files.next_names(directory):
                found = directory.examine(name)
                expired = found and found.state == "token" and found.valid_until <= time.time()
                if expired or (found and found.state == "unknown" and files.form):
                    aside.append([name, directory.set_aside(name, "aside")])
                    self.state.note(aside=aside)
                    self.say(f"  the token file is set aside: {token_dir}/{aside[-1][1]}")
        return self.left_of_kis_minute()

    def set_old_aside(self, kept: Kept, manifest: dict[str, Any]) -> None:
        """Sets the gateway's tokens aside, so that its next start asks KIS for new ones."""
        if self.state.get("aside"):
            return  # a worker that died has done it; what is there now may be a new token
        aside = kept.set_old_aside(manifest["key"])
        self.state.note(aside=aside)
        for _, name in aside:
            self.say(f"the old token is set aside: {manifest['token_dir']}/{name}")

    def put_token_back(self, manifest: dict[str, Any]) -> None:
        """Puts back what was set aside, except tokens that have got a successor."""
        if not self.state.get("aside"):
            return
        with Directory(manifest["token_dir"]) as directory:
            for name, aside in self.state["aside"]:
                old, new = directory.examine(aside), directory.examine(name)
                if old is None:
                    continue
                if new and old.state == "token" and lasts_longer(new, old):
                    self.say(f"the new token is kept: {manifest['token_dir']}/{name}")
                    continue
                if directory.stat(name) is not None:
                    directory.set_aside(name, "new")
                directory.rename(aside, name)
                self.say(f"the token file was put back: {manifest['token_dir']}/{name}")
        self.state.note(aside=None)

    def _explain(self, container: str, watch: Watch, manifest: dict[str, Any]) -> None:
        """Shows the last probe and its answer, and the log's first error and last lines."""
        if watch.heard:
            self.say(f"  last probe: {watch.heard}")
            self.heard = self.heard or watch.heard
        try:
            log = self.engine.logs(container, watch.since, limit=LOG_LIMIT)
        except EngineError:
            return
        releases = {self.state["from"], self.state["to"]} - {None}
        hidden = secrets_of(self.request["app_dir"], releases, watch.details)
        hidden |= tokens_in(manifest["token_dir"], manifest["token_file"])
        lines = lines_of(log, hidden, is_cut=len(log) == LOG_LIMIT)
        self.log_error = self.log_error or first_error(lines)
        self.say(f"--- log of the container {container[:12]}, its first error and its last lines:")
        for line in excerpt(lines):
            self.say(line)
        self.say("---")


def kept_of(request: dict[str, Any], manifest: dict[str, Any]) -> Kept:
    expected = manifest.get("tokens_expected", 1)
    return Kept(request["app_dir"], manifest["token_dir"], manifest["token_file"], expected)


def lasts_longer(new: Evidence, old: Evidence) -> bool:
    """Whether a token is valid, and expires later than another one."""
    return new.state == "token" and (new.valid_until or 0) > max(old.valid_until or 0, time.time())


def must_ask(kept: Kept, manifest: dict[str, Any]) -> bool:
    """Whether the next gateway certainly asks KIS for a token when it starts."""
    state, ends = kept.best(manifest["key"])
    return (
        bool(manifest["token_at_start"]) and state != "unknown" and (ends <= time.time() + MARGIN)
    )
