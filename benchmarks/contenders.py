"""The same job, done in several ways: token directory, secrets, compose file, `up` until healthy.

Each is one program that is started, does the job on all hosts and ends. `prepare` writes what it is
given (an inventory, a playbook) and is not measured.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fleet import Fleet, Target
from deploy.gateway.release import ROOT, render_compose
from deploy.gateway.settings import Settings

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
DIRECTORY = "/opt/bench"
TOKENS = "/docker_data/bench"


@dataclass(frozen=True)
class Job:
    """What shall run: `label` is the setting that changes, `image` what the hosts have or are sent.

    `archive` is the tar of an image that they lack.
    """

    fleet: Fleet
    targets: Sequence[Target]
    label: str
    image: str
    archive: Path | None = None

    @property
    def host_data(self) -> dict[str, Any]:
        """In the words of our inventory; the others' files are rendered from the same."""
        return {
            "gateway_image": self.image,
            "gateway_secrets_file": str(self.fleet.share_one_key()),
            "gateway_app_key_field": "kis-r-app-key",
            "gateway_environment": {"KIS_BASE_URL": self.fleet.lab.simulator_url},
            "gateway_labels": {"bench": self.label},
            "gateway_bind_address": "0.0.0.0",  # noqa: S104 - inside the lab's network
            "gateway_app_dir": DIRECTORY,
            "gateway_token_dir": TOKENS,
            "gateway_project": "bench",
            "rollout_batches": ["100%"],
            "rollout_min_healthy_time": 0,
        }

    @property
    def compose(self) -> str:
        settings = Settings.model_validate(self.host_data | {"gateway_image_source": "registry"})
        return render_compose(settings, self.image)


Command = list[str]


def ours(job: Job, work: Path) -> Command:
    archive = job.archive or job.fleet.lab.gateway_archive
    data = job.host_data | {
        "gateway_image": job.image.partition(":")[0],
        "gateway_image_source": "archive",
        "gateway_image_archive": str(archive),
    }
    return _pyinfra(job, work, data, ROOT / "deploy" / "up.py")


def pyinfra(job: Job, work: Path) -> Command:
    """A straightforward deploy of built-in operations."""
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
    """Its best settings: pipelining, a fork for each host, no facts, connections kept."""
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
    """What the network and the engine allow: one parallel ssh per host, one script, no checks.

    Where nothing has changed it is told so beforehand, and only brings up; else all files come in
    one tar on standard input.
    """
    up = "docker compose --progress quiet -f docker-compose.yml up -d --wait --pull never"
    config = job.fleet.ssh_config(job.targets)
    files = work / "files"
    files.mkdir(exist_ok=True)
    (files / "docker-compose.yml").write_text(job.compose)
    (files / "secrets.json").write_bytes(job.fleet.share_one_key().read_bytes())
    known, want = work / "floor-label", job.compose
    is_known = known.exists() and known.read_text() == want
    known.write_text(want)
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


CONTENDERS: dict[str, Callable[[Job, Path], Command]] = {
    "ours": ours,
    "floor": floor,
    "pyinfra": pyinfra,
    "ansible": ansible,
}
