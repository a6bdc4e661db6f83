"""What SECURITY.md claims: secrets stay in their places, a hostile container gains nothing."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.release import built_image
from tests.engine.canaries import Canaries, Watcher
from tests.engine.conftest import REFERENCE_GATEWAY, Deployment, ask_simulator
from tests.engine.registry import PASSWORD, Registry, login
from tests.tools import BIN, Outcome, command, docker, get, wait_for

IN_WILD = "/tmp/t.json"  # noqa: S108 - the token file of a container that was started by hand
LOUD = ("-vvv", "--debug", "--diff")
QUOTATION = {
    "path": "/uapi/domestic-stock/v1/quotations/inquire-price"
    "?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=005930",
    "expect": {"rt_cd": "0"},
}
# A release that prints all that it has, and exits.
TELLS = """\
services:
  kis-gateway:
    command: ["sh", "-c", "cat $$SECRETS_FILE $$KIS_TOKEN_FILE_PATH; env; exit 1"]
"""


def canary(name: str) -> str:
    return f"canary-{name}-{secrets.token_hex(12)}"


@dataclass
class Run:
    """A deployment in a working directory of its own, and all that its verbs have printed."""

    deployment: Deployment
    canaries: Canaries
    registry: Registry
    wrong: str
    printed: dict[str, Outcome] = field(default_factory=dict)

    def __call__(
        self, what: str, verb: str, *flags: str, status: int | None = 0, **changes: Any
    ) -> Outcome:
        """Runs a verb with all its output; `status`: what it must end with."""
        return self.note(what, self.deployment.run(verb, *LOUD, *flags, **changes), status)

    def note(self, what: str, outcome: Outcome, status: int | None = 0) -> Outcome:
        self.printed[what] = outcome
        assert status is None or outcome.status == status, f"{what}: {outcome.output}"
        assert "Traceback" not in outcome.output, f"{what}: {outcome.output}"
        return outcome

    def leaks(self) -> dict[str, list[str]]:
        """Where a secret shows: in the output of a verb, or in a file that is no place for it."""
        deployment, found = self.deployment, {}
        contents: dict[str, str | bytes] = {w: each.output for w, each in self.printed.items()}
        for root in (deployment.app_dir, deployment.checkout):
            for path in root.rglob("*"):
                is_its_place = root == deployment.app_dir and _holds_secrets(path)
                if path.is_file() and not path.is_symlink() and not is_its_place:
                    contents[str(path)] = path.read_bytes()
        contents["rollout_after"] = (deployment.directory / "told").read_bytes()
        for what, content in contents.items():
            if names := self.canaries.names_in(content):
                found[what] = names
        return found


def _holds_secrets(path: Path) -> bool:
    """Whether SECURITY.md names this file of the app directory as a place of secrets."""
    in_release = {"secrets.json", "gateway.env", "docker-compose.yml", "release.json"}
    return path.name in in_release or path.parent.name == "tokens"


@pytest.fixture
def run(new_deployment: Callable[..., Deployment], registry: Registry, tmp_path: Path) -> Run:
    deployment = new_deployment("canary")
    deployment.checkout = tmp_path
    for name in ("deploy", "kis_gateway_deploy", "docker-compose.yml.j2", "templates", "services"):
        (tmp_path / name).symlink_to(ROOT / name)
    values = {
        "app key": deployment.account.app_key,
        "app secret": deployment.account.app_secret,
        "env file": canary("env-file"),
        "environment": canary("environment"),
        "probe": canary("probe"),
        "registry": PASSWORD,
        "login": login(PASSWORD),
        "wrong": canary("wrong"),
    }
    env_file = deployment.directory / "gateway.env"
    env_file.write_text(f"KIS_ACCT_PW='{values['env file']}'\n")
    registry.push(built_image("kis-gateway", REFERENCE_GATEWAY).reference, "1.4")
    deployment.data |= {
        "gateway_image": f"{registry.address}/kis:1.4",
        "gateway_image_source": "registry",
        "gateway_build_context": None,
        "gateway_registry_auth_file": registry.auth_file,
        "gateway_env_file": env_file,
        "gateway_probe": QUOTATION
        | {"headers": {"tr_id": "FHKST01010100", "X-Password": values["probe"]}},
        "rollout_after": ["sh", "-c", f"cat >> {deployment.directory}/told"],
    }
    deployment.data["gateway_environment"] |= {"KIS_MY_SEC": values["environment"]}
    return Run(deployment, Canaries(values), registry, values["wrong"])


@pytest.fixture
def wild(run: Run) -> Iterator[str]:
    """The name of a running container with a token, which was started by hand."""
    name, deployment = f"kis-test-wild-{secrets.token_hex(3)}", run.deployment
    docker(
        "run", "--detach", "--name", name, "--add-host", "host.docker.internal:host-gateway",
        "--user", "0:0", "--env-file", str(deployment.data["gateway_env_file"]),
        "--env", "KIS_BASE_URL=http://host.docker.internal:9443",
        "--env", f"KIS_TOKEN_FILE_PATH={IN_WILD}", "--env", "SECRETS_FILE=/s.json",
        "--volume", f"{deployment.account.secrets_file}:/s.json:ro",
        "--publish", f"127.0.0.1:{deployment.data['gateway_port']}:8080",
        built_image("kis-gateway", REFERENCE_GATEWAY).reference,
    )  # fmt: skip
    wait_for(lambda: get(f"{deployment.url}/ready")[0] == 200, "it has its token")
    run.canaries.add_token(json.loads(docker("exec", name, "cat", IN_WILD))["access_token"])
    yield name
    command("docker", "rm", "--force", name)


def adopt(run: Run, container: str) -> None:
    """`adopt`, and the modes of the files that it writes."""
    deployment = run.deployment
    bare, written = deployment.directory / "bare.py", deployment.directory / "adopted.py"
    bare.write_text(f"hosts = [('@local', {{'_sudo': {os.geteuid() != 0}}})]\n")
    result = command(
        BIN / "pyinfra", "-y", *LOUD, "--data", f'container="{container}"',
        "--data", f'write="{written}"', bare, "deploy/adopt.py",
        cwd=deployment.checkout, env=deployment._environment,
    )  # fmt: skip
    run.note("adopt", Outcome(result.returncode, result.stdout + result.stderr))
    assert run.canaries.names_in(written.read_bytes()) == []
    companions = [each for each in deployment.directory.glob("adopted*") if each != written]
    assert any(run.canaries.names_in(each.read_bytes()) for each in companions)
    assert {stat.S_IMODE(each.stat().st_mode) for each in companions} == {0o600}


def assert_modes(deployment: Deployment) -> None:
    """Of all files and directories of the package on the host."""
    found = {deployment.token_file.parent: (0o700, 10001), deployment.token_file: (0o600, 10001)}
    for path in deployment.app_dir.rglob("*"):
        if path.name == "secrets.json":
            found[path] = (0o400, 10001)
        elif not path.is_symlink():
            found[path] = (0o700 if path.is_dir() else 0o600, 0)
    assert len(found) > 20
    actual = {path: (stat.S_IMODE((at := path.stat()).st_mode), at.st_uid) for path in found}
    assert actual == found


def print_secrets(run: Run) -> None:
    """Has the gateway print its secrets, which the test itself puts on no command line."""
    account, token = run.deployment.account, run.deployment.token()
    text = f"{account.app_key} {account.app_secret} {token} end-of-secrets\n"
    words = ["docker", "exec", "-i", run.deployment.container(), "sh", "-c", "cat > /proc/1/fd/1"]
    assert command(*words, input=text).returncode == 0


def renew(run: Run) -> None:
    """KIS has ended the token; it refuses the first new one, and gives the second."""
    deployment = run.deployment
    attempt = deployment.token_file.with_name("kis_token.json.attempt")  # by the gateway's clock
    fault = {"path": "/oauth2/tokenP", "kind": "error", "code": "EGW00105", "status": 403}
    deployment.end_token()
    attempt.unlink(missing_ok=True)
    ask_simulator("PUT", "clock", {"advance": 61})
    ask_simulator("POST", "faults", fault | {"app_key": deployment.account.app_key, "count": 1})
    refused = run("renew, refused", "renew", status=1)
    assert "EGW00105" in refused.output
    attempt.unlink(missing_ok=True)
    renewed = run("renew", "renew")
    assert "issuances: 1" in renewed.output
    run.canaries.add_token(deployment.token())


def fail_in_every_way(run: Run) -> None:
    """Settings and files that are wrong and hold a secret."""
    deployment, wrong = run.deployment, run.wrong
    directory = deployment.directory
    (directory / "wrong.json").write_text(f'{{"kis-r-app-key": "{wrong}", {wrong}')
    (directory / "wrong.env").write_text(f"A={wrong}\nB{wrong} = '{wrong}\n")
    auths = {run.registry.address: {"auth": login(wrong)}}
    (directory / "config.json").write_text(json.dumps({"auths": auths}))
    prints = f"cat {directory}/wrong.json; cat {directory}/wrong.json >&2; exit 3"
    mistakes: dict[str, dict[str, Any]] = {
        "settings": {
            "gateway_environment": {"A": [wrong], "B": "b"},
            "gateway_probe": {"path": wrong, "headers": {"X": [wrong], wrong: "x\ny"}},
            "gateway_port": wrong,
            "gateway_labels": {"x": [wrong]},
            "rollout_after": [[wrong]],
        },
        "an app key as the name of its field": {"gateway_app_key_field": wrong},
        "a secrets file": {"gateway_secrets_file": directory / "wrong.json"},
        "a secrets command": {
            "gateway_secrets_file": None,
            "gateway_secrets_command": ["sh", "-c", prints],
        },
        "an env file": {"gateway_env_file": directory / "wrong.env"},
        "a login": {"gateway_registry_auth_file": directory / "config.json"},
    }
    for what, changes in mistakes.items():
        outcome = run(f"wrong: {what}", "up", status=1, **changes)
        assert "blocked" in outcome.output or "no host was touched" in outcome.output.lower()
    for what, line in [("syntax", f"x = = '{wrong}'"), ("error", f"x = {{'{wrong}': 1}}['y']")]:
        inventory = directory / f"{what}.py"
        inventory.write_text(f"test = ['@local']\n{line}\n")
        result = command(
            BIN / "python", "-m", "deploy", "plan", inventory,
            cwd=deployment.checkout, env=deployment._environment,
        )  # fmt: skip
        run.note(f"wrong: inventory, {what}", Outcome(result.returncode, result.stderr), 1)
        log = (deployment.checkout / "pyinfra-debug.log").read_text()
        assert f"{inventory}, line 2" in log
        run.note(f"pyinfra-debug.log, {what}", Outcome(0, log))


def test_no_secret_leaves_its_place(run: Run, wild: str) -> None:
    """Every verb, with all its output, in success and failure."""
    deployment = run.deployment
    roots = [deployment.app_dir, deployment.token_file.parent, deployment.checkout]
    with Watcher(run.canaries, roots) as watcher:
        adopt(run, wild)
        run("up", "up", gateway_adopt_container=wild, gateway_adopt_token_path=IN_WILD)
        assert deployment.account.count("issuances") == 1  # so that the token is the known one
        environment = deployment.data["gateway_environment"] | {"MORE": run.wrong}
        run("plan", "plan", gateway_environment=environment)
        run("drift", "drift", gateway_environment=environment, status=1)
        run("up changed", "up", gateway_environment=environment)
        override = deployment.directory / "override.yml"
        override.write_text(TELLS)
        broken = run("up broken", "up", gateway_compose_override=override, status=1)
        assert "Restored: release" in broken.output, broken.output
        assert "(hidden)" in broken.output, broken.output
        print_secrets(run)
        assert "end-of-secrets" in run("logs", "logs").output
        leaky = run.note("verify of a log", deployment.verify("-vvv", "-m", "not restarts"), 1)
        assert "values of these fields of the secrets show" in leaky.output
        run("status", "status")
        run("status as JSON", "status", "--data", "json=1")
        run("history", "history")
        run("restart", "restart")
        run("rollback", "rollback")
        renew(run)
        assert_modes(deployment)
        fail_in_every_way(run)
        run.note("verify", deployment.verify("-vvv", "-k", "docker_restart"))
        run("down", "down")
        soon = {"rollout_healthy_deadline": 1, "rollout_min_healthy_time": 0}
        silent = deployment.verify("-vvv", "-m", "not restarts", **soon)
        run.note("verify without a gateway", silent, 1)
    assert run.leaks() == {}
    assert watcher.seen == set()
    assert watcher.looks > 100


SWAPPER = """
import os, signal, sys, time

user, own, shadow, victim, linked = sys.argv[1:]
os.setgroups([])
os.setgid(int(user))
os.setuid(int(user))
swaps = 0

def end(*_):
    print(swaps)
    sys.exit()

def clear():
    try:
        os.unlink(own)
    except IsADirectoryError:
        os.rename(own, f".old-{swaps}")
        os.rmdir(f".old-{swaps}")
    except OSError:
        pass

def directory():
    os.mkdir(own)

def file():
    with open(own, "w") as opened:
        opened.write('{"access_token": "x')

makers = [
    lambda: os.symlink(shadow, own),
    lambda: os.symlink(victim, own),
    directory,
    lambda: os.mkfifo(own),
    lambda: os.link(linked, own),
    file,
]
signal.signal(signal.SIGTERM, end)
while True:
    clear()
    try:
        makers[swaps % len(makers)]()
    except OSError:  # the gateway, or the package, was faster
        continue
    swaps += 1
    time.sleep(0.001)
"""


@contextmanager
def swapping(directory: Path, user: int, *arguments: Path) -> Iterator[subprocess.Popen[str]]:
    """Swaps the token file all the time as the container's user."""
    name = "kis_token.json"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SWAPPER, str(user), name, *arguments],
        cwd=directory, stdout=subprocess.PIPE, text=True,
    ) as swapper:  # fmt: skip
        try:
            yield swapper
        finally:
            swapper.terminate()


def fingerprint(path: Path) -> tuple[int, int, int, bytes]:
    at = path.stat()
    return at.st_uid, at.st_gid, at.st_mode, path.read_bytes()


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as the container's user")
def test_a_hostile_token_directory_harms_nothing(
    new_deployment: Callable[..., Deployment],
) -> None:
    deployment = new_deployment("swapped", rollout_healthy_deadline=15)
    assert (first := deployment.up()).status == 0, first.output
    marked = canary("victim")
    token = {"access_token": marked, "expires_at": time.time() + 80000}
    victim, linked = (deployment.directory / each for each in ("victim", "linked"))
    for path, mode in [(victim, 0o600), (linked, 0o666)]:  # a hard link needs a writable file
        path.write_text(json.dumps(token))
        path.chmod(mode)
    deployment.directory.chmod(0o711)
    shadow = Path("/etc/shadow")
    lines = [each for each in shadow.read_text().splitlines() if len(each) > 20]
    canaries = Canaries({"victim": marked} | {each: each for each in lines})
    before = {path: fingerprint(path) for path in (shadow, victim, linked)}
    outputs: dict[str, str] = {}
    directory, relative = deployment.token_file.parent, Path("..") / linked.name
    with swapping(directory, 10001, shadow, victim, relative) as swapper:
        labels = {"changed": "yes"}
        for verb in ("up", "plan", "drift", "status", "history", "logs", "restart", "rollback"):
            outputs[verb] = deployment.run(verb, *LOUD, gateway_labels=labels).output
        outputs["renew"] = deployment.run("renew", *LOUD).output
        outputs["verify"] = deployment.verify("-vvv", "-m", "not restarts").output
        outputs["down"] = deployment.run("down", *LOUD).output
        outputs["up without a gateway"] = deployment.up(*LOUD).output
        assert swapper.poll() is None
        swapper.terminate()
        assert swapper.stdout is not None
        assert int(swapper.stdout.read()) >= 10_000
    assert {path: fingerprint(path) for path in before} == before
    for what, output in outputs.items():
        assert "Traceback" not in output, f"{what}: {output}"
        assert canaries.names_in(output) == [], what
    for path in [*deployment.app_dir.rglob("*"), *directory.rglob("*")]:
        if path.is_file() and not path.is_symlink() and not path.samefile(linked):
            assert canaries.names_in(path.read_bytes()) == [], path
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    assert get(f"{deployment.url}/ready")[0] == 200
    assert deployment.up().changes() == 0


def test_the_container_can_do_nothing_but_serve(new_deployment: Callable[..., Deployment]) -> None:
    """From `docker inspect`, and from /proc inside."""
    deployment = new_deployment("hardened")
    assert (outcome := deployment.up()).status == 0, outcome.output
    host = json.loads(deployment.inspect("{{json .HostConfig}}"))
    assert (host["Privileged"], host["CapAdd"], host["CapDrop"]) == (False, None, ["ALL"])
    assert (host["ReadonlyRootfs"], host["PidMode"], host["Devices"]) == (True, "", None)
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not [each for each in host["SecurityOpt"] if "unconfined" in each]
    inside = docker("exec", deployment.container(), "sh", "-c", "cat /proc/[0-9]*/status")
    lines: dict[str, set[str]] = {}
    for process in inside.split("Name:")[1:]:
        values = {n: v.strip() for n, _, v in (each.partition(":") for each in process.split("\n"))}
        if values["PPid"] != "0" or values["Pid"] == "1":  # else it may be runc, which starts one
            for name, value in values.items():
                lines.setdefault(name, set()).add(value)
    assert len(lines["Pid"]) > 2
    assert {each.split()[0] for each in lines["Uid"]} == {"10001"}
    assert {each.split()[0] for each in lines["Gid"]} == {"10001"}
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert {int(each, 16) for each in lines[name]} == {0}
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == ({"1"}, {"2"})
    mounts = json.loads(deployment.inspect("{{json .Mounts}}"))
    assert {each["Destination"]: each["RW"] for each in mounts} == {
        "/app/tokens": True,
        "/app/config/secrets.json": False,
    }
    write = (
        'for each in / /app /etc /app/config/secrets.json; do test -w "$each" && echo "$each"; done'
    )
    assert command("docker", "exec", deployment.container(), "sh", "-c", write).stdout == ""


def test_the_watcher_sees_what_leaks(tmp_path: Path) -> None:
    """A secret on a command line, in an environment, in a file for everyone, and in base64."""
    secret = canary("leaked")
    canaries = Canaries({"it": secret})
    opened, closed = tmp_path / "opened", tmp_path / "closed"
    tmp_path.chmod(0o755)
    with Watcher(canaries, [tmp_path]) as watcher:
        for mode, path in [(0o644, opened), (0o600, closed)]:
            path.touch(mode)
            path.write_text(f"x{secret}")
        for words in (
            ["sh", "-c", f"sleep 0.5 # {secret}"],
            ["env", f"A={secret}", "sleep", "0.5"],
        ):
            subprocess.run(words, check=True)
    for what in ("cmdline", "environ"):
        assert any(each.startswith(f"['it'] in {what}") for each in watcher.seen)
    assert f"['it'] in {opened}" in watcher.seen
    assert not any(str(closed) in each for each in watcher.seen)
    assert canaries.names_in(login(secret)) == ["it"]
