"""What a container's user may plant in the token directory, and what an operator may mistype."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.windows import KOREA
from tests.engine.conftest import Deployment
from tests.tools import BIN, Outcome, command, docker, get
from tests.unit.builders import host_data

VERBS = ["up", "plan", "drift", "status", "restart", "rollback", "down"]
QUIET_VERBS = ["plan", "status", "drift"]
FORCE = ("--data", "force=1")


@pytest.fixture(scope="module")
def deployed(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> Deployment:
    deployment = new_deployment("guards", **stubborn_settings)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    return deployment


@pytest.fixture
def planted(deployed: Deployment) -> Iterator[Callable[[str], Path]]:
    """Paths next to the token file, by their endings; they are removed after the test."""
    own = {path.name: path.read_bytes() for path in deployed.token_file.parent.iterdir()}
    yield lambda ending: deployed.token_file.with_name(f"kis_token.json{ending}")
    for path in deployed.token_file.parent.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in own or not path.is_file() or path.is_symlink():
            path.unlink()
    for name, content in own.items():
        path = deployed.token_file.with_name(name)
        path.write_bytes(content)
        os.chown(path, 10001, 10001)


def test_a_planted_fingerprint_replaces_no_file_elsewhere(
    deployed: Deployment, planted: Callable[[str], Path], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of root")
    planted(".of-").mkdir()
    planted(".key").unlink(missing_ok=True)
    planted(".key").write_text(f"/../../../../../../../../../..{victim}")
    outcome = deployed.run("restart")
    assert victim.read_text() == "of root"
    assert outcome.status == 0, outcome.output


def test_a_planted_fingerprint_makes_no_release(
    deployed: Deployment, planted: Callable[[str], Path]
) -> None:
    evil = deployed.token_file.with_name("evil")
    shutil.copytree(deployed.app_dir / "current", evil)
    key = json.loads((deployed.app_dir / "current/release.json").read_text())["key"]
    planted(".key").unlink(missing_ok=True)
    planted(".key").write_text(
        rf"{key}\nprevious ../../tokens/evil\nrelease ../../tokens/evil {key}"
    )
    container = deployed.container()
    for flags in [(), ("--data", 'release="../../tokens/evil"')]:
        outcome = deployed.run("rollback", *flags)
        assert outcome.status == 1, outcome.output
        assert "evil/docker-compose.yml" not in outcome.output
    assert deployed.container() == container


ENDINGS = [".key", ".attempt", ".of-0a1b2c3d4e5f"]


def test_the_target_of_a_planted_link_is_never_shown(
    deployed: Deployment, planted: Callable[[str], Path], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text('0123456789ab\n"attempted_at": 1, "app_key_fingerprint": "0123456789ab"\n')
    for ending in ENDINGS:
        planted(ending).unlink(missing_ok=True)
        planted(ending).symlink_to(secret)
    for verb in [*QUIET_VERBS, "restart"]:
        outcome = deployed.run(verb, "-vvv")
        assert "0123456789ab" not in outcome.output.replace(str(secret), "")
        assert verb == "drift" or outcome.status == 0, outcome.output
    assert not list(deployed.token_file.parent.glob("*0123456789ab*"))


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_huge_file(path: Path) -> None:
    path.touch()
    os.truncate(path, 10_000_000_000)


def plant_brackets(path: Path) -> None:
    path.write_text("[" * 2_000_000)


@pytest.mark.parametrize("plant", [plant_fifo, plant_huge_file, plant_brackets])
def test_no_verb_waits_for_a_fifo_or_reads_a_huge_file(
    deployed: Deployment, planted: Callable[[str], Path], plant: Callable[[Path], None]
) -> None:
    for ending in ["", *ENDINGS]:
        planted(ending).unlink(missing_ok=True)
        plant(planted(ending))
    for number in range(5000):
        planted(f".of-{number}\n").touch()
    for verb in QUIET_VERBS:
        deployed.run(verb)


def test_no_shell_executes_the_path_of_the_app_directory(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any], tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    deployment = new_deployment("path", **stubborn_settings)
    app_dir = f"{deployment.app_dir}'\"$(touch$IFS{marker})`touch$IFS{marker}`"
    deployment.data["gateway_app_dir"] = app_dir
    outcome = deployment.up()
    assert not marker.exists()
    assert outcome.status == 0, outcome.output
    assert (Path(app_dir) / "switch.log").read_text()


@pytest.mark.parametrize("form", ["sealed", "naive"])
def test_a_gateway_that_answers_passes_with_a_token_file_of_unknown_form(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any], form: str
) -> None:
    deployment = new_deployment(form, **stubborn_settings)
    deployment.data["gateway_environment"] |= {"TOKEN_FORM": form}
    assert (first := deployment.up()).status == 0, first.output
    written = deployment.token_file.read_bytes()
    assert (changed := deployment.up(gateway_labels={"changed": "yes"})).status == 0, changed.output
    assert (again := deployment.run("restart")).status == 0, again.output
    assert deployment.token_file.read_bytes() == written
    assert deployment.account.count("issuances") == 1
    assert deployment.account.count("rejections") == 0


def test_a_gateway_that_answers_is_not_reported_as_down(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    """Its restore fails because the engine finds it unhealthy, but clients are served."""
    check = {"test": ["CMD", "test", "-e", "/app/tokens/ok"], "interval": "1s", "retries": 1}
    deployment = new_deployment("answers", **stubborn_settings, gateway_healthcheck=check)
    ok = deployment.token_file.with_name("ok")
    ok.parent.mkdir(0o700)
    ok.touch()
    assert (first := deployment.up()).status == 0, first.output
    ok.unlink()
    outcome = deployment.up(gateway_labels={"changed": "yes"})
    assert outcome.status == 1
    assert get(f"{deployment.url}/health")[0] == 200
    assert "The gateway answers /health now, though it did not pass the gate." in outcome.output
    assert "DOES NOT SERVE" not in outcome.output
    docker("stop", deployment.container())


# What an operator mistypes


def front_door(verb: str, inventory: Path, *arguments: str) -> Outcome:
    """Runs what `make VERB INVENTORY=…` runs, without make's preparations."""
    result = command(BIN / "python", "-m", "deploy", verb, inventory, *arguments, cwd=ROOT)
    return Outcome(result.returncode, result.stdout + result.stderr)


@pytest.mark.parametrize("verb", VERBS)
def test_an_inventory_that_is_missing_or_empty_is_an_error(verb: str, tmp_path: Path) -> None:
    missing, empty = tmp_path / "nope.py", tmp_path / "empty.py"
    empty.write_text("hosts = []\n")
    front_door(verb, missing).assert_refused(f"there is no inventory {missing}")
    front_door(verb, empty).assert_refused(f"the inventory {empty} has no host of this package")


def test_an_inventory_that_pyinfra_reads_in_part_is_an_error(deployed: Deployment) -> None:
    inventory = deployed.inventory()
    good = inventory.read_text()
    inventory.write_text(f"{good}web = ['web-1', 5]\n")
    front_door("plan", inventory).assert_refused('cannot read the host group "web"')
    group_data = deployed.directory / "group_data"
    group_data.mkdir()
    inventory.write_text(good)
    try:
        for text, why in [("x = = 1\n", "invalid syntax"), ("import nowhere\n", "No module named")]:
            (group_data / "test.py").write_text(text)
            outcome = front_door("plan", inventory)
            outcome.assert_refused(f"{group_data}/test.py, line 1", why)
            assert "plan: failed on 0 of 0 hosts" in outcome.output
    finally:
        (group_data / "test.py").unlink()


def test_a_name_that_is_given_to_two_hosts_is_an_error(deployed: Deployment) -> None:
    """pyinfra would merge them, and deploy to one machine only."""
    inventory = deployed.inventory()
    good = inventory.read_text()
    inventory.write_text(f"{good}test += [('@local', {{'gateway_port': 8099}})]\n")
    front_door("plan", inventory).assert_refused(
        "@local is in the inventory twice, with two values of gateway_port",
        "give each host a name of its own",
    )
    inventory.write_text(f"{good}test += test\nagain = ['@local']\n")
    outcome = front_door("plan", inventory)
    assert outcome.status == 0, outcome.output


INTERRUPTS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("which", INTERRUPTS)
def test_a_signal_while_hosts_are_connected_to_is_no_success(
    tmp_path: Path, which: signal.Signals
) -> None:
    """pyinfra alone ends with 0 after SIGINT."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        data = host_data() | {
            "ssh_hostname": "127.0.0.1",
            "ssh_port": silent.getsockname()[1],
            "rollout_after": ["sh", "-c", f"cat > {tmp_path}/told"],
        }
        (tmp_path / "inventory.py").write_text(
            f"from pathlib import PosixPath\nhosts = [('web-1', {data!r})]\n"
        )
        with (
            subprocess.Popen(
                [BIN / "python", "-m", "deploy", "up", tmp_path / "inventory.py"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
            ) as controller,
            silent.accept()[0],
        ):
            controller.send_signal(which)
            output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 1, output
    assert f"no host was touched: interrupted ({which.name})" in output
    assert "up: failed on 1 of 1 hosts (web-1)" in output
    assert "Traceback" not in output
    [host] = json.loads((tmp_path / "told").read_text())["hosts"]
    assert (host["word"], host["why"]) == ("failed", f"interrupted ({which.name})")


def test_an_ssh_connection_that_is_cut_shows_no_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def cut() -> None:
            for _ in range(2):
                server.accept()[0].close()

        threading.Thread(target=cut, daemon=True).start()
        where = {"ssh_hostname": "127.0.0.1", "ssh_port": server.getsockname()[1]}
        (tmp_path / "inventory.py").write_text(
            "from pathlib import PosixPath\n"
            f"hosts = [('@local', {host_data()!r}), ('web-1', {host_data() | where!r})]\n"
        )
        outcome = front_door("status", tmp_path / "inventory.py")
    outcome.assert_refused("status: failed on 1 of 2 hosts (web-1)")


SIGNAL_AT_AN_IMPORT = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "pyinfra_cli":
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("which", INTERRUPTS)
def test_a_signal_while_the_program_is_loaded_shows_no_traceback(
    tmp_path: Path, which: signal.Signals
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SIGNAL_AT_AN_IMPORT)
    result = command(
        BIN / "python", "-m", "deploy", "up", "inventory/local.py",
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path), "SIGNAL": str(int(which))},
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == f"no host was touched: interrupted ({which.name})\n"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("/nowhere/key", "No such private key file: /nowhere/key"),
        ("/bin/sh", "the SSH key cannot be used: "),  # it is not text
    ],
)
def test_an_ssh_key_that_cannot_be_used_fails_its_own_host(
    deployed: Deployment, key: str, said: str
) -> None:
    inventory = deployed.inventory()
    settings = {name: value for name, value in deployed.data.items() if name != "_sudo"}
    other = settings | {"gateway_project": "other", "ssh_key": key}
    inventory.write_text(f"{inventory.read_text()}other = [('web-1', {other!r})]\n")
    outcome = front_door("status", inventory)
    outcome.assert_refused("[web-1]", said)
    assert "\n@local " in outcome.output
    assert "status: failed on 1 of 2 hosts (web-1)" in outcome.output


def test_a_limit_that_matches_nothing_is_an_error(deployed: Deployment) -> None:
    inventory = deployed.inventory()
    front_door("plan", inventory, "nobody").assert_refused("no host that matches LIMIT=nobody")
    assert front_door("plan", inventory, "@local").status == 0


def make(*arguments: str, **environment: str) -> Outcome:
    result = command("make", *arguments, cwd=ROOT, env=os.environ | environment)
    return Outcome(result.returncode, result.stdout + result.stderr)


def test_an_unknown_make_variable_is_an_error() -> None:
    outcome = make("status", "LIMT=web-1")
    assert outcome.status == 2
    assert "LIMT: unknown variable, nothing was done" in outcome.output


@pytest.mark.parametrize("name", ["INVENTORY", "LIMIT", "RELEASE", "FORCE"])
def test_no_make_variable_is_executed(deployed: Deployment, name: str) -> None:
    marker = deployed.directory / "ran"
    code = f"x;touch {marker};$(shell touch {marker})$$(touch {marker})`touch {marker}`"
    values = {"INVENTORY": str(deployed.inventory())} | {name: code}
    assert make("rollback", *(f"{key}={value}" for key, value in values.items())).status == 2
    assert make("rollback", **values).status == 2
    assert not marker.exists()


def test_outside_of_the_window_a_refused_verb_leaves_no_trace(deployed: Deployment) -> None:
    opens, closes = (datetime.now(KOREA) + timedelta(hours=hours) for hours in (3, 4))
    window: dict[str, Any] = {"rollout_window": [f"{opens:%a %H:%M}-{closes:%H:%M}"]}
    until = f"the window is closed until {opens:%a %Y-%m-%d %H:%M} Korean time"
    changed = window | {"gateway_labels": {"changed": "yes"}}
    before = deployed.host_state()
    for verb, changes in [("up", changed), *((v, window) for v in ("restart", "rollback", "down"))]:
        outcome = deployed.run(verb, **changes)
        outcome.assert_refused(until, "FORCE=1", f"{verb}: blocked on 1 of 1 hosts (@local)")
    for verb, word in [("plan", "changes"), ("drift", "drifted"), ("status", "read")]:
        outcome = deployed.run(verb, **changed)
        assert f"{verb}: {word} on 1 of 1 hosts" in outcome.output
        assert (f"! {until}" in outcome.output) == (verb != "status"), outcome.output
    assert (same := deployed.up(**window)).status == 0, same.output
    assert "up: up to date on 1 of 1 hosts" in same.output
    refused = deployed.verify(**window)
    assert refused.status == 4  # pytest's usage error: no test ran
    assert f"nothing was restarted: {until}" in refused.output
    assert "Traceback" not in refused.output
    assert deployed.host_state() == before

    safe = deployed.verify("-m", "not restarts", "-k", "the_port_is_open", **window)
    assert safe.status == 0, safe.output
    forced = deployed.verify("--force", "-k", "outlives and docker_restart", **window)
    assert forced.status == 0, forced.output
    for changes in (window, {}):
        outcome = deployed.run("restart", *FORCE, **changes)
        assert outcome.status == 0, outcome.output
    events = (deployed.app_dir / "history.jsonl").read_text().splitlines()
    assert [json.loads(event)["forced"] for event in events[-2:]] == [True, False]
    assert "restart (forced)" in deployed.run("history").output


@pytest.mark.parametrize("verb", ["plan", "drift"])
def test_a_blocked_host_is_reported_and_fails_the_run(deployed: Deployment, verb: str) -> None:
    gone: dict[str, Any] = {
        "gateway_image_source": "registry",
        "gateway_build_context": None,
        "gateway_image": "127.0.0.1:1/kis:1",
    }
    outcome = deployed.run(verb, **gone)
    assert outcome.status == 1, outcome.output
    assert f"{verb}: blocked on 1 of 1 hosts (@local)" in outcome.output
    assert ": up to date" not in outcome.output
    assert "0 up to date, 1 blocked" in outcome.output


def test_no_hidden_value_is_printed_at_the_highest_verbosity(deployed: Deployment) -> None:
    secret = "s3cret-in-a-name-that-says-nothing"
    environment = deployed.data["gateway_environment"] | {"KIS_MY_SEC": secret}
    outputs = [deployed.up("-vvv", "--debug", gateway_environment=environment).output]
    compose_file = (deployed.app_dir / "current/docker-compose.yml").read_bytes()
    encoded = base64.b64encode(compose_file).decode()
    changed = environment | {"KIS_MY_SEC": f"{secret}-2"}
    outputs += [
        deployed.run(verb, "-vvv", "--debug", gateway_environment=changed).output
        for verb in QUIET_VERBS
    ]
    for output in outputs:
        assert secret not in output
        assert encoded[:80] not in output
        assert encoded[-80:] not in output
    assert "KIS_MY_SEC: (changed)" in outputs[1]
    deployed.up()
