"""The containers of a deployment, and how long compose may take to replace them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.host import compose, deployment
from kis_gateway_deploy.host.compose import ComposeError
from kis_gateway_deploy.host.deployment import Deployment

KIND = "com.docker.compose"


class Engine:
    """An engine with one container of the deployment."""

    def __init__(self, app_dir: Path, place: dict[str, str] | None, config: dict[str, Any]) -> None:
        of_release = f"{app_dir}/releases/0a1b2c3d4e5f/docker-compose.yml"
        directory = str(Path(place["compose_file"]).parent) if place else ""
        self.labels = {f"{KIND}.service": "gw", f"{KIND}.project": "kis"} | {
            f"{KIND}.project.config_files": of_release,
            f"{KIND}.project.working_dir": directory,
        }
        self.config = config | {"Labels": self.labels}

    def containers(self, **_: bool) -> list[dict[str, Any]]:
        return [{"Id": "c0ffee", "Labels": self.labels}]

    def inspect(self, _: str) -> dict[str, Any]:
        return {"Id": "c0ffee", "State": {"Running": True}, "Config": self.config}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"StopTimeout": 2}, 2.2),
        ({"StopTimeout": 0}, 0.2),
        ({"StopTimeout": -1}, 0.2),
        ({"StopTimeout": None}, 10.2),
        ({}, 10.2),
    ],
)
def test_compose_may_take_as_long_as_the_old_container_takes_to_stop(
    config: dict[str, Any],
    limit: float,
    in_place: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin = tmp_path / "docker-compose"
    plugin.write_text("#!/bin/sh\nsleep 1\n")
    plugin.chmod(0o755)
    monkeypatch.setattr(compose, "plugins", lambda: iter([str(plugin)]))
    monkeypatch.setattr(deployment, "SECONDS", 0.2)
    place = {"compose_file": f"{tmp_path}/compose.yml", "service": "gw"} if in_place else None
    request = {"app_dir": str(tmp_path), "project": "kis", "service": "gw", "in_place": place}
    engine: Any = Engine(tmp_path, place, config)
    made = Deployment(request, engine)
    if limit > 1:
        made.create("0a1b2c3d4e5f", None, again=False)
        return
    with pytest.raises(ComposeError, match=f"stopped after {limit:g} s"):
        made.create("0a1b2c3d4e5f", None, again=False)
