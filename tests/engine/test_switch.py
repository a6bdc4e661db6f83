"""A switch on a real engine: killed at each step, in a race, and without a way back."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.host.change import STEPS
from tests.engine.conftest import Deployment
from tests.tools import BIN, command, docker, free_port, get, wait_for


def changed() -> dict[str, Any]:
    return {"gateway_labels": {"changed": secrets.token_hex(4)}}


@pytest.fixture(scope="module")
def deployed(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> Deployment:
    deployment = new_deployment("switch", **stubborn_settings)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    return deployment


@pytest.fixture(autouse=True)
def it_serves_with_the_same_token_afterwards(deployed: Deployment) -> Iterator[None]:
    token = deployed.token()
    yield
    assert get(f"{deployed.url}/health")[0] == 200
    assert deployed.token() == token
    assert (deployed.account.count("issuances"), deployed.account.count("rejections")) == (1, 0)


def state(deployment: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((deployment.app_dir / "state.json").read_text())
    return found


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_worker_leaves_the_old_or_the_new_release(deployed: Deployment, step: str) -> None:
    before = (deployed.app_dir / "current").readlink()
    change = changed()
    outcome = deployed.up(**change, die_at=step)
    has_passed = step in {"passed", "pointed"}
    assert "the switch process died: another one completes or restores" in outcome.output
    assert (outcome.status == 0) is has_passed, outcome.output
    assert ((deployed.app_dir / "current").readlink() != before) is has_passed
    assert state(deployed)["outcome"] == ("switched" if has_passed else "restored")
    assert get(f"{deployed.url}/health")[0] == 200
    assert deployed.inspect("{{.HostConfig.RestartPolicy.Name}}") == "unless-stopped"
    again = deployed.up(**change)
    assert again.status == 0, again.output
    assert deployed.up(**change).changes() == 0


@pytest.mark.parametrize("step", ["begun", "created", "ready", "started"])
def test_another_worker_completes_a_restart_whose_worker_is_killed(
    deployed: Deployment, step: str
) -> None:
    outcome = deployed.run("restart", die_at=step)
    assert outcome.status == 0, outcome.output
    assert state(deployed)["outcome"] == "restarted"
    assert get(f"{deployed.url}/health")[0] == 200


def test_a_restore_whose_port_was_taken_meanwhile_says_both_causes_and_what_to_do(
    deployed: Deployment,
) -> None:
    other, image = free_port(), deployed.inspect("{{.Config.Image}}")
    broken = {"gateway_environment": deployed.data["gateway_environment"] | {"HABIT": "private"}}
    with ThreadPoolExecutor() as pool:
        run = pool.submit(deployed.up, gateway_port=other, rollout_healthy_deadline=8, **broken)
        new = "ps", "--quiet", "--filter", f"publish={other}"
        wait_for(lambda: docker(*new) != "", "the new container runs")
        where = f"127.0.0.1:{deployed.data['gateway_port']}:80"
        holder = docker("run", "--detach", "--publish", where, "--entrypoint", "sleep", image, "99")
        try:
            outcome = run.result()
        finally:
            docker("rm", "--force", holder)
    assert outcome.status == 1
    end = outcome.output[outcome.output.index("@local failed (failed): ") :].splitlines()
    assert end[0].startswith("@local failed (failed): not healthy within 8 s: "), end
    assert "failed, too: " in end[1], end
    assert "port is already allocated" in end[1], end
    assert "run `systemctl restart docker` on the host" in end[1], end
    again = deployed.up()
    assert again.status == 0, again.output


def test_what_runs_is_asked_where_it_listens_not_where_the_inventory_says_now(
    deployed: Deployment,
) -> None:
    there: dict[str, Any] = {"gateway_port": free_port()}
    assert (moved := deployed.up(**there)).status == 0, moved.output
    status = deployed.run("status", "--data", "json=1").output
    assert '"client_sees": "HTTP 200"' in status, status
    back = deployed.run("rollback", **there)
    assert back.status == 0, back.output
    assert get(f"{deployed.url}/health")[0] == 200
    status = deployed.run("status", "--data", "json=1", **there).output
    assert '"client_sees": "HTTP 200"' in status, status


def test_a_request_from_an_outdated_reading_is_refused(deployed: Deployment) -> None:
    """Another deploy is simulated between the reading and the first change."""
    container = deployed.container()
    file = deployed.app_dir / "state.json"
    before = state(deployed)
    inventory = deployed.inventory(**changed())
    hook = deployed.directory / "hook.py"
    hook.write_text(
        "from pathlib import Path\nimport json\n"
        "from kis_gateway_deploy import calls\n"
        "real = calls.prepare\n"
        "def prepare(*arguments, **named):\n"
        f"    path = Path({str(file)!r})\n"
        "    state = json.loads(path.read_text())\n"
        "    state |= {'generation': 'f' * 16, 'by': 'kim@desk', 'to': None, 'action': 'down'}\n"
        "    path.write_text(json.dumps(state))\n"
        "    return real(*arguments, **named)\n"
        "calls.prepare = prepare\n"
        "exec(Path('deploy/up.py').read_text())\n"
    )
    result = command(BIN / "pyinfra", "-y", inventory, hook, cwd=deployed.checkout)
    file.write_text(json.dumps(before))
    assert result.returncode == 1
    assert "changed since it was read: down by kim@desk" in result.stderr
    assert "run plan again" in result.stderr
    assert deployed.container() == container


def test_a_host_that_already_runs_the_requested_release_is_a_success(deployed: Deployment) -> None:
    """Another deploy of the same release comes between the reading and the switch."""
    inventory = deployed.inventory(**changed())
    hook = deployed.directory / "hook.py"
    hook.write_text(
        "import subprocess, sys\nfrom pathlib import Path\n"
        "from kis_gateway_deploy import calls\n"
        "real = calls.switch\n"
        "def switch(*arguments):\n"
        f"    words = [{str(BIN / 'pyinfra')!r}, '-y', {str(inventory)!r}, 'deploy/up.py']\n"
        "    subprocess.run(words, check=True, capture_output=True)\n"
        "    return real(*arguments)\n"
        "calls.switch = switch\n"
        "exec(Path('deploy/up.py').read_text())\n"
    )
    result = command(BIN / "pyinfra", "-y", inventory, hook, cwd=deployed.checkout)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in (deployed.app_dir / "history.jsonl").open()]
    assert [event["to"] for event in events[-2:]].count(events[-1]["to"]) == 1, "switched once"


@pytest.mark.parametrize("damage", ["removed", "dangling", "a directory"])
def test_a_lost_current_link_is_found_again(deployed: Deployment, damage: str) -> None:
    current = deployed.app_dir / "current"
    release = current.readlink()
    current.unlink()
    if damage == "dangling":
        current.symlink_to("releases/0123456789ab")
    elif damage == "a directory":
        current.mkdir()
    broken = {"gateway_environment": deployed.data["gateway_environment"] | {"HABIT": "private"}}
    outcome = deployed.up(**broken, rollout_healthy_deadline=5)
    assert outcome.status == 1, outcome.output
    assert f"Restored: release {release.name} runs again and is healthy" in outcome.output
    assert get(f"{deployed.url}/health")[0] == 200
    assert deployed.up().status == 0
    assert current.is_symlink()


def test_a_release_whose_image_lost_its_name_can_be_restored(deployed: Deployment) -> None:
    assert deployed.up().status == 0
    image = deployed.inspect("{{.Config.Image}}")
    docker("rmi", "--force", image)
    broken = {"gateway_environment": deployed.data["gateway_environment"] | {"HABIT": "private"}}
    with_another_image = broken | {"gateway_image": "kis-test-other"}
    outcome = deployed.up(**with_another_image, rollout_healthy_deadline=5)
    assert outcome.status == 1, outcome.output
    assert "runs again and is healthy" in outcome.output
    assert get(f"{deployed.url}/health")[0] == 200
    assert deployed.up().status == 0


@pytest.mark.parametrize("name", ["docker-compose.yml", "release.json"])
def test_without_a_way_back_nothing_is_stopped(deployed: Deployment, name: str) -> None:
    container, release = deployed.container(), (deployed.app_dir / "current").resolve()
    kept = release.with_name("kept")
    shutil.copytree(release, kept)
    (release / name).unlink()
    outcome = deployed.up(**changed())
    assert outcome.status == 1, outcome.output
    assert "what runs now could not be restored" in outcome.output
    assert f"{name} is missing" in outcome.output
    assert deployed.container() == container
    shutil.rmtree(release)
    shutil.move(kept, release)
    shutil.chown(release / "secrets.json", 10001, 10001)
    assert deployed.up().status == 0


def test_after_a_switch_that_was_cut_off_the_release_before_it_is_the_way_back(
    deployed: Deployment,
) -> None:
    """As by a reboot: the container of the new release is there, and has passed no gate."""
    before = (deployed.app_dir / "current").resolve()
    environment = deployed.data["gateway_environment"] | {"HABIT": "private"}
    broken = {"gateway_environment": environment, "rollout_healthy_deadline": 5}
    outcome = deployed.up(**broken)
    assert "Restored:" in outcome.output, outcome.output
    ended = state(deployed)
    files = ["-f", str(deployed.app_dir / "releases" / ended["to"] / "docker-compose.yml")]
    docker("compose", "--project-name", deployed.project, *files, "up", "--no-start")
    assert deployed.inspect("{{.State.Running}}") == "false"
    cut_off = {
        "phase": "begun",
        "outcome": None,
        "back": {"kind": "release", "release": before.name, "image": None, "adopted": None},
    }
    (deployed.app_dir / "state.json").write_text(json.dumps(ended | cut_off))
    outcome = deployed.up(**broken)
    assert outcome.status == 1, outcome.output
    assert f"Restored: release {before.name} runs again" in outcome.output, outcome.output
    assert (deployed.app_dir / "current").resolve() == before


def test_a_project_name_in_roots_environment_changes_nothing(deployed: Deployment) -> None:
    outcome = deployed.run("up", environment={"COMPOSE_PROJECT_NAME": "other"}, **changed())
    assert outcome.status == 0, outcome.output
    assert docker("ps", "-aq", "--filter", "label=com.docker.compose.project=other") == ""


def test_a_compose_without_the_progress_flag_is_supported(
    deployed: Deployment, tmp_path: Path
) -> None:
    """A plugin that refuses the flag stands for Compose before 2.18."""
    places = ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
    plugins = (Path(place) / "docker/cli-plugins/docker-compose" for place in places)
    real = next(path for path in plugins if path.exists())
    plugin = tmp_path / "cli-plugins/docker-compose"
    plugin.parent.mkdir()
    plugin.write_text(
        f'#!/bin/sh\ncase " $* " in *" --progress "*) exit 1;; esac\nexec {real} "$@"\n'
    )
    plugin.chmod(0o755)
    outcome = deployed.run("up", environment={"DOCKER_CONFIG": str(tmp_path)}, **changed())
    assert outcome.status == 0, outcome.output


def test_a_container_of_compose_run_is_ignored(deployed: Deployment) -> None:
    """A container left by `docker compose run` is not removed and is not the gateway."""
    file = deployed.app_dir / "current/docker-compose.yml"
    docker(
        "compose", "--project-name", deployed.project, "--file", str(file),
        "run", "--no-deps", "kis-gateway", "python3", "-c", "print('once')",
    )  # fmt: skip
    label = f"label=com.docker.compose.project={deployed.project}"
    one_off = docker(
        "ps", "-aq", "--no-trunc", "--filter", label,
        "--filter", "label=com.docker.compose.oneoff=True",
    )  # fmt: skip
    try:
        outcome = deployed.up(**changed())
        assert outcome.status == 0, outcome.output
        assert docker("inspect", "--format", "{{.State.Status}}", one_off) == "exited"
    finally:
        docker("rm", one_off)


def test_a_restore_uses_the_release_and_not_the_current_inventory(deployed: Deployment) -> None:
    """The new release has another port, another path and its own health check; it fails."""
    assert deployed.up().status == 0
    other = {
        "gateway_port": deployed.data["gateway_port"] + 1,
        "gateway_health_path": "/nowhere",
        "gateway_container_port": 9999,
        "gateway_healthcheck": {"test": ["CMD", "false"], "interval": "1s", "retries": 1},
        "gateway_environment": deployed.data["gateway_environment"] | {"HABIT": "mortal"},
    }
    outcome = deployed.up(**other, rollout_min_healthy_time=4, rollout_healthy_deadline=8)
    assert outcome.status == 1, outcome.output
    assert "runs again and is healthy" in outcome.output


@pytest.mark.parametrize(
    ("habit", "reason"),
    [
        ("private", "not healthy within 6 s: GET http://127.0.0.1:"),
        ("flaky", "a client got a bad answer after a good one"),
        ("mortal", "the container exited with status 7 after it had answered"),
    ],
)
def test_a_release_that_no_client_can_use_is_reverted(
    deployed: Deployment, habit: str, reason: str
) -> None:
    environment = deployed.data["gateway_environment"] | {"HABIT": habit}
    outcome = deployed.up(
        gateway_environment=environment, rollout_min_healthy_time=5, rollout_healthy_deadline=6
    )
    assert outcome.status == 1, outcome.output
    assert reason in outcome.output
    assert "runs again and is healthy" in outcome.output


def test_an_adopted_container_runs_again_after_its_worker_is_killed(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    """The container runs; only its environment names the path of its token."""
    deployment = new_deployment("adopted", **stubborn_settings)
    assert deployment.up(gateway_token_at_start=False).status == 0  # builds the image
    image = deployment.inspect("{{.Config.Image}}")
    deployment.compose("down")
    deployment.token_file.unlink(missing_ok=True)
    adopting = new_deployment("adopting", **stubborn_settings)
    name = f"old-{secrets.token_hex(4)}"
    docker(
        "run", "--detach", "--name", name, "--restart", "unless-stopped",
        "--add-host", "host.docker.internal:host-gateway",
        "--env", "KIS_BASE_URL=http://host.docker.internal:9443",
        "--env", "SECRETS_FILE=/secrets.json", "--env", "KIS_TOKEN_FILE_PATH=/var/own.json",
        "--publish", f"127.0.0.1:{adopting.data['gateway_port']}:8080",
        "--volume", f"{adopting.account.secrets_file}:/secrets.json:ro", image,
    )  # fmt: skip
    try:
        wait_for(lambda: "초기화 완료" in docker("logs", name), "the old container has a token")
        status = ("inspect", "--format", "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}")
        for step in ("created", "started"):
            outcome = adopting.up(gateway_adopt_container=name, die_at=step)
            assert outcome.status == 1, outcome.output
            taken = f"the token of the container {name} is taken over" in outcome.output
            assert taken == (step == "created"), "the token is taken over once"
            assert f"Restored: the container {name} runs again" in outcome.output
            assert docker(*status, name) == "running unless-stopped"
            wait_for(lambda: get(f"{adopting.url}/health")[0] == 200, "it serves again")
        docker("stop", name)  # a stopped container is adopted, too
        outcome = adopting.up(gateway_adopt_container=name)
        assert outcome.status == 0, outcome.output
        assert f"the token of the container {name} expires no later than" in outcome.output
        assert docker(*status, name) == "exited no"
        assert (adopting.account.count("issuances"), adopting.account.count("rejections")) == (1, 0)
        assert adopting.up(gateway_adopt_container=name).changes() == 0
        assert adopting.run("down").status == 0
        docker("start", name)  # back to the old container by hand, and forward again
        wait_for(lambda: get(f"{adopting.url}/health")[0] == 200, "the old container serves")
        outcome = adopting.up(gateway_adopt_container=name)
        assert outcome.status == 0, outcome.output
        assert docker(*status, name) == "exited no"
        assert (adopting.account.count("issuances"), adopting.account.count("rejections")) == (1, 0)
    finally:
        docker("rm", "--force", name)


def test_an_adoption_without_a_token_is_refused_and_explained(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    adopting = new_deployment("no-token", **stubborn_settings)
    name = f"old-{secrets.token_hex(4)}"
    image = docker("images", "--quiet", "kis-gateway").split()[0]
    docker("run", "--detach", "--name", name, image, "sleep", "600")
    try:
        outcome = adopting.up(gateway_adopt_container=name)
        assert outcome.status == 1
        assert f"no token was found in the container {name} at /app/tokens/" in outcome.output
        assert "gateway_adopt_without_token = True" in outcome.output
        assert docker("inspect", "--format", "{{.State.Status}}", name) == "running"
        outcome = adopting.up(gateway_adopt_container=name, gateway_adopt_without_token=True)
        assert outcome.status == 0, outcome.output
        assert adopting.account.count("issuances") == 1
        outcome = adopting.up(gateway_adopt_container="nobody")
        assert "there is no container nobody on this host" in outcome.output or (
            outcome.changes() == 0
        )
    finally:
        docker("rm", "--force", name)


def test_the_container_that_holds_the_port_is_named(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment("held", **stubborn_settings)
    name = f"holder-{secrets.token_hex(4)}"
    image = docker("images", "--quiet", "kis-gateway").split()[0]
    port = deployment.data["gateway_port"]
    docker(
        "run", "--detach", "--name", name, "--publish", f"127.0.0.1:{port}:80", image,
        "sleep", "600",
    )  # fmt: skip
    try:
        outcome = deployment.run("plan")
        assert outcome.status == 1
        assert f"port {port} is held by the container {name}: stop it" in outcome.output
    finally:
        docker("rm", "--force", name)


def test_a_worker_that_dies_on_a_host_without_a_noted_restart_policy(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    """Such as the first change after an older version of this package: `state.json` has none."""
    deployment = new_deployment("no-policy", **stubborn_settings)
    assert deployment.up().status == 0
    state_file = deployment.app_dir / "state.json"
    state = json.loads(state_file.read_text())
    del state["restart"]
    state_file.write_text(json.dumps(state))
    (deployment.app_dir / "current" / "docker-compose.yml").chmod(0o644)  # made from it again
    outcome = deployment.up(die_at="created")
    assert outcome.status == 1, outcome.output
    assert "The same release ran before" in outcome.output
    assert "died twice" not in outcome.output
    wait_for(lambda: get(f"{deployment.url}/health")[0] == 200, "the gateway serves")
    policy = deployment.inspect("{{.HostConfig.RestartPolicy.Name}}")
    assert policy == "unless-stopped"
    assert deployment.up().status == 0
    assert (deployment.account.count("issuances"), deployment.account.count("rejections")) == (1, 0)
