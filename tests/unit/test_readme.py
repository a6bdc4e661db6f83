"""Both READMEs and the docs: links, images, sections, lengths, and inventories that are valid."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.chart import IMAGES, THEMES, chart
from kis_gateway_deploy.fleet import validate_fleet
from kis_gateway_deploy.paths import ROOT
from pictures import loop

READMES = [ROOT / "README.md", ROOT / "README.ko.md"]
PAGES = [
    *READMES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)"')
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
MOST_WORDS = 1500


def prose(page: Path) -> str:
    """The page without fenced blocks, whose lines may look like headings."""
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = [heading.lower() for _, heading in HEADING.findall(prose(page))]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text("utf-8")) if name == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    dead = []
    for groups in LINK.findall(prose(page)):
        link = "".join(groups)
        name, _, part = link.partition("#")
        target = page.parent / name if name else page
        if link.startswith(("https://", "http://")):
            continue
        if workflow := re.match(r"\.\./\.\./actions/workflows/([a-z]+\.yml)", link):  # on GitHub
            target = ROOT / ".github/workflows" / workflow[1]
        if not target.exists() or (part and part not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_the_readmes_correspond_section_by_section() -> None:
    english, korean = (READMES[0].read_text("utf-8"), READMES[1].read_text("utf-8"))
    for what in (r"^#+ ", "^```.*$", r"^\d\. ", r"^- \*\*", r"^\| ---.*$", "<img"):
        pattern = re.compile(what, re.MULTILINE)
        assert pattern.findall(english) == pattern.findall(korean), what
    first_cells = [re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE) for text in (english, korean)]
    assert first_cells[0] == first_cells[1]


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_a_readme_is_short(page: Path) -> None:
    assert len(page.read_text("utf-8").split()) <= MOST_WORDS


def hosts_of(source: str) -> dict[str, dict[str, Any]]:
    """The hosts of an inventory file, as pyinfra reads its groups."""
    found: dict[str, Any] = {}
    exec(compile(source, "inventory", "exec"), found)  # noqa: S102 - our own documentation
    groups = [value for name, value in found.items() if name[0] != "_" and isinstance(value, list)]
    return dict(itertools.chain.from_iterable(groups))


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_inventory_of_a_readme_is_valid(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    secrets = tmp_path / "kis/secrets.json"
    secrets.parent.mkdir()
    secrets.write_text(json.dumps({"kis-r-app-key": "real", "kis-v-app-key": "paper"}))
    [source] = blocks(page, "python")
    fleet = validate_fleet(hosts_of(source))
    assert list(fleet) == ["trading-1.example", "paper-1"]
    assert (
        fleet["paper-1"].credentials.fingerprint
        != fleet["trading-1.example"].credentials.fingerprint
    )


def test_the_inventory_of_a_gateway_in_place_is_valid() -> None:
    text = (ROOT / "docs/in-place.md").read_text("utf-8")
    [indented] = re.findall(r"\n\n((?:    .*\n)+)", text[: text.index("`make adopt")])
    source = re.sub("^    ", "", indented, flags=re.MULTILINE)
    assert validate_fleet(hosts_of(source))["trade-1"].is_in_place


@pytest.mark.parametrize("theme", THEMES)
def test_the_chart_shows_the_results(theme: str) -> None:
    drawn = (IMAGES / f"benchmark.{theme}.svg").read_text("utf-8")
    assert drawn == chart(theme), "stale: .venv/bin/python -m benchmarks.chart --write"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_loop_is_as_its_script_draws_it(language: str, theme: str) -> None:
    drawn = (IMAGES / f"loop.{language}.{theme}.svg").read_text("utf-8")
    assert drawn == loop.picture(language, theme), "stale: .venv/bin/python -m pictures.loop"


def test_the_recording_differs_in_colours_only() -> None:
    light, dark = (
        re.sub("#[0-9a-f]{6}", "", (IMAGES / f"recording.{theme}.svg").read_text("utf-8"))
        for theme in THEMES
    )
    assert light == dark


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_command_of_a_page_is_a_target(page: Path) -> None:
    targets = set(re.findall("^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = page.read_text("utf-8")
    named = re.findall(r"(?:^ *|`|&& |run: |\$\()make ([a-z-]+)", text, re.MULTILINE)
    assert not set(named) - targets


def test_the_workflows_of_the_operations_page_are_yaml() -> None:
    workflow, steps = (yaml.safe_load(each) for each in blocks(ROOT / "docs/operations.md", "yaml"))
    assert [step["run"] for step in steps] == [
        "docker compose pull && docker compose up -d", "make deploy && make verify SAFE=1",
    ]  # fmt: skip
    runs = [step.get("run", "") for step in workflow["jobs"]["gateways"]["steps"]]
    assert sum("make plan" in run for run in runs) == 1
    assert runs[-1].split("\n")[:2] == ["make deploy", "make verify SAFE=1"]


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").iterdir()))
def test_an_issue_form_has_what_github_asks_for(form: Path) -> None:
    content = yaml.safe_load(form.read_text("utf-8"))
    assert content["name"] and content["description"]
    inputs = [each for each in content["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in inputs}) == len(inputs)
    assert all(each["attributes"]["label"] for each in inputs)


def test_the_architecture_lists_every_module() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    package = ROOT / "kis_gateway_deploy"
    modules = {path.stem for path in [*package.glob("*.py"), *package.glob("host/*.py")]}
    assert [name for name in sorted(modules - {"__init__"}) if f"`{name}`" not in page] == []
