"""One change of what runs on a host: switch, restart, stop or removal; and the restore."""

from __future__ import annotations

import os
import signal
import time
from binascii import a2b_base64
from collections import namedtuple
from contextlib import suppress

from .adoption import Adoption
from .client import ask_health, authority
from .compose import ComposeError
from .containers import adopted_tokens, engine_address, socket_path, tokens_of_container
from .control import Control
from .deployment import Deployment, manifest_of_container
from .engine import EngineError
from .releases import (
    COMPOSE_FILE,
    State,
    changed_since,
    damage_of,
    linked,
    manifest_of,
    point,
    prune,
    record,
    release_dir,
    token_target,
)
from .starting import FailedError, Starter, kept_of, must_ask
from .watch import wait_for_kis

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .token_files import Kept

ENGINE_SECONDS = 60
STEPS = ("begun", "created", "ready", "started", "passed", "pointed")
"""Steps at which a request's `die_at` kills the worker, for tests."""

PASSED = ("switched", "restarted", "renewed")
"""Outcomes of a change whose release has passed its gate."""

Back = namedtuple("Back", "kind release image adopted", defaults=(None, None, None))
"""What to restore after a failure. `kind`: `release` (with the id of its image), `adopted` (a
container), `same` (the release that failed also ran before), or `nothing` (nothing ran)."""


class RefusedError(Exception):
    """Nothing was touched; the text says why."""


class Change:
    """One change. `request`: see `switch`; `state`: the host's `state.json` before the change."""

    def __init__(
        self, request: dict[str, Any], state: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        self.request, self.say = request, say
        self.app_dir = request["app_dir"]
        os.environ["DOCKER_HOST"] = engine_address()
        self.engine = Control(socket_path(os.environ["DOCKER_HOST"]))
        self.before = state
        self.state = State(self.app_dir, state)
        self.began = time.time()
        self.has_begun = False
        self.deployment = Deployment(request, self.engine)
        self.adoption = Adoption(request, self.engine, self.state, say)
        self.starter = Starter(request, self.engine, self.state, say, self._step)

    def run(self) -> dict[str, Any]:
        """Does what was requested, unless the host has changed since it was read.

        Raises RefusedError.
        """
        request, state = self.request, self.before
        if state.get("generation") != request["seen"]:
            runs = state.get("outcome") == "switched" and state.get("to") == request["release"]
            if request["action"] == "up" and runs and self._serves():
                return self._result("already", "")
            raise RefusedError(changed_since(state))
        self.state.clear()
        self.state.update(
            generation=request["generation"],
            by=request["by"],
            began=self.began,
            action=request["action"],
            to=request["release"],
            phase="begun",
            previous=linked(self.app_dir, "previous"),
            previous_was=state.get("previous_was"),
            adopted=state.get("adopted"),
            restart=state.get("restart"),
            was_down=state.get("outcome") in ("down", "removed")
            or (state.get("phase") == "begun" and bool(state.get("was_down"))),
        )
        self.state["from"] = self._runs_now()
        return self._act()

    def _runs_now(self) -> str | None:
        """The release that has passed its gate last, or was made current by hand."""
        state = self.before
        if state.get("phase") == "begun" and "back" in state:  # cut off, as by a reboot
            return state.get("to" if state.get("passed") else "from")
        return self.deployment.running_release()

    def recover(self) -> dict[str, Any]:
        """Completes the change of a worker that died if its gate was passed, else restores."""
        state = self.state
        if state.get("generation") != self.request["generation"]:
            raise RefusedError("the switch process died before it changed anything; deploy again")
        self.began, self.has_begun = state["began"], True
        if state["phase"] == "ended":  # only the result was not sent
            counted = {"issuances": state["issuances"]}
            return self._result(state["outcome"], state["why"]) | counted
        self._wait_for_engine()
        if "back" not in state:
            return self._act()  # safe to repeat
        if state.get("passed"):
            return self._passed()
        return self._go_back(Back(**state["back"]), "the switch process died")

    def _act(self) -> dict[str, Any]:
        action = self.request["action"]
        if action == "revert" and self.deployment.is_in_place and not self.request["release"]:
            self.request["release"] = self.state["to"] = self.state["previous"]
        if action in ("up", "rollback", "revert") and self.request["release"]:
            return self._switch()
        actions = {
            "revert": self._to_nothing,
            "restart": self._restart,
            "renew": self._restart,
            "down": self._down,
            "stop": self._stop,
            "start": self._start,
        }
        try:
            return actions[action]()
        except EngineError as error:
            if not self.has_begun:
                raise
            self.say(f"{action} failed: {error}")
            return self._finish("failed", str(error))

    # A release

    def _switch(self) -> dict[str, Any]:
        request, release = self.request, str(self.request["release"])
        manifest = manifest_of(self.app_dir, release)
        if manifest is None or (damage := damage_of(self.app_dir, release, manifest)):
            what = damage if manifest else "is not on the host, or was put there by version 0.1"
            raise RefusedError(f"release {release}: {what}; deploy again (make deploy)")
        if request["action"] == "revert":
            manifest = manifest | {"probe": None}  # as in a restore
        kept = kept_of(self.request, manifest)
        baseline = self._baseline(manifest)
        back = self._way_back(release)
        self._refuse_if_no_start()
        image = self._image_of(release, manifest)
        if request["token"]:
            kept.bring(kept.files.unpack(a2b_base64(request["token"])), manifest["key"])
        self._bring_mounted_token(kept, manifest)
        adopted = self.adoption.find()
        if adopted:
            self.adoption.bring_token(kept, manifest, adopted, is_told=True)
        asks = must_ask(kept, manifest)
        if asks and not request["budget"] and request["action"] == "up":
            raise RefusedError(
                f"there is no valid token in {kept.path}, though there was one when this deploy "
                "began: deploy again"
            )
        if baseline:
            point(self.app_dir, "current", baseline)
        self._begin(back)
        self.say(f"switch: {self.state['from'] or 'none'} -> {release}; {self._gate(manifest)}")
        if asks:
            wait_for_kis(self.starter.left_of_kis_minute(), self.say)
        try:
            self._bring_up(release, manifest, image, adopted)
        except (FailedError, EngineError, OSError) as error:
            return self._go_back(back, _why_no_start(error))
        self.state.note(passed=True)
        self._step("passed")
        return self._passed()

    def _baseline(self, manifest: dict[str, Any]) -> str | None:
        """Stores what runs in place without a release, so that it can be restored; its id."""
        details = self.deployment.container()
        if not self.deployment.is_in_place or self.state["from"] or details is None:
            return None
        path, _ = adopted_tokens(self.engine, details, self.request)
        self.state["from"] = self.deployment.store_baseline(details, manifest, path)
        return str(self.state["from"])

    def _passed(self) -> dict[str, Any]:
        """Makes the release, which has passed the gate, the current one."""
        state = self.state
        if state["from"] != state["to"]:
            is_revert = state["action"] == "revert"  # also restores the link `previous`
            point(self.app_dir, "previous", state["previous_was" if is_revert else "from"])
            state["previous_was"] = None if is_revert else state["previous"]
        point(self.app_dir, "current", state["to"])
        self._step("pointed")
        if state["adopted"]:
            state["adopted"]["replaced"] = True
        result = self._finish("switched", "")
        kept = {linked(self.app_dir, name) for name in ("current", "previous")}
        with suppress(OSError):
            prune(self.app_dir, kept | {state.get("previous_was")})
        return result

    def _bring_up(
        self,
        release: str,
        manifest: dict[str, Any],
        image: str | None,
        adopted: dict[str, Any] | None = None,
    ) -> None:
        """Creates the container of a release, starts it, and waits for the gate.

        Raises FailedError.
        """
        before = self.deployment.container()
        try:
            self.deployment.create(release, image, again=self.state["from"] == release)
        except ComposeError as error:
            raise FailedError(f"docker compose up failed:\n{error}") from None
        details = self._one_container()
        if details["State"].get("Running"):
            self.engine.stop(details["Id"])
        self._step("created")
        if adopted:
            self.adoption.stop(adopted)
            kept = kept_of(self.request, manifest)
            self.adoption.bring_token(kept, manifest, adopted)  # it may be newer by now
        self.starter.start(details, manifest, before)

    def _one_container(self) -> dict[str, Any]:
        found = self.deployment.containers()
        if len(found) != 1:
            raise FailedError(f"docker compose up left {len(found)} containers instead of one")
        return found[0]

    def _image_of(self, release: str, manifest: dict[str, Any]) -> str | None:
        """The id of the release's image if its reference now names another one, else None."""
        if self.deployment.is_in_place:
            return None  # the operator's compose file says it
        found = self.engine.image(manifest["image"])
        noted = self.deployment.noted_image(release)
        # `up` has just fetched the image; an older release gets the image that it ran before.
        if found and (self.request["action"] == "up" or noted in ("", found.get("Id"))):
            return None
        if noted and self.engine.image(noted):
            return noted
        raise RefusedError(
            f"the image {manifest['image']} of release {release} is not on the host: deploy again"
        )

    def _bring_mounted_token(self, kept: Kept, manifest: dict[str, Any]) -> None:
        """Parks the token in the running container's mount, which may be an older directory.

        A gateway in place may have its token anywhere in its container.
        """
        details = self.deployment.container()
        if details and self.deployment.is_in_place:
            path, files = adopted_tokens(self.engine, details, self.request)
            if kept.bring(files, manifest["key"]):
                self.say(f"the token at {path} in the container is taken over")
        elif (
            details and details["State"].get("Running") and self._key_that_runs() == manifest["key"]
        ):
            target = token_target(self.app_dir, self.state["from"])
            path = f"{target}/{kept.files.form}" if kept.files.is_one else target
            files = tokens_of_container(self.engine, details, kept.files, path)
            kept.bring(files, manifest["key"])

    def _key_that_runs(self) -> str | None:
        manifest = manifest_of(self.app_dir, self.state["from"])
        return manifest["key"] if manifest else None

    # Restore

    def _way_back(self, release: str) -> Back:
        """What to restore on failure. Raises RefusedError if what runs now could not be."""
        adopted = self.adoption.find()
        if adopted and adopted["running"]:
            return Back("adopted", adopted=adopted)
        details = self.deployment.container()
        before = self.state["from"]
        if details is None and (before is None or self.state["was_down"]):
            return Back("nothing")
        if before == release:
            return Back("same", release)
        manifest = manifest_of(self.app_dir, before) or manifest_of_container(details)
        why = ""
        if before is None:
            why = "it was not made by a release"
        elif manifest is None or "files" in manifest:
            why = damage_of(self.app_dir, before, manifest)
        elif not os.path.isfile(f"{release_dir(self.app_dir, before)}/{COMPOSE_FILE}"):
            why = "is no longer on the host"
        if details and before == self.deployment.running_release():
            image = str(details["Image"])
        else:
            image = self.deployment.noted_image(str(before))
        if not why and (not image or self.engine.image(image) is None):
            why = "its image is no longer on the host"
        if not why:
            return Back("release", before, image)
        if self._serves():
            raise RefusedError(
                f"what runs now could not be restored after a failure (release {before}: {why}), "
                "so it is not stopped. If you do not need it, run `make down`, then deploy again"
            )
        return Back("nothing")

    def _refuse_if_no_start(self) -> None:
        """Raises RefusedError if a gateway runs that could not be started again."""
        adopted = self.adoption.find()
        runs = self.engine.inspect(adopted["id"]) if adopted and adopted["running"] else None
        details = runs or (self.deployment.container() if self._serves() else None)
        if details and (why := self.deployment.why_no_start(details)):
            raise RefusedError(
                "the engine could start no container now, so what runs is not stopped: Docker's "
                "iptables chains are gone, which a firewall's reload may remove. Run `systemctl "
                f"restart docker` on the host, which restarts its containers, then try again: {why}"
            )

    def _serves(self) -> bool:
        details = self.deployment.container()
        return details is not None and bool(details["State"].get("Running"))

    def _go_back(self, back: Back, why: str) -> dict[str, Any]:
        try:
            return self._gone_back(back, why)
        except (EngineError, OSError) as error:
            failed = f"going back failed, too: {_why_no_start(error)}"
            self.say(failed)
            return self._finish("failed", f"{why}\n{failed}")

    def _gone_back(self, back: Back, why: str) -> dict[str, Any]:
        release, action = self.state["to"], self.state["action"]
        self.say(f"The switch to release {release} ({action}) failed: {why}")
        self._wait_for_engine()
        if back.kind == "same":
            self._leave()
            self.say(
                "The same release ran before, so there is no other one to restore: its container "
                "was left as it is."
            )
            return self._finish("left", why)
        if back.kind == "adopted":
            self.deployment.remove(self.say)
            try:
                self.adoption.start()
            except EngineError as error:
                self.say(
                    f"NO GATEWAY RUNS: the container {back.adopted['name']} could not be started "
                    f"again: {error}"
                )
                return self._finish("failed", why)
            self.say(f"Restored: the container {back.adopted['name']} runs again.")
            return self._finish("restored-adopted", why)
        if back.kind == "nothing":
            self.deployment.remove(self.say)
            self.say(
                "No release ran before: the container was removed and sends no requests to KIS."
            )
            return self._finish("removed", why)
        try:
            self._restore(str(back.release), back.image)
        except (FailedError, EngineError, OSError) as error:
            failed = f"restoring release {back.release} failed, too: {_why_no_start(error)}"
            self.say(failed)
            self._say_what_serves(str(back.release))
            self.say(f"See: docker compose --project-name {self.deployment.project} ps")
            self._leave()
            return self._finish("failed", f"{why}\n{failed}")
        self.say(f"Restored: release {back.release} runs again and is healthy.")
        return self._finish("restored", why)

    def _restore(self, release: str, image: str | None) -> None:
        manifest = manifest_of(self.app_dir, release) or self.state.get("manifest_before")
        if manifest is None:
            raise FailedError(f"the manifest of release {release} is not on the host")
        self.say(f"restoring release {release}; {self._gate(manifest)}")
        manifest = manifest | {"probe": None}  # KIS refuses the token of any release, or of none
        self.starter.put_token_back(manifest)
        if must_ask(kept_of(self.request, manifest), manifest):
            wait_for_kis(self.starter.left_of_kis_minute(), self.say)
        is_same = self.deployment.is_in_place  # the operator's compose file says the image
        if not is_same:
            found = self.engine.image(manifest["image"])
            is_same = found is not None and found.get("Id") == image
        self._bring_up(release, manifest, None if is_same else image)

    def _leave(self) -> None:
        """Gives a failed container back to Docker; one that has just asked KIS stays stopped."""
        self._wait_for_engine()
        details = self.deployment.container()
        if details is None:
            return
        has_asked = self.starter.last_asked and self.starter.left_of_kis_minute()
        if not details["State"].get("Running") and has_asked:
            self.say(
                "KIS was asked for a token just now: the container stays stopped, so that it does "
                "not ask again."
            )
            return
        try:
            self.starter.set_restart_policy(details["Id"])
            self.engine.start(details["Id"])
        except EngineError as error:
            self.say(f"The container cannot be started: {_why_no_start(error)}")

    def _say_what_serves(self, release: str) -> None:
        manifest = manifest_of(self.app_dir, release)
        if manifest is None or manifest["health_path"] is None:
            return
        path = manifest["health_path"]
        said = ask_health(manifest["address"], manifest["port"], path)
        if 200 <= (said.get("status") or 0) < 300:
            self.say(f"The gateway answers {path} now, though it did not pass the gate.")
        else:
            heard = f"HTTP {said['status']}" if said.get("status") else said.get("error")
            where = f"http://{authority(manifest['address'], manifest['port'])}{path}"
            self.say(f"THE GATEWAY DOES NOT SERVE: GET {where}: {heard}")

    # Other actions

    def _to_nothing(self) -> dict[str, Any]:
        self._begin()
        self.say(f"switch: {self.state['from'] or 'none'} -> none")
        self.deployment.remove(self.say)
        point(self.app_dir, "current", None)
        if self.state["adopted"]:
            try:
                self.adoption.start()
            except EngineError as error:
                name = self.state["adopted"]["name"]
                why = f"the container {name} could not be started again: {error}"
                self.say(f"NO GATEWAY RUNS: {why}")
                return self._finish("failed", why)
        return self._finish("reverted", "")

    def _down(self) -> dict[str, Any]:
        if self.deployment.is_in_place:
            raise RefusedError("the gateway is a service of the operator's own compose project")
        self._begin()
        self.deployment.remove(self.say)
        return self._finish("down", "")

    def _stop(self) -> dict[str, Any]:
        """Stops a crash loop: each of its starts would be one more request to KIS."""
        adopted = self.adoption.find()
        self._begin()
        details = self.deployment.container()
        if details:
            self.engine.stop(details["Id"])
        if adopted and adopted["running"]:
            self.adoption.stop(adopted)
        return self._finish("stopped", "")

    def _start(self) -> dict[str, Any]:
        self._begin()
        details = self.deployment.container()
        if details:
            self.engine.start(details["Id"])
        if self.state["adopted"] and not self.state["adopted"].get("replaced"):
            self.adoption.start()
        return self._finish("started", "")

    def _restart(self) -> dict[str, Any]:
        """Restarts the container; `renew` sets its token aside before that.

        Raises RefusedError if there is no container of a release to restart.
        """
        details = self.deployment.container()
        release = self.state["from"]
        manifest = manifest_of(self.app_dir, release)
        if details is None or manifest is None:
            raise RefusedError("there is no release to restart on this host: deploy first")
        self._refuse_if_no_start()
        self.state["to"] = release
        kept, renews = kept_of(self.request, manifest), self.request["action"] == "renew"
        self._begin()
        self.say(f"{self.request['action']} of release {release}; {self._gate(manifest)}")
        given = self.request["token"]
        if not given and (renews or must_ask(kept, manifest)):
            wait_for_kis(self.starter.left_of_kis_minute(), self.say)
        try:
            self.engine.stop(details["Id"])
            if renews:
                self.starter.set_old_aside(kept, manifest)
            if given:
                kept.bring(kept.files.unpack(a2b_base64(given)), manifest["key"])
            self._step("created")
            self.starter.start(details, manifest, details)
        except (FailedError, EngineError, OSError) as error:
            why = _why_no_start(error)
            self.say(f"The {self.request['action']} failed: {why}")
            self.starter.put_token_back(manifest)
            self._leave()
            return self._finish("failed", why)
        return self._finish("renewed" if renews else "restarted", "")

    # State and result

    def _gate(self, manifest: dict[str, Any]) -> str:
        """What the health gate waits for, and for how long."""
        healthy, deadline = self.request["min_healthy"], self.request["deadline"]
        if manifest["health_path"] is None:
            return f"its container must run for {healthy:g} s"
        where = authority(manifest["address"], manifest["port"])
        url = f"http://{where}{manifest['health_path']}"
        return f"{url} must answer well for {healthy:g} s, within {deadline:g} s"

    def _begin(self, back: Back | None = None) -> None:
        """Stores the state. After this, the host may be changed."""
        if back:
            self.state["back"] = back._asdict()
            if back.kind == "release" and manifest_of(self.app_dir, back.release) is None:
                self.state["manifest_before"] = manifest_of_container(self.deployment.container())
        self.has_begun = True
        self.state.note()
        self._step("begun")

    def _step(self, name: str) -> None:
        if self.request.get("die_at") == name:
            os.kill(os.getpid(), signal.SIGKILL)

    def _finish(self, outcome: str, why: str) -> dict[str, Any]:
        state = self.state
        image = self.deployment.note_image(state["to"]) if outcome == "switched" else ""
        for name in ("back", "passed", "manifest_before"):
            state.pop(name, None)
        issuances = self.starter.issuances
        state.note(phase="ended", outcome=outcome, why=why[:1000], issuances=issuances)
        record(
            self.app_dir,
            {
                "began": int(self.began * 1000),
                "seconds": round(time.time() - self.began, 3),
                "by": state["by"],
                "forced": self.request["forced"],
                "action": state["action"],
                "from": state["from"] or "",
                "to": state["to"] or "",
                "image": image,
                "outcome": outcome,
                "issuances": issuances,
            },
        )
        if self.starter.rewritten:
            self.say("The token file was rewritten with the same token; KIS may have been asked.")
        if state["action"] not in ("down", "stop", "start"):
            passed = f"release {state['to']} is healthy; " if outcome in PASSED else ""
            count = f"issuances: {issuances} (budget {self.request['budget']})"
            self.say(f"{passed}{count}")
        return self._result(outcome, why)

    def _result(self, outcome: str, why: str) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "issuances": self.starter.issuances,
            "asked": self.starter.last_asked > 0,
            "gate": self.starter.gate_seconds,
            "heard": self.starter.heard,
            "log_error": self.starter.log_error,
            "why": why,
        }

    def _wait_for_engine(self) -> None:
        deadline = time.monotonic() + ENGINE_SECONDS
        while time.monotonic() < deadline:
            with suppress(EngineError):
                if self.engine.can_start():
                    return
            time.sleep(0.5)


def _why_no_start(error: Exception) -> str:
    """The error; of a port that the engine itself may hold, in short and with what helps."""
    text = str(error)
    if "port is already allocated" not in text:
        return text
    return (
        f"{text[max(0, text.rfind('Bind for')) :].strip()}. If no container has it (`docker ps`), "
        "Docker holds it for one that is gone: run `systemctl restart docker` on the host, which "
        "restarts its containers"
    )
