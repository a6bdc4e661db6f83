"""docs/troubleshooting.md has every message that can stop a deploy, and KIS's own error texts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from kis_simulator.rules import MESSAGES

from kis_gateway_deploy.paths import ROOT

PACKAGE = ROOT / "kis_gateway_deploy"
MODULES = [
    *("refusals", "fleet", "setting_forms", "windows", "session", "calls", "remote", "rollout"),
    *("credentials", "env_file", "override", "registry", "saved_image", "operations"),
    *("host/change", "host/gate", "host/prepare", "host/switch", "host/starting", "host/fetch"),
    *("host/releases", "host/compose"),
]
FIXED_WORDS = 6
"""How many words of a message's longest fixed part are looked for."""
SHORTEST = 4
"""Words of the shortest string that is taken for a message."""
# Beginnings of strings that do not stop a deploy: shell and Python code, hints, progress, reports.
NOT_REPORTED = (
    *("import sys, types", "export PATH", "read -r n", "^ *#", "these hosts have not been read"),
    *("and its network", "curl -H", "A price: curl", "The gateway listens", "It keeps its token"),
    *("and outlives the container", ", where that outlives", ", the releases in the app"),
    *("is running", "the container is running", ", its token is not probed", "no host was asked"),
    *("was switched and kept", "runs what it ran before", "runs here and is kept"),
    *("layers are on the host", ", once for all hosts", ", its first error", "Warning: Docker"),
    *("the token file was put back", "the token file is set aside", "the old token is set aside"),
    *("the token is set aside, and", "in the container is taken over", "see the output of the run"),
    *("crash loop (EGW00133) detected", "kind release image", "min_healthy deadline", "t status"),
    *("good_since start", "putting the release on", "starting the KIS simulator", "A price: curl"),
    *("must answer well for", "its container must run for", "the new token is kept"),
    r"\b(?:services",
)


def page() -> str:
    return " ".join((ROOT / "docs/troubleshooting.md").read_text("utf-8").split())


def messages(source: str) -> Iterator[str]:
    """The first words of the longest fixed part of each string that reads as a sentence."""
    tree = ast.parse(source)
    of_others = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for inner in ast.walk(node)
        if inner is not node
    }
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in of_others | docstrings:
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [str(each.value) for each in parts if isinstance(each, ast.Constant)]
        words = max(texts, key=len, default="").split()
        if len(words) >= SHORTEST:
            yield " ".join(words[:FIXED_WORDS])


def missing(source: str, on_page: str) -> list[str]:
    return [
        text
        for text in messages(source)
        if text not in on_page and not text.startswith(NOT_REPORTED)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_every_message_of_a_module_is_on_the_page(module: str) -> None:
    assert missing((PACKAGE / f"{module}.py").read_text("utf-8"), page()) == []


def test_every_message_of_the_scripts_is_on_the_page() -> None:
    assert missing((ROOT / "deploy/__main__.py").read_text("utf-8"), page()) == []
    said = re.findall('say "(.*)"', (ROOT / "templates/bootstrap.sh").read_text("utf-8"))
    beginnings = [re.split(r"\$\w+|\$\*", text.replace("\\`", "`"))[0] for text in said]
    found = [" ".join(each.split()[:FIXED_WORDS]) for each in beginnings if len(each) > 20]
    assert len(found) >= 7
    continued = ("connect as root", "deploy again", "run this again")
    assert [each for each in found if each not in page() and not each.startswith(continued)] == []


@pytest.mark.parametrize(
    "code", ["EGW00133", "EGW00103", "EGW00105", "EGW00121", "EGW00122", "EGW00123", "EGW00201"]
)
def test_a_search_for_kis_own_words_finds_the_page(code: str) -> None:
    assert code in page()
    assert MESSAGES[code] in page()


def test_a_new_message_is_noticed() -> None:
    source = (
        '"""Some words of a docstring."""\nraise ValueError(f"{name} is a new refusal of ours")\n'
    )
    assert missing(source, page()) == ["is a new refusal of ours"]
