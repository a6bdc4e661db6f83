"""Whatever an inventory says: a valid compose file that means it, or one clear error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as run
from hypothesis import strategies as st

from kis_gateway_deploy.env_file import EnvFileError, names_in
from kis_gateway_deploy.fleet import SettingsError, validate_fleet
from kis_gateway_deploy.release import COMPOSE_FILE, make_release
from kis_gateway_deploy.setting_forms import SIMULATOR_LABEL
from kis_gateway_deploy.settings import KNOWN_NAMES, RESERVED_ENVIRONMENT, SERVICE, Settings
from tests.unit.builders import host_data
from tests.unit.test_release import interpolated

many = run(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
TEXT = st.text() | st.sampled_from(["/data/kis", "127.0.0.1", "10.0.0.5", "host", "$HOME", "a\nb"])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SYNTAX = [
    "k",
    "k: ",
    "k=",
    "v",
    " ",
    "\n",
    "- ",
    "!!bool ",
    "!",
    "&a ",
    "*a",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
]
NAMES = sorted(KNOWN_NAMES - {"gateway_secrets_command"})  # which would be run
NAME = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,12}\Z")


def assert_clear(error: SettingsError) -> None:
    """One line for each problem, with host and setting."""
    lines = str(error).splitlines()
    assert lines[0].endswith("of the inventory cannot be used; no host was touched.")
    assert len(lines) == 1 + len(error.problems)
    assert all(line.startswith("  seoul: ") for line in lines[1:])


def compose_of(settings: Settings) -> Any:
    return yaml.safe_load(make_release(settings).files[COMPOSE_FILE].content)


@many
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), VALUE, max_size=6))
def test_any_inventory_gives_a_compose_file_or_a_clear_error(changes: dict[str, Any]) -> None:
    try:
        valid = validate_fleet({"seoul": host_data(**changes)})
    except SettingsError as error:
        assert_clear(error)
        return
    service = compose_of(valid["seoul"])["services"][SERVICE]
    assert service["volumes"][0]["source"].replace("$$", "$") == valid["seoul"].token_dir


@many
@given(
    st.dictionaries(NAME.filter(lambda name: name not in RESERVED_ENVIRONMENT), st.text()),
    st.dictionaries(st.text(), st.text()),
)
def test_the_compose_file_has_the_values_of_the_inventory(
    environment: dict[str, str], labels: dict[str, str]
) -> None:
    try:
        data = host_data(gateway_environment=environment, gateway_labels=labels)
        [settings] = validate_fleet({"seoul": data}).values()
    except SettingsError as error:
        assert_clear(error)
        texts = [*environment.values(), *labels, *labels.values()]
        refused = ("com.docker.", SIMULATOR_LABEL)
        assert any("\0" in text or text.startswith(refused) for text in texts)
        return
    service = compose_of(settings)["services"][SERVICE]
    found = {name: interpolated(value) for name, value in service["environment"].items()}
    assert found == found | environment
    assert {name: interpolated(value) for name, value in service["labels"].items()} == labels


@many
@given(
    st.binary()
    | VALUE.map(lambda value: json.dumps(value).encode())
    | st.lists(st.sampled_from(SYNTAX)).map(lambda parts: "".join(parts).encode()),
    st.sampled_from(["json", "yaml", "env"]),
)
def test_any_secrets_file_is_used_as_it_is_or_refused_without_showing_it(
    content: bytes, suffix: str
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"secrets.{suffix}"
        path.write_bytes(content)
        try:
            data = host_data(gateway_secrets_file=path, gateway_app_key_field="k")
            [settings] = validate_fleet({"seoul": data}).values()
        except SettingsError as error:
            assert_clear(error)
            return
        assert make_release(settings).files["secrets.json"].content == content


@many
@given(st.lists(st.sampled_from(["A", "B1", "=", ":", " ", "#", "'", '"', "\\", "$", "\n", "é"])))
def test_any_env_file_has_names_or_a_wrong_line(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        names = names_in(text.encode())
    except EnvFileError as error:
        number = int(str(error).split(":")[0].removeprefix("line "))
        assert 1 <= number <= text.count("\n") + 1
        return
    assert all(name in text.splitlines()[line - 1] for name, line in names.items())
