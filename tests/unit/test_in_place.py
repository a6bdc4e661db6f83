"""A gateway in the operator's own compose project: which files compose reads, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kis_gateway_deploy.fleet import SettingsError, validate_fleet
from kis_gateway_deploy.host.compose import without_values
from kis_gateway_deploy.host.in_place import MARK, Place, is_of, keeps_token
from kis_gateway_deploy.plans import make_plan
from kis_gateway_deploy.reading import InPlace, Reading
from kis_gateway_deploy.release import COMPOSE_FILE, Release, make_release
from kis_gateway_deploy.settings import Settings, alias
from tests.unit.builders import container, host_data, reading

DATA = {
    "gateway_compose_file": "/srv/trading/docker-compose.yml",
    "gateway_service": "trader",
    "gateway_user": "0:0",
}
TOKEN = {
    "token_dir": "/docker_data/kis_tokens",
    "token_mount": "/app/tokens",
    "variables": {"KIS_TOKEN_FILE_PATH": "/app/tokens/kis_token.json"},
}


def settings(**changes: Any) -> Settings:
    named = {alias(field): value for field, value in changes.items()}
    return validate_fleet({"seoul": DATA | named})["seoul"]


def place(directory: Path, name: str = "docker-compose.yml") -> Place:
    return Place({"compose_file": f"{directory}/{name}", "service": "trader"})


OURS = f"{MARK}: x\nservices: {{}}\n"


@pytest.mark.parametrize(
    ("files", "own", "override"),
    [
        ({}, ["docker-compose.yml"], "docker-compose.override.yml"),
        (
            {"docker-compose.override.yml": OURS},
            ["docker-compose.yml"],
            "docker-compose.override.yml",
        ),
        ({"compose.override.yaml": OURS}, ["docker-compose.yml"], "compose.override.yaml"),
        (
            {"docker-compose.override.yml": "services: {}"},
            ["docker-compose.yml", "docker-compose.override.yml"],
            None,
        ),
        # It hides the one of this package.
        (
            {"docker-compose.override.yml": OURS, "compose.override.yml": "services: {}"},
            ["docker-compose.yml", "compose.override.yml"],
            None,
        ),
        # Compose would read that one without `-f`.
        ({"compose.yaml": "services: {}"}, ["docker-compose.yml"], None),
        ({".env": "COMPOSE_FILE=docker-compose.yml"}, ["docker-compose.yml"], None),
        (
            {".env": "A=b\nCOMPOSE_FILE='docker-compose.yml:more/x.yml:kis-gateway.override.yml'"},
            ["docker-compose.yml", "more/x.yml"],
            "kis-gateway.override.yml",
        ),
        (
            {".env": "COMPOSE_PATH_SEPARATOR=,\nCOMPOSE_FILE=docker-compose.yml,b.yml"},
            ["docker-compose.yml", "b.yml"],
            None,
        ),
    ],
)
def test_the_files_that_compose_reads_by_itself(
    tmp_path: Path, files: dict[str, str], own: list[str], override: str | None
) -> None:
    for name, text in ({"docker-compose.yml": ""} | files).items():
        (tmp_path / name).write_text(text)
    found = place(tmp_path)
    assert found.own_files == [f"{tmp_path}/{name}" for name in own]
    assert found.override == (override and f"{tmp_path}/{override}")


def test_a_file_with_another_name_than_composes_own_gets_no_override(tmp_path: Path) -> None:
    (tmp_path / "trading.yml").touch()
    (tmp_path / "docker-compose.override.yml").write_text("services: {}")
    found = place(tmp_path, "trading.yml")
    assert (found.own_files, found.override) == ([f"{tmp_path}/trading.yml"], None)


def test_the_override_is_as_readable_as_the_compose_file_and_can_be_removed(
    tmp_path: Path,
) -> None:
    (tmp_path / "docker-compose.yml").touch(0o640)
    victim = tmp_path.parent / f"{tmp_path.name}-victim"
    victim.write_text("of root")
    found = place(tmp_path)
    found.write(OURS)
    path = tmp_path / "docker-compose.override.yml"
    assert (path.read_text(), path.stat().st_mode & 0o777) == (OURS, 0o640)
    assert place(tmp_path).text == OURS
    place(tmp_path).write("")
    place(tmp_path).write("")
    assert not path.exists()
    path.symlink_to(victim)
    found.write(OURS)  # a link that was planted meanwhile is replaced, not followed
    assert victim.read_text() == "of root"


@pytest.mark.parametrize(
    ("changes", "keeps"),
    [
        ({}, True),
        ({"volumes": []}, False),
        ({"volumes": None}, False),
        ({"environment": {}}, False),
        ({"environment": {"KIS_TOKEN_FILE_PATH": "/tmp/t.json"}}, False),  # noqa: S108
        ({"environment": {"KIS_TOKEN_FILE_PATH": None}}, False),
    ],
)
def test_whether_a_service_keeps_its_token(changes: dict[str, Any], keeps: bool) -> None:
    volume = {"type": "bind", "source": "/docker_data/kis_tokens", "target": "/app/tokens"}
    service = {"volumes": [volume], "environment": TOKEN["variables"]} | changes
    assert keeps_token(service, TOKEN) == keeps


def test_a_container_is_of_the_service_by_its_project_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    asked = {"compose_file": f"{tmp_path}/compose.yml", "service": "trader"}
    key = "com.docker.compose"
    labels = {f"{key}.service": "trader", f"{key}.project.working_dir": f"{tmp_path}/link"}
    assert is_of(labels, asked)
    assert not is_of(labels | {f"{key}.service": "bot"}, asked)
    assert not is_of(labels | {f"{key}.oneoff": "True"}, asked)
    assert not is_of(labels | {f"{key}.project.working_dir": "/srv"}, asked)
    assert not is_of({}, asked)


def test_the_override_has_the_volume_and_the_variables_and_nothing_else() -> None:
    made = make_release(settings())
    text = made.files[COMPOSE_FILE].content.decode()
    assert text.startswith(MARK)
    volume = {"type": "bind", "source": "/docker_data/kis_tokens", "target": "/app/tokens"}
    assert yaml.safe_load(text) == {
        "services": {
            "trader": {
                "volumes": [volume | {"bind": {"create_host_path": False}}],
                "environment": TOKEN["variables"],
            }
        }
    }
    assert made.images == []
    fixed = make_release(settings(token_env=None, token_mount="/root/KIS"))
    assert yaml.safe_load(fixed.compose_file)["services"]["trader"]["environment"] == {}


@pytest.mark.parametrize(
    ("changes", "name", "what"),
    [
        ({"service": None}, "gateway_service", "is missing"),
        ({"compose_file": None}, "gateway_service", "is only for"),
        ({"image": "kis:1"}, "gateway_image", "your own compose file: delete it here"),
        ({"environment": {"A": "b"}}, "gateway_environment", "your own compose file"),
        ({"project": "own"}, "gateway_project", "your own compose file"),
        ({"compose_file": "docker-compose.yml"}, "gateway_compose_file", "an absolute path"),
    ],
)
def test_settings_that_your_compose_file_decides_are_refused(
    changes: dict[str, Any], name: str, what: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(**changes)
    assert any(n == name and what in text for _, n, text in caught.value.problems)


def test_two_services_of_one_project_are_no_collision() -> None:
    data = {"ssh_hostname": "10.0.0.1", **DATA}
    other = {
        "gateway_service": "paper",
        "gateway_port": 8081,
        "gateway_app_dir": "/opt/paper",
        "gateway_token_dir": "/docker_data/paper",
    }
    assert len(validate_fleet({"a": data, "b": data | other})) == 2
    with pytest.raises(SettingsError, match="gateway_service"):
        validate_fleet({"a": data, "b": data | other | {"gateway_service": "trader"}})


def here(release: Release, **changes: Any) -> Reading:
    """A host whose gateway keeps its token in place."""
    found = {
        "is_there": True,
        "files": ("/srv/trading/docker-compose.yml",),
        "override": "/srv/trading/docker-compose.override.yml",
        "keeps_token": True,
        "is_written": True,
        "user": "0:0",
        "network_mode": "trading_default",
    }
    own = {"token_dir": {"mode": "700", "owner": "0:0", "kind": "directory"}, "token_files": {}}
    whole = {name: changes.pop(name) for name in list(changes) if name not in InPlace.model_fields}
    other = {"current": release.id, "in_place": InPlace.model_validate(found | changes)}
    return reading(**own | other | whole)


def test_nothing_is_changed_if_the_token_is_kept() -> None:
    wanted, release = settings(), make_release(settings())
    plan = make_plan(wanted, release, here(release))
    assert (plan.steps, plan.refusals, plan.findings) == ((), [], [])


@pytest.mark.parametrize(
    ("address", "where"),
    [("", ["every IPv4 address"]), ("10.0.0.7", ["10.0.0.7"]), ("::1", []), ("?", ["?"])],
)
def test_a_gateway_that_its_own_compose_file_opens_is_a_warning(
    address: str, where: list[str]
) -> None:
    wanted, release = settings(health_path=None), make_release(settings(health_path=None))
    ports = {"8080/tcp": [{"HostIp": address, "HostPort": "9"}]}
    plan = make_plan(wanted, release, here(release, containers=(container(ports=ports),)))
    words = [f"other machines may trade through port 9 on {each} of this host" for each in where]
    assert [each.partition(", without")[0] for each in plan.warnings] == words


OUT = {"keeps_token": False, "is_written": False, "adopted_path": "/tmp/t.json"}  # noqa: S108
TOKEN_THERE = {"adopted_token_expires": 1795470000 + 7200}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"is_there": False}, "there is no file /srv/trading/docker-compose.yml"),
        ({"error": "no service trader"}, "docker compose cannot read"),
        ({"differs": "files"}, "made from other files than"),
        ({"differs": "image"}, "made from an older image"),
        ({"differs": "definition"}, "put it into .env"),
        ({"override": None}, "COMPOSE_FILE=docker-compose.yml:kis-gateway.override.yml"),
        ({"user": "10001:10001"}, "set gateway_user = '10001:10001'"),
        ({"network_mode": "host"}, "the container's network mode is host"),
        ({"sidecars": ("vpn",)}, "vpn uses the gateway's network"),
        ({"adopted_token_expires": None}, "no token was found in the container"),
        (
            {"containers": (container(), container(id="2"))},
            "trader has 2 containers",
        ),
        (
            {"containers": (container(ports={"8080/tcp": [{"HostIp": "", "HostPort": "9"}]}),)},
            "publishes 0.0.0.0:9, not 127.0.0.1:8080",
        ),
    ],
)
def test_what_would_change_more_than_the_token_is_refused(
    changes: dict[str, Any], why: str
) -> None:
    wanted, release = settings(), make_release(settings())
    from_before = {"current": None, "token_state": "", "token_expires": None, "token_expiries": ()}
    plan = make_plan(wanted, release, here(release, **OUT | TOKEN_THERE | from_before | changes))
    assert any(why in refusal for refusal in plan.refusals), plan.refusals


def test_the_token_of_the_container_is_taken_over() -> None:
    wanted, release = settings(), make_release(settings())
    from_before = {"current": None, "token_state": "", "token_expires": None, "token_expiries": ()}
    plan = make_plan(wanted, release, here(release, **OUT | TOKEN_THERE | from_before))
    assert plan.refusals == []
    assert (
        plan.steps[-1].reason == "the container of trader has no volume or variable for its token"
    )


def test_lines_in_the_operators_own_file_need_no_override() -> None:
    wanted, release = settings(), make_release(settings())
    found = here(release, **OUT | TOKEN_THERE | {"override": None, "has_lines": True})
    assert make_plan(wanted, release, found).refusals == []


def test_an_image_that_is_on_the_host_is_not_fetched() -> None:
    data = host_data(gateway_image_source="host")
    wanted = validate_fleet({"seoul": data})["seoul"]
    release = make_release(wanted)
    image = release.image.reference
    assert image == "registry.example/kis:1.4"
    there = reading(containers=(), release_damage="x", listening=frozenset())
    plan = make_plan(wanted, release, there)
    assert not plan.refusals
    assert not plan.does("image")
    missing = make_plan(wanted, release, reading(images={}))
    assert any(f"the image {image} is not on this host" in why for why in missing.refusals)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "invalid interpolation format for services.gw.environment.KIS_SECRET.\n"
            "You may need to escape any $ with another $.\nabc${def-",
            "invalid interpolation format, services.gw.environment.KIS_SECRET",
        ),
        (
            'failed to read FILE: line 3: unterminated quoted value "supersecretvalue123',
            "FILE, line 3, unterminated quoted value",
        ),
        ('time="…" level=warning msg="The \\"s3cret\\" variable is not set."', "an error"),
        (
            "Error response from daemon: Bind for 127.0.0.1:80 failed: port is already allocated",
            "Error response from daemon: Bind for 127.0.0.1:80 failed: port is already allocated",
        ),
    ],
)
def test_an_error_of_compose_names_the_place_and_shows_no_value(
    said: str, shown: str, tmp_path: Path
) -> None:
    file = tmp_path / "gw.env"
    file.touch()
    found = without_values(said.replace("FILE", str(file)))
    assert found.partition(" (its text may quote a secret")[0] == shown.replace("FILE", str(file))
