from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from kis_gateway_deploy.paths import TEMPLATE
from kis_gateway_deploy.release import (
    COMPOSE_FILE,
    MANIFEST,
    File,
    Image,
    archive,
    built_image,
    content_hash,
    make_release,
    render_compose,
    to_yaml,
)
from kis_gateway_deploy.requests import compose_binary
from kis_gateway_deploy.saved_image import SavedImage
from kis_gateway_deploy.settings import SERVICE
from tests.unit.builders import SECRETS_FILE, saved_tar, settings

# Text that YAML, compose or Jinja could misread.
AWKWARD = [
    "",
    "$",
    "$$",
    "${X}",
    "${X:-y}",
    "a: b",
    "key:",
    "a # b",
    "#",
    "'",
    '"',
    "\\",
    "\\n",
    "a\nb",
    "a\r\nb\n",
    "\t",
    " leading and trailing ",
    "한국어",
    "🙂",
    "\x85",
    "\u2028\u2029",
    "\ufeff",
    "\x1b[0m",
    "no",
    "null",
    "~",
    "=",
    "1",
    "1e3",
    "0x10",
    "0o7",
    "12:30:45",
    "2027-01-15",
    "...",
    "---",
    "&a",
    "*a",
    "!a",
    "|",
    ">",
    "%",
    "@",
    "`",
    "- a",
    "[a, b]",
    "{a: b}",
    "{{ x }}",
    "{% x %}",
    "{# x #}",
    "x" * 300 + " " + "y" * 300,
]


def compose(**changes: Any) -> dict[str, Any]:
    """The rendered compose file, parsed as YAML."""
    parsed = yaml.safe_load(render_compose(settings(**changes), "registry.example/kis:1.4"))
    assert isinstance(parsed, dict)
    return parsed


def service(**changes: Any) -> dict[str, Any]:
    parsed = compose(**changes)["services"]
    assert list(parsed) == [SERVICE]
    found = parsed[SERVICE]
    assert isinstance(found, dict)
    return found


def interpolated(value: str) -> str:
    """A value after interpolation by compose, which would replace a single `$`."""
    assert "$" not in value.replace("$$", "")
    return value.replace("$$", "$")


def test_the_compose_file_is_the_documented_one() -> None:
    assert compose() == {
        "name": "kis",
        "services": {
            "kis-gateway": {
                "image": "registry.example/kis:1.4",
                "pull_policy": "never",
                "init": True,
                "user": "10001:10001",
                "restart": "unless-stopped",
                "stop_grace_period": "10s",
                "volumes": [
                    {
                        "type": "bind",
                        "source": "/docker_data/kis_tokens",
                        "target": "/app/tokens",
                        "bind": {"create_host_path": False},
                    },
                    {
                        "type": "bind",
                        "source": "./secrets.json",
                        "target": "/app/config/secrets.json",
                        "read_only": True,
                        "bind": {"create_host_path": False},
                    },
                ],
                "environment": {
                    "PORT": "8080",
                    "KIS_TOKEN_FILE_PATH": "/app/tokens/kis_token.json",
                    "SECRETS_FILE": "/app/config/secrets.json",
                    "GUNICORN_CMD_ARGS": "--timeout 600",
                },
                "ports": ["127.0.0.1:8080:8080"],
                "extra_hosts": ["host.docker.internal:host-gateway"],
                "labels": {},
                "read_only": True,
                "tmpfs": ["/tmp"],  # noqa: S108 - in the container
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "mem_limit": "512m",
                "cpus": 1.0,
                "logging": {
                    "driver": "json-file",
                    "options": {"max-size": "10m", "max-file": "5"},
                },
            }
        },
    }


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"user": "0:0"}, "user", "0:0"),
        ({"read_only": False}, "read_only", False),
        ({"memory_limit": "1g"}, "mem_limit", "1g"),
        ({"cpus": 0.5}, "cpus", 0.5),
        ({"stop_grace_period": "1m30s"}, "stop_grace_period", "1m30s"),
        ({"labels": {"a.b/c": 1}}, "labels", {"a.b/c": "1"}),
        ({"healthcheck": {"disable": True}}, "healthcheck", {"disable": True}),
        (
            {"bind_address": "10.0.0.5", "port": 8081, "container_port": 9000},
            "ports",
            ["10.0.0.5:8081:9000"],
        ),
        ({"bind_address": "::1"}, "ports", ["[::1]:8080:8080"]),
        ({"bind_address": "::", "port": 8081}, "ports", ["[::]:8081:8080"]),
        ({"network_mode": "host"}, "network_mode", "host"),
    ],
)
def test_a_setting_reaches_the_compose_file(changes: dict[str, Any], key: str, value: Any) -> None:
    assert service(**changes)[key] == value


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "::1", "::", "2001:db8::1"])
def test_compose_reads_the_address_and_port(address: str, tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(render_compose(settings(bind_address=address, port=8081), "kis:1"))
    command: list[str | Path] = [compose_binary(), "--file", file, "config", "--format", "json"]
    read = subprocess.run(command, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")
    [port] = json.loads(read.stdout)["services"]["kis-gateway"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == (address, "8081", 8080)


def test_the_project_name_of_the_settings_is_in_the_compose_file() -> None:
    assert compose(project="123")["name"] == "123"


def test_in_host_mode_nothing_is_published() -> None:
    assert not {"ports", "extra_hosts"} & set(service(network_mode="host"))


def test_the_compose_file_names_the_env_file_only_if_there_is_one(tmp_path: Path) -> None:
    assert "env_file" not in service()
    path = tmp_path / "kis.env"
    path.write_text("A=1\nGUNICORN_CMD_ARGS='--threads 9'\n")
    found = service(env_file=path)
    assert found["env_file"] == ["./gateway.env"]
    # The default would win against the env file.
    assert "GUNICORN_CMD_ARGS" not in found["environment"]


def test_the_container_port_reaches_the_gateway() -> None:
    assert service(container_port=9000)["environment"]["PORT"] == "9000"


def test_no_health_check_is_added_by_default() -> None:
    assert "healthcheck" not in service()


def test_an_operator_may_replace_the_arguments_of_gunicorn() -> None:
    environment = service(environment={"GUNICORN_CMD_ARGS": "--timeout 30"})["environment"]
    assert environment["GUNICORN_CMD_ARGS"] == "--timeout 30"


def test_values_of_operators_survive_rendering() -> None:
    values = {f"V{number}": value for number, value in enumerate(AWKWARD)}
    found = service(environment=values, labels=values, healthcheck={"test": ["CMD", *AWKWARD]})
    environment = {name: interpolated(value) for name, value in found["environment"].items()}
    assert environment == environment | values
    assert {name: interpolated(value) for name, value in found["labels"].items()} == values
    assert [interpolated(word) for word in found["healthcheck"]["test"]] == ["CMD", *AWKWARD]


def test_names_of_labels_survive_rendering() -> None:
    # Compose interpolates `$name` only in values, so names are not escaped.
    labels = dict.fromkeys(AWKWARD, "x")
    assert service(labels=labels)["labels"] == labels


@pytest.mark.parametrize("name", ["null", "true", "no", "on", "y", "_", "NaN"])
def test_names_of_variables_survive_rendering(name: str) -> None:
    environment = service(environment={name: "x"})["environment"]
    assert environment[name] == "x"
    assert all(isinstance(each, str) for each in environment)


@pytest.mark.parametrize(
    ("value", "read_back"),
    [
        (("$a", ["$b"]), ["$$a", ["$$b"]]),
        ({"$name": {"$inner": "$value"}}, {"$name": {"$inner": "$$value"}}),
        ([1, 0.5, True, None], [1, 0.5, True, None]),
        ({}, {}),
    ],
)
def test_dollars_are_doubled_in_every_value_and_in_no_name(value: Any, read_back: Any) -> None:
    written = to_yaml(value)
    assert "\n" not in written
    assert yaml.safe_load(written) == read_back


def test_a_value_that_occurs_twice_is_written_twice() -> None:
    words = ["a"]
    assert yaml.safe_load(to_yaml([words, words])) == [["a"], ["a"]]
    assert "&" not in to_yaml([words, words])


def test_an_empty_healthcheck_keeps_that_of_the_image() -> None:
    assert service(healthcheck={})["healthcheck"] == {}


@pytest.mark.parametrize("name", ["tokens dir", "$HOME", "{{ x }}", "o'brien", "a #b", "토큰", '"'])
def test_the_token_directory_survives_rendering(name: str) -> None:
    found = service(token_dir=f"/data/{name}")["volumes"][0]["source"]
    assert interpolated(found) == f"/data/{name}"


@pytest.mark.parametrize("filters", ["", "| yaml", "| string | yaml"])
def test_a_template_that_uses_an_unknown_name_is_an_error(tmp_path: Path, filters: str) -> None:
    template = tmp_path / COMPOSE_FILE
    template.write_text(f"name: {{{{ projekt {filters} }}}}")
    with pytest.raises(jinja2.UndefinedError, match="projekt"):
        render_compose(settings(), "kis", template)


def test_a_release_holds_its_files_with_modes_and_owners(tmp_path: Path) -> None:
    env_file = tmp_path / "kis.env"
    env_file.write_bytes(b"A=1\r\n")
    made = make_release(settings(user="7:8", env_file=env_file))
    assert made.image == Image("registry.example/kis:1.4")
    app_key = json.loads(SECRETS_FILE.read_text())["kis-r-app-key"]
    key = hashlib.sha256(app_key.encode()).hexdigest()[:12]
    assert made.key_fingerprint == key
    assert made.files == {
        COMPOSE_FILE: File(made.files[COMPOSE_FILE].content, 0o600),
        "secrets.json": File(SECRETS_FILE.read_bytes(), 0o400, 7, 8),
        "gateway.env": File(b"A=1\r\n", 0o600),
    }


def test_an_image_from_a_registry_is_pinned_by_its_digest(tmp_path: Path) -> None:
    auth_file = tmp_path / "config.json"
    auth_file.write_text('{"auths": {"registry.example": {"auth": "dTpw"}}}')
    made = settings(registry_auth_file=auth_file)
    first, second = (make_release(made, digest=f"sha256:{digit * 64}") for digit in "ab")
    assert first.image.reference == f"registry.example/kis:1.4@sha256:{'a' * 64}"
    assert "dTpw" in first.image.login
    assert "dTpw" not in repr(first)
    compose = yaml.safe_load(first.files[COMPOSE_FILE].content)
    assert compose["services"][SERVICE]["image"] == first.image.reference
    assert first.id != second.id


def test_an_image_from_an_archive_is_pinned_by_its_id(tmp_path: Path) -> None:
    first, second = (
        make_release(
            settings(
                image_source="archive",
                image_archive=saved_tar(tmp_path / digit, f"{digit * 64}.json"),
            )
        )
        for digit in "ab"
    )
    assert first.image == Image(
        "registry.example/kis:" + "a" * 12, saved=SavedImage(f"sha256:{'a' * 64}", tmp_path / "a")
    )
    compose = yaml.safe_load(first.files[COMPOSE_FILE].content)
    assert compose["services"][SERVICE]["image"] == first.image.reference
    assert first.id != second.id


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM s3cret")
    secrets = tmp_path / "secrets.json"
    secrets.write_text('{"kis-r-app-key": "s3cret"}')
    env_file = tmp_path / "kis.env"
    env_file.write_text("A=s3cret")
    made = make_release(
        settings(
            image="kis",
            image_source="build",
            build_context=tmp_path,
            secrets_file=secrets,
            env_file=env_file,
            environment={"A": "s3cret"},
        )
    )
    assert "s3cret" not in repr(made)
    assert "s3cret" not in repr(made.files)


def release_id(
    tmp_path: Path, secrets: str = '{"k": "1"}', env: str = "A=1", **changes: Any
) -> str:
    secrets_file, env_file = tmp_path / "secrets.json", tmp_path / "kis.env"
    secrets_file.write_text(secrets)
    env_file.write_text(env)
    files = {"secrets_file": secrets_file, "env_file": env_file, "app_key_field": "k"}
    return make_release(settings(**files | changes)).id


@pytest.mark.parametrize(
    "changes",
    [
        {"secrets": '{"k": "2"}'},
        {"secrets": '{"k": "1"}\n'},
        {"env": "A=1\n"},
        {"env_file": None},
        {"user": "10001:10002"},
        {"image": "registry.example/kis:1.5"},
        {"port": 8081},
        {"container_port": 8081},
        {"bind_address": "10.0.0.5"},
        {"network_mode": "host"},
        {"environment": {"A": "1"}},
        {"healthcheck": {"disable": True}},
        {"read_only": False},
        {"memory_limit": "1g"},
        {"cpus": 2},
        {"stop_grace_period": "20s"},
        {"labels": {"a": "1"}},
        {"token_dir": "/data"},
        {"token_file": "t.json"},
        {"project": "paper"},
    ],
)
def test_a_change_to_the_running_gateway_changes_the_id(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert release_id(tmp_path) != release_id(tmp_path, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rollout_min_healthy_time": 1},
        {"rollout_healthy_deadline": 60},
        {"app_dir": "/srv/kis"},
        {"install_docker": False},
        {"cached_token_log": "cached"},
        {"simulator": True},
    ],
)
def test_a_setting_that_does_not_change_the_running_gateway_keeps_the_id(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert release_id(tmp_path) == release_id(tmp_path, **changes)


@pytest.mark.parametrize(
    "files",
    [
        {"b": File(b"x", 0o400, 1, 2)},
        {"a": File(b"y", 0o400, 1, 2)},
        {"a": File(b"x", 0o440, 1, 2)},
        {"a": File(b"x", 0o400, 3, 2)},
        {"a": File(b"x", 0o400, 1, 3)},
        {"a": File(b"x", 0o400, 1, 2), "b": File(b"", 0o400)},
    ],
    ids=["name", "content", "mode", "uid", "gid", "an added file"],
)
def test_each_attribute_of_each_file_counts(files: dict[str, File]) -> None:
    assert content_hash(files) != content_hash({"a": File(b"x", 0o400, 1, 2)})


def test_the_order_of_files_does_not_count() -> None:
    files = {"a": File(b"x", 0o400), "b": File(b"y", 0o400)}
    assert content_hash(files) == content_hash(dict(reversed(files.items())))


def test_an_id_is_short_and_plain(tmp_path: Path) -> None:
    made = release_id(tmp_path)
    assert len(made) == 12
    assert set(made) <= set("0123456789abcdef")


def test_an_archive_holds_contents_modes_and_owners() -> None:
    files = {
        "secrets.json": File("한국어\0".encode(), 0o400, 10001, 10002),
        "bin/run it": File(b"", 0o755),
    }
    unpacked = {}
    with tarfile.open(fileobj=io.BytesIO(archive(files.items()))) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            unpacked[member.name] = File(content.read(), member.mode, member.uid, member.gid)
    assert unpacked == files


@pytest.fixture
def context(tmp_path: Path) -> Path:
    made = tmp_path / "context"
    (made / "kis").mkdir(parents=True)
    (made / "Dockerfile").write_text("FROM scratch\n")
    (made / "kis" / "app.py").write_text("print()\n")
    return made


def test_the_tag_of_a_built_image_is_the_hash_of_its_context(context: Path) -> None:
    image = built_image("registry.example:5000/kis", context)
    assert image.reference.startswith("registry.example:5000/kis:")
    assert image.context == {
        "Dockerfile": File(b"FROM scratch\n", 0o644),
        "kis/app.py": File(b"print()\n", 0o644),
    }


def test_a_moved_build_context_is_the_same_image(context: Path) -> None:
    before = built_image("kis", context)
    assert built_image("kis", context.rename(context.with_name("elsewhere"))) == before


CONTEXT_CHANGES: list[tuple[str, Callable[[Path], object], bool]] = [
    ("content", lambda context: (context / "kis/app.py").write_text("print(1)\n"), True),
    ("mode", lambda context: (context / "kis/app.py").chmod(0o755), True),
    ("name", lambda context: (context / "kis/app.py").rename(context / "kis/main.py"), True),
    ("directory", lambda context: (context / "kis").rename(context / "sik"), True),
    ("an added file", lambda context: (context / ".dockerignore").touch(), True),
    ("a removed file", lambda context: (context / "kis/app.py").unlink(), True),
    ("permissions of others", lambda context: (context / "kis/app.py").chmod(0o600), False),
    ("an empty directory", lambda context: (context / "empty").mkdir(), False),
]


@pytest.mark.parametrize(
    ("change", "matters"),
    [case[1:] for case in CONTEXT_CHANGES],
    ids=[case[0] for case in CONTEXT_CHANGES],
)
def test_the_content_of_the_build_context_decides_the_image(
    context: Path, change: Callable[[Path], object], matters: bool
) -> None:
    before = built_image("kis", context).reference
    change(context)
    assert (built_image("kis", context).reference != before) is matters


@pytest.mark.parametrize(
    "name",
    [
        "__pycache__/app.pyc",
        "kis/__pycache__/app.pyc",
        ".git/HEAD",
        ".git/refs/heads/main",
        ".mypy_cache/3.11/cache.json",
        ".pytest_cache/README.md",
        "kis/.ruff_cache/0.8/1",
        ".venv/bin/python",
    ],
)
def test_files_that_tools_leave_in_a_build_context_are_ignored(context: Path, name: str) -> None:
    before = built_image("kis", context)
    (context / name).parent.mkdir(parents=True)
    (context / name).touch()
    assert built_image("kis", context) == before


@pytest.mark.parametrize(
    ("dockerfile", "base"),
    [
        ("ARG BASE_IMAGE=debian:trixie-slim\nFROM ${BASE_IMAGE}\n", "debian:trixie-slim"),
        ("# syntax\n\nARG BASE_IMAGE=debian:trixie-slim \r\nFROM x", "debian:trixie-slim"),
        ('ARG BASE_IMAGE="debian:trixie-slim"\nFROM ${BASE_IMAGE}\n', "debian:trixie-slim"),
        ("ARG BASE_IMAGE='debian:trixie-slim'\nFROM ${BASE_IMAGE}\n", "debian:trixie-slim"),
        ('ARG BASE_IMAGE=""\nFROM scratch\n', ""),
        ("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n", ""),
        ("# ARG BASE_IMAGE=debian\nFROM scratch\n", ""),
        ("ARG BASE_IMAGE_TAG=13\nFROM scratch\n", ""),
        ("", ""),
    ],
)
def test_the_base_is_the_default_in_the_dockerfile(dockerfile: str, base: str) -> None:
    assert Image("kis:1", {"Dockerfile": File(dockerfile.encode(), 0o644)}).base == base


def test_an_image_that_is_pulled_has_no_base() -> None:
    assert Image("registry.example/kis:1.4").base == ""


def test_a_comment_in_the_template_does_not_change_the_release(tmp_path: Path) -> None:
    template = tmp_path / COMPOSE_FILE
    template.write_text(TEMPLATE.read_text() + "# a comment, and a line\n\n")
    first, second = make_release(settings()), make_release(settings(), template)
    assert first.id == second.id
    assert first.files[COMPOSE_FILE].content != second.files[COMPOSE_FILE].content
    other = tmp_path / "other.yml"
    other.write_text(TEMPLATE.read_text().replace("init: true", "init: false"))
    assert make_release(settings(), other).id != first.id


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({}, "address", "127.0.0.1"),
        ({"bind_address": "::1"}, "address", "::1"),
        ({"bind_address": "::"}, "address", "::1"),
        ({"bind_address": "0.0.0.0", "port": 80}, "port", 80),  # noqa: S104 - never bound
        ({"network_mode": "host", "container_port": 99}, "port", 99),
        ({"health_path": None}, "health_path", None),
        ({"healthcheck": {"test": ["CMD", "true"]}}, "healthcheck", True),
        ({"token_at_start": False}, "token_at_start", False),
        ({"user": "7:8"}, "user", "7:8"),
        ({}, "restart", "unless-stopped"),
        ({}, "image", "registry.example/kis:1.4"),
    ],
)
def test_the_manifest_describes_how_a_release_runs(
    changes: dict[str, Any], name: str, value: object
) -> None:
    made = make_release(settings(**changes))
    assert made.manifest[name] == value
    assert (made.id == make_release(settings()).id) is (not changes)
    on_host = json.loads(made.files_on_host[MANIFEST].content)
    assert on_host.pop("files") == {
        name: {"sha256": file.sha256, "owner": [file.mode, file.uid, file.gid]}
        for name, file in made.files.items()
    }
    assert on_host == made.manifest


def test_the_token_directory_is_mounted_where_the_gateway_keeps_its_file() -> None:
    found = service(token_mount="/root/.cache/mojito2", token_file="token.dat", token_env=None)
    assert found["volumes"][0]["target"] == "/root/.cache/mojito2"
    assert not [name for name in found["environment"] if "TOKEN" in name]
    made = make_release(settings(token_mount="/root/.cache/mojito2"))
    assert made.manifest["token_mount"] == "/root/.cache/mojito2"
