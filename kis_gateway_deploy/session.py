"""One run over an inventory: what is desired, what was read, what is planned, how far it came."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from jinja2 import TemplateError
from pyinfra import logger
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_state

from kis_gateway_deploy import requests
from kis_gateway_deploy.display import closed_window, window_time
from kis_gateway_deploy.fleet import SettingsError, validate_fleet
from kis_gateway_deploy.issuance import (
    WORTH_KEEPING,
    Gateway,
    external_gateway,
    gateway_of,
    mounted_token_left,
    without_token,
)
from kis_gateway_deploy.outcomes import NO_GATE, Gate, Switches
from kis_gateway_deploy.plans import Plan, Step, make_plan, plan_to_remove, plan_without_python
from kis_gateway_deploy.reading import Reading, StoredRelease, escaped, parse_reading
from kis_gateway_deploy.reasons import old_directory
from kis_gateway_deploy.refusals import NEEDS_ROOT, refusals_to_run
from kis_gateway_deploy.registry import (
    ImageReference,
    NoDigestError,
    find_digest,
    kept_digest,
)
from kis_gateway_deploy.release import Release, make_release
from kis_gateway_deploy.remote import NoPythonError, RemoteError, ask
from kis_gateway_deploy.rollout import Rollout
from kis_gateway_deploy.settings import PREFIXES, Settings
from kis_gateway_deploy.windows import KOREA, Window, closes_at, is_open

CANNOT_READ = (
    "the host could not be read as root; its own words are above. If they are sudo's: let the "
    "SSH user use sudo without a password, or run with --use-sudo-password. If the user is root "
    "already, set `_sudo` to False"
)
INSTALL_PYTHON = "this host has no python3: deploy to it (make deploy), or install it"
ATTRIBUTE = "kis_gateway_session"
REFUSED = "kis_gateway_refused"  # of a state whose run was refused, which the last line says
ADOPTS = "kis_gateway_adopts"  # of a state whose run describes a container: how that ended
READING_VERBS = {"plan", "drift", "status"}


class Refused(PyinfraError):
    """Ends the run before any host is touched: pyinfra prints the message and exits with 1."""


class NotAllReadError(RuntimeError):
    """Something was asked that can be told only when every host has been read: a bug."""


@dataclass(frozen=True)
class Target:
    """One host: what is desired of it, how it was found, and what that takes.

    `release_id` is what shall run in the end; `reading` is None if the host could not be read.
    """

    name: str
    settings: Settings
    release: Release
    release_id: str
    reading: Reading | None
    plan: Plan
    has_python: bool = True

    @property
    def is_unreadable(self) -> bool:
        return self.reading is None and self.has_python

    @property
    def key_fingerprint(self) -> str:
        """The fingerprint of the app key of what shall run."""
        return self.stored.key if self.stored else self.release.key_fingerprint

    @property
    def stored(self) -> StoredRelease | None:
        """What shall run, as the host has stored it: an older release may keep its token in
        another way than the settings say now."""
        return self.reading.releases.get(self.release_id) if self.reading else None

    def gateway(self, reading: Reading) -> Gateway:
        """The token's state for the release that shall run."""
        key, how = self.key_fingerprint, self.stored or self.settings
        if self.settings.token_store != "file":
            return external_gateway(reading, key)
        # The app key of a gateway in place is unknown here, so it shares no token.
        file = self.name if self.settings.is_in_place else how.token_file
        return gateway_of(reading, key, how.token_at_start, file, how.tokens_expected)


class Session:
    """One pyinfra state's run. Hosts without any setting of ours take no part."""

    def __init__(self, state: State) -> None:
        """Raises Refused if a setting is wrong, or a release cannot be made."""
        self.state = state
        self.inventory = state.inventory
        self.targets: dict[str, Target] = {}
        self.connector: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.tokens: dict[tuple[str, str, int], str] = {}  # in base64, by donor, key and batch
        self.interrupted = ""  # by which signal
        self.exit_status = 0  # of a run that a signal has ended
        self.began = time.monotonic()
        self.switches: dict[str, Switches] = {}  # of each host that was asked to switch
        self.why: dict[str, str] = {}  # what failed last on a host
        self.looked: dict[str, Reading] = {}  # after the switch
        self.plan_count = ""  # said before the last line
        self.says_steps = False
        self.is_rolling_out = False
        self.verb = self.release_asked = ""
        self.about = ""  # the release whose token counts, if it is not the desired one
        self.begun: set[str] = set()
        self.is_executed = self.is_concluded = False
        self.untouched: set[str] = set()  # they were refused, or because others were
        self.counts_issuances = self.prints_json = False
        self._rollout: Rollout | None = None
        self._lock = Lock()  # hosts are read side by side
        self.one_at_a_time = Lock()  # the first host of a batch takes a token for all of them
        self._digests: dict[tuple[str, Path | None], str | NoDigestError] = {}
        self.desired = self._make_desired()

    @classmethod
    def current(cls) -> Session:
        """That of pyinfra's current state; made when it is asked for first."""
        state = ctx_state.get()
        with _one_is_made:
            found: Session | None = getattr(state, ATTRIBUTE, None)
            if found is None:
                found = cls(state)
                setattr(state, ATTRIBUTE, found)
            return found

    def _make_desired(self) -> dict[str, tuple[Settings, Release]]:
        data = {each.name: each.data.dict() for each in self.inventory}
        ours = {
            name: values
            for name, values in data.items()
            if any(str(key).startswith(PREFIXES) for key in values)
        }
        try:
            settings = validate_fleet(ours)
        except SettingsError as error:
            raise Refused(str(error)) from None
        try:
            return {
                name: (each, make_release(each, digest=digest if isinstance(digest, str) else ""))
                for name, each in settings.items()
                for digest in [self._digest(each)]
            }
        except (OSError, ValueError, KeyError, TemplateError) as error:
            raise Refused(f"no host was touched: the release cannot be made: {error}") from None

    def _digest(self, settings: Settings) -> str | NoDigestError:
        """What the registry says that the image is now, or why it did not say that."""
        if settings.is_in_place or settings.image_source != "registry":
            return ""
        if ImageReference.parse(settings.image).digest:
            return ""
        asked = settings.image, settings.registry_auth_file
        if asked not in self._digests:
            try:
                self._digests[asked] = find_digest(*asked)
            except NoDigestError as error:
                self._digests[asked] = error
        return self._digests[asked]

    # Reading and planning

    def begin(self, verb: str, name: str) -> None:
        """Raises Refused for a second verb in one run: its plan would be of an old reading."""
        if name in self.begun:
            raise Refused(
                f"{self.verb}() and then {verb}() in one run: the second would use what was read "
                "before the first. Run pyinfra once for each"
            )
        self.verb = verb
        self.begun.add(name)

    def takes_part(self, host: Host) -> bool:
        return host.name in self.desired

    def connect(self, host: Host) -> None:
        """Keeps how the host in context is asked, such as with sudo; to be called before it is."""
        arguments, _ = pop_global_arguments(host.state, host, {})
        self.connector[host.name] = {
            name: value for name, value in arguments.items() if name in CONNECTOR_ARGUMENT_KEYS
        }

    def read(self, host: Host, history: int = 0, probe: bool = False) -> Target:
        """Reads a host and plans for the release that its settings ask for.

        `history`: how many lines of the host's history the reading holds. `probe`: whether the
        gateway is asked with `gateway_probe`.
        """
        self.connect(host)
        settings, release = self.desired[host.name]
        try:
            reading = self._reading(host, history, probe)
        except NoPythonError:
            plan = plan_without_python(settings)
            target = Target(host.name, settings, release, release.id, None, plan)
            return self._note(replace(target, has_python=False))
        refusals: list[str] = []
        if reading and reading.uid != 0:  # it holds nothing but the machine
            reading, refusals = None, [NEEDS_ROOT]
        missing = self._digest(settings)
        if reading and isinstance(missing, NoDigestError):
            kept = kept_digest(settings.image, reading.current_compose) if missing.silent else ""
            if kept:
                pinned = f"{settings.image}@{kept}"
                logger.warning(f"{host.print_prefix}{missing.why}; {pinned} runs here and is kept")
                release = make_release(settings, digest=kept)
                self.desired[host.name] = settings, release
                reading = self._reading(host, history, probe)  # of that release
            else:
                refusals = [str(missing)]
        if reading and not refusals:
            plan = make_plan(settings, release, reading)
        else:
            plan = Plan(refusals=refusals or [CANNOT_READ])
        return self._note(Target(host.name, settings, release, release.id, reading, plan))

    def _note(self, target: Target) -> Target:
        self.targets[target.name] = target
        if self._rollout and not self._rollout.generations:
            self._rollout = None  # it was planned from an older reading, and has done nothing yet
        return target

    def _reading(
        self, host: Host, history: int = 0, probe: bool = False, about: str = ""
    ) -> Reading | None:
        """None if the host could not be read; its own words are then on the screen."""
        about = about or self.about
        request = requests.read_request(*self.desired[host.name], history, probe, about)
        try:
            answer = ask(host, "read", request, connector=self.connector.get(host.name))
            return parse_reading(answer, arrived=time.time())
        except NoPythonError:
            raise
        except (RemoteError, ValueError) as error:
            for line in str(error).splitlines():
                logger.error(f"{host.print_prefix}{escaped(line)}")
            return None

    def look_at(self, name: str) -> str:
        """What is wrong with a host that was switched, as a client sees it; empty if nothing is."""
        host = self.inventory.get_host(name)
        reading = self._reading(host, about="current")
        if reading is None:
            return "could not be looked at after its switch"
        self.looked[name] = reading
        gateway = next(iter(reading.gateways), None)
        if gateway is None or gateway.status != "running":
            return f"the container is {gateway.status if gateway else 'gone'} after its switch"
        if reading.client_sees and not reading.client_sees.is_good:
            return f"a client gets: {reading.client_sees}, after its switch"
        return ""

    def plan_to_run(self, host: Host, release_id: str | None, restart: bool = False) -> Target:
        """Reads a host and plans to run a release that is there already.

        `release_id`: None for the release that runs, empty for the one before it. `restart`: its
        container stays, with what it has mounted.
        """
        self.release_asked = release_id or ""
        self.about = "current" if release_id is None else release_id or "previous"
        target = self.read(host)
        reading = target.reading
        refusals = [] if reading else target.plan.refusals or [INSTALL_PYTHON]
        if reading and release_id == "":
            release_id = reading.previous
            if not release_id:
                refusals = ["no release ran before this one, so there is none to go back to"]
        if reading and release_id and release_id not in reading.releases:
            there = ", ".join(reading.releases)
            refusals = [f"release {release_id} is not on this host; these are: {there}"]
        if reading and restart and (old := old_directory(target.settings, reading)):
            refusals = [f"{old}: a restart would keep that; re-create the container (make deploy)"]
        if reading:
            refusals = refusals_to_run(target.settings, reading) or refusals
        desired_id = release_id or (reading.current if reading else None) or ""
        step = Step("switch", f"release {desired_id} is asked for")
        plan = Plan((step,), refusals, warnings=target.plan.warnings)
        return self._note(replace(target, release_id=desired_id, plan=plan))

    def plan_to_renew(self, host: Host) -> Target:
        """Reads a host and plans to give its gateway a new token."""
        target = self.plan_to_run(host, release_id=None, restart=True)
        refusals = list(target.plan.refusals)
        if target.settings.token_store == "external":
            refusals.append(
                "the gateway keeps its token elsewhere (gateway_token_store): restart it (make "
                "restart)"
            )
        step = Step("switch", "the token is set aside, and the gateway gets a new one")
        return self._note(
            replace(target, plan=replace(target.plan, steps=(step,), refusals=refusals))
        )

    def plan_to_remove(self, host: Host) -> Target:
        """Reads a host and plans to remove its container, whatever runs in it."""
        target = self.plan_to_run(host, release_id=None)
        plan = plan_to_remove(target.plan, target.settings, target.reading)
        return self._note(replace(target, plan=plan))

    # All hosts

    @property
    def names(self) -> list[str]:
        """The hosts of this run that take part, in the inventory's order."""
        limit = self.state.limit_hosts
        return [
            each.name
            for each in self.inventory
            if each.name in self.desired and (not limit or each in limit)
        ]

    def surveyed(self) -> dict[str, Target | None]:
        """Every host of the run in the inventory's order; None for one that did not answer."""
        return {name: self.targets.get(name) for name in self.names}

    def dropped_out(self) -> set[str]:
        """The hosts that were not reached or have failed so far."""
        return {each.name for each in self.state.failed_hosts} & set(self.names) | set(self.failed)

    def not_read(self) -> list[str]:
        """The hosts that are still to be read: they have not failed."""
        known = self.targets.keys() | self.dropped_out()
        return [name for name in self.names if name not in known]

    def all_are_read(self) -> bool:
        """Whether every host was read; one without python3 is read once that is installed."""
        return all(target is None or target.reading for target in self.surveyed().values())

    def why_untouched(self, name: str) -> list[str]:
        """Why nothing may be touched on this host: its own refusals, or another host's.

        To be asked when every host has been read.
        """
        if own := self._refusals(name):
            return own
        refused = {other for other in self.targets if self._refusals(other)}
        if others := sorted(refused | self.dropped_out()):
            return [f"not touched, because of {', '.join(others)} (see there)"]
        return []

    def _refusals(self, name: str) -> list[str]:
        found = [self._beyond_the_limit(name), self._outside_the_window(name)]
        return [*self.targets[name].plan.refusals, *filter(None, found)]

    def late_refusal(self, name: str) -> str:
        """Why a host may not be switched that could be read only after python3 was installed."""
        target = self.targets.get(name)
        if target is None or target.reading is None or name in self.dropped_out():
            return ""
        return "; ".join(self._refusals(name))

    def mounted_elsewhere(self, name: str) -> bool:
        """Whether a token that lasts is in a directory that only the running container has."""
        target = self.targets.get(name)
        if target is None or target.reading is None:
            return False
        return mounted_token_left(target.reading, target.key_fingerprint) > WORTH_KEEPING

    # The window

    @property
    def window(self) -> Window | None:
        return next((settings.window for settings, _ in self.desired.values()), None)

    @property
    def is_forced(self) -> bool:
        """Whether host data `force` is 1 (FORCE=1): the window is ignored."""
        return all(self.inventory.get_host(name).data.get("force") == 1 for name in self.desired)

    @property
    def is_forced_now(self) -> bool:
        """Whether a change now is outside of the window, and is made all the same."""
        return self.is_forced and not is_open(self.window, datetime.now(KOREA))

    @cached_property
    def decided_at(self) -> datetime:
        """When it was told whether the window is open: once, before any host is touched."""
        return datetime.now(KOREA)

    def closed_window(self) -> str:
        """Until when the window is closed, in words; empty if it is open."""
        return closed_window(self.window, self.decided_at)

    def _outside_the_window(self, name: str) -> str:
        is_free = self.is_forced or self.verb in READING_VERBS
        if is_free or not self.targets[name].plan.steps or not (why := self.closed_window()):
            return ""
        return (
            f"{why} (rollout_window): try again then, or go on now with FORCE=1 (pyinfra: --data "
            "force=1)"
        )

    def stop_reason(self) -> str:
        """Why no further batch may begin: a signal, or the end of the window; empty if none."""
        if self.interrupted:
            return f"interrupted ({self.interrupted})"
        closes = None if self.is_forced else closes_at(self.window, self.decided_at)
        if closes and closes <= datetime.now(KOREA):
            return f"the window closed at {window_time(closes)}"
        return ""

    # The rollout

    @property
    def rollout(self) -> Rollout:
        """The batches of the hosts that have something to switch.

        Raises NotAllReadError as long as a host is missing that has not failed.
        """
        if missing := self.not_read():
            raise NotAllReadError(f"these hosts have not been read: {', '.join(missing)}")
        with self._lock:
            if self._rollout is None:
                self._rollout = self._plan_rollout()
            return self._rollout

    def _plan_rollout(self) -> Rollout:
        members = [
            name
            for name, target in self.surveyed().items()
            if target and target.reading and target.plan.does("switch")
        ]
        settings = next(iter(self.desired.values()))[0]
        gateways = {
            name: target.gateway(target.reading)
            for name, target in self.targets.items()
            if target.reading
        }
        if self.verb == "renew":
            gateways = {name: without_token(each) for name, each in gateways.items()}
        return Rollout.plan(
            members,
            settings.rollout_batches,
            gateways,
            settings.rollout_share_token,
            time.monotonic(),
        )

    def _beyond_the_limit(self, name: str) -> str:
        """That a host would ask KIS though one that `--limit` leaves out may have its token.

        From six hours on a new token ends the old one for all (FACTS of KIS's token API).
        """
        settings, key = self.desired[name][0], self.targets[name].key_fingerprint
        if self.verb == "renew":
            return self._left_out(key)
        if not settings.rollout_share_token or settings.is_in_place:
            return ""
        if name not in self.rollout.issuances.issuers:
            return ""
        others = [
            other
            for other, (_, theirs) in self.desired.items()
            if other not in self.names and theirs.key_fingerprint == key
        ]
        if not others:
            return ""
        return (
            f"no host within the limit has a token of this app key, and {', '.join(others)} may "
            "have one, which a new token would end: run without a limit (up-to-date hosts get no "
            "command), or set rollout_share_token = False"
        )

    def _left_out(self, key: str) -> str:
        """That a new token would end the one of hosts that `--limit` leaves out."""
        others = [
            other
            for other, (settings, theirs) in self.desired.items()
            if other not in self.names
            and theirs.key_fingerprint == key
            and not settings.is_in_place
        ]
        if not others:
            return ""
        return (
            f"a new token would end the token of {', '.join(others)}, which has the same app key: "
            "run without a limit"
        )

    # What became of the hosts

    def note_switch(
        self, name: str, release: str | None, outcome: str, gate: Gate = NO_GATE
    ) -> None:
        """To be told of every request to switch a host to a release, and what it came to."""
        if name not in self.switches:
            self.switches[name] = Switches(self.ran_before(name))
        self.switches[name].note(release, outcome, gate)

    def ran_before(self, name: str) -> str | None:
        """The release that ran when the host was read; None if none ran, or it is not known."""
        target = self.targets.get(name)
        reading = target.reading if target else None
        return reading.current if reading and reading.gateways else None

    def issued(self, name: str) -> int:
        """How many issuances of a host were counted in this run."""
        return self._rollout.counted.get(name, 0) if self._rollout else 0

    def is_reverted(self, name: str) -> bool:
        return self._rollout is not None and name in self._rollout.progress.reverted

    def seen(self, name: str) -> str | None:
        """The generation of a host as this run knows it: what was read, or what it made of it."""
        reading = self.targets[name].reading
        read = reading.state.generation if reading and reading.state else None
        return self._rollout.generations.get(name, read) if self._rollout else read


_one_is_made = Lock()
