"""compose reads an accepted env file as the controller has checked it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from kis_gateway_deploy.env_file import EnvFileError, values_in
from tests.tools import docker

FILES = 300
PARTS = [
    "A",
    "B",
    "C_1",
    "export ",
    "=",
    "=",
    "=",
    ": ",
    " ",
    "'",
    '"',
    "\\",
    "#",
    "x y",
    "é",
    "\n",
]


@pytest.mark.usefixtures("engine")
def test_compose_finds_the_same_values(tmp_path: Path) -> None:
    chance = random.Random(16)  # noqa: S311 - the same files each time
    expected: dict[str, dict[str, str]] = {}
    while len(expected) < FILES:
        lines = ("".join(chance.choices(PARTS, k=chance.randint(1, 6))) for _ in range(3))
        content = "\n".join(lines).encode()
        try:
            values = values_in(content)
        except EnvFileError:
            continue
        service = f"s{len(expected)}"
        (tmp_path / f"{service}.env").write_bytes(content)
        expected[service] = values
    services = {
        name: {"image": "x", "env_file": [f"{name}.env"], "environment": {}} for name in expected
    }
    (tmp_path / "compose.yml").write_text(json.dumps({"services": services}))
    found = json.loads(
        docker("compose", "--file", str(tmp_path / "compose.yml"), "config", "--format", "json")
    )
    for name, values in expected.items():
        text = (tmp_path / f"{name}.env").read_text()
        assert (found["services"][name].get("environment") or {}) == values, text
