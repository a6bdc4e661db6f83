"""`logs` shows what the gateways print, without secrets and control characters."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from subprocess import Popen

import pytest

from tests.engine.conftest import Deployment
from tests.tools import BIN, command, docker

OPAQUE = "opaque-token-0123456789"


@pytest.fixture(scope="module")
def deployed(new_deployment: Callable[..., Deployment]) -> Deployment:
    deployment = new_deployment("logs")
    deployment.data["gateway_environment"] |= {"SOME_API_KEY": "the-value-of-a-variable"}
    assert (first := deployment.up()).status == 0, first.output
    return deployment


def prints(deployment: Deployment, text: str) -> None:
    """Has the gateway's container print a text and a line break."""
    script = 'printf "%s\\n" "$1" >/proc/1/fd/1'
    docker("exec", deployment.container(), "sh", "-c", script, "-", text)


def logs(deployment: Deployment, *flags: str) -> subprocess.CompletedProcess[str]:
    inventory = deployment.inventory()
    result = command(
        BIN / "pyinfra", "-y", *flags, inventory, "deploy/logs.py", cwd=deployment.checkout
    )
    assert "Traceback" not in result.stderr
    return result


def test_the_lines_have_the_hosts_name_and_no_secret(deployed: Deployment) -> None:
    account, token = deployed.account, deployed.token()
    prints(deployed, f"key {account.app_key} secret {account.app_secret} end-of-secrets")
    prints(deployed, f"variable the-value-of-a-variable token {token}.")
    prints(deployed, "colour \033[31mred\033[0m bell \a return \r\u202e한글")
    prints(deployed, "x" * 3000)
    result = logs(deployed)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "@local | key (hidden) secret (hidden) end-of-secrets" in lines
    assert "@local | variable (hidden) token (hidden)" in " ".join(lines)
    colour = "@local | colour \\x1b[31mred\\x1b[0m bell \\x07 return \\r\\u202e한글"
    assert colour in lines
    assert f"@local | {'x' * 1000}…" in lines
    for secret in (account.app_key, account.app_secret, token, "the-value"):
        assert secret not in result.stdout + result.stderr
    assert lines[-1] == "logs: read on 1 of 1 hosts"


def test_a_token_of_another_form_is_hidden(deployed: Deployment) -> None:
    content = deployed.token_file.read_text()
    deployed.token_file.write_text(content.replace(deployed.token(), OPAQUE))
    try:
        prints(deployed, f"uses {OPAQUE}")
        result = logs(deployed)
        assert "@local | uses (hidden)" in result.stdout.splitlines()
        assert OPAQUE not in result.stdout
    finally:
        deployed.token_file.write_text(content)


def test_older_lines_are_left_out(deployed: Deployment) -> None:
    prints(deployed, "an older line")
    time.sleep(1)
    moment = datetime.now(UTC).isoformat()
    time.sleep(1)
    prints(deployed, "a newer line")
    shown = logs(deployed, "--data", f'since="{moment}"').stdout
    assert "a newer line" in shown
    assert "an older line" not in shown


@pytest.mark.parametrize("since", ["10", '"10"', "yesterday", '"9999-01-01T00:00"', '"\033[31m5m"'])
def test_a_wrong_time_is_refused_before_a_host_is_asked(deployed: Deployment, since: str) -> None:
    result = logs(deployed, "--data", f"since={since}")
    assert result.returncode == 1
    assert "no host was asked: SINCE=" in result.stderr
    assert "\033[31m5m" not in result.stderr
    assert result.stdout.splitlines()[-1] == "logs: blocked on 1 of 1 hosts (@local)"


@contextmanager
def following(deployment: Deployment) -> Iterator[Popen[str]]:
    with Popen(
        [BIN / "pyinfra", "-y", "--data", "follow=1", deployment.inventory(), "deploy/logs.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=deployment.checkout,
    ) as controller:
        try:
            yield controller
        finally:
            controller.kill()


def comes(controller: Popen[str], text: str) -> bool:
    assert controller.stdout is not None
    return any(text in line for line in controller.stdout)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_followed_log_shows_later_lines_until_it_is_interrupted(
    deployed: Deployment, which: signal.Signals
) -> None:
    prints(deployed, "the first line")
    with following(deployed) as controller:
        assert comes(controller, "@local | the first line")
        prints(deployed, f"a later line with {deployed.account.app_secret}")
        assert comes(controller, "@local | a later line with (hidden)")
        controller.send_signal(which)
        rest, errors = controller.communicate(timeout=30)
    assert controller.returncode == 128 + which
    assert "Traceback" not in errors + rest
    assert f"{which.name}: interrupted" in errors
    assert rest.splitlines()[-1] == "logs: read on 1 of 1 hosts"


def test_a_followed_log_goes_on_through_silence_and_with_the_next_container(
    deployed: Deployment,
) -> None:
    with following(deployed) as controller:
        prints(deployed, "before the silence")
        assert comes(controller, "before the silence")
        time.sleep(35)  # longer than a host may be silent
        docker("restart", deployed.container())
        assert comes(controller, "Starting gunicorn")
        assert deployed.up(gateway_labels={"changed": "yes"}).status == 0
        assert comes(controller, "Starting gunicorn")
        controller.send_signal(signal.SIGINT)
        controller.communicate(timeout=30)
    assert controller.returncode == 130


def test_a_reader_that_stops_reading_ends_it(deployed: Deployment) -> None:
    prints(deployed, "one of many lines")
    with following(deployed) as controller:
        assert comes(controller, "one of many lines")
        assert controller.stdout is not None
        controller.stdout.close()
        prints(deployed, "one more line")
        assert controller.wait(timeout=20) == 128 + signal.SIGPIPE
        assert controller.stderr is not None
        assert "Traceback" not in controller.stderr.read()


def test_what_runs_on_the_host_ends_with_the_controller(deployed: Deployment) -> None:
    with following(deployed) as controller:
        assert comes(controller, "@local | ")
    deadline = time.monotonic() + 15
    ours = ["pgrep", "--full", "--parent", "1", "sys,zlib;f=sys.stdin.buffer"]
    while command(*ours).stdout and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not command(*ours).stdout


def test_a_host_without_a_container_fails(deployed: Deployment) -> None:
    assert deployed.run("down").status == 0
    result = logs(deployed)
    assert result.returncode == 1
    assert "there is no gateway container on this host" in result.stderr
    assert result.stdout.splitlines()[-1] == "logs: failed on 1 of 1 hosts (@local)"
