"""The same job with several tools: token directory, secrets, compose file, `up` until healthy.

Each contender is one command that does the job on all hosts. Its function returns this command;
first, and not measured, it writes the inventory, the playbook and similar files.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fleet import KAMAL_SECRETS, Fleet, Target
from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.release import render_compose
from kis_gateway_deploy.settings import Settings

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
DIRECTORY = "/opt/bench"
TOKENS = "/docker_data/bench"
PROBE = "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=3)"
HEALTHCHECK = {
    "test": ["CMD", "python3", "-c", PROBE],
    "interval": "5s",
    "timeout": "5s",
    "retries": 5,
    "start_period": "30s",
    "start_interval": "1s",
}


@dataclass(frozen=True)
class Job:
    """What to deploy: `label` is the setting that changes, `image` is on the hosts or sent to them.

    `archive` is the tar of an image that the hosts lack.
    """

    fleet: Fleet
    targets: Sequence[Target]
    label: str
    image: str
    archive: Path | None = None

    @property
    def host_data(self) -> dict[str, Any]:
        """The data of our inventory; the other contenders' files are rendered from it, too."""
        return {
            "gateway_image": self.image,
            "gateway_secrets_file": str(self.fleet.share_one_key()),
            "gateway_app_key_field": "kis-r-app-key",
            "gateway_environment": {"KIS_BASE_URL": self.fleet.lab.simulator_url},
            "gateway_labels": {"bench": self.label},
            "gateway_bind_address": "0.0.0.0",  # noqa: S104 - inside the lab's network
            "gateway_open_to_network": True,
            "gateway_app_dir": DIRECTORY,
            "gateway_token_dir": TOKENS,
            "gateway_project": "bench",
        }

    @property
    def compose(self) -> str:
        """The others' compose file. They wait for the engine's health check, so it runs often."""
        settings = Settings.model_validate(self.host_data | {"gateway_healthcheck": HEALTHCHECK})
        return render_compose(settings, self.image)

    @property
    def service(self) -> dict[str, Any]:
        """The gateway's part of the compose file, as `docker compose` reads it."""
        service: dict[str, Any] = yaml.safe_load(self.compose)["services"]["kis-gateway"]
        return service


Command = list[str]


def ours(job: Job, work: Path) -> Command:
    """One batch and no minimum healthy time, because the others have neither."""
    return _ours(
        job, work, job.host_data | {"rollout_batches": ["100%"], "rollout_min_healthy_time": 0}
    )


def at_defaults(job: Job, work: Path) -> Command:
    """With a canary, batches, and a gate of 10 s for each batch."""
    return _ours(job, work, job.host_data)


def _ours(job: Job, work: Path, settings: dict[str, Any]) -> Command:
    archive = job.archive or job.fleet.lab.gateway_archive
    data = settings | {
        "gateway_image": job.image.partition(":")[0],
        "gateway_image_source": "archive",
        "gateway_image_archive": str(archive),
    }
    return _pyinfra(job, work, data, ROOT / "deploy" / "up.py")


def plain_pyinfra(job: Job, work: Path) -> Command:
    """A straightforward deploy with built-in operations."""
    (work / "docker-compose.yml").write_text(job.compose)
    data = {
        "bench_secrets": str(job.fleet.share_one_key()),
        "bench_compose": str(work / "docker-compose.yml"),
        "bench_archive": str(job.archive or ""),
    }
    return _pyinfra(job, work, data, HERE / "plain_pyinfra.py")


def _pyinfra(job: Job, work: Path, data: dict[str, Any], deploy: Path) -> Command:
    known_hosts = job.fleet.ssh_config(job.targets).with_name("known_hosts")
    hosts = [
        (
            target.name,
            {
                "ssh_hostname": "127.0.0.1",
                "ssh_port": target.port,
                "ssh_user": "ops",
                "ssh_key": str(job.fleet.lab.key),
                "ssh_known_hosts_file": str(known_hosts),
                "ssh_strict_host_key_checking": "yes",
                "_sudo": True,
            }
            | data,
        )
        for target in job.targets
    ]
    (work / "inventory.py").write_text(f"hosts = {hosts!r}\n")
    return [str(BIN / "pyinfra"), "-y", str(work / "inventory.py"), str(deploy)]


def ansible(job: Job, work: Path) -> Command:
    """With its fastest settings: pipelining, a fork per host, no facts, open connections."""
    (work / "docker-compose.yml").write_text(job.compose)
    config = job.fleet.ssh_config(job.targets)
    (work / "ansible.cfg").write_text(
        f"[defaults]\nforks = {len(job.targets)}\ngathering = explicit\n"
        "interpreter_python = /usr/bin/python3\nlocalhost_warning = False\n"
        f"[ssh_connection]\npipelining = True\n"
        f"ssh_args = -F {config} -o ControlMaster=auto -o ControlPersist=60s "
        f"-o ControlPath={work}/%C\n"
    )
    hosts: dict[str, object] = {target.name: {} for target in job.targets}
    variables = {
        "secrets": str(job.fleet.share_one_key()),
        "compose": str(work / "docker-compose.yml"),
        "archive": str(job.archive or ""),
    }
    inventory = {"all": {"hosts": hosts, "vars": variables}}
    (work / "hosts.json").write_text(json.dumps(inventory))
    return [
        "env", f"ANSIBLE_CONFIG={work}/ansible.cfg", str(BIN / "ansible-playbook"),
        "-i", str(work / "hosts.json"), str(HERE / "playbook.yml"),
    ]  # fmt: skip


def floor(job: Job, work: Path) -> Command:
    """The fastest that network and engine allow: parallel ssh to all hosts, no checks.

    It knows in advance whether anything has changed. If not, it only runs `up`; otherwise it sends
    all files as one tar on standard input.
    """
    up = "docker compose --progress quiet -f docker-compose.yml up -d --wait --pull never"
    config = job.fleet.ssh_config(job.targets)
    files = work / "files"
    files.mkdir(exist_ok=True)
    (files / "docker-compose.yml").write_text(job.compose)
    (files / "secrets.json").write_bytes(job.fleet.share_one_key().read_bytes())
    known = work / "floor-knows"
    is_known = known.exists() and known.read_text() == job.compose
    known.write_text(job.compose)
    unpack = (
        f"mkdir -p {DIRECTORY} && cd {DIRECTORY} && tar -xf - && chown 10001:10001 secrets.json"
        " && chmod 400 secrets.json && "
    )
    remote = f"cd {DIRECTORY} && {up}" if is_known else f"{unpack}{up}"
    tar = "" if is_known else f"tar -C {files} -cf - . | "
    load = ""
    if job.archive:
        load = f"ssh -F {config} $host 'sudo docker load -q' <{job.archive} >/dev/null && "
    remote = shlex.quote(f"sudo sh -c {shlex.quote(remote)}")
    script = (
        f"for host in {' '.join(target.name for target in job.targets)}; do "
        f"( {load}{tar}ssh -F {config} $host {remote} ) & "
        'jobs="$jobs $!"; done; for job in $jobs; do wait $job || exit 1; done'
    )
    return ["sh", "-c", script]


def kamal(job: Job, work: Path) -> Command:
    """Without its proxy, whose image is only on a hub; a hook stops the old container first.

    Its images come from its local registry, through its SSH connection. It supports only port 22,
    so it connects to the hosts' own addresses.
    """
    service, probe = job.service, job.service["healthcheck"]
    ssh_config = job.fleet.ssh_config(job.targets, is_direct=True)
    options = {
        "publish": service["ports"][0],
        "user": service["user"],
        "init": True,
        "read-only": True,
        "tmpfs": "/tmp",  # noqa: S108 - the container's
        "cap-drop": "ALL",
        "security-opt": "no-new-privileges:true",
        "memory": service["mem_limit"],
        "cpus": service["cpus"],
        "stop-timeout": service["stop_grace_period"].removesuffix("s"),
        "health-cmd": shlex.join(probe["test"][1:]),
        "health-interval": probe["interval"],
        "health-timeout": probe["timeout"],
        "health-start-period": probe["start_period"],
        "health-start-interval": probe["start_interval"],
    }
    environment = {name: str(value) for name, value in service["environment"].items()}
    hosts = [target.name for target in job.targets]
    config = {
        "service": "kis",
        "image": "kis",
        "registry": {"server": job.fleet.registry},
        "builder": {"arch": "amd64"},
        "servers": {"web": {"hosts": hosts, "proxy": False, "options": options}},
        "labels": {"bench": job.label},
        "env": {"clear": environment},
        "volumes": [f"{TOKENS}:/app/tokens", f"{KAMAL_SECRETS}:/app/config/secrets.json:ro"],
        "readiness_delay": 0,
        "hooks_path": str(work / "hooks"),
        "ssh": {"user": "ops", "config": str(ssh_config)},
    }
    (work / "deploy.yml").write_text(yaml.safe_dump(config))
    hook = work / "hooks" / "pre-app-boot"
    hook.parent.mkdir(exist_ok=True)
    stop = "docker ps -q --filter label=service=kis | xargs -r docker stop"
    hook.write_text(
        f"#!/bin/sh\nfor host in {' '.join(hosts)}; do\n"
        f"ssh -F {ssh_config} $host '{stop}' >/dev/null &\n"
        "done\nwait\n"
    )
    hook.chmod(0o755)
    return [
        str(BIN / "kamal"), "deploy", "--skip-push", "--version", "bench",
        "--config-file", str(work / "deploy.yml"),
    ]  # fmt: skip


CONTENDERS: dict[str, Callable[[Job, Path], Command]] = {
    "ours": ours,
    "defaults": at_defaults,
    "floor": floor,
    "pyinfra": plain_pyinfra,
    "kamal": kamal,
    "ansible": ansible,
}
