"""Starts a gateway: prepares its token, starts the container, runs the health gate."""

from __future__ import annotations

import time

from .engine import EngineError
from .gate import KIS_MINUTE, Rules
from .hiding import secrets_of
from .neighbour import addresses
from .tokens import MARGIN, Directory, Kept
from .watch import TokenWatch, Watch, excerpt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .control import Control
    from .releases import State


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
        self._make_ready(kept, manifest)
        self.step("ready")
        # The engine gives the new container the old one's address, which has just become free.
        self._start_and_watch(details, manifest, kept, addresses(before))

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

    def _start_and_watch(
        self,
        details: dict[str, Any],
        manifest: dict[str, Any],
        kept: Kept,
        waiting: list[tuple[str, bytes, bytes]],
    ) -> None:
        """Disables restarts until the gate has passed: each could be a request to KIS."""
        container = str(details["Id"])
        tokens = TokenWatch(manifest["token_dir"], manifest["token_file"])
        request = self.request
        rules = Rules(
            request["min_healthy"],
            request["deadline"],
            manifest["health_path"] is not None,
            manifest["token_at_start"],
            manifest["healthcheck"],
            not must_ask(kept, manifest),
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
            self.issuances += tokens.issuances
            self.rewritten = self.rewritten or tokens.rewritten
            self.last_asked = max(self.last_asked, tokens.last_issued, watch.was_refused)
        if not passed:
            self.put_token_back(manifest)
            self._explain(container, watch)
            raise FailedError(why)
        self.engine.set_restart_policy(container, manifest["restart"])
        if (watch.details["State"].get("Health") or {}).get("Status") == "unhealthy":
            self.say(
                "Warning: Docker says that this container is unhealthy, though it answers: see the "
                f"HEALTHCHECK of the image {manifest['image']}"
            )

    def _set_token_aside(self, manifest: dict[str, Any]) -> float:
        """Sets the token file aside; returns the seconds until KIS may be asked."""
        with Directory(manifest["token_dir"]) as directory:
            aside = directory.set_aside(manifest["token_file"], "aside")
        self.state.note(aside=aside)
        self.say(f"  the token file is set aside: {manifest['token_dir']}/{aside}")
        return self.left_of_kis_minute()

    def put_token_back(self, manifest: dict[str, Any]) -> None:
        aside = self.state.get("aside")
        if not aside:
            return
        name = manifest["token_file"]
        with Directory(manifest["token_dir"]) as directory:
            if directory.stat(aside) is not None:
                if directory.stat(name) is not None:
                    directory.set_aside(name, "new")
                directory.rename(aside, name)
                self.say(f"the token file was put back: {manifest['token_dir']}/{name}")
        self.state.note(aside=None)

    def _explain(self, container: str, watch: Watch) -> None:
        """Shows the last probe and its answer, and the log's first error and last lines."""
        if watch.heard:
            self.say(f"  last probe: {watch.heard}")
        try:
            log = self.engine.logs(container, watch.since, limit=1 << 20)
        except EngineError:
            return
        releases = {self.state["from"], self.state["to"]} - {None}
        hidden = secrets_of(self.request["app_dir"], releases, watch.details)
        lines = excerpt(log.decode("utf-8", "replace"), hidden)
        self.say(f"--- log of the container {container[:12]}, its first error and its last lines:")
        for line in lines:
            self.say(line)
        self.say("---")


def kept_of(request: dict[str, Any], manifest: dict[str, Any]) -> Kept:
    return Kept(request["app_dir"], manifest["token_dir"], manifest["token_file"])


def must_ask(kept: Kept, manifest: dict[str, Any]) -> bool:
    """Whether the next gateway certainly asks KIS for a token when it starts."""
    state, ends = kept.best(manifest["key"])
    return (
        bool(manifest["token_at_start"]) and state != "unknown" and (ends <= time.time() + MARGIN)
    )
