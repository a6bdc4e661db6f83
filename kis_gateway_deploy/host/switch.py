"""Makes a prepared release the running one; the switch ends on the host, whatever becomes of the
connection. In the end the new release runs, or the old one.

| outcome | what is so in the end |
| --- | --- |
| `switched` | the release of the request runs and has passed the gate |
| `already` | it ran before somebody else's switch was seen; nothing was done |
| `restored` | it did not pass: the release that ran before runs again |
| `restored-adopted` | it did not pass: the container that was to be adopted runs again |
| `removed` | it did not pass, and nothing ran before: its container is gone |
| `left` | it did not pass, and ran before, too: its container is left as it is |
| `restarted`, `started`, `stopped`, `down`, `reverted` | as asked |
| `failed` | what was asked did not come about, nor did the way back; `why` says what runs |
| `refused` | nothing was touched |

The process that has the connection forks. Its child, in a session of its own, holds the host's
lock and forks again: the grandchild works, and if it dies, the child has another one go back.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import namedtuple
from contextlib import suppress

from .compose import ComposeError, compose
from .containers import (
    adopted_token_path,
    ask_health,
    compose_file_of,
    engine_address,
    file_of_container,
    kind_of,
    labels_of,
    name_of,
    socket_path,
)
from .control import Control
from .engine import EngineError
from .gate import KIS_MINUTE, Rules
from .prepare import changed_since
from .releases import (
    COMPOSE_FILE,
    damage_of,
    linked,
    lock,
    make_dir,
    manifest_of,
    point,
    prune,
    record,
    release_dir,
    state_of,
    store_state,
    text_of,
    write_file,
)
from .tokens import MARGIN, Directory, Kept, is_id
from .watch import TokenWatch, Watch, excerpt, wait_for_kis

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

LOCK_SECONDS = 10
ENGINE_SECONDS = 60
STEPS = ("begun", "created", "ready", "started", "passed", "pointed")
"""The moments at which `die_at` of a request kills the worker, for tests."""

Back = namedtuple("Back", "kind release image adopted", defaults=(None, None, None))
"""The way back. `kind`: `release` (with the id of its image), `adopted` (a container), `same` (the
release is the one that ran), or `nothing` (nothing ran)."""


class RefusedError(Exception):
    """Nothing was touched; the text says why."""


class FailedError(Exception):
    """A step failed; the text says why."""


def switch(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what it does as `{"say": …}`, and at last `{"result": …}`.

    `request`: as of `read`; and `action`: `up`, `rollback`, `revert`, `restart`, `down`, `stop` or
    `start`; `release` (an id; null for a revert to nothing); `seen` and `generation`; `by`;
    `budget`, the issuances that it may take; `kis_wait`, seconds for which KIS must be left alone;
    `token` (one that was brought, in base64, or null); `min_healthy` and `deadline` in seconds; and
    `die_at`, one of `STEPS`, or null.

    The result: `outcome` (see above), `generation`, `issuances`, `rewritten` (whether the token
    file was written again with the same token), `asked` (whether KIS may just have been asked) and
    `why`.
    """
    make_dir(request["app_dir"])
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            status = _Supervisor(request, writing).run()
        finally:
            os._exit(status)
    os.close(writing)
    result = None
    with open(reading, "rb") as lines:
        for line in lines:
            document = json.loads(line)
            if "result" in document:
                result = document
            else:
                yield document
    os.waitpid(child, 0)
    yield result or {"error": f"the switch died; {request['app_dir']}/switch.log says more"}


class _Supervisor:
    """Holds the lock, and has the work done: it has little to do, and little to die of."""

    def __init__(self, request: dict[str, Any], pipe: int) -> None:
        self.request, self.app_dir, self.pipe = request, request["app_dir"], pipe
        self.log = os.open("/dev/null", os.O_WRONLY)
        nothing = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)

    def run(self) -> int:
        held = lock(f"{self.app_dir}/.switch.lock", LOCK_SECONDS)
        state = state_of(self.app_dir)
        if held is None:
            who = f" by {state['by']}" if state.get("by") else ""
            return self._end({"outcome": "refused", "why": f"another switch{who} is under way"})
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self.log = os.open(f"{self.app_dir}/switch.log", flags, 0o600)
        for descriptor in (1, 2):
            os.dup2(self.log, descriptor)
        result = self._in_a_child(lambda switch: switch.run(state))
        if result is None:
            self.say("the program that made the switch has died: another one goes back")
            self.request["die_at"] = None
            result = self._in_a_child(lambda switch: switch.recover(state_of(self.app_dir)))
        dead = {"outcome": "failed", "why": "the switch died twice; deploy again"}
        return self._end(result or dead)

    def _in_a_child(self, work: Callable[[Switch], dict[str, Any]]) -> dict[str, Any] | None:
        """What the work comes to; None if its process died."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                answer = json.dumps(_worked(self.request, self.say, work))
                os.write(writing, answer.encode())
            except BaseException:  # the log has the traceback, and the supervisor goes back
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as answers:
            text = answers.read()
        os.waitpid(child, 0)
        return json.loads(text) if text else None

    def say(self, text: str) -> None:
        self._write({"say": text})
        os.write(self.log, f"{text}\n".encode("utf-8", "replace"))

    def _end(self, result: dict[str, Any]) -> int:
        self._write({"result": result})
        return 0

    def _write(self, document: dict[str, Any]) -> None:
        with suppress(OSError):  # nobody listens any more
            os.write(self.pipe, json.dumps(document).encode() + b"\n")


def _worked(
    request: dict[str, Any],
    say: Callable[[str], None],
    work: Callable[[Switch], dict[str, Any]],
) -> dict[str, Any]:
    try:
        switch = Switch(request, say)
        try:
            return work(switch)
        except EngineError as error:
            if switch.has_begun:
                raise
            raise RefusedError(f"the Docker engine: {error}") from None
    except RefusedError as error:
        return {"outcome": "refused", "why": str(error)}


class Switch:
    """One change of what runs on this host."""

    def __init__(self, request: dict[str, Any], say: Callable[[str], None]) -> None:
        self.request, self.say = request, say
        self.app_dir, self.project = request["app_dir"], request["project"]
        os.environ["DOCKER_HOST"] = engine_address()
        self.engine = Control(socket_path(os.environ["DOCKER_HOST"]))
        self.state: dict[str, Any] = {}
        self.began = time.time()
        self.issuances, self.rewritten, self.last_asked = 0, False, 0.0
        self.image = ""
        self.has_begun = False

    def run(self, state: dict[str, Any]) -> dict[str, Any]:
        """What was asked for, unless the host has changed since it was read."""
        request = self.request
        if state.get("generation") != request["seen"]:
            is_ours = state.get("generation") == request["generation"]
            runs = state.get("outcome") == "switched" and state.get("to") == request["release"]
            if request["action"] == "up" and (is_ours or runs):
                return self._result("already", "")
            raise RefusedError(changed_since(state))
        self.state = {
            "generation": request["generation"],
            "by": request["by"],
            "began": self.began,
            "action": request["action"],
            "from": self._running_release(),
            "to": request["release"],
            "phase": "begun",
            "previous": linked(self.app_dir, "previous"),
            "previous_was": state.get("previous_was"),
            "adopted": state.get("adopted"),
            "was_down": state.get("action") == "down" and state.get("outcome") == "down",
        }
        return self._act()

    def _act(self) -> dict[str, Any]:
        action = self.request["action"]
        if action in ("up", "rollback", "revert") and self.request["release"]:
            return self._switch()
        actions = {
            "revert": self._to_nothing,
            "restart": self._restart,
            "down": self._down,
            "stop": self._stop,
            "start": self._start,
        }
        return actions[action]()

    def recover(self, state: dict[str, Any]) -> dict[str, Any]:
        """Goes on where a worker has died: forward if the gate was passed, else back."""
        if state.get("generation") != self.request["generation"]:
            raise RefusedError("the switch died before it had touched anything; deploy again")
        self.state, self.began, self.has_begun = state, state["began"], True
        self._wait_for_engine()
        if "back" not in state:
            return self._act()  # it can be done twice
        if state.get("passed"):
            return self._passed()
        return self._go_back(Back(**state["back"]), "the program that made the switch died")

    # A release

    def _switch(self) -> dict[str, Any]:
        request, release = self.request, str(self.request["release"])
        manifest = manifest_of(self.app_dir, release)
        if manifest is None or (damage := damage_of(self.app_dir, release, manifest)):
            what = damage if manifest else "is not on the host, or was put there by version 0.1"
            raise RefusedError(f"release {release}: {what}; deploy again (make deploy)")
        back = self._way_back(release)
        image = self._image_of(release, manifest)
        kept = Kept(self.app_dir, manifest["token_dir"], manifest["token_file"])
        if request["token"]:
            from binascii import a2b_base64

            kept.bring(a2b_base64(request["token"]), manifest["key"])
        self._bring_mounted_token(kept, manifest)
        adopted = back.adopted or self._stopped_adopted()
        if adopted:
            self._bring_adopted_token(kept, manifest, adopted, is_told=True)
        asks = self._must_ask(kept, manifest)
        if asks and not request["budget"] and request["action"] == "up":
            raise RefusedError(
                f"there is no valid token in {manifest['token_dir']}/{manifest['token_file']}, "
                "though there was one when this deploy began: deploy again"
            )
        self._begin(back)
        self.say(f"switch: {self.state['from'] or 'none'} -> {release}")
        if asks:
            wait_for_kis(request["kis_wait"], self.say)
        try:
            self._bring_up(release, manifest, image, adopted)
        except (FailedError, EngineError, OSError) as error:
            return self._go_back(back, str(error))
        self._note(passed=True)
        self._step("passed")
        return self._passed()

    def _passed(self) -> dict[str, Any]:
        """The release has passed the gate: it is the current one."""
        state = self.state
        if state["from"] != state["to"]:
            is_revert = state["action"] == "revert"  # it also restores what a rollback goes to
            point(self.app_dir, "previous", state["previous_was" if is_revert else "from"])
            state["previous_was"] = None if is_revert else state["previous"]
        point(self.app_dir, "current", state["to"])
        self._step("pointed")
        if state["adopted"]:
            state["adopted"]["replaced"] = True
        self.say(f"release {state['to']} is healthy")
        result = self._finish("switched", "")
        kept = {linked(self.app_dir, name) for name in ("current", "previous")}
        prune(self.app_dir, kept | {state.get("previous_was")})
        return result

    def _bring_up(
        self,
        release: str,
        manifest: dict[str, Any],
        image: str | None,
        adopted: dict[str, Any] | None = None,
    ) -> None:
        """Creates the container of a release, makes the token ready, starts it, and waits for it.

        Raises FailedError.
        """
        files = [f"{release_dir(self.app_dir, release)}/{COMPOSE_FILE}"]
        if image:
            files.append(self._with_image(image))
        again = ["--force-recreate"] if self.state["from"] == release else []
        try:
            compose(self.project, files, ["up", "--no-start", "--no-build", *again])
        except ComposeError as error:
            raise FailedError(f"docker compose up failed:\n{error}") from None
        details = self._one_container()
        if details["State"].get("Running"):
            self.engine.stop(details["Id"])
        self._step("created")
        kept = Kept(self.app_dir, manifest["token_dir"], manifest["token_file"])
        if adopted:
            self._stop_adopted(adopted)
            self._bring_adopted_token(kept, manifest, adopted)  # one that came in the meantime
        self._make_ready(kept, manifest)
        self._step("ready")
        self._start_and_watch(details, manifest, kept)

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
        self, details: dict[str, Any], manifest: dict[str, Any], kept: Kept
    ) -> None:
        """Without Docker's own restarts, each of which could be a request to KIS."""
        container = str(details["Id"])
        tokens = TokenWatch(manifest["token_dir"], manifest["token_file"])
        request = self.request
        rules = Rules(
            request["min_healthy"],
            request["deadline"],
            manifest["health_path"] is not None,
            manifest["token_at_start"],
            manifest["healthcheck"],
            not self._must_ask(kept, manifest),
        )
        self.image = str(details["Image"])
        watch = Watch(self.engine, container, manifest, rules, tokens, self.say)
        passed, why = False, ""
        try:
            self.engine.set_restart_policy(container, "no")
            self._step("started")
            passed, why = watch.run(lambda: self._set_token_aside(manifest))
        except EngineError as error:
            why = str(error)
        finally:
            self.issuances += tokens.issuances
            self.rewritten = self.rewritten or tokens.rewritten
            self.last_asked = max(self.last_asked, tokens.last_issued, watch.was_refused)
        if not passed:
            self._put_token_back(manifest)
            self._explain(container, watch)
            raise FailedError(why)
        self.engine.set_restart_policy(container, manifest["restart"])
        if (watch.details["State"].get("Health") or {}).get("Status") == "unhealthy":
            self.say(
                "Warning: Docker says that this container is unhealthy, though it answers: see the "
                f"HEALTHCHECK of the image {manifest['image']}"
            )

    def _set_token_aside(self, manifest: dict[str, Any]) -> float:
        """Sets the token file aside; how many seconds KIS must be left alone before it is asked."""
        with Directory(manifest["token_dir"]) as directory:
            aside = directory.set_aside(manifest["token_file"], "aside")
        self._note(aside=aside)
        self.say(f"  the token file is set aside: {manifest['token_dir']}/{aside}")
        return max(float(self.request["kis_wait"]), self._left_of_kis_minute())

    def _put_token_back(self, manifest: dict[str, Any]) -> None:
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
        self._note(aside=None)

    def _must_ask(self, kept: Kept, manifest: dict[str, Any]) -> bool:
        """Whether the next gateway asks KIS while it starts, as far as that is certain."""
        state, ends = kept.best(manifest["key"])
        return (
            bool(manifest["token_at_start"])
            and state != "unknown"
            and (ends <= time.time() + MARGIN)
        )

    def _bring_mounted_token(self, kept: Kept, manifest: dict[str, Any]) -> None:
        """A token that only the running container has mounted, in a directory of before."""
        details = self._container()
        if details and details["State"].get("Running") and self._key_that_runs() == manifest["key"]:
            path = f"/app/tokens/{manifest['token_file']}"
            kept.bring(file_of_container(self.engine, details, path), manifest["key"])

    def _key_that_runs(self) -> str | None:
        manifest = manifest_of(self.app_dir, self.state["from"])
        return manifest["key"] if manifest else None

    # The way back

    def _way_back(self, release: str) -> Back:
        """Raises RefusedError if what serves now could not be brought back."""
        adopted = self._adopted()
        if adopted and adopted["running"]:
            return Back("adopted", adopted=adopted)
        details = self._container()
        before = self.state["from"]
        if details is None and (before is None or self.state["was_down"]):
            return Back("nothing")
        if before == release:
            return Back("same", release)
        serves = details is not None and details["State"].get("Running")
        manifest = manifest_of(self.app_dir, before) or _manifest_of_container(details)
        why = "it was not made by a release" if before is None else ""
        if before and manifest and "files" in manifest:
            why = damage_of(self.app_dir, before, manifest)
        elif before and not os.path.isfile(f"{release_dir(self.app_dir, before)}/{COMPOSE_FILE}"):
            why = "is not on the host any more"
        image = str(details["Image"]) if details else self._noted_image(str(before))
        if not why and (not image or self.engine.image(image) is None):
            why = "its image is not on the host any more"
        if not why:
            return Back("release", before, image)
        if serves:
            raise RefusedError(
                f"there is no way back to what runs now (release {before}: {why}), so it is not "
                "touched. If it may be lost, take it down first (make down), and deploy again"
            )
        return Back("nothing")

    def _go_back(self, back: Back, why: str) -> dict[str, Any]:
        release, action = self.state["to"], self.state["action"]
        self.say(f"The {action} to release {release} failed: {why}")
        self._wait_for_engine()
        correct = f"Correct the cause and deploy again: {why.splitlines()[0]}"
        if back.kind == "same":
            self._leave()
            self.say(
                "It is the release that ran before, so there is none to go back to; it was left as "
                "it is."
            )
            return self._finish("left", why)
        if back.kind == "adopted":
            self._remove()
            try:
                self._start_adopted()
            except EngineError as error:
                self.say(
                    f"NO GATEWAY RUNS: the container {back.adopted['name']} could not be started "
                    f"again: {error}"
                )
                return self._finish("failed", why)
            self.say(f"Restored: the container {back.adopted['name']} runs again.")
            self.say(correct)
            return self._finish("restored-adopted", why)
        if back.kind == "nothing":
            self._remove()
            self.say(
                "No release ran before: the container was removed, so that it asks KIS for nothing."
            )
            return self._finish("removed", why)
        try:
            self._restore(str(back.release), back.image)
        except (FailedError, EngineError, OSError) as error:
            self.say(f"Restoring release {back.release} failed too: {error}")
            self._say_what_serves(str(back.release))
            self.say(f"See: docker compose --project-name {self.project} ps")
            self._leave()
            return self._finish("failed", why)
        self.say(f"Restored: release {back.release} runs again and is healthy.")
        self.say(correct)
        return self._finish("restored", why)

    def _restore(self, release: str, image: str | None) -> None:
        manifest = manifest_of(self.app_dir, release) or self.state.get("manifest_before")
        if manifest is None:
            raise FailedError(f"the manifest of release {release} is not on the host")
        self._put_token_back(manifest)
        found = self.engine.image(manifest["image"])
        kept = Kept(self.app_dir, manifest["token_dir"], manifest["token_file"])
        if self._must_ask(kept, manifest):
            wait_for_kis(self._left_of_kis_minute(), self.say)
        is_same = found is not None and found.get("Id") == image
        self._bring_up(release, manifest, None if is_same else image)

    def _leave(self) -> None:
        """Leaves a container that failed as Docker would: a crash loop stays stopped."""
        details = self._container()
        if details is None:
            return
        if not details["State"].get("Running") and self._left_of_kis_minute():
            self.say(
                "KIS refuses it a token: the container stays stopped, so that it asks no more."
            )
            return
        try:
            self.engine.set_restart_policy(details["Id"], "unless-stopped")
            self.engine.start(details["Id"])
        except EngineError as error:
            self.say(f"The container cannot be started: {error}")

    # Other actions

    def _to_nothing(self) -> dict[str, Any]:
        self._begin()
        self.say(f"switch: {self.state['from'] or 'none'} -> none")
        self._remove()
        point(self.app_dir, "current", None)
        if self.state["adopted"]:
            try:
                self._start_adopted()
            except EngineError as error:
                name = self.state["adopted"]["name"]
                why = f"the container {name} could not be started again: {error}"
                self.say(f"NO GATEWAY RUNS: {why}")
                return self._finish("failed", why)
        return self._finish("reverted", "")

    def _down(self) -> dict[str, Any]:
        self._begin()
        self._remove()
        return self._finish("down", "")

    def _stop(self) -> dict[str, Any]:
        """Stops a crash loop: each of its starts would be one more request to KIS."""
        adopted = self._adopted()
        self._begin()
        details = self._container()
        if details:
            self.engine.stop(details["Id"])
        if adopted and adopted["running"]:
            self._stop_adopted(adopted)
        return self._finish("stopped", "")

    def _start(self) -> dict[str, Any]:
        self._begin()
        details = self._container()
        if details:
            self.engine.start(details["Id"])
        if self.state["adopted"] and not self.state["adopted"].get("replaced"):
            self._start_adopted()
        return self._finish("started", "")

    def _restart(self) -> dict[str, Any]:
        """Raises RefusedError if there is no container of a release to restart."""
        details = self._container()
        release = self.state["from"]
        manifest = manifest_of(self.app_dir, release)
        if details is None or manifest is None:
            raise RefusedError("no release runs here that could be restarted: deploy first")
        self.state["to"] = release
        kept = Kept(self.app_dir, manifest["token_dir"], manifest["token_file"])
        asks = self._must_ask(kept, manifest)
        self._begin()
        self.say(f"restart of release {release}")
        if asks:
            wait_for_kis(self.request["kis_wait"], self.say)
        try:
            self.engine.stop(details["Id"])
            self._step("created")
            self._make_ready(kept, manifest)
            self._step("ready")
            self._start_and_watch(details, manifest, kept)
        except (FailedError, EngineError) as error:
            self.say(f"The restart failed: {error}")
            self._leave()
            return self._finish("failed", str(error))
        return self._finish("restarted", "")

    # Containers

    def _container(self) -> dict[str, Any] | None:
        """The gateway's container; of several, as a re-creation that was cut off leaves, one."""
        found = self._containers()
        running = [details for details in found if details["State"].get("Running")]
        return next(iter([*running, *found]), None)

    def _containers(self) -> list[dict[str, Any]]:
        ids = [
            str(summary.get("Id"))
            for summary in self.engine.containers(all=True)
            if kind_of(labels_of(summary), self.request) == "ours"
        ]
        return [details for each in ids if (details := self.engine.inspect(each))]

    def _one_container(self) -> dict[str, Any]:
        found = self._containers()
        if len(found) != 1:
            raise FailedError(f"docker compose up has left {len(found)} containers, not one")
        return found[0]

    def _remove(self) -> None:
        """Removes the gateway's containers and networks, as `docker compose down` does."""
        for details in self._containers():
            self.engine.stop(details["Id"])
            self.engine.remove(details["Id"])
        label = f"com.docker.compose.project={self.project}"
        for network in self.engine.get("/networks", {"filters": {"label": [label]}}):
            try:
                self.engine.remove_network(str(network["Id"]))
            except EngineError as error:  # another container uses it
                self.say(f"The network {network.get('Name')} stays: {error}")

    def _running_release(self) -> str | None:
        """The release of the container, or else the one that `current` points at."""
        details = self._container()
        if details:
            labels = details["Config"].get("Labels") or {}
            path = compose_file_of(labels).split(",")[0]
            release = os.path.basename(os.path.dirname(path))
            if path.startswith(f"{self.app_dir}/releases/") and is_id(release):
                return release
        return linked(self.app_dir, "current")

    def _image_of(self, release: str, manifest: dict[str, Any]) -> str | None:
        """The id of the release's image if its name does not lead to it any more, else None."""
        found = self.engine.image(manifest["image"])
        noted = self._noted_image(release)
        # A deploy has just put the image there; a release of before goes by what it ran.
        if found and (self.request["action"] == "up" or noted in ("", found.get("Id"))):
            return None
        if noted and self.engine.image(noted):
            return noted
        raise RefusedError(
            f"the image {manifest['image']} of release {release} is not on the host: deploy again"
        )

    def _noted_image(self, release: str) -> str:
        return text_of(f"{release_dir(self.app_dir, release)}/image").strip()

    def _with_image(self, image: str) -> str:
        """A compose file that runs an image by its id."""
        path = f"{self.app_dir}/.image.yml"
        services = {self.request["service"]: {"image": image}}
        write_file(path, json.dumps({"services": services}).encode(), 0o600)
        return path

    # A gateway that was started by other means

    def _adopted(self) -> dict[str, Any] | None:
        """The container that is to be replaced, as `state.json` remembers it; None if none is."""
        known = self.state["adopted"]
        for summary in self.engine.containers(all=True):
            if not self.request["adopt"] or name_of(summary) != self.request["adopt"]:
                continue
            details = self.engine.inspect(str(summary.get("Id")))
            if details is None or kind_of(labels_of(summary), self.request) == "ours":
                return None
            if known and known["id"] == details["Id"]:
                return None if known.get("replaced") else dict(known)
            policy = details["HostConfig"].get("RestartPolicy") or {}
            return {
                "id": details["Id"],
                "name": self.request["adopt"],
                "policy": policy.get("Name") or "no",
                "retries": policy.get("MaximumRetryCount") or 0,
                "running": bool(details["State"].get("Running")),
            }
        return None

    def _stopped_adopted(self) -> dict[str, Any] | None:
        adopted = self._adopted()
        return adopted if adopted and not adopted["running"] else None

    def _bring_adopted_token(
        self, kept: Kept, manifest: dict[str, Any], adopted: dict[str, Any], is_told: bool = False
    ) -> None:
        details = self.engine.inspect(adopted["id"])
        if details is None:
            return
        path = adopted_token_path(details, self.request)
        content = file_of_container(self.engine, details, path)
        if kept.bring(content, manifest["key"]):
            self.say(f"the token of the container {adopted['name']} is taken over")
        elif is_told and content:
            self.say(
                f"the token of the container {adopted['name']} ends no later than the one that is "
                "here: this one is used"
            )
        elif is_told:
            self.say(f"the container {adopted['name']} has no token at {path}")

    def _stop_adopted(self, adopted: dict[str, Any]) -> None:
        # Stopped first: the engine cannot update a container that exits at the same moment.
        self._note(adopted=adopted)
        self.engine.stop(adopted["id"])
        self.engine.set_restart_policy(adopted["id"], "no")

    def _start_adopted(self) -> None:
        adopted = self.state["adopted"] or (self.state.get("back") or {}).get("adopted")
        if adopted and adopted["running"]:
            self.engine.set_restart_policy(adopted["id"], adopted["policy"], adopted["retries"])
            self.engine.start(adopted["id"])
        self._note(adopted=None)

    # What is kept and told

    def _begin(self, back: Back | None = None) -> None:
        """From here on something may be touched."""
        if back:
            self.state["back"] = back._asdict()
            if back.kind == "release" and manifest_of(self.app_dir, back.release) is None:
                self.state["manifest_before"] = _manifest_of_container(self._container())
        self.has_begun = True
        store_state(self.app_dir, self.state)
        self._step("begun")

    def _note(self, **changes: Any) -> None:
        self.state.update(changes)
        store_state(self.app_dir, self.state)

    def _step(self, name: str) -> None:
        if self.request.get("die_at") == name:
            os.kill(os.getpid(), signal.SIGKILL)

    def _finish(self, outcome: str, why: str) -> dict[str, Any]:
        if outcome == "switched" and self.state["to"]:
            path = f"{release_dir(self.app_dir, self.state['to'])}/image"
            details = self._container()
            if details:
                self.image = str(details["Image"])
                write_file(path, self.image.encode(), 0o600)
        state = self.state
        for name in ("back", "passed", "manifest_before"):
            state.pop(name, None)
        self._note(phase="ended", outcome=outcome, why=why[:1000])
        record(
            self.app_dir,
            {
                "began": int(self.began * 1000),
                "seconds": round(time.time() - self.began, 3),
                "by": state["by"],
                "action": state["action"],
                "from": state["from"] or "",
                "to": state["to"] or "",
                "image": self.image,
                "outcome": outcome,
                "issuances": self.issuances,
            },
        )
        if self.rewritten:
            self.say("The token file was rewritten; whether KIS was asked cannot be told.")
        if state["action"] not in ("down", "stop", "start"):
            self.say(f"issuances: {self.issuances} (budget {self.request['budget']})")
        return self._result(outcome, why)

    def _result(self, outcome: str, why: str) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "generation": self.request["generation"],
            "issuances": self.issuances,
            "rewritten": self.rewritten,
            "asked": self.last_asked > 0,
            "why": why,
        }

    def _left_of_kis_minute(self) -> float:
        if not self.last_asked:
            return 0.0
        return max(0.0, self.last_asked + KIS_MINUTE - time.monotonic())

    def _wait_for_engine(self) -> None:
        deadline = time.monotonic() + ENGINE_SECONDS
        while time.monotonic() < deadline:
            try:
                self.engine.containers()
                return
            except EngineError:
                time.sleep(0.5)

    def _explain(self, container: str, watch: Watch) -> None:
        """What the gate asked and was answered, and the log's first error and last lines."""
        if watch.heard:
            self.say(f"  the gate asked: {watch.heard}")
        try:
            log = self.engine.logs(container, watch.since, limit=1 << 20)
        except EngineError:
            return
        lines = excerpt(log.decode("utf-8", "replace"), self._secrets())
        self.say(f"--- log of the container {container[:12]}: its first error and its last lines")
        for line in lines:
            self.say(line)
        self.say("---")

    def _secrets(self) -> set[str]:
        """The values of secrets and environment files: no log shows them."""
        found: set[str] = set()
        for release in {self.state["from"], self.state["to"]} - {None}:
            directory = release_dir(self.app_dir, release)
            try:
                values = json.loads(text_of(f"{directory}/secrets.json"))
                found |= {str(value) for value in values.values()}
            except (ValueError, AttributeError):
                pass
            lines = text_of(f"{directory}/gateway.env").splitlines()
            found |= {line.partition("=")[2].strip("\"' ") for line in lines}
        return {value for value in found if len(value) >= 8}

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
            where = f"http://{manifest['address']}:{manifest['port']}{path}"
            self.say(f"THE GATEWAY DOES NOT SERVE: {where} was asked just now: {heard}")


def _manifest_of_container(details: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a manifest says, read off a container whose release has none; None if that fails."""
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
        "address": "127.0.0.1" if address in ("", "0.0.0.0") else address,  # noqa: S104
        "port": int(published[0]["HostPort"] if published else variables.get("PORT", "8080")),
        "health_path": "/health",
        "healthcheck": False,
        "token_at_start": False,
        "restart": "unless-stopped",
        "key": key,
        "image": config["Image"],
    }
