"""From the description of a container to the inventory that deploys a copy of it."""

from __future__ import annotations

import ast
import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as run
from hypothesis import strategies as st
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from kis_gateway_deploy import adopting, fleet
from kis_gateway_deploy.adopted_inventory import Written, write
from kis_gateway_deploy.description import Container, parse_description
from kis_gateway_deploy.session import Refused

CLOCK = 1795694400  # 2026-11-26 21:00 in Korea
DAY = 86400
SECRET = "s3cr3t/of+the-operator=="


def token(path: str, *expiries: int, alone: bool = True) -> dict[str, Any]:
    ends = list(expiries or (CLOCK + DAY,))
    return {"path": path, "state": "token", "expiries": ends, "alone": alone}


def secrets_file(path: str = "/config/kis.json", **fields: Any) -> dict[str, str]:
    content = json.dumps(fields or {"app-key": "PSkey", "app-secret": SECRET}).encode()
    return {"path": path, "content": base64.b64encode(content).decode()}


LEAST: dict[str, Any] = {
    "id": "c0ffee",
    "name": "old-gateway",
    "image": "registry.example/kis:1.4",
    "has_digest": True,
    "user": "1000:1000",
    "configured_user": "1000",
    "environment": {"KIS_APP_KEY": "PSkeykeykey", "KIS_TOKEN_FILE_PATH": "/data/kis.json"},
    "ports": [[8080, "tcp", "127.0.0.1", "8080"]],
    "tokens": [token("/data/kis.json")],
    "memory": 1 << 29,
    "cpus": 1.0,
}


def described(**changes: Any) -> Container:
    answer = {"result": {"uid": 0, "clock": CLOCK, "container": LEAST | changes}}
    container = parse_description(json.dumps(answer)).container
    assert container is not None
    return container


def written(**changes: Any) -> Written:
    return write("web-1", {"ssh_user": "ops"}, described(**changes), CLOCK, "mine")


def data_of(made: Written) -> dict[str, Any]:
    """The host's data in the inventory, whose files exist while it is validated."""
    ast.parse(made.inventory)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mine.py"
        adopting.write_files(made, path)
        names: dict[str, Any] = {"__file__": str(path)}
        exec(path.read_text(), names)  # noqa: S102 - as pyinfra does
        host: str
        data: dict[str, Any]
        [(host, data)] = names["gateways"]
        assert host == "web-1"
        _, problems = fleet._validate(data)
        named = " ".join(made.notes)
        unsaid = [(name, what) for name, what in problems if name not in named]
        if "gateway_compose_file: " in named:  # what it lacks without that one follows from it
            return dict(data)
        assert not unsaid, (unsaid, made.notes, made.inventory)
        found: dict[str, Any] = {k: v.name if isinstance(v, Path) else v for k, v in data.items()}
        return found


def override_of(made: Written) -> Any:
    return yaml.safe_load(made.companions[".override.yml"])["services"]["kis-gateway"]


def test_the_least_container_needs_no_decision() -> None:
    made = written(read_only=True)
    assert made.notes == ()
    assert data_of(made) == {
        "ssh_user": "ops",
        "gateway_image": "registry.example/kis:1.4",
        "gateway_user": "1000:1000",
        "gateway_env_file": "mine.env",
        "gateway_app_key_field": "KIS_APP_KEY",
        "gateway_health_path": "/health",
        "gateway_memory_limit": "536870912b",
        "gateway_cpus": 1.0,
        "gateway_token_mount": "/data",
        "gateway_token_file": "kis.json",
        "gateway_token_env": ["KIS_TOKEN_FILE_PATH"],
        "gateway_adopt_container": "old-gateway",
        "gateway_adopt_token_path": "/data/kis.json",
    }


@pytest.mark.parametrize(
    ("published", "address", "is_open"),
    [
        ("", "0.0.0.0", True),  # noqa: S104 - compared
        ("::", "::", True),
        ("::1", "::1", None),
        ("127.0.0.2", "127.0.0.2", None),
    ],
)
def test_the_address_and_who_reaches_it_stay(
    published: str, address: str, is_open: bool | None
) -> None:
    data = data_of(written(ports=[[8080, "tcp", published, "8080"]]))
    assert data["gateway_bind_address"] == address
    assert data.get("gateway_open_to_network") is is_open


def test_docker_run_with_everything() -> None:
    made = written(
        has_digest=False,
        network_mode="trading",
        networks=["trading"],
        command=["serve", "--price=$1"],
        entrypoint=[],
        working_dir="/srv",
        has_working_dir=True,
        environment={
            "KIS_TOKEN_FILE_PATH": "/data/kis.json",
            "SECRETS_FILE": "/config/kis.json",
            "KIS_CONFIG": "/config/kis.json",
            "PORT": "9000",
            "DEBUG": "false",
            "WEBHOOK": f"https://hook.example/{SECRET}",
            "QUOTED": 'it\'s $5 # a "price"',
            "BACKSLASH": "a\\'$b",
        },
        healthcheck={"Test": ["CMD", "curl", "http://localhost:9000/live"], "Interval": 5 * 10**9},
        has_healthcheck=True,
        mounts=[
            {"type": "bind", "source": "/srv/kis.json", "destination": "/config/kis.json"},
            {"type": "volume", "source": "/v", "name": "data", "destination": "/data"},
            {"type": "volume", "source": "/v", "name": "logs", "destination": "/logs", "rw": False},
        ],
        ports=[[9000, "tcp", "", "18080"]],
        extra_hosts=["host.docker.internal:host-gateway", "db:10.0.0.5"],
        dns=["10.0.0.1"],
        ulimits={"nofile": [1024, 2048]},
        labels={"team": "kis"},
        secrets=[secrets_file(real={"app_key": "PSreal", "app_secret": SECRET})],
    )
    data = data_of(made)
    assert data["gateway_image_source"] == "host"
    assert (data["gateway_port"], data["gateway_container_port"]) == (18080, 9000)
    assert (data["gateway_bind_address"], data["gateway_open_to_network"]) == ("0.0.0.0", True)  # noqa: S104
    assert data["gateway_health_path"] == "/live"
    assert data["gateway_healthcheck"]["interval"] == "5000ms"
    assert data["gateway_app_key_field"] == "real.app_key"
    assert data["gateway_secrets_file"] == "mine.secrets.json"
    assert data["gateway_environment"] == {
        "KIS_CONFIG": "/app/config/secrets.json",
        "DEBUG": "false",
    }
    assert data["gateway_read_only"] is False
    assert made.kept_apart == ("WEBHOOK", "QUOTED")
    service = override_of(made)
    assert service["environment"] == {"BACKSLASH": "a\\'$$b"}
    assert service["command"] == ["serve", "--price=$$1"]
    assert service["entrypoint"] == []
    assert service["networks"] == ["trading"]
    assert service["extra_hosts"] == ["db:10.0.0.5"]
    assert service["volumes"] == [
        {"type": "volume", "source": "logs", "target": "/logs", "read_only": True}
    ]
    assert SECRET not in made.inventory + " ".join(made.notes)
    assert SECRET not in repr(made)


IN_PROJECT = {
    "com.docker.compose.project": "trading",
    "com.docker.compose.project.config_files": "/srv/trading/compose.yml,/srv/trading/more.yml",
    "com.docker.compose.project.working_dir": "/srv/trading",
    "com.docker.compose.service": "gateway",
}


def test_a_service_of_a_compose_project_stays_in_it() -> None:
    made = written(
        network_mode="host",
        environment={"KIS_APP_SECRET": SECRET, "PORT": "9000"},
        ports=[],
        labels=IN_PROJECT,
        healthcheck={"Test": ["CMD-SHELL", "wget -q http://127.0.0.1:9000/live || exit 1"]},
        secrets=[secrets_file()],
    )
    assert made.companions == {}
    assert data_of(made) == {
        "ssh_user": "ops",
        "gateway_compose_file": "/srv/trading/compose.yml",
        "gateway_service": "gateway",
        "gateway_user": "1000:1000",
        "gateway_network_mode": "host",
        "gateway_container_port": 9000,
        "gateway_health_path": "/live",
        "gateway_token_mount": "/data",
        "gateway_token_file": "kis.json",
        "gateway_token_env": None,
    }
    [note] = made.notes
    assert "has several files" in note


def test_beside_another_gateway_it_gets_names_of_its_own() -> None:
    data = data_of(written(name="My_Paper.1", app_dir_in_use=True))
    assert data["gateway_app_dir"] == "/opt/kis-gateway-my-paper-1"
    assert data["gateway_token_dir"] == "/docker_data/kis_tokens_my-paper-1"
    assert data["gateway_project"] == "kis-my-paper-1"
    in_place = data_of(written(name="x_1", app_dir_in_use=True, labels=IN_PROJECT))
    assert in_place["gateway_app_dir"] == "/opt/kis-gateway-x-1"
    assert "gateway_project" not in in_place


def test_a_release_of_this_package_is_recognised() -> None:
    path = "/opt/kis-gateway/releases/0a1b2c3d4e5f/docker-compose.yml"
    project = "com.docker.compose.project"
    assert described(labels={project: "kis", f"{project}.config_files": path}).is_ours
    assert not described(labels={project: "kis", f"{project}.config_files": "/srv/a.yml"}).is_ours
    assert not described().is_ours


FILES: dict[str, tuple[list[dict[str, Any]], Any, dict[str, Any]]] = {
    "one": ([token("/t/kis.json")], "kis.json", {}),
    "daily": (
        [token("/t/KIS20261126"), token("/t/KIS20261120", CLOCK - DAY)],
        "KIS{date:%Y%m%d}",
        {},
    ),
    "an old date": ([token("/t/KIS20250101")], "KIS20250101", {}),
    "a hash": ([token(f"/t/token_real_{'a1' * 20}.json")], "token_real_*.json", {}),
    "two hashes": (
        [token(f"/t/t_{'a' * 32}.json"), token(f"/t/t_{'b' * 32}.json")],
        "t_*.json",
        {"gateway_tokens_expected": 2},
    ),
    "several": (
        [token("/t/real.json"), token("/t/paper.json")],
        None,
        {"gateway_tokens_expected": 2},
    ),
    "two in one": (
        [token("/t/both.json", CLOCK + 5, CLOCK + 9)],
        "both.json",
        {"gateway_tokens_expected": 2},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_the_token_file_is_a_name_a_pattern_or_every_file(name: str) -> None:
    tokens, form, more = FILES[name]
    data = data_of(written(tokens=tokens))
    assert (data["gateway_token_mount"], data["gateway_token_file"]) == ("/t", form)
    assert {n: v for n, v in data.items() if n == "gateway_tokens_expected"} == more
    is_one = form == tokens[0]["path"].removeprefix("/t/")
    assert data["gateway_adopt_token_path"] == (tokens[0]["path"] if is_one else "/t")


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"A_FILE": "/t/k.json", "B_DIR": "/t", "C_DIR": "/u"}, ["A_FILE", "B_DIR"]),
        ({"RELATIVE": "k.json"}, ["RELATIVE"]),
        ({"KIS_TOKEN_FILE_PATH": "/other"}, None),
        ({}, None),
    ],
)
def test_the_variables_that_name_the_token_file(
    environment: dict[str, str], names: list[str] | None
) -> None:
    keys = {"KIS_APP_KEY": "PSkeykeykey"}
    changes = {"environment": keys | environment, "working_dir": "/t"}
    assert data_of(written(tokens=[token("/t/k.json")], **changes))["gateway_token_env"] == names


def test_a_directory_with_other_files_is_not_hidden() -> None:
    crowded = [token("/app/k.json", alone=False)]
    keys = {"KIS_APP_KEY": "PSkeykeykey"}
    by_name = data_of(written(tokens=crowded, environment=keys | {"TOKEN": "/app/k.json"}))
    assert by_name["gateway_token_env"] == ["TOKEN"]
    assert by_name["gateway_token_mount"] == "/app/tokens"
    assert by_name["gateway_adopt_token_path"] == "/app/k.json"
    moved = written(
        tokens=crowded, environment=keys, working_dir="/app", program=["python3", "/app/main.py"]
    )
    assert data_of(moved)["gateway_token_file"] == "k.json"
    assert override_of(moved)["working_dir"] == "/app/tokens"
    for program in (["python3", "main.py"], ["python3", "-m", "/app"], ["./gateway"], []):
        stuck = written(tokens=crowded, environment=keys, working_dir="/app", program=program)
        data = data_of(stuck)
        assert "gateway_token_mount" not in data
        assert data["gateway_adopt_token_path"] == "/app/k.json"
        assert any("would hide the other files" in note for note in stuck.notes)


def test_tokens_in_the_root_directory_are_not_adopted_as_a_directory() -> None:
    both = [token("/a.json", alone=False), token("/b.json", alone=False)]
    keys = {"KIS_APP_KEY": "PSkeykeykey"}
    for labels in ({}, IN_PROJECT):
        made = written(tokens=both, environment=keys | {"TOKEN_DIR": "/"}, labels=labels)
        assert "gateway_token_mount" not in data_of(made)
        assert any("'/' cannot be used" in note for note in made.notes)


def test_the_default_path_of_a_token_has_its_variable() -> None:
    data = data_of(written(tokens=[token("/tmp/kis_token_gateway.json", alone=False)]))  # noqa: S108
    assert data["gateway_token_env"] == ["KIS_TOKEN_FILE_PATH"]
    assert data["gateway_token_mount"] == "/app/tokens"


def test_without_a_token_nothing_is_decided() -> None:
    made = written(tokens=[])
    assert "gateway_adopt_without_token" not in data_of(made)
    assert any("no token was found" in note for note in made.notes)
    expired = written(tokens=[token("/data/kis.json", CLOCK - 1)])
    assert any("has expired" in note for note in expired.notes)


def test_what_a_copy_cannot_be_is_said() -> None:
    made = written(
        user="",
        ports=[],
        environment={},
        memory=0,
        privileged=True,
        auto_remove=True,
        image_is_current=False,
        network_mode="container:beef",
        sharers=["bot"],
    )
    text = "\n".join(made.notes)
    for word in ("gateway_user", "gateway_port", "gateway_app_key_field", "memory", "--rm", "bot"):
        assert word in text
    assert "privileged" in text
    assert "is not supported" in text
    data_of(made)


def test_passwords_of_the_host_are_left_out_and_named() -> None:
    data = {
        "ssh_key": Path("/k"),
        "ssh_key_password": SECRET,
        "_sudo": True,
        "_sudo_password": SECRET,
        "_env": {"DB_PASSWORD": SECRET},
        "function": len,
        "gateway_port": 1,
        "rollout_batches": [1],
    }
    made = write("web-1", data, described(), CLOCK, "mine")
    kept = data_of(made)
    assert {n: v for n, v in kept.items() if not n.startswith("gateway_")} == {
        "ssh_key": "k",
        "_sudo": True,
    }
    assert SECRET not in made.inventory
    assert "ssh_key_password, _sudo_password, _env, function" in made.inventory


def test_a_secret_in_a_health_check_is_not_shown() -> None:
    check = {"Test": ["CMD-SHELL", f"curl -H 'key: {SECRET}' http://localhost:8080/health"]}
    environment = {"KIS_APP_KEY": "PSkeykeykey", "KEY": SECRET}
    made = written(healthcheck=check, has_healthcheck=True, environment=environment)
    assert SECRET not in made.inventory
    assert SECRET in override_of(made)["healthcheck"]["test"][1]


TEXT = (
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
    | st.sampled_from(["/app/tokens", "/tmp", "/", "..", '"""', "'''", "\\", "$x", "\n#", "a\nb"])  # noqa: S108
    | st.sampled_from(["/data/kis.json", "/secrets.json", "SECRETS_FILE", "PORT", "\u202e", "~/x"])
    | st.sampled_from(["KIS_APP_KEY", "KIS_TOKEN_FILE_PATH", "X_DIR", "/a:b", "//x", "tcp", "8080"])
)
WORDS = st.lists(TEXT, max_size=3)
VARIABLES = st.dictionaries(TEXT, TEXT, max_size=4)
IN_PLACE = st.fixed_dictionaries(
    {
        "com.docker.compose.project": TEXT,
        "com.docker.compose.project.config_files": TEXT,
        "com.docker.compose.project.working_dir": TEXT,
        "com.docker.compose.service": TEXT,
    }
)
EXPIRY = st.integers(CLOCK - DAY, CLOCK + DAY)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "name": TEXT,
        "image": TEXT,
        "image_id": TEXT,
        "has_digest": st.booleans(),
        "image_is_current": st.booleans(),
        "user": TEXT | st.just("0:0"),
        "network_mode": TEXT | st.sampled_from(["host", "none", "bridge", "container:1", "net"]),
        "networks": WORDS,
        "entrypoint": st.none() | WORDS,
        "command": st.none() | WORDS,
        "program": WORDS,
        "working_dir": TEXT,
        "has_working_dir": st.booleans(),
        "environment": VARIABLES,
        "image_environment": VARIABLES,
        "healthcheck": st.none()
        | st.fixed_dictionaries({"Test": WORDS, "Interval": st.integers(0, 10**12)}),
        "has_healthcheck": st.booleans(),
        "mounts": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.sampled_from(["bind", "volume", "tmpfs"]) | TEXT,
                    "source": TEXT,
                    "name": TEXT,
                    "destination": TEXT,
                    "rw": st.booleans(),
                }
            ),
            max_size=3,
        ),
        "tmpfs": VARIABLES,
        "ports": st.lists(st.tuples(st.integers(0, 70000), TEXT, TEXT, TEXT), max_size=3),
        "exposed": WORDS,
        "extra_hosts": WORDS,
        "dns": WORDS,
        "ulimits": st.dictionaries(TEXT, st.tuples(st.integers(), st.integers()), max_size=2),
        "labels": VARIABLES | IN_PLACE,
        "memory": st.integers(0, 10**12),
        "cpus": st.floats(0, 64),
        "read_only": st.booleans(),
        "cap_add": WORDS,
        "sharers": WORDS,
        "tokens": st.lists(
            st.builds(
                lambda path, ends, alone: token(path, *ends, alone=alone),
                TEXT,
                st.lists(EXPIRY, min_size=1, max_size=2),
                st.booleans(),
            ),
            max_size=3,
        ),
        "secrets": st.lists(
            st.builds(
                lambda path, fields: secrets_file(path, **fields),
                TEXT,
                st.dictionaries(TEXT, TEXT | VARIABLES, max_size=2),
            ),
            max_size=2,
        ),
    },
)


@run(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(CHANGES, st.dictionaries(st.sampled_from(["ssh_user", "_sudo", "x"]), TEXT))
def test_any_container_gives_an_inventory_that_is_accepted_or_says_what_to_decide(
    changes: dict[str, Any], data: dict[str, Any]
) -> None:
    made = write("web-1", data, described(**changes), CLOCK, "mine")
    data_of(made)
    for text in (*made.notes, *made.inventory.splitlines()):
        assert not {*"\x1b\r\u2028\u202e"} & {*text}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": "no engine"}, "no engine"),
        ({}, "is empty"),
        ({"result": {"uid": 0}}, "result.clock"),
        ({"result": {"uid": 0, "clock": 1, "container": {"id": "x"}}}, "result.container.image"),
    ],
)
def test_an_answer_of_another_form_is_one_clear_error(answer: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_description(json.dumps(answer))


def test_a_value_is_in_no_error() -> None:
    wrong = LEAST | {"environment": {"A": [SECRET]}}
    with pytest.raises(ValueError, match="environment") as error:
        parse_description(json.dumps({"result": {"uid": 0, "clock": 1, "container": wrong}}))
    assert SECRET not in str(error.value)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    for name in ("mine.py", "mine.env", "mine.secrets.json", "mine.override.yml"):
        (tmp_path / name).symlink_to("nowhere")
        with pytest.raises(Refused, match=f"{name} exists"):
            adopting.checked({"container": "c", "write": str(tmp_path / "mine.py")}, ["web-1"])
        (tmp_path / name).unlink()
    made = written()
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(FileExistsError):
        adopting.write_files(made, tmp_path / "mine.py")
    assert [each.name for each in tmp_path.iterdir()] == ["mine.py"]
    (tmp_path / "mine.py").unlink()
    adopting.write_files(made, tmp_path / "mine.py")
    assert {f"{each.stat().st_mode & 0o777:o}" for each in tmp_path.iterdir()} == {"600"}


@pytest.mark.parametrize(
    ("data", "hosts", "said"),
    [
        ({"container": "c"}, ["a", "b"], "LIMIT=host"),
        ({}, ["a"], "CONTAINER=name"),
        ({"container": 7}, ["a"], "quotes"),
        ({"container": "c", "write": "mine.txt"}, ["a"], "end with .py"),
        ({"container": "c", "write": "/nonexistent/mine.py"}, ["a"], "no directory"),
    ],
)
def test_what_cannot_be_written_is_refused(
    data: dict[str, Any], hosts: list[str], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        adopting.checked(data, hosts)


def test_without_root_the_error_says_how_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = {"uid": 1000, "clock": CLOCK, "engine_error": "/run/docker.sock: Permission denied"}
    monkeypatch.setattr(adopting, "ask", lambda *_: json.dumps({"result": denied}))
    host = State(Inventory((["@local"], {})), Config()).inventory.get_host("@local")
    [problem] = adopting.describe(host, "kis", None).problems
    assert problem.endswith("set `_sudo` to True in the host's inventory data, or connect as root")
