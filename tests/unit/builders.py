"""Builders of an up-to-date host; each test changes only the detail that it tests."""

from __future__ import annotations

import base64
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.reading import Container, HostPath, Reading
from kis_gateway_deploy.release import COMPOSE_FILE, File, Image, Release
from kis_gateway_deploy.settings import Settings, alias

SECRETS_FILE = ROOT / "services/kis-simulator/kis_simulator/demo_credentials.json"
MIB_IN_KB = 1024


def host_data(**changes: Any) -> dict[str, Any]:
    """Valid inventory data, with the names that an inventory uses."""
    return {
        "gateway_image": "registry.example/kis:1.4",
        "gateway_secrets_file": SECRETS_FILE,
        "gateway_app_key_field": "kis-r-app-key",
        **changes,
    }


def settings(**changes: Any) -> Settings:
    """Valid settings; `changes` use attribute names: `port`, not `gateway_port`."""
    named = {alias(field): value for field, value in changes.items()}
    return Settings.model_validate(host_data(**named))


def release() -> Release:
    """A release of those settings; no file is read and no template is rendered."""
    files = {
        COMPOSE_FILE: File(b"services: {}", 0o600),
        "secrets.json": File(b"{}", 0o400, 10001, 10001),
    }
    return Release(Image("registry.example/kis:1.4"), files, {"key": "0a1b2c3d4e5f"})


def saved_tar(path: Path, config: str) -> Path:
    """Writes the manifest of a `docker save` tar, which names the configuration of the image."""
    manifest = json.dumps([{"Config": config, "RepoTags": None, "Layers": []}]).encode()
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(manifest)
        tar.addfile(info, io.BytesIO(manifest))
    return path


def container(**changes: Any) -> Container:
    """The gateway's container, running that release."""
    compose_file = f"/opt/kis-gateway/releases/{release().id}/{COMPOSE_FILE}"
    values = {
        "id": "c0ffee",
        "image": "sha256:1111",
        "image_name": "registry.example/kis:1.4",
        "compose_file": compose_file,
        "status": "running",
        "restarts": 0,
        "health": "healthy",
        "ports": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
    }
    return Container.model_validate(values | changes)


def reading(**changes: Any) -> Reading:
    """A Debian 13 host that runs that release: there is nothing to change."""
    values = {
        "uid": 0,
        "clock": 1795470000,
        "architecture": platform.machine(),
        "os": ("debian", "13"),
        "apt": True,
        "docker_cli": True,
        "dockerd": True,
        "compose": True,
        "engine": "up",
        "disk_free_kb": 20 * 1024 * MIB_IN_KB,
        "listening": frozenset({("127.0.0.1", 8080), ("10.0.0.1", 22)}),
        "token_dir": HostPath(mode="700", owner="10001:10001", kind="directory"),
        "token_files": {
            "kis_token.json": HostPath(mode="600", owner="10001:10001", kind="regular file")
        },
        "token_state": "token",
        "token_expires": 1795470000 + 20 * 3600,
        "token_file_says": 1795470000 + 20 * 3600,
        "token_source": "expires_at",
        "token_expiries": (1795470000 + 20 * 3600,),
        "token_mount": "same",
        "client_sees": {"status": 200},
        "current": release().id,
        "release_damage": "",
        "images": {"registry.example/kis:1.4": "sha256:1111"},
        "containers": (container(),),
    }
    return Reading.model_validate(values | changes)


# The token directory has no token file.
NO_TOKEN: dict[str, Any] = {
    "token_files": {},
    "token_state": "",
    "token_expires": None,
    "token_file_says": None,
    "token_source": "not known",
    "token_expiries": (),
}

# A Raspberry Pi or a small cloud machine, as the host of a controller of another architecture.
ARM64: dict[str, Any] = {"architecture": "aarch64", "runs": ("arm64", "arm")}

# The differences of a machine before its first deploy.
FRESH: dict[str, Any] = {
    **NO_TOKEN,
    "docker_cli": False,
    "dockerd": False,
    "compose": False,
    "engine": "down",
    "listening": frozenset(),
    "token_dir": None,
    "token_mount": None,
    "client_sees": None,
    "current": None,
    "release_damage": "is not on the host",
    "images": {},
    "containers": (),
}


def jwt(**claims: object) -> str:
    """A token in the form that KIS issues; no test checks its signature."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'typ': 'JWT', 'alg': 'HS512'})}.{part({'iss': 'unogw'} | claims)}.c2ln-_"
