from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kis_gateway_deploy.credentials import Secret
from kis_gateway_deploy.fleet import SettingsError, validate_fleet
from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.settings import KNOWN_NAMES, Settings, key_fingerprint, read_secrets
from kis_gateway_deploy.windows import outside_krx, weekly
from tests.unit.builders import host_data, settings

MARKER = "s3cret-in-the-wrong-place"
CONTEXT = ROOT / "services/kis-simulator"


def problems_of(fleet: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    with pytest.raises(SettingsError) as caught:
        validate_fleet(fleet)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + len(caught.value.problems), "a problem is one line"
    for line, (host, name, what) in zip(lines[1:], caught.value.problems, strict=True):
        assert line.startswith(f"  {host}: {name}")
        assert line.endswith(what)
    return caught.value.problems


def only_problem_of(**changes: Any) -> tuple[str, str]:
    [(host, name, what)] = problems_of({"seoul": host_data(**changes)})
    assert host == "seoul"
    return name, what


def test_the_defaults_are_those_of_the_documented_table() -> None:
    made = Settings.model_validate(host_data())
    defaults = made.model_dump(exclude={"image", "secrets_file", "app_key_field", "simulator"})
    assert defaults == {
        "secrets_command": None,
        "image_source": "registry",
        "registry_auth_file": None,
        "image_archive": None,
        "build_context": None,
        "user": "10001:10001",
        "bind_address": "127.0.0.1",
        "port": 8080,
        "container_port": 8080,
        "network_mode": "bridge",
        "open_to_network": False,
        "environment": {},
        "env_file": None,
        "health_path": "/health",
        "healthcheck": None,
        "read_only": True,
        "memory_limit": "512m",
        "cpus": 1.0,
        "stop_grace_period": "10s",
        "labels": {},
        "token_dir": "/docker_data/kis_tokens",
        "compose_override": None,
        "token_store": "file",
        "token_mount": "/app/tokens",
        "token_env": ("KIS_TOKEN_FILE_PATH",),
        "compose_file": None,
        "service": None,
        "probe": None,
        "token_file": "kis_token.json",
        "tokens_expected": 1,
        "app_dir": "/opt/kis-gateway",
        "project": "kis",
        "install_docker": True,
        "adopt_container": None,
        "adopt_token_path": None,
        "adopt_without_token": False,
        "token_at_start": True,
        "cached_token_log": None,
        "rollout_batches": [1, "25%", "100%"],
        "rollout_revert": "fleet",
        "rollout_share_token": True,
        "rollout_min_healthy_time": 10,
        "rollout_healthy_deadline": 120,
        "rollout_window": None,
        "rollout_krx_hours": "07:00-20:00",
        "rollout_after": None,
        "plan_show": [],
    }


HOST_MODE: dict[str, Any] = {"gateway_network_mode": "host", "gateway_open_to_network": True}
ANYWHERE = "0.0.0.0"  # noqa: S104 - never bound


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("gateway_image", "", "image reference"),
        ("gateway_image", "registry.example/kis 1.4", "image reference"),
        ("gateway_image", "kis\n", "image reference"),
        ("gateway_image_source", "hub", "'registry'"),
        ("gateway_secrets_command", "sops -d kis.json", "list"),
        ("gateway_secrets_command", [], "at least 1 item"),
        ("gateway_secrets_command", [""], "pattern"),
        ("gateway_secrets_command", ["cat", 1], "string"),
        ("gateway_secrets_command", ["cat", "a\0b"], "pattern"),
        ("rollout_after", "mail -s KIS kim", "list"),
        ("rollout_after", [], "at least 1 item"),
        ("rollout_after", ["mail", 1], "string"),
        ("rollout_batches", "25%", "list of counts and percentages"),
        ("rollout_batches", [1, "0%"], "list of counts and percentages"),
        ("rollout_batches", [0], "list of counts and percentages"),
        ("rollout_batches", [True, 1.5], "list of counts and percentages"),
        ("rollout_revert", "canary", "'fleet'"),
        ("rollout_window", "Sat,Sun", 'must be "outside-krx", or a list'),
        ("rollout_window", [], 'must be "outside-krx", or a list'),
        ("rollout_window", True, 'must be "outside-krx", or a list'),
        ("rollout_window", {"Mon": "20:00"}, 'must be "outside-krx", or a list'),
        ("rollout_window", ["Sat", "Mon 8-9"], "entry 2 must be days"),
        ("rollout_krx_hours", "20:00-07:00", "must be two times of one day"),
        ("rollout_krx_hours", 7, "string"),
        ("rollout_lock_ttl", 900, "was removed: there is no lock"),
        ("gateway_port", 0, "greater than or equal to 1"),
        ("gateway_port", -1, "greater than or equal to 1"),
        ("gateway_port", 65536, "less than or equal to 65535"),
        ("gateway_port", 8080.5, "integer"),
        ("gateway_port", "http", "integer"),
        ("gateway_port", "8080", "integer"),
        ("gateway_port", True, "integer"),
        ("gateway_container_port", 0, "greater than or equal to 1"),
        ("gateway_container_port", 65536, "less than or equal to 65535"),
        ("gateway_user", "10001", "uid:gid"),
        ("gateway_user", "app:app", "uid:gid"),
        ("gateway_user", "10001:", "uid:gid"),
        ("gateway_user", "-1:0", "uid:gid"),
        ("gateway_user", "1:2\n", "uid:gid"),
        ("gateway_user", "\u0661:\u0662", "uid:gid"),
        ("gateway_bind_address", "localhost", "IPv4 or IPv6 address"),
        ("gateway_bind_address", "127.0.0.1:8080", "IPv4 or IPv6 address"),
        ("gateway_bind_address", "999.1.1.1", "IPv4 or IPv6 address"),
        ("gateway_bind_address", "127.0.0.1\n", "IPv4 or IPv6 address"),
        ("gateway_bind_address", "[::1]", "without brackets"),
        ("gateway_bind_address", "::1\n", "IPv4 or IPv6 address"),
        ("gateway_bind_address", "", "IPv4 or IPv6 address"),
        ("gateway_bind_address", "::ffff:127.0.0.1", "write it as `127.0.0.1`"),
        ("gateway_bind_address", "fe80::1", "on which Docker cannot publish"),
        ("gateway_bind_address", "fe80::1%eth0", "on which Docker cannot publish"),
        ("gateway_bind_address", "::1%lo", "cannot have an interface"),
        ("gateway_network_mode", "none", "'bridge'"),
        ("gateway_health_path", "health", "a path in ASCII"),
        ("gateway_health_path", "/a b", "a path in ASCII"),
        ("gateway_health_path", "/a\r\nX: y", "a path in ASCII"),
        ("gateway_environment", ["A=1"], "dictionary"),
        ("gateway_healthcheck", "curl localhost", "dictionary"),
        ("gateway_healthcheck", {"test": ["CMD", b"curl"]}, "not a valid JSON value"),
        ("gateway_healthcheck", {1: "2s"}, "string"),
        ("gateway_labels", {"com.docker.compose.project": "mine"}, "Docker's own"),
        ("gateway_read_only", "perhaps", "boolean"),
        ("gateway_memory_limit", "much", "pattern"),
        ("gateway_memory_limit", "512mb", "pattern"),
        ("gateway_memory_limit", "0", "pattern"),
        ("gateway_memory_limit", "0m", "pattern"),
        ("gateway_memory_limit", "512m\n", "pattern"),
        ("gateway_cpus", 0, "greater than 0"),
        ("gateway_cpus", float("nan"), "finite"),
        ("gateway_cpus", float("inf"), "finite"),
        ("gateway_stop_grace_period", "10", "pattern"),
        ("gateway_stop_grace_period", "soon", "pattern"),
        ("gateway_stop_grace_period", f"{10**9}h", "pattern"),
        ("gateway_stop_grace_period", "\u0663s", "pattern"),
        ("gateway_token_dir", "kis_tokens", "absolute path"),
        ("gateway_token_dir", "~/tokens", "absolute path"),
        ("gateway_token_dir", "/", "absolute path"),
        ("gateway_token_dir", "/data/../etc", "absolute path"),
        ("gateway_token_dir", "/data:ro", "absolute path"),
        ("gateway_token_dir", "/data\n", "absolute path"),
        ("gateway_token_dir", "/da\rta", "absolute path"),
        ("gateway_token_dir", "/da\0ta", "absolute path"),
        ("gateway_token_dir", "//data", "absolute path"),
        ("gateway_token_dir", "/data//tokens", "absolute path"),
        ("gateway_token_dir", "/data/./tokens", "absolute path"),
        ("gateway_token_dir", "/data/.", "absolute path"),
        ("gateway_app_dir", "opt", "absolute path"),
        ("gateway_token_file", "a/b.json", "plain file name"),
        ("gateway_token_file", "KIS{date:%H}", "a name with a date"),
        ("gateway_token_file", "KIS{date:}", "a name with a date"),
        ("gateway_token_file", "KIS{date:%Y}{date:%m}", "a name with a date"),
        ("gateway_token_file", "KIS{date:%Y}*", "a pattern"),
        ("gateway_token_file", "KIS{day}", "a name with a date"),
        ("gateway_tokens_expected", 0, "greater than or equal to 1"),
        ("gateway_token_file", "..", "plain file name"),
        ("gateway_token_file", "", "plain file name"),
        ("gateway_project", "KIS", "compose project name"),
        ("gateway_project", "-kis", "compose project name"),
        ("gateway_install_docker", "perhaps", "boolean"),
        ("rollout_min_healthy_time", -1, "greater than or equal to 0"),
        ("rollout_min_healthy_time", "5s", "number"),
        ("rollout_min_healthy_time", float("nan"), "finite"),
        ("rollout_healthy_deadline", 0, "greater than 0"),
        ("rollout_healthy_deadline", float("inf"), "finite"),
    ],
)
def test_a_wrong_value_is_one_line_with_host_and_name(name: str, value: Any, why: str) -> None:
    found, what = only_problem_of(**{name: value})
    assert found == name
    assert why in what


@pytest.mark.parametrize("value", [None, ["1"], {"B": "1"}, "a\0b"])
@pytest.mark.parametrize("name", ["gateway_environment", "gateway_labels"])
def test_a_wrong_value_of_a_mapping_is_named_with_its_key(name: str, value: Any) -> None:
    assert only_problem_of(**{name: {"A": value}})[0] == f"{name}.A"


@pytest.mark.parametrize("key", ["s3cret-in-the-wrong-place", "", "1A", "A\n", "A=B", "\uc544"])
def test_a_wrong_key_is_not_shown(key: str) -> None:
    name, what = only_problem_of(gateway_environment={key: "1"})
    assert name == "gateway_environment"
    assert not key or key not in what


@pytest.mark.parametrize("name", ["null", "true", "no", "_", "A1"])
def test_a_variable_may_have_any_name_that_a_shell_allows(name: str) -> None:
    assert settings(environment={name: "1"}).environment == {name: "1"}


def test_numbers_and_booleans_are_converted_to_text() -> None:
    made = settings(environment={"A": True, "B": False, "C": 1, "D": 1.5, "E": "no"})
    assert made.environment == {"A": "true", "B": "false", "C": "1", "D": "1.5", "E": "no"}


@pytest.mark.parametrize(
    ("changes", "name", "why"),
    [
        (
            {"gateway_image": "kis", "gateway_image_source": "build"},
            "gateway_build_context",
            "is needed",
        ),
        ({"gateway_build_context": CONTEXT}, "gateway_build_context", "and only there"),
        (
            {"gateway_image_archive": "kis.tar"},
            "gateway_image_archive",
            "is only for gateway_image_source='archive'",
        ),
        (
            {"gateway_image_source": "build", "gateway_build_context": CONTEXT},
            "gateway_image",
            "must have no tag",
        ),
        (
            {"gateway_environment": {"KIS_TOKEN_FILE_PATH": "/tmp/t"}},  # noqa: S108 - refused
            "gateway_environment",
            "may not set KIS_TOKEN_FILE_PATH: it follows from gateway_token_mount and",
        ),
        (
            {"gateway_environment": {"SECRETS_FILE": "/s"}},
            "gateway_environment",
            "may not set SECRETS_FILE: it follows from gateway_secrets_file",
        ),
        (
            {"gateway_environment": {"PORT": 1}},
            "gateway_environment",
            "may not set PORT: it follows from gateway_container_port",
        ),
        ({"rollout_min_healthy_time": 120}, "rollout_healthy_deadline", "must be longer"),
        (
            {"gateway_secrets_command": ["cat", "kis.json"]},
            "gateway_secrets_command",
            "cannot be set beside gateway_secrets_file",
        ),
        (
            {"gateway_token_dir": "/opt/kis-gateway"},
            "gateway_token_dir",
            "must not contain each other",
        ),
        (
            {"gateway_token_dir": "/opt/kis-gateway/"},
            "gateway_token_dir",
            "must not contain each other",
        ),
        (
            {"gateway_token_dir": "/opt/kis-gateway/t"},
            "gateway_token_dir",
            "must not contain each other",
        ),
        (
            {
                "gateway_image": "kis",
                "gateway_image_source": "build",
                "gateway_build_context": CONTEXT,
                "gateway_registry_auth_file": "config.json",
            },
            "gateway_registry_auth_file",
            "is only for gateway_image_source='registry'",
        ),
        ({"gateway_token_dir": "/opt"}, "gateway_token_dir", "a directory of its own"),
        ({"gateway_bind_address": "10.0.0.5"}, "gateway_bind_address", "gateway_open_to_network"),
        ({"gateway_bind_address": "::"}, "gateway_bind_address", "gateway_open_to_network"),
        ({"gateway_bind_address": "fd00::2"}, "gateway_bind_address", "gateway_open_to_network"),
        ({"gateway_network_mode": "host"}, "gateway_network_mode", "gateway_open_to_network"),
        (
            HOST_MODE | {"gateway_port": 8081},
            "gateway_port",
            "has no effect with gateway_network_mode = 'host'",
        ),
        (
            HOST_MODE | {"gateway_bind_address": "127.0.0.1"},
            "gateway_bind_address",
            "has no effect with gateway_network_mode = 'host'",
        ),
        ({"gateway_app_dir": "/docker_data/kis_tokens/a"}, "gateway_token_dir", "each other"),
        (
            {"rollout_krx_hours": "08:00-18:00"},
            "rollout_krx_hours",
            'rollout_window = "outside-krx"',
        ),
        (
            {"rollout_krx_hours": "08:00-18:00", "rollout_window": ["Sat"]},
            "rollout_krx_hours",
            'rollout_window = "outside-krx"',
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    changes: dict[str, Any], name: str, why: str
) -> None:
    found, what = only_problem_of(**changes)
    assert found == name
    assert why in what


@pytest.mark.parametrize(
    ("wrong", "other"),
    [
        ({"gateway_image_source": "hub"}, {"gateway_build_context": CONTEXT}),
        ({"rollout_min_healthy_time": "x"}, {"rollout_healthy_deadline": 3}),
        ({"gateway_app_dir": "opt"}, {"gateway_token_dir": "/opt/kis-gateway/tokens"}),
    ],
)
def test_a_wrong_setting_is_not_compared_with_others(
    wrong: dict[str, Any], other: dict[str, Any]
) -> None:
    assert [only_problem_of(**wrong, **other)[0]] == list(wrong)


def test_a_token_directory_next_to_the_app_directory_is_accepted() -> None:
    assert settings(token_dir="/opt/kis-gateway-tokens/").token_dir == "/opt/kis-gateway-tokens"


@pytest.mark.parametrize("image", ["kis", "registry.example:5000/kis"])
def test_an_image_to_build_may_name_a_registry_with_a_port(image: str) -> None:
    assert settings(image=image, image_source="build", build_context=".").image == image


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("gateway_prot", "gateway_port"),
        ("gateway_tokendir", "gateway_token_dir"),
        ("gateway_token_directory", "gateway_token_dir"),
        ("gateway_bind_adress", "gateway_bind_address"),
        ("gateway_env", "gateway_env_file"),
        ("gateway_memory", "gateway_memory_limit"),
        ("gateway_Image", "gateway_image"),
        ("gateway_rollout_healthy_deadline", "rollout_healthy_deadline"),
        ("rollout_min_healthy", "rollout_min_healthy_time"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(typo: str, meant: str) -> None:
    found, what = only_problem_of(**{typo: MARKER})
    assert found == typo
    assert what == f"is not a setting; did you mean {meant}?"


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("gatway_port", "gateway_port"),
        ("Gateway_port", "gateway_port"),
        ("gateway-token-dir", "gateway_token_dir"),
        ("rolout_min_healthy_time", "rollout_min_healthy_time"),
    ],
)
def test_a_misspelt_prefix_is_detected(typo: str, meant: str) -> None:
    assert only_problem_of(**{typo: MARKER}) == (typo, f"looks like {meant}, misspelt")


def test_variables_of_pyinfra_are_ignored() -> None:
    others = {"_sudo": True, "ssh_user": "deploy", "ssh_port": 22, "winrm_port": 1, "image": "x"}
    assert validate_fleet({"seoul": host_data(**others)})


@pytest.mark.parametrize("name", sorted(KNOWN_NAMES - {"rollout_after"}))  # a list is right there
def test_no_wrong_value_is_shown(name: str) -> None:
    found, what = only_problem_of(**{name: [MARKER]})
    assert found == name
    assert MARKER not in what


# The marker is a valid value of these settings.
ACCEPTING_ANY_TEXT = {
    "gateway_adopt_container",
    "gateway_cached_token_log",
    "gateway_image",
    "gateway_project",
    "gateway_token_file",
}


@pytest.mark.parametrize("name", sorted(KNOWN_NAMES - ACCEPTING_ANY_TEXT))
def test_no_wrong_text_is_shown(name: str) -> None:
    problems = problems_of({"seoul": host_data(**{name: MARKER})})
    assert {found for _, found, _ in problems} == {name}
    assert not [what for _, _, what in problems if MARKER in what]


def test_secrets_in_place_of_their_file_are_not_shown() -> None:
    secrets = json.dumps({"kis-r-app-key": MARKER}, indent=2)
    name, what = only_problem_of(gateway_secrets_file=secrets)
    assert name == "gateway_secrets_file"
    assert MARKER not in what


def test_pydantic_does_not_show_a_wrong_value() -> None:
    with pytest.raises(ValidationError) as caught:
        settings(port=MARKER)
    assert MARKER not in str(caught.value)


def test_all_problems_of_all_hosts_are_in_one_error_in_inventory_order() -> None:
    fleet = {
        "seoul": host_data(gateway_port=0, gateway_user="root", gateway_prot=1),
        "busan": host_data(),
        "atlas": {},
        "incheon": host_data(gateway_secrets_file="/nowhere.json"),
    }
    assert [(host, name) for host, name, _ in problems_of(fleet)] == [
        ("seoul", "gateway_prot"),
        ("seoul", "gateway_user"),
        ("seoul", "gateway_port"),
        ("atlas", "gateway_image"),
        ("atlas", "gateway_app_key_field"),
        ("atlas", "gateway_secrets_file"),
        ("incheon", "gateway_secrets_file"),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rollout_batches", [2]),
        ("rollout_revert", "host"),
        ("rollout_share_token", False),
        ("rollout_window", ["Sat"]),
        ("rollout_krx_hours", "08:00-18:00"),
    ],
)
def test_a_setting_of_the_rollout_is_the_same_for_all_hosts(name: str, value: Any) -> None:
    window = {"rollout_window": "outside-krx"}
    assert validate_fleet({"a": host_data(**window), "b": host_data(**window)})
    fleet = {"a": host_data(**window), "b": host_data(**window | {name: value})}
    [(host, found, what)] = problems_of(fleet)
    assert (host, found) == ("b", name)
    assert "differs from a's" in what


def test_the_window_is_parsed() -> None:
    assert settings().window is None
    assert settings(rollout_window="outside-krx").window == outside_krx("07:00-20:00")
    made = settings(rollout_window="outside-krx", rollout_krx_hours="08:30-18:00")
    assert made.window == outside_krx("08:30-18:00")
    assert settings(rollout_window=["Sat,Sun"]).window == weekly(["Sat,Sun"])


def test_one_error_lists_values_relations_files_and_collisions() -> None:
    fleet = {
        "seoul": host_data(
            gateway_port=0,
            gateway_environment={"PORT": 1},
            rollout_min_healthy_time=120,
            gateway_env_file="/nowhere.env",
        ),
        "real": host_data(ssh_hostname="10.0.0.1"),
        "paper": host_data(ssh_hostname="10.0.0.1", **PAPER | {"gateway_project": "kis"}),
    }
    assert [(host, name) for host, name, _ in problems_of(fleet)] == [
        ("seoul", "gateway_port"),
        ("seoul", "gateway_environment"),
        ("seoul", "rollout_healthy_deadline"),
        ("seoul", "gateway_env_file"),
        ("paper", "gateway_project"),
    ]


def test_the_error_says_that_no_host_was_touched() -> None:
    with pytest.raises(
        SettingsError, match=r"(?s)^1 setting of .* no host was touched.*is missing"
    ):
        validate_fleet({"seoul": {k: v for k, v in host_data().items() if k != "gateway_image"}})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (f"{{{MARKER}", "is not JSON"),
        (b"\xff\xfe\xfa", "is not JSON"),
        (json.dumps({"kis-r-app-key": MARKER}).encode("utf-16"), "is not JSON in UTF-8"),
        (json.dumps({"kis-r-app-key": MARKER}).encode("utf-16-le"), "is not JSON in UTF-8"),
        (json.dumps({"kis-r-app-key": MARKER}).encode("utf-8-sig"), "byte order mark (BOM)"),
        ("[" * 100_000, "is not JSON"),
        ("", "is not JSON"),
        (json.dumps([MARKER]), "must hold a JSON object"),
        (json.dumps(MARKER), "must hold a JSON object"),
    ],
)
def test_an_invalid_secrets_file_is_refused_and_not_shown(
    tmp_path: Path, content: str | bytes, why: str
) -> None:
    path = tmp_path / "secrets.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    name, what = only_problem_of(gateway_secrets_file=path)
    assert name == "gateway_secrets_file"
    assert str(path) in what
    assert why in what
    assert MARKER not in what


@pytest.mark.parametrize(
    "secrets",
    [
        {"other": MARKER},
        {"kis-r-app-key": "", "other": MARKER},
        {"kis-r-app-key": " \n", "other": MARKER},
        {"kis-r-app-key": 7, "other": MARKER},
        {"kis-r-app-key": None, "other": MARKER},
        {"kis-r-app-key": [MARKER]},
        {"kis-r-app-key": f" {MARKER}"},
        {"kis-r-app-key": f"{MARKER}\n"},
    ],
)
def test_secrets_without_the_app_key_are_refused_and_not_shown(
    tmp_path: Path, secrets: dict[str, Any]
) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps(secrets))
    name, what = only_problem_of(gateway_secrets_file=path)
    assert name == "gateway_app_key_field"
    assert f"names no field of {path} that holds an app key" in what
    assert MARKER not in what


@pytest.mark.parametrize("name", ["gateway_secrets_file", "gateway_env_file"])
@pytest.mark.parametrize(
    ("path_in", "why"),
    [
        (lambda tmp: tmp / "nowhere", "No such file or directory"),
        (lambda tmp: tmp, "Is a directory"),
        (lambda tmp: tmp / "a\0b", "embedded null byte"),
        (lambda tmp: tmp / ("a" * 300), "File name too long"),
    ],
    ids=["missing", "a directory", "NUL", "too long"],
)
def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, path_in: Callable[[Path], Path], why: str
) -> None:
    assert only_problem_of(**{name: path_in(tmp_path)}) == (name, f"cannot be read: {why}")


def test_a_registry_auth_file_must_hold_the_login_for_the_image(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert only_problem_of(gateway_registry_auth_file=path) == (
        "gateway_registry_auth_file",
        "cannot be read: No such file or directory",
    )
    path.write_text(json.dumps({"auths": {"registry.example": {"auth": "dTpw"}}}))
    assert validate_fleet({"seoul": host_data(gateway_registry_auth_file=path)})
    name, what = only_problem_of(
        gateway_registry_auth_file=path, gateway_image="another.example/kis"
    )
    assert name == "gateway_registry_auth_file"
    assert "holds no login for another.example" in what


def test_a_build_context_needs_a_dockerfile(tmp_path: Path) -> None:
    data = host_data(
        gateway_image="kis", gateway_image_source="build", gateway_build_context=tmp_path
    )
    assert problems_of({"seoul": data}) == [("seoul", "gateway_build_context", "has no Dockerfile")]
    (tmp_path / "Dockerfile").touch()
    assert validate_fleet({"seoul": data})


@pytest.mark.parametrize(
    ("path_in", "why"),
    [
        (lambda tmp: tmp / "nowhere", "cannot be read: No such file or directory"),
        (lambda tmp: tmp, "cannot be read: Is a directory"),
        (lambda tmp: tmp / "a\0b", "cannot be read: embedded null byte"),
        (lambda _: CONTEXT / "Dockerfile", "is no image: neither a tar nor one packed"),
    ],
    ids=["missing", "a directory", "NUL", "no archive"],
)
def test_an_archive_that_is_no_image_says_why(
    tmp_path: Path, path_in: Callable[[Path], Path], why: str
) -> None:
    archive = {"gateway_image_source": "archive", "gateway_image_archive": path_in(tmp_path)}
    name, what = only_problem_of(**archive)
    assert name == "gateway_image_archive"
    assert why in what


def test_without_an_archive_this_machine_must_have_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # a directory without docker
    name, what = only_problem_of(gateway_image_source="archive")
    assert name == "gateway_image"
    assert "docker is needed on this machine" in what
    assert what.endswith("or set gateway_image_archive")


@pytest.mark.parametrize(
    ("written", "stored", "client", "is_open"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", False),
        ("127.8.0.1", "127.8.0.1", "127.8.0.1", False),
        (ANYWHERE, ANYWHERE, "127.0.0.1", True),
        ("::1", "::1", "::1", False),
        ("0:0:0:0:0:0:0:1", "::1", "::1", False),
        ("::", "::", "::1", True),
        ("FD00:0::2", "fd00::2", "fd00::2", True),
        ("2001:db8::1", "2001:db8::1", "2001:db8::1", True),
    ],
)
def test_a_bind_address_may_be_ipv4_or_ipv6(
    written: str, stored: str, client: str, is_open: bool
) -> None:
    made = settings(bind_address=written)
    assert (made.bind_address, made.client_address, made.is_open) == (stored, client, is_open)


def test_in_host_mode_the_gateway_answers_on_its_own_port() -> None:
    made = settings(network_mode="host", container_port=9000)
    assert made.published_port == 9000
    assert settings(port=8081, container_port=9000).published_port == 8081


PAPER: dict[str, Any] = {
    "gateway_project": "kis-paper",
    "gateway_port": 8081,
    "gateway_app_dir": "/opt/kis-paper",
    "gateway_token_dir": "/docker_data/kis_paper_tokens",
}


@pytest.mark.parametrize("shared", list(PAPER))
@pytest.mark.parametrize(
    ("real", "paper"),
    [
        ({"ssh_hostname": "10.0.0.1"}, {"ssh_hostname": "10.0.0.1"}),
        ({}, {"ssh_hostname": "real"}),
        ({"ssh_hostname": "10.0.0.1"}, {"ssh_hostname": "10.0.0.1", "ssh_port": "22"}),
        ({"ssh_hostname": "a", "ssh_port": 2222}, {"ssh_hostname": "a", "ssh_port": "2222"}),
    ],
    ids=["same address", "its name is the address", "port 22 is the default", "same ssh port"],
)
def test_two_hosts_on_one_machine_may_share_nothing(
    real: dict[str, Any], paper: dict[str, Any], shared: str
) -> None:
    own = {name: value for name, value in PAPER.items() if name != shared}
    fleet = {"real": host_data(**real), "paper": host_data(**paper, **own)}
    what = "is the same as real's, on the same machine"
    assert problems_of(fleet) == [("paper", shared, what)]


@pytest.mark.parametrize(
    ("real", "paper", "name"),
    [
        ({}, {}, "gateway_port"),
        ({"gateway_bind_address": ANYWHERE}, {}, "gateway_port"),
        ({}, {"gateway_bind_address": ANYWHERE}, "gateway_port"),
        ({"gateway_bind_address": "10.0.0.1"}, {}, None),
        ({"gateway_bind_address": "::1"}, {}, None),
        ({"gateway_bind_address": "::1"}, {"gateway_bind_address": "0:0::1"}, "gateway_port"),
        ({"gateway_bind_address": "::1"}, {"gateway_bind_address": "::"}, "gateway_port"),
        ({"gateway_bind_address": "::"}, {"gateway_bind_address": "fd00::2"}, "gateway_port"),
        ({"gateway_bind_address": "::1"}, {"gateway_bind_address": "fd00::2"}, None),
        ({"gateway_bind_address": "::1"}, {"gateway_bind_address": ANYWHERE}, None),
        ({"gateway_bind_address": "::"}, {}, None),
        (HOST_MODE, {"gateway_bind_address": "::1"}, "gateway_port"),
        ({"gateway_bind_address": "10.0.0.1"}, {"gateway_bind_address": "10.0.0.2"}, None),
        (HOST_MODE, {"gateway_bind_address": "10.0.0.2"}, "gateway_port"),
        ({"gateway_bind_address": "10.0.0.2"}, HOST_MODE, "gateway_container_port"),
        (HOST_MODE, HOST_MODE, "gateway_container_port"),
        ({"gateway_container_port": 9000, **HOST_MODE}, HOST_MODE, None),
        ({"gateway_container_port": 9000, **HOST_MODE}, {"gateway_port": 9000}, "gateway_port"),
    ],
)
def test_a_port_collides_if_the_addresses_overlap(
    real: dict[str, Any], paper: dict[str, Any], name: str | None
) -> None:
    one_machine = {"ssh_hostname": "10.0.0.1"}
    open_to_network = {"gateway_open_to_network": True}
    same_port = {name: value for name, value in PAPER.items() if name != "gateway_port"}
    fleet = {
        "real": host_data(**one_machine, **open_to_network | real),
        "paper": host_data(**one_machine, **same_port | open_to_network | paper),
    }
    if name is None:
        assert list(validate_fleet(fleet)) == ["real", "paper"]
    else:
        assert [(host, found) for host, found, _ in problems_of(fleet)] == [("paper", name)]


@pytest.mark.parametrize(
    ("real", "paper"),
    [
        ({}, {}),
        ({"ssh_hostname": "10.0.0.1"}, {"ssh_hostname": "10.0.0.2"}),
        ({"ssh_hostname": "10.0.0.1"}, {"ssh_hostname": "10.0.0.1", "ssh_port": 2222}),
        ({"ssh_hostname": "10.0.0.1"}, {"ssh_hostname": "10.0.0.1", **PAPER}),
    ],
    ids=["two names", "two addresses", "two ssh ports", "one machine, nothing shared"],
)
def test_gateways_that_share_nothing_are_accepted(
    real: dict[str, Any], paper: dict[str, Any]
) -> None:
    fleet = {"real": host_data(**real), "paper": host_data(**paper)}
    assert list(validate_fleet(fleet)) == ["real", "paper"]


def test_secrets_are_read_once_and_never_printed(tmp_path: Path) -> None:
    secrets = tmp_path / "keys.json"
    secrets.write_text('{"kis-r-app-key": "s3cret-of-nobody"}')
    made = settings(secrets_file=secrets)
    first = key_fingerprint(made)
    secrets.write_text('{"kis-r-app-key": "another"}')  # changed between two readings
    assert key_fingerprint(made) == first
    assert read_secrets(made) == Secret(b'{"kis-r-app-key": "s3cret-of-nobody"}')
    assert repr(read_secrets(made)) == "[redacted]"
    assert "s3cret" not in f"{made!r} {made.credentials}"


@pytest.mark.parametrize(
    ("one", "other", "inner", "outer"),
    [
        ("/data/a", "/data/a/b", "gateway_token_dir", "gateway_token_dir"),
        ("/data/a/b", "/data/a", "gateway_token_dir", "gateway_token_dir"),
        ("/opt/kis-paper/t", "/data/p", "gateway_app_dir", "gateway_token_dir"),
    ],
)
def test_directories_on_one_machine_may_not_be_nested(
    one: str, other: str, inner: str, outer: str
) -> None:
    one_machine = {"ssh_hostname": "10.0.0.1"}
    fleet = {
        "real": host_data(**one_machine, gateway_token_dir=one),
        "paper": host_data(**one_machine, **PAPER | {"gateway_token_dir": other}),
    }
    what = f"and real's {outer} contain each other"
    assert problems_of(fleet) == [("paper", inner, what)]


@pytest.mark.parametrize("name", ["gateway_token_dir", "gateway_app_dir"])
@pytest.mark.parametrize(
    "path",
    ["/etc", "/tmp", "/home", "/var/lib", "/run/kis", "/proc/1", "/a\\b"],  # noqa: S108
)
def test_a_directory_of_the_system_is_refused(name: str, path: str) -> None:
    found, what = only_problem_of(**{name: path})
    assert found == name
    assert "must be a" in what


def test_a_user_is_two_numbers() -> None:
    assert settings(user="007:0").user == "7:0"


def test_the_simulators_label_is_refused() -> None:
    _, what = only_problem_of(gateway_labels={"kis-simulator": ""})
    assert "the simulator's own label" in what


@pytest.mark.parametrize("name", ["rollout_healthy_deadline", "rollout_min_healthy_time"])
def test_a_time_is_at_most_a_day(name: str) -> None:
    assert name in {found for _, found, _ in problems_of({"seoul": host_data(**{name: 1e306})})}


@pytest.mark.parametrize("name", ["gateway_secrets_file", "gateway_env_file"])
def test_a_file_that_could_block_is_refused(tmp_path: Path, name: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    found, what = only_problem_of(**{name: str(fifo)})
    assert (found, what) == (name, "cannot be read: it is not a regular file")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("A=1\nPORT=2\n", "line 2: may not set PORT: it follows from gateway_container_port"),
        ("A=1\nB=2\n", "line 2: may not set B: gateway_environment sets it, too"),
        ("A=s3cret$HOME\n", "line 1: has a `$`"),
        ("A='s3cret\n", "line 1: has a quote that is not closed"),
    ],
)
def test_a_wrong_line_of_an_env_file_is_named_without_its_value(
    tmp_path: Path, content: str, why: str
) -> None:
    path = tmp_path / "kis.env"
    path.write_text(content)
    changes = {"gateway_env_file": path, "gateway_environment": {"B": "3"}}
    name, what = only_problem_of(**changes)
    assert name == "gateway_env_file"
    assert f"{path}, {why}" in what
    assert "s3cret" not in what


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({}, {"KIS_TOKEN_FILE_PATH": "/app/tokens/kis_token.json"}),
        (
            {"token_mount": "/root/.cache/kis", "token_file": ".token.json"},
            {"KIS_TOKEN_FILE_PATH": "/root/.cache/kis/.token.json"},
        ),
        ({"token_env": None}, {}),
        ({"token_file": None}, {}),
        ({"token_file": "token_*.json"}, {}),
        ({"token_file": "KIS{date:%Y%m%d}", "token_env": "KIS_DIR"}, {"KIS_DIR": "/app/tokens"}),
        ({"token_env": "KIS_TOKEN_FILE"}, {"KIS_TOKEN_FILE": "/app/tokens/kis_token.json"}),
        (
            {"token_env": ["KIS_TOKEN_CACHE_PATH", "KIS_TOKEN_CACHE_DIR"]},
            {
                "KIS_TOKEN_CACHE_PATH": "/app/tokens/kis_token.json",
                "KIS_TOKEN_CACHE_DIR": "/app/tokens",
            },
        ),
    ],
)
def test_the_variables_name_the_token_file_or_its_directory(
    changes: dict[str, Any], variables: dict[str, str]
) -> None:
    assert settings(**changes).token_variables == variables


@pytest.mark.parametrize("form", [None, "token_*.json", "t?", ".KIS{date:%Y-%m-%d}.json"])
def test_a_variable_cannot_name_a_file_whose_name_is_not_fixed(form: str | None) -> None:
    data = host_data(gateway_token_file=form)
    assert validate_fleet({"seoul": data})
    with pytest.raises(SettingsError) as caught:
        validate_fleet({"seoul": data | {"gateway_token_env": ["A_DIR", "KIS_TOKEN_FILE"]}})
    [(_, name, what)] = caught.value.problems
    assert name == "gateway_token_env"
    assert "KIS_TOKEN_FILE cannot name a file whose name is not fixed" in what


def test_a_variable_that_is_not_the_packages_may_be_set() -> None:
    fleet = {
        "seoul": host_data(
            gateway_token_env=None, gateway_environment={"KIS_TOKEN_FILE_PATH": "/root/t.json"}
        )
    }
    assert validate_fleet(fleet)


@pytest.mark.parametrize("path", ["/", "/tmp", "/app", "/app/config", "tokens"])  # noqa: S108
def test_a_mount_that_would_hide_something_is_refused(path: str) -> None:
    assert only_problem_of(gateway_token_mount=path)[0] == "gateway_token_mount"


OVERRIDE = "services:\n  kis-gateway:\n    "


@pytest.mark.parametrize(
    "content",
    [
        "dns: [10.0.0.53]\n",
        "ulimits: {nofile: 9000}\n    command: [serve]\nnetworks:\n  default: {name: trading}\n",
        "volumes: ['/srv/logs:/logs', 'data:/data']\nvolumes:\n  data:\n",
    ],
)
def test_an_override_may_add_to_the_service(tmp_path: Path, content: str) -> None:
    path = tmp_path / "override.yml"
    path.write_text(OVERRIDE + content)
    [made] = validate_fleet({"seoul": host_data(gateway_compose_override=path)}).values()
    assert made.override_content == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a: [", "line 2: is not YAML"),
        ("a: &a x\nb: *a\n", "line 2: has an alias"),
        ("[]", "must have one service, kis-gateway"),
        ("services: {redis: {image: redis}}", "must have one service, kis-gateway"),
        (
            "services: {kis-gateway: {dns: a}, redis: {image: redis}}",
            "must have one service, kis-gateway",
        ),
        (f"{OVERRIDE}volumes: ['./logs:/logs']", "the path ./logs is relative"),
        (f"{OVERRIDE}volumes: [{{type: bind, source: logs, target: /l}}]", "logs is relative"),
        (f"{OVERRIDE}env_file: more.env", "the path more.env is relative"),
    ],
)
def test_an_override_that_cannot_be_used_is_refused(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "override.yml"
    path.write_text(content)
    name, what = only_problem_of(gateway_compose_override=path)
    assert name == "gateway_compose_override"
    assert why in what


def test_the_command_after_a_rollout_is_the_same_for_all_hosts() -> None:
    same = {"rollout_after": ["mail", "kim"]}
    assert validate_fleet({"a": host_data(**same), "b": host_data(**HOST_MODE, **same)})
    with pytest.raises(SettingsError, match="b: rollout_after  differs from a's"):
        validate_fleet({"a": host_data(**same), "b": host_data(**HOST_MODE)})


@pytest.mark.parametrize(
    ("period", "seconds"),
    [("10s", 10), ("1m30s", 90), ("2h", 7200), ("1500ms", 2), ("1h1m1s1ms", 3662), ("0s", 0)],
)
def test_the_time_to_stop_is_known_in_seconds(period: str, seconds: int) -> None:
    assert settings(stop_grace_period=period).stop_grace_seconds == seconds
