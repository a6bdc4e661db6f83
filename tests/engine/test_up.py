"""`up` on this machine: once, twice, with a change, and with a release that does not work."""

from __future__ import annotations

import json
import re
import shlex
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import STUBBORN_GATEWAY, Deployment
from tests.tools import BIN, command, docker, get, wait_for


@pytest.fixture(scope="module")
def first(new_deployment: Callable[..., Deployment]) -> tuple[Deployment, str]:
    """A deployment, and the output of its first deploy."""
    deployment = new_deployment("up")
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    return deployment, outcome.output


@pytest.fixture(scope="module")
def deployed(first: tuple[Deployment, str]) -> Deployment:
    return first[0]


def test_the_printed_curl_line_returns_a_price(first: tuple[Deployment, str]) -> None:
    line = re.search(r"curl .*", first[1])
    assert line
    answer = command(*shlex.split(line[0]), "--silent", "--fail")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["output"]["stck_prpr"].isdigit()


def test_a_second_up_changes_nothing(deployed: Deployment) -> None:
    wait_for(  # `up` asks the gateway itself; Docker's first health check may come later
        lambda: deployed.inspect("{{.State.Health.Status}}") == "healthy", "Docker reports healthy"
    )
    before, moment = deployed.host_state(), docker("info", "--format", "{{.SystemTime}}")
    outcome = deployed.up()
    assert outcome.status == 0, outcome.output
    assert outcome.changes() == 0
    assert deployed.host_state() == before
    until = docker("info", "--format", "{{.SystemTime}}")
    # Other tests may run at the same time: only events of this project count. The test of two lab
    # hosts checks all events of an engine.
    events = docker(
        "events", "--since", moment, "--until", until,
        "--format", "{{.Type}} {{.Action}} {{json .Actor.Attributes}}",
    )  # fmt: skip
    ours = [event for event in events.splitlines() if deployed.project in event]
    # Health checks run all the time; no other event is allowed.
    assert [event for event in ours if "exec_" not in event] == []


def test_a_changed_setting_recreates_the_container_and_keeps_the_token(
    deployed: Deployment,
) -> None:
    token, container = deployed.token(), deployed.container()
    issuances = deployed.account.count("issuances")
    outcome = deployed.up(gateway_labels={"changed": "yes"})
    assert outcome.status == 0, outcome.output
    assert deployed.container() != container
    assert deployed.token() == token
    assert deployed.account.count("issuances") == issuances
    assert deployed.account.count("rejections") == 0
    assert deployed.up().status == 0  # back to the settings that the other tests expect


def test_a_rotated_secret_recreates_the_container_which_reads_it(
    new_deployment: Callable[..., Deployment],
) -> None:
    deployment = new_deployment("rotated")
    assert deployment.up().status == 0
    container = deployment.container()
    secrets = json.loads(deployment.account.secrets_file.read_text()) | {"added": "later"}
    deployment.account.secrets_file.write_text(json.dumps(secrets))
    assert deployment.up().status == 0
    assert deployment.container() != container
    read = docker("exec", deployment.container(), "cat", "/app/config/secrets.json")
    assert json.loads(read) == secrets


def test_values_with_every_special_character_reach_the_container(
    new_deployment: Callable[..., Deployment],
) -> None:
    environment = {
        "DOLLAR": "a$b ${c} $$",
        "YAML": "# no comment: 'x' \"y\" {z} [w] & * ! | > %",
        "LINES": "one\n\ttwo\n",
        "KOREAN": "한국투자증권 ✅",
        "TEMPLATE": "{{ port }}",
        "LOOKS_LIKE_A_NUMBER": "1e3",
        "BLANKS": "  both ends  ",
    }
    deployment = new_deployment("special")
    deployment.data["gateway_environment"] |= environment
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    actual = dict(e.split("=", 1) for e in json.loads(deployment.inspect("{{json .Config.Env}}")))
    assert {name: actual[name] for name in environment} == environment


SERVER = """
import http.server, os, sys

print("the reason why it fails", flush=True)
statuses = os.environ["STATUS"].split() or sys.exit(3)

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(statuses.pop(0) if statuses[1:] else statuses[0]))
        self.end_headers()

http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Health).serve_forever()
"""
# Like the stubborn gateway's Dockerfile, so that the engine has all layers except the last.
BROKEN = (
    (STUBBORN_GATEWAY / "Dockerfile").read_text().partition("COPY ")[0]
    + """\
COPY server.py /
CMD ["python3", "/server.py"]
"""
)


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, Any]:
    """Settings of an image that answers with each STATUS in turn, or exits at once without one."""
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "Dockerfile").write_text(BROKEN)
    return {
        "gateway_image": "kis-test-broken",
        "gateway_build_context": tmp_path,
        "gateway_environment": {"STATUS": ""},
    }


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("", "crash loop"),
        ("500", "not healthy within 8 s"),
        ("200 500", "a bad answer after a good one"),
    ],
    ids=["exits at once", "never healthy", "answers once"],
)
def test_a_broken_release_is_reverted(
    deployed: Deployment, broken: dict[str, Any], status: str, reason: str
) -> None:
    token, current = deployed.token(), (deployed.app_dir / "current").readlink()
    outcome = deployed.up(
        **broken | {"gateway_environment": {"STATUS": status}},
        gateway_token_at_start=False,
        rollout_min_healthy_time=2,
        rollout_healthy_deadline=8,
    )
    assert outcome.status == 1
    assert reason in outcome.output
    assert "the reason why it fails" in outcome.output  # the container's last log lines
    assert f"Restored: release {current.name}" in outcome.output
    assert "Traceback" not in outcome.output
    assert (deployed.app_dir / "current").readlink() == current
    assert get(f"{deployed.url}/ready")[0] == 200
    assert deployed.token() == token
    assert deployed.account.count("rejections") == 0
    assert deployed.up().changes() == 0


def test_a_first_release_that_is_broken_leaves_no_container_behind(
    new_deployment: Callable[..., Deployment], broken: dict[str, Any]
) -> None:
    deployment = new_deployment("first-broken")
    outcome = deployment.up(**broken)
    assert outcome.status == 1
    assert "No release ran before" in outcome.output
    assert deployment.container() == ""
    assert deployment.token_file.parent.is_dir()


def test_down_keeps_token_and_releases_and_up_uses_them_again(deployed: Deployment) -> None:
    token, issuances = deployed.token(), deployed.account.count("issuances")
    result = command(
        BIN / "pyinfra", "-y", deployed.inventory(), "deploy/down.py", cwd=deployed.checkout
    )
    assert result.returncode == 0, result.stderr
    assert "the container and its network are removed" in result.stderr
    assert "issuance" not in result.stderr
    assert deployed.container() == ""
    assert deployed.token() == token
    assert deployed.up().status == 0
    assert (deployed.token(), deployed.account.count("issuances")) == (token, issuances)


def test_another_user_takes_the_token_over_and_gives_it_back(
    new_deployment: Callable[..., Deployment],
) -> None:
    deployment = new_deployment("user")
    assert deployment.up().status == 0
    token = deployment.token()

    def assert_all_files_belong_to(user: int) -> None:
        directory = deployment.token_file.parent
        owners = {path.name: path.stat().st_uid for path in [directory, *directory.iterdir()]}
        assert owners == dict.fromkeys(owners, user)
        assert "kis_token.json.lock" in owners
        wait_for(lambda: get(f"{deployment.url}/ready")[0] == 200, "it can use its token")
        assert (deployment.token(), deployment.account.count("issuances")) == (token, 1)

    outcome = deployment.up(gateway_user="20001:20001")
    assert outcome.status == 0, outcome.output
    assert_all_files_belong_to(20001)
    rollback = command(
        BIN / "pyinfra", "-y", deployment.inventory(gateway_user="20001:20001"),
        "deploy/rollback.py", cwd=deployment.checkout,
    )  # fmt: skip
    assert rollback.returncode == 0, rollback.stderr
    assert_all_files_belong_to(10001)


def test_no_secret_is_visible_during_up(new_deployment: Callable[..., Deployment]) -> None:
    """Watches every command line and the staged files while `up` runs with all its output."""
    deployment = new_deployment("secret")
    secret = deployment.account.app_secret
    seen: set[str] = set()
    modes: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue  # the process has ended
                if secret.encode() in line:
                    seen.add(f"command line: {line[:40]!r}")
            for path in deployment.app_dir.glob("releases/.staging*/secrets.json"):
                with suppress(OSError):  # the file was moved to its final place
                    modes.add(stat.S_IMODE(path.stat().st_mode))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        outcome = deployment.up("-vvv", "--diff", "--debug")
    finally:
        done.set()
        watcher.join()
    assert outcome.status == 0, outcome.output
    assert seen == set()
    assert modes and not any(mode & 0o077 for mode in modes)
    assert secret not in outcome.output
    wait_for(lambda: get(f"{deployment.url}/ready")[0] == 200, "the gateway has its token")
    assert deployment.token() not in outcome.output
    secrets_file = deployment.app_dir / "current/secrets.json"
    assert (f"{stat.S_IMODE(secrets_file.stat().st_mode):o}", secrets_file.stat().st_uid) == (
        "400",
        10001,
    )
    assert secret not in docker("inspect", deployment.container())
