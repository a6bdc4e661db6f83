"""The budget of issuances: each event of an operator's year, and its cost at KIS.

Every row runs with the stubborn gateway, which has the habits of gateways in the wild; three rows
also run with the reference gateway. The counters are those of the simulator.

Simulated days and a year run only if asked for: `pytest -m simulation tests/services tests/lab`.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from lab.lab import ask_simulator
from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet, changed
from tests.tools import Outcome, docker, wait_for

ALL = ["lab-1", "lab-2", "lab-3", "lab-4"]
FIFTH = "lab-5"
PRICE = "/uapi/domestic-stock/v1/quotations/inquire-price?FID_INPUT_ISCD=005930"
QUICK = {"rollout_min_healthy_time": 0, "rollout_healthy_deadline": 60, "rollout_batches": ["100%"]}
# Python runs this first in the image `faked`: the clock is ahead by the offset in a file.
FAKED_CLOCK = """\
import time
from pathlib import Path
_time, _offset = time.time, Path("/app/tokens/offset")
time.time = lambda: _time() + (float(_offset.read_text() or 0) if _offset.exists() else 0)
"""


@dataclass
class Account:
    """An app key at the simulator, for real or for paper trading, with its secrets file."""

    fleet: Fleet
    host: str
    app_key: str
    secrets_file: Path

    def settings(self, gateway: str) -> dict[str, Any]:
        prefix = "kis-r" if self.host == "real" else "kis-v"
        url = self.fleet.lab.simulator_url
        environment = {"KIS_BASE_URL": url if self.host == "real" else url.replace("9443", "29443")}
        if gateway == "stubborn":
            environment["APP_KEY_FIELD"] = f"{prefix}-app-key"
        else:
            environment["KIS_ENVIRONMENT"] = self.host
        return {
            "gateway_secrets_file": str(self.secrets_file),
            "gateway_app_key_field": f"{prefix}-app-key",
            "gateway_environment": environment,
        }

    def counted(self) -> tuple[int, int]:
        """Issuances and rejections so far."""
        counters = ask_simulator(self.fleet.lab, "GET", "counters")[self.host][self.app_key]
        return counters["issuances"], counters["rejections"]


@dataclass
class Event:
    """Hosts with a new project and nothing deployed yet, for one kind of gateway."""

    fleet: Fleet
    gateway: str
    image: dict[str, Any]
    accounts: dict[str, Account]
    project: str = field(default_factory=lambda: f"e{secrets.token_hex(3)}")

    def _settings(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        own = self.accounts[name].settings(self.gateway)
        changes = dict(changes)
        own["gateway_environment"] = own["gateway_environment"] | changes.pop("environment", {})
        return (
            QUICK
            | {
                "gateway_project": self.project,
                "gateway_app_dir": f"/opt/{self.project}",
                "gateway_token_dir": f"/docker_data/{self.project}",
            }
            | self.image
            | own
            | changes
        )

    def up(
        self,
        *flags: str,
        hosts: list[str] | None = None,
        per_host: dict[str, dict[str, Any]] | None = None,
        verb: str = "up",
        **changes: Any,
    ) -> Outcome:
        """Runs `deploy/VERB.py` on `hosts`; the default is all hosts of the event."""
        names = hosts or list(self.accounts)
        data = {
            name: self._settings(name, changes | (per_host or {}).get(name, {})) for name in names
        }
        return self.fleet.run_with(data, f"deploy/{verb}.py", *flags)

    def must(self, *flags: str, **options: Any) -> str:
        """Like `up`, but the run must succeed; returns its output."""
        outcome = self.up(*flags, **options)
        assert outcome.status == 0, outcome.output
        return outcome.output

    @property
    def token_file(self) -> str:
        return f"/docker_data/{self.project}/kis_token.json"

    def on(self, script: str, *names: str) -> list[str]:
        """The output of a script that root runs on hosts; the default is all hosts of the event."""
        with ThreadPoolExecutor() as pool:
            return list(
                pool.map(
                    lambda name: self.fleet.on(name, f"sudo sh -c {quoted(script)}"),
                    names or list(self.accounts),
                )
            )

    def container(self, template: str = "{{.Id}}") -> str:
        label = f"label=com.docker.compose.project={self.project}"
        return f"docker ps -aq --no-trunc -f {label} | xargs -r docker inspect -f '{template}'"

    def restarts(self, *names: str) -> list[str]:
        return self.on(self.container("{{.RestartCount}}"), *names)

    def counted(self) -> list[tuple[int, int]]:
        """Issuances and rejections of each key, in the order of the hosts."""
        keys = {account.app_key: account for account in self.accounts.values()}
        return [account.counted() for account in keys.values()]


def quoted(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"


@pytest.fixture(scope="module")
def fleet(new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Five hosts that have the reference gateway's image and run no gateway."""
    lab = new_lab("--hosts", "5")
    fleet = Fleet(lab.lab, tmp_path_factory.mktemp("fleet"))
    outcome = fleet.up(rollout_batches=["100%"], rollout_min_healthy_time=0)
    assert outcome.status == 0, outcome.output
    assert fleet.run("deploy/down.py").status == 0
    return fleet


@pytest.fixture(scope="module")
def new_account(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Account]:
    directory = tmp_path_factory.mktemp("accounts")

    def make(host: str = "real") -> Account:
        key, secret = f"TEST-{secrets.token_hex(8)}".ljust(36, "0"), secrets.token_hex(90)
        credentials = {"app_key": key, "app_secret": secret, "host": host}
        ask_simulator(fleet.lab, "PUT", "credentials", credentials)
        path = directory / f"{key}.json"
        prefix = "kis-r" if host == "real" else "kis-v"
        path.write_text(json.dumps({f"{prefix}-app-key": key, f"{prefix}-app-secret": secret}))
        return Account(fleet, host, key, path)

    return make


@pytest.fixture(scope="module")
def images(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The settings for the image of each kind of gateway."""

    def built(name: str, *lines: str, **files: Path) -> dict[str, Any]:
        context = tmp_path_factory.mktemp(name)
        for file, source in files.items():
            shutil.copy(source, context / file)
        (context / "Dockerfile").write_text("\n".join([f"FROM {fleet.gateway_image}", *lines, ""]))
        return {
            "gateway_image": name,
            "gateway_image_source": "build",
            "gateway_build_context": str(context),
            "gateway_image_archive": None,
        }

    stubborn = ROOT / "tests" / "stubborn_gateway" / "gateway.py"
    run = 'CMD ["python3", "/app/gateway"]'
    forgetful = tmp_path_factory.mktemp("forgetful") / "gateway.py"
    # Asks at each start and keeps the old expiry: KIS gives the same token for six hours.
    forgetful.write_text(
        stubborn.read_text()
        .replace("if TOKEN_FILE.exists()", "if False")
        .replace(
            'time.time() + issued["expires_in"]', 'json.loads(TOKEN_FILE.read_text())["expires_at"]'
        )
    )
    clock = tmp_path_factory.mktemp("clock") / "sitecustomize.py"
    clock.write_text(FAKED_CLOCK)
    return {
        "reference": {},
        "stubborn": built("stubborn", "COPY gateway /app/gateway", run, gateway=stubborn),
        "forgetful": built("forgetful", "COPY gateway /app/gateway", run, gateway=forgetful),
        "faked": built(
            "faked",
            "COPY sitecustomize /fake/sitecustomize.py",
            "ENV PYTHONPATH=/fake",
            sitecustomize=clock,
        ),
    }


@pytest.fixture
def kind() -> str:
    """The kind of gateway of a test that does not choose another."""
    return "stubborn"


both_kinds = pytest.mark.parametrize("kind", ["reference", "stubborn"])


@pytest.fixture
def new_event(fleet: Fleet, images: dict[str, dict[str, Any]]) -> Iterator[Callable[..., Event]]:
    made: list[Event] = []

    def make(kind: str, accounts: dict[str, Account], image: str = "") -> Event:
        made.append(Event(fleet, kind, images[image or kind], accounts))
        return made[-1]

    yield make
    for event in made:
        label = f"label=com.docker.compose.project={event.project}"
        event.on(f"docker ps -aq -f {label} | xargs -r docker rm -f >/dev/null")
        event.on("docker rm -f old-gateway >/dev/null 2>&1 || true")
        event.on(f"docker network rm {event.project}_default >/dev/null 2>&1 || true")


NewEvent = Callable[..., Event]
NewAccount = Callable[..., Account]


@pytest.fixture
def four(new_event: NewEvent, new_account: NewAccount, kind: str) -> Event:
    """Four hosts with one key, and a gateway on each."""
    event = new_event(kind, dict.fromkeys(ALL, new_account()))
    event.must()
    assert event.counted() == [(1, 0)]
    return event


# The table


@both_kinds
def test_a_first_deploy(new_event: NewEvent, new_account: NewAccount, kind: str) -> None:
    event = new_event(kind, dict.fromkeys(ALL, new_account()))
    output = event.must(verb="plan")
    assert "issuances: 1 (lab-1)" in output
    assert "The token comes from lab-1." in output
    assert "issuances: 1 (budget 1)" in event.must()
    assert event.counted() == [(1, 0)]
    assert len(set(event.on(f"sha256sum <{event.token_file}"))) == 1
    assert "issuances: 0 (budget 0)" in event.must()


def test_a_first_deploy_with_two_keys(
    new_event: NewEvent, new_account: NewAccount, kind: str
) -> None:
    one, two = new_account(), new_account()
    event = new_event(kind, dict(zip(ALL, [one, two, one, two], strict=True)))
    assert "issuances: 2 (budget 2)" in event.must()
    assert event.counted() == [(1, 0), (1, 0)]


def start_by_hand(event: Event, *more: str) -> None:
    """Starts a gateway without this package: its token is in the container."""
    event.on("mkdir -p /root/old", ALL[0])
    account = event.accounts[ALL[0]]
    content = account.secrets_file.read_text()
    event.on(f"cat >/root/old/secrets.json <<'END'\n{content}\nEND", ALL[0])
    images = event.on("docker images --format '{{.Repository}}:{{.Tag}}'", ALL[0])[0].split()
    name = "kis-gateway:" if event.gateway == "reference" else "stubborn:"
    [image] = [image for image in images if image.startswith(name)]
    environment = account.settings(event.gateway)["gateway_environment"] | {
        "SECRETS_FILE": "/secrets.json",
        "KIS_TOKEN_FILE_PATH": "/tmp/kis_token_gateway.json",  # noqa: S108
        "PORT": "8080",
    }
    flags = " ".join([*(f"--env {name}={value}" for name, value in environment.items()), *more])
    event.on(
        "docker run -d --name old-gateway --restart unless-stopped -p 127.0.0.1:8080:8080 "
        f"-v /root/old/secrets.json:/secrets.json:ro {flags} {image}",
        ALL[0],
    )


ADOPT: dict[str, Any] = {"gateway_adopt_container": "old-gateway"}


@pytest.fixture
def adopting(new_event: NewEvent, new_account: NewAccount, kind: str) -> Event:
    """One host that runs a gateway with its token in the container."""
    first = new_event(kind, {ALL[0]: new_account()})
    first.must()  # so that the host has the image
    event = new_event(kind, {ALL[0]: new_account()})
    first.must(verb="down")
    start_by_hand(event)
    wait_for(lambda: event.counted() == [(1, 0)], "the container has its token")
    return event


@both_kinds
def test_adopting_a_running_unpersisted_gateway(adopting: Event) -> None:
    output = adopting.must(**ADOPT)
    assert "the token of the container old-gateway is taken over" in output
    assert "issuances: 0 (budget 0)" in output
    assert adopting.counted() == [(1, 0)]
    owner = adopting.on(f"stat -c '%u:%g %a' {adopting.token_file}", ALL[0])
    assert owner == ["10001:10001 600"]
    state = "docker inspect -f '{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}' old-gateway"
    assert adopting.on(state, ALL[0]) == ["exited no"]
    # The adoption is complete: later deploys are normal deploys.
    assert "issuances: 0 (budget 0)" in adopting.must(**ADOPT)
    assert "issuances: 0 (budget 0)" in adopting.must(**ADOPT, **changed())
    assert adopting.counted() == [(1, 0)]


def test_a_new_host_joins(four: Event) -> None:
    four.accounts[FIFTH] = four.accounts[ALL[0]]
    output = four.must()
    assert "The token comes from lab-" in output
    assert "issuances: 0 (budget 0)" in output
    assert four.counted() == [(1, 0)]
    assert len(set(four.on(f"sha256sum <{four.token_file}"))) == 1


@pytest.mark.simulation
def test_a_year_of_deploys(four: Event) -> None:
    for _ in range(20):
        assert "issuances: 0 (budget 0)" in four.must(**changed())
    for _ in range(10):
        assert "issuances: 0 (budget 0)" in four.must(verb="restart")
    for _ in range(3):
        assert "issuances: 0 (budget 0)" in four.must(verb="rollback")
    for name in ALL:
        docker("restart", four.fleet.lab.container(name))
    running = four.container("{{.State.Status}}")
    wait_for(lambda: set(on_or_empty(four, running)) == {"running"}, "all run again", 120)
    wait_for(lambda: "issuances: 0 (budget 0)" in four.up().output, "`up` passes again", 60)
    assert four.counted() == [(1, 0)]


def on_or_empty(event: Event, script: str) -> list[str]:
    """Like `Event.on`, but empty while a host boots and does not answer yet."""
    try:
        return event.on(script)
    except AssertionError:
        return []


@both_kinds
def test_real_to_paper_to_real(new_event: NewEvent, new_account: NewAccount, kind: str) -> None:
    real, paper = new_account(), new_account("paper")
    event = new_event(kind, {ALL[0]: real})
    event.must()
    first = event.on(f"sha256sum <{event.token_file}")
    event.accounts = {ALL[0]: paper}
    assert "issuances: 1 (budget 1)" in event.must()
    assert event.on(f"sha256sum <{event.token_file}") != first
    event.accounts = {ALL[0]: real}
    assert "issuances: 0 (budget 0)" in event.must()
    assert event.on(f"sha256sum <{event.token_file}") == first
    assert (real.counted(), paper.counted()) == ((1, 0), (1, 0))
    # A rollback also restores the key of that release.
    assert "issuances: 0 (budget 0)" in event.must(verb="rollback")
    assert (real.counted(), paper.counted()) == ((1, 0), (1, 0))


DAMAGE = {
    "truncated": "head -c 40 {file} >/tmp/x; cat /tmp/x >{file}",
    "empty": ": >{file}",
    "a directory": "mv {file} {file}.kept; mkdir {file}",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_token_file(
    new_event: NewEvent, new_account: NewAccount, kind: str, damage: str
) -> None:
    event = new_event(kind, {ALL[0]: new_account()})
    event.must()
    ask_simulator(event.fleet.lab, "PUT", "clock", {"advance": 61})
    attempt = f"{event.token_file}.attempt"  # KIS was asked some minutes ago, not just now
    event.on(f"sed -i 's/: [0-9.]*,/: 1795000000,/' {attempt} 2>/dev/null || true")
    event.on(DAMAGE[damage].format(file=event.token_file))
    if kind == "stubborn":  # it crashes on the file, and Docker restarts it repeatedly
        event.on(event.container().replace("inspect -f '{{.Id}}'", "restart"))
        wait_for(lambda: int(event.restarts()[0]) >= 1, "it is in a crash loop")
    output = event.must(**changed())
    assert "is set aside" in output
    assert "issuances: 1 (budget 1)" in output
    assert event.counted() == [(2, 0)]
    assert event.restarts() == ["0"]
    assert "issuances: 0 (budget 0)" in event.must()
    assert event.on(f"ls {event.token_file.rpartition('/')[0]} | grep -c damaged") == ["1"]


def test_a_broken_release_and_its_revert(four: Event) -> None:
    never = {"test": ["CMD", "false"], "interval": "1s", "retries": 1}
    before = four.on("readlink /opt/" + four.project + "/current")
    outcome = four.up(
        rollout_batches=[1, "50%"],
        per_host={"lab-3": {"gateway_healthcheck": never}},
        **changed(),
    )
    assert outcome.status == 1
    assert "issuances: 0 (budget 0)" in outcome.output
    assert four.counted() == [(1, 0)]
    assert four.on("readlink /opt/" + four.project + "/current") == before
    assert four.restarts() == ["0"] * 4
    four.must(verb="down")
    outcome = four.up(per_host={"lab-2": {"gateway_healthcheck": never}}, **changed())
    assert outcome.status == 1
    assert "[lab-1] runs what it ran before" in outcome.output
    assert four.on(four.container()) == [""] * 4  # none ran before
    assert four.counted() == [(1, 0)]


def get_price(url: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}{PRICE}", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.simulation
def test_a_day_passes_under_load(
    fleet: Fleet, new_event: NewEvent, new_account: NewAccount
) -> None:
    event = new_event("reference", {ALL[0]: new_account()}, "faked")
    urls = [f"http://{address(fleet, ALL[0])}:8080"] * 4
    event.must(gateway_bind_address="0.0.0.0", gateway_open_to_network=True)  # noqa: S104
    directory = event.token_file.rpartition("/")[0]
    passed = 0
    statuses: list[int] = []
    with ThreadPoolExecutor() as pool:
        while passed < 24.5 * 3600:
            passed += 600
            event.on(f"cd {directory} && echo {passed} >new && chmod a+r new && mv new offset")
            ask_simulator(fleet.lab, "PUT", "clock", {"advance": 600})
            statuses += pool.map(get_price, urls)
    assert statuses == [200] * len(statuses)
    assert event.counted() == [(2, 0)]  # one of the first deploy, and one later
    assert event.restarts() == ["0"]


@pytest.mark.simulation
def test_a_day_with_a_deploy_in_every_window(
    fleet: Fleet, new_event: NewEvent, new_account: NewAccount
) -> None:
    event = new_event("stubborn", dict.fromkeys(ALL, new_account()))
    event.must()
    for _ in range(3):
        ask_simulator(fleet.lab, "PUT", "clock", {"advance": 6 * 3600})
        assert "issuances: 0 (budget 0)" in event.must(**changed())
    assert event.counted() == [(1, 0)]


def address(fleet: Fleet, name: str) -> str:
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return docker("inspect", "--format", template, fleet.lab.container(name))


def test_the_issuing_host_is_refused_for_two_minutes(
    new_event: NewEvent, new_account: NewAccount
) -> None:
    """Both kinds of gateway run at the same time, because the test takes two minutes."""
    accounts = [new_account(), new_account()]
    events = [
        new_event("reference", dict.fromkeys(ALL, accounts[0])),
        new_event("stubborn", dict.fromkeys(ALL, accounts[1])),
    ]
    fault = {"path": "/oauth2/tokenP", "kind": "error", "code": "EGW00133", "for_seconds": 120}
    for account in accounts:
        ask_simulator(account.fleet.lab, "POST", "faults", fault | {"app_key": account.app_key})
    try:
        with ThreadPoolExecutor() as pool:
            ports = {"gateway_port": 8080}, {"gateway_port": 8081}
            outputs = list(pool.map(lambda event, port: event.must(**port), events, ports))
    finally:
        ask_simulator(events[0].fleet.lab, "DELETE", "faults")
    for event, output in zip(events, outputs, strict=True):
        assert_refused_and_served(event, output)


def assert_refused_and_served(event: Event, output: str) -> None:
    assert "issuances: 1 (budget 1)" in output
    [(issuances, rejections)] = event.counted()
    assert issuances == 1
    assert 1 <= rejections <= 3  # one per minute
    assert event.restarts() == ["0"] * 4
    policy = event.on(event.container("{{.HostConfig.RestartPolicy.Name}}"))
    assert policy == ["unless-stopped"] * 4


# Not in the table


def test_hosts_that_share_no_token_ask_one_after_the_other(
    new_event: NewEvent, new_account: NewAccount
) -> None:
    event = new_event("stubborn", dict.fromkeys(ALL[:2], new_account()))
    output = event.must(rollout_share_token=False)
    assert "KIS issues one token a minute per app key: waiting" in output
    assert "issuances: 2 (budget 2)" in output
    assert event.counted() == [(2, 0)]


def test_a_container_in_a_crash_loop_is_stopped_before_a_host_asks(
    new_event: NewEvent, new_account: NewAccount
) -> None:
    account = new_account()
    event = new_event("stubborn", {ALL[0]: account})
    event.must()  # KIS has just issued a token and refuses the next request
    event.must(verb="down")
    event.on(f"mv {event.token_file} {event.token_file}.lost")
    start_by_hand(event)
    wait_for(lambda: account.counted()[1] >= 3, "KIS refuses it again and again")
    outcome = event.up(**ADOPT)
    assert outcome.status == 0, outcome.output
    assert "crash loop (EGW00133) detected: stopping the gateway" in outcome.output
    assert "waiting" in outcome.output
    assert "issuances: 1 (budget 1)" in outcome.output
    assert account.counted()[0] == 2
    assert event.restarts() == ["0"]


def test_an_adoption_that_fails_starts_the_old_container_again(adopting: Event) -> None:
    never = {"test": ["CMD", "false"], "interval": "1s", "retries": 1}
    outcome = adopting.up(**ADOPT, gateway_healthcheck=never)
    assert outcome.status == 1
    assert "Restored: the container old-gateway runs again" in outcome.output
    state = "docker inspect -f '{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}' old-gateway"
    assert adopting.on(state, ALL[0]) == ["running unless-stopped"]
    assert adopting.counted() == [(1, 0)]
    assert "issuances: 0 (budget 0)" in adopting.must(**ADOPT)


def test_a_gateway_that_asks_without_need_fails_the_gate(
    new_event: NewEvent, new_account: NewAccount, images: dict[str, dict[str, Any]]
) -> None:
    """Six hours later KIS issues a new token; the same token would prove nothing."""
    event = new_event("stubborn", {ALL[0]: new_account()})
    event.must()
    ask_simulator(event.fleet.lab, "PUT", "clock", {"advance": 6 * 3600 + 61})
    before = event.on(f"cat {event.token_file}")
    outcome = event.up(**images["forgetful"])
    assert event.on(f"cat {event.token_file}") != before
    assert outcome.status == 1
    assert "asked KIS for a token that it did not need" in outcome.output
    assert "issuances: 1 (budget 0)" in outcome.output
    assert "Restored: release" in outcome.output
    assert event.counted() == [(2, 0)]


def test_a_token_that_is_brought_to_a_host_is_in_no_output_of_pyinfra(
    new_event: NewEvent, new_account: NewAccount
) -> None:
    event = new_event("stubborn", dict.fromkeys(ALL[:2], new_account()))
    output = event.must("-vvv", "--debug")
    assert "The token comes from lab-1." in output
    [one, two] = event.on(f"cat {event.token_file}")
    assert one == two
    token = json.loads(one)["access_token"]
    encoded = base64.b64encode(one.encode()).decode()
    for secret in (token, encoded, encoded[:40], token[-40:]):
        assert secret not in output


def test_few_sessions_are_enough_for_a_token_to_reach_many_hosts(
    new_event: NewEvent, new_account: NewAccount
) -> None:
    """By default, sshd allows ten per connection (sshd_config(5), MaxSessions)."""
    event = new_event("stubborn", dict.fromkeys(ALL, new_account()))
    few = "/etc/ssh/sshd_config.d/few.conf"
    event.on(f"echo 'MaxSessions 2' >{few} && systemctl restart ssh", ALL[0])
    try:
        event.must(rollout_batches=["100%"])
    finally:
        event.on(f"rm {few} && systemctl restart ssh", ALL[0])
    assert event.counted() == [(1, 0)]


def test_a_host_outside_the_limit_that_may_have_the_token_refuses_the_run(
    new_event: NewEvent, new_account: NewAccount
) -> None:
    """A new token would end that of the other host; no host outside the limit is contacted."""
    event = new_event("stubborn", dict.fromkeys(ALL[:2], new_account()))
    event.must("--limit", "lab-1", rollout_share_token=False)
    outcome = event.up("--limit", "lab-2")
    assert outcome.status == 1
    assert "no host within the limit has a token of this app key, and lab-1 may have one" in (
        outcome.output
    )
    assert "[lab-1]" not in outcome.output
    assert event.counted() == [(1, 0)]
    assert "The token comes from lab-1." in event.must()
    assert event.counted() == [(1, 0)]


def test_a_file_of_unknown_form_is_left_alone_and_reported(
    new_event: NewEvent, new_account: NewAccount
) -> None:
    event = new_event("stubborn", {ALL[0]: new_account()})
    event.must()
    event.on(f"""echo '{{"token": "x"}}' >{event.token_file}""")
    assert "has a form that is not known here" in event.must(verb="plan")
    event.must()  # nothing to change
    assert event.on(f"cat {event.token_file}") == ['{"token": "x"}']


PROBE: dict[str, Any] = {"gateway_probe": {"path": "/price", "expect": {"rt_cd": "0"}}}
REVOKE = """\
import json, sys, urllib.request
secrets = json.load(open(sys.argv[1]))
token = json.load(open(sys.argv[2]))["access_token"]
body = {"appkey": secrets["kis-r-app-key"], "appsecret": secrets["kis-r-app-secret"]}
request = urllib.request.Request(sys.argv[3] + "/oauth2/revokeP",
    json.dumps(body | {"token": token}).encode(), {"Content-Type": "application/json"})
urllib.request.urlopen(request, timeout=5).close()
"""


def end_token(event: Event, name: str) -> None:
    """KIS ends a host's token, as it does when another program gets a new one."""
    secrets_file = f"/opt/{event.project}/current/secrets.json"
    url = event.fleet.lab.simulator_url
    event.on(f"python3 - {secrets_file} {event.token_file} {url} <<'END'\n{REVOKE}\nEND", name)


def test_a_token_that_kis_has_ended_on_one_of_four_hosts(
    new_event: NewEvent, new_account: NewAccount, kind: str
) -> None:
    event = new_event(kind, {name: new_account() for name in ALL})
    event.must(**PROBE)
    event.must(verb="drift", **PROBE)
    end_token(event, ALL[2])
    drift = event.up(verb="drift", **PROBE)
    assert drift.status == 1
    assert f"drift: drifted on 1 of 4 hosts ({ALL[2]})" in drift.output
    assert "KIS does not accept this token any more (EGW00121): run `make renew`" in drift.output
    ask_simulator(event.fleet.lab, "PUT", "clock", {"advance": 61})
    renewed = event.must("--limit", ALL[2], verb="renew", **PROBE)
    assert "issuances: 1 (budget 1)" in renewed
    assert event.on("curl -fs http://127.0.0.1:8080/price | grep -c MCA00000") == ["1"] * 4
    event.must(verb="drift", **PROBE)
    assert event.counted() == [(1, 0), (1, 0), (2, 0), (1, 0)]


def test_a_restart_brings_a_lost_token_back_and_a_renewal_shares_a_new_one(four: Event) -> None:
    tokens = four.on(f"sha256sum <{four.token_file}")
    four.on(f"mv {four.token_file} /root/{four.project}", ALL[1])
    four.must("--limit", ALL[0], "--limit", ALL[1], verb="restart")
    assert four.on(f"sha256sum <{four.token_file}") == tokens
    assert four.counted() == [(1, 0)]
    limited = four.up("--limit", ALL[0], verb="renew")
    assert limited.status == 1
    assert "a new token would end the token of lab-2, lab-3, lab-4" in limited.output
    before = four.on(f"sha256sum <{four.token_file}")
    end_token(four, ALL[0])
    ask_simulator(four.fleet.lab, "PUT", "clock", {"advance": 61})
    four.must(verb="renew")
    after = four.on(f"sha256sum <{four.token_file}")
    assert len({*after}) == 1
    assert set(after).isdisjoint(before)
    assert four.counted() == [(2, 0)]
    four.must(**PROBE)
    four.must(verb="drift", **PROBE)
