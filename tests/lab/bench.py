"""What every fault has in common: hosts under traffic, and what must hold after each fault."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from kis_gateway_deploy.host.tokens import examine
from lab.lab import ask_simulator
from tests.lab.fleet import Fleet, changed
from tests.tools import Outcome, get, wait_for

APP = "/opt/kis-gateway"
TOKENS = "/docker_data/kis_tokens"
TOKEN = f"{TOKENS}/kis_token.json"
GATEWAY = "kis-kis-gateway-1"
KIS_MINUTE = 61.0
TOKEN_BEGINS = "eyJ0eXAiOiJKV1Q"  # the simulator's
SEED = int(os.environ.get("FAULTS_SEED") or time.time())
"""Decides the random moments; a later run with the same seed has the same moments."""

Injection = Callable[["Bench"], Iterator[Outcome]]
"""Injects a fault and yields the outcome of the run that meets it. Afterwards it does what the
message tells an operator to do; a fault that the next deploy survives by itself needs nothing."""


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    `says`: words of the run's output. `fails`: whether the run must fail; None: either is right.
    `is_down`: the gateway of the bench's host cannot serve before the repair. `on_all`: the run
    deploys to all hosts. `issuances` and `rejections`: the most that KIS may count. `is_short`:
    part of `make test-lab`.
    """

    group: str
    name: str
    inject: Injection
    says: str = ""
    fails: bool | None = False
    is_down: bool = False
    on_all: bool = False
    issuances: int = 0
    rejections: int = 0
    is_short: bool = False


class Client:
    """Asks one host's gateway for /health all the time, and notes when it was answered."""

    def __init__(self, find_address: Callable[[], str]) -> None:
        self.find_address, self.address = find_address, find_address()
        self.answered = self.longest = 0.0
        self.failed_since: float | None = None
        self.is_ended = threading.Event()
        self.thread = threading.Thread(target=self._ask_all_the_time, daemon=True)
        self.thread.start()

    def _ask_all_the_time(self) -> None:
        while not self.is_ended.wait(0.2):
            began = time.monotonic()
            if self._is_answered():
                if self.failed_since is not None:
                    self.longest = max(self.longest, began - self.failed_since)
                self.failed_since, self.answered = None, time.monotonic()
            elif self.failed_since is None:
                self.failed_since = began

    def _is_answered(self) -> bool:
        connection = http.client.HTTPConnection(self.address, 8080, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def is_answered_after(self, moment: float) -> bool:
        return self.answered > moment

    def begin(self) -> None:
        self.longest = 0.0

    def outage(self) -> float:
        """The longest outage since `begin`, in seconds."""
        since = self.failed_since
        return max(self.longest, time.monotonic() - since if since else 0.0)

    def end(self) -> None:
        self.is_ended.set()
        self.thread.join()


@dataclass
class Row:
    """What was seen of a fault; `problem` is empty if it was survived."""

    group: str
    name: str
    says: str
    ended: str = "-"
    outage: float = 0.0
    issuances: int = 0
    problem: str = ""


@dataclass
class Bench:
    """The fleet, a client for each host, and the host of the fault at hand."""

    fleet: Fleet
    broken: dict[str, Any]
    longest: float
    """Seconds of a changed rollout of all hosts."""
    host: str = "lab-1"
    clients: dict[str, Client] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    counted: dict[str, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        return self.fleet.names

    # What an injection uses

    def up(self, **changes: Any) -> Outcome:
        """Deploys a changed release to the host of the fault."""
        return self.run("up", **changed() | changes)

    def run(self, verb: str, **changes: Any) -> Outcome:
        data = {self.host: self.fleet.settings | changes}
        return self.fleet.run_with(data, f"deploy/{verb}.py")

    def up_broken(self, environment: dict[str, str], **changes: Any) -> Outcome:
        """Deploys the image that misbehaves as `environment` says (`conftest.SERVER`)."""
        habits = {"gateway_environment": environment, "gateway_token_at_start": False}
        deadline = {"rollout_healthy_deadline": 15}
        return self.up(**self.broken | habits | deadline | changes)

    def root(self, script: str, host: str = "") -> str:
        return self.fleet.in_container(host or self.host, "sh", "-ec", script)

    def simulator(self, method: str, path: str, body: object = None) -> Any:
        return ask_simulator(self.fleet.lab, method, path, body)

    def account(self, host: str = "") -> dict[str, str]:
        """The app key and secret of a host."""
        [found] = [each for each in self.fleet.lab.hosts() if each.name == (host or self.host)]
        account: dict[str, str] = json.loads(Path(found.secrets_file).read_text())
        return account

    def kis_answers(self, kind: str, **more: Any) -> None:
        """From now on, KIS answers this host's issuances with a fault."""
        key = self.account()["kis-r-app-key"]
        fault = {"path": "/oauth2/tokenP", "kind": kind, "app_key": key}
        self.simulator("POST", "faults", fault | more)

    # What holds after each fault

    def survives(self, fault: Fault) -> Row:
        """Injects a fault and checks what must hold; the row says what did not."""
        row = Row(fault.group, fault.name, fault.says)
        for client in self.clients.values():
            client.begin()
        try:
            self._survive(fault, row)
        except (AssertionError, OSError) as error:
            row.problem = str(error) or type(error).__name__
        finally:
            row.outage = max(client.outage() for client in self.clients.values())
        if row.problem:
            self._repair()
        return row

    def _repair(self) -> None:
        """Makes the bench ready for the next fault, whatever this one has left."""
        self.simulator("DELETE", "faults")
        with suppress(AssertionError):
            wait_for(lambda: self.fleet.switching() == [], "no switch is under way any more", 90)
        for _ in range(2):
            if self.fleet.up().status == 0:
                break
            self.simulator("PUT", "clock", {"advance": KIS_MINUTE})
            self.fleet.run("deploy/down.py")
            time.sleep(KIS_MINUTE)

    def _survive(self, fault: Fault, row: Row) -> None:
        self._choose_host(fault)
        tokens, counted = self._tokens(), self._counted()
        with contextmanager(fault.inject)(self) as outcome:
            row.ended = str(outcome.status)
            self._check_output(fault, outcome)
            try:
                self._assert_served("under the fault", but=self.host if fault.is_down else "")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{outcome.output}") from None
        hosts = self.names if fault.on_all else [self.host]
        wait_for(lambda: not self._switching(hosts), "no switch is under way any more", 90)
        data = dict.fromkeys(hosts, self.fleet.settings)
        last = self.fleet.run_with(data, "deploy/up.py")
        assert last.status == 0, f"the next deploy failed: {last.output}"
        self._check_no_secret(last)
        self._assert_served("after the next deploy")
        wait_for(lambda: all(map(self._is_ready, self.names)), "every gateway has a token", 60)
        drift = self.fleet.run_with(data, "deploy/drift.py")
        assert drift.status == 0, f"drift after the next deploy: {drift.output}"
        self._check_tokens(fault, tokens)
        now = self._counted()
        row.issuances = sum(now[name][0] - counted[name][0] for name in self.names)
        rejections = sum(now[name][1] - counted[name][1] for name in self.names)
        assert row.issuances <= fault.issuances, f"{row.issuances} issuances"
        assert rejections <= fault.rejections, f"{rejections} rejections"

    def _choose_host(self, fault: Fault) -> None:
        """The host whose app key was used least recently: KIS gives a token once a minute."""
        self.host = min(self.names, key=lambda name: self.asked.get(name, 0.0))
        if fault.issuances:
            wait = self.asked.get(self.host, 0.0) + KIS_MINUTE - time.monotonic()
            time.sleep(max(0.0, wait))
            self.asked[self.host] = time.monotonic()
            self.simulator("PUT", "clock", {"advance": KIS_MINUTE})

    def _switching(self, hosts: list[str]) -> list[str]:
        held = f"flock --nonblock {APP}/.switch.lock true || echo held"
        return [name for name in hosts if self.root(held, name)]

    def _is_ready(self, host: str) -> bool:
        """Whether a gateway has a valid token."""
        return get(f"http://{self.clients[host].address}:8080/ready")[0] == 200

    def _check_output(self, fault: Fault, outcome: Outcome) -> None:
        self._check_no_secret(outcome)
        if fault.fails is not None:
            assert (outcome.status != 0) == fault.fails, f"status {outcome.status}: {outcome}"
        assert fault.says in outcome.output, f"not said: {fault.says}\n{outcome.output}"

    def _check_no_secret(self, outcome: Outcome) -> None:
        assert "Traceback" not in outcome.output, outcome.output
        assert TOKEN_BEGINS not in outcome.output, "a token is shown"
        for name in self.names:
            secret = self.account(name)["kis-r-app-secret"]
            assert secret not in outcome.output, f"a secret of {name} is shown"

    def _assert_served(self, when: str, but: str = "") -> None:
        """Every client is answered, by the old release or the new one."""
        asked = time.monotonic()
        for name, client in self.clients.items():
            if name == but:
                continue
            wait_for(partial(client.is_answered_after, asked), f"{name} is answered {when}", 60)

    def _tokens(self) -> dict[str, bytes]:
        return {name: self.root(f"cat {TOKEN}", name).encode() for name in self.names}

    def _check_tokens(self, fault: Fault, before: dict[str, bytes]) -> None:
        for name, content in self._tokens().items():
            is_same = content == before[name]
            if name != self.host or not fault.issuances:
                assert is_same, f"the token file of {name} has changed"
            ends = examine(content).valid_until or 0
            assert is_same or ends >= (examine(before[name]).valid_until or 0), f"{name}: older"
            owner = self.root(f"stat -c '%u:%g %a %F' {TOKEN}", name)
            assert owner == "10001:10001 600 regular file", f"the token file of {name}: {owner}"

    def _counted(self) -> dict[str, tuple[int, int]]:
        issuances, rejections = self.fleet.issuances(), self.fleet.rejections()
        before = {name: self.counted.get(name, (0, 0)) for name in self.names}
        return {
            name: (issuances[name] + before[name][0], rejections[name] + before[name][1])
            for name in self.names
        }

    def forget_counters(self) -> None:
        """The simulator is about to lose its counters: they go on from the current ones."""
        self.counted = self._counted()
