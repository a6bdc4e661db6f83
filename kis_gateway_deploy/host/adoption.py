"""Replaces a gateway container that was started by other means: stops it, never removes it."""

from __future__ import annotations

from .containers import adopted_tokens, kind_of, labels_of, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .control import Control
    from .releases import State
    from .token_files import Kept


class Adoption:
    """`state["adopted"]` describes the container: `id`, `name`, its restart policy (`policy`,
    `retries`), whether it was `running`, and whether it has been `replaced`."""

    def __init__(
        self,
        request: dict[str, Any],
        engine: Control,
        state: State,
        say: Callable[[str], None],
    ) -> None:
        self.request, self.engine, self.state, self.say = request, engine, state, say

    def find(self) -> dict[str, Any] | None:
        """The container to replace, in the form of `state["adopted"]`; None if there is none.

        A rollback is to a release that ran here: it replaces no container of today's inventory.
        """
        if self.request["action"] == "rollback":
            return None
        known = self.state.get("adopted")
        for summary in self.engine.containers(all=True):
            if not self.request["adopt"] or name_of(summary) != self.request["adopt"]:
                continue
            details = self.engine.inspect(str(summary.get("Id")))
            if details is None or kind_of(labels_of(summary), self.request) == "ours":
                return None
            is_running = bool(details["State"].get("Running"))
            if known and known["id"] == details["Id"]:
                if not known.get("replaced"):
                    return dict(known)
                if not is_running:
                    return None
            policy = details["HostConfig"].get("RestartPolicy") or {}
            return {
                "id": details["Id"],
                "name": self.request["adopt"],
                "policy": policy.get("Name") or "no",
                "retries": policy.get("MaximumRetryCount") or 0,
                "running": is_running,
            }
        return None

    def bring_token(
        self, kept: Kept, manifest: dict[str, Any], adopted: dict[str, Any], is_told: bool = False
    ) -> None:
        details = self.engine.inspect(adopted["id"])
        if details is None:
            return
        path, files = adopted_tokens(self.engine, details, self.request)
        if kept.bring(files, manifest["key"]):
            self.say(f"the token of the container {adopted['name']} is taken over")
        elif is_told and files:
            self.say(
                f"the token of the container {adopted['name']} expires no later than the token of "
                "this host, which is kept"
            )
        elif is_told:
            self.say(f"the container {adopted['name']} has no token at {path}")

    def stop(self, adopted: dict[str, Any]) -> None:
        # Stop first: the engine cannot update a container that exits at the same moment.
        self.state.note(adopted=adopted)
        self.engine.stop(adopted["id"])
        self.engine.set_restart_policy(adopted["id"], "no")

    def start(self) -> None:
        adopted = self.state.get("adopted") or (self.state.get("back") or {}).get("adopted")
        if adopted and adopted["running"]:
            self.engine.set_restart_policy(adopted["id"], adopted["policy"], adopted["retries"])
            self.engine.start(adopted["id"])
        self.state.note(adopted=None)
