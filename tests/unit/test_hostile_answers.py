"""Whatever a host answers: it is shown, or there is one clear line for this host."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kis_gateway_deploy import display, overview
from kis_gateway_deploy.issuance import gateway_of
from kis_gateway_deploy.plans import make_plan
from kis_gateway_deploy.reading import Reading, escaped, parse_reading
from kis_gateway_deploy.refusals import refusals_to_run
from kis_gateway_deploy.rollout import Rollout
from tests.unit import builders

EXAMPLES = int(os.environ.get("HOSTILE_ANSWERS", "1000"))  # 20000 takes some minutes
MEBIBYTE = 1 << 20

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["", "0", "10001:10001", "running", "\x1b]0;title\x07", "9" * 400, 10**400])
    | st.sampled_from([builders.release().id, "0a1b2c3d4e5f", -1, 10**18, 1e308, float("nan")]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
VALID = json.loads(
    builders.reading(
        state={"generation": "0123456789abcdef", "by": "kim@desk", "began": 1795470000},
        history=[{"began": 1, "seconds": 1, "by": "kim", "action": "up", "from": "", "to": ""}],
        refused=1795470000,
        others=[["0.0.0.0", 8080, "web"]],  # noqa: S104 - never bound
    ).model_dump_json(by_alias=True)
)


@st.composite
def answers(draw: st.DrawFn) -> str:
    """A valid answer with some values replaced, at any depth."""
    answer = json.loads(json.dumps(VALID))
    for _ in range(draw(st.integers(1, 4))):
        place: Any = answer
        key: Any = draw(st.sampled_from(sorted(Reading.model_fields)))
        while draw(st.booleans()) and isinstance(place.get(key), dict) and place[key]:
            place = place[key]
            key = draw(st.sampled_from(sorted(place)))
        place[key] = draw(JSON)
    return json.dumps({"result": answer})


def show_everything(text: str) -> None:
    """All that the controller does with an answer. One line is allowed instead."""
    try:
        reading = parse_reading(text, arrived=1795470000.0)
    except ValueError as error:
        assert 0 < len(str(error)) <= 400
        assert str(error) == escaped(str(error))
        return
    settings, release = builders.settings(), builders.release()
    plan = make_plan(settings, release, reading)
    refusals_to_run(settings, reading)
    gateways = {"web": gateway_of(reading, release.key_fingerprint)}
    rollout = Rollout.plan(["web"], [1], gateways, share=True, now=0)
    assert rollout.wait_for_kis("web", 0) <= 61
    found = {"web": overview.Found(settings, reading, plan)}
    notes = display.token_notes("web", rollout)
    shown = [
        display.host_plan("web", settings, release, reading, plan, plan.refusals, notes),
        overview.status_table(found),
        overview.status_json(found),
        overview.history_table(found),
        display.token_state(reading),
    ]
    for line in "\n".join(shown).splitlines():
        assert click.unstyle(line) == escaped(click.unstyle(line))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(answers())
def test_a_changed_answer_is_shown_or_refused_in_one_line(text: str) -> None:
    show_everything(text)


@settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON.map(json.dumps) | st.text())
def test_any_answer_is_refused_in_one_line(text: str) -> None:
    show_everything(text)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"result": VALID | {"current": "f" * 12, "current_compose": BOMB}}),
        json.dumps({"result": VALID | {"current": "f" * 12, "current_compose": "[" * 100_000}}),
        json.dumps({"result": VALID | {"current": "f" * 12, "current_compose": "a:\n" * 40_000}}),
        json.dumps({"result": VALID | {"current": "f" * 12, "current_compose": "- 1\n" * 30_000}}),
        "[" * 1_000_000,
        '{"result":' * 100_000,
        json.dumps({"result": VALID | {"current_files": {f"f{n}": "x" for n in range(10**5)}}}),
        json.dumps({"result": VALID | {"listening": [["127.0.0.1", n] for n in range(10**5)]}}),
    ],
    ids=[
        "aliases",
        "deep YAML",
        "many keys",
        "many items",
        "deep",
        "deep objects",
        "files",
        "ports",
    ],
)
def test_a_huge_answer_takes_neither_memory_nor_time(text: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    show_everything(text)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert taken < 200 * MEBIBYTE
