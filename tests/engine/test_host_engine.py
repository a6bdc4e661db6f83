"""The client of the engine's socket, against this machine's engine."""

from __future__ import annotations

import io
import secrets
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kis_gateway_deploy.host.control import Control
from kis_gateway_deploy.host.engine import EngineError
from tests.tools import command, docker, wait_for

SPEAKS = 'trap "exit 3" TERM; echo out; echo err >&2; while :; do sleep 0.1; done'
COUNTS = "seq 20000"


@pytest.fixture(scope="module")
def client(engine: None) -> Control:  # noqa: ARG001 - it must run
    return Control()


@pytest.fixture(scope="module")
def image(client: Control) -> str:
    """The name of an image with a shell; the engine already has it."""
    names: list[str] = [name for found in client.images() for name in found["RepoTags"] or ()]
    return next(name for name in names if name.startswith("kis-simulator:"))


@pytest.fixture
def new_container(image: str) -> Iterator[Callable[..., str]]:
    """Creates containers without starting them; they are removed after the test."""
    made: list[str] = []

    def make(script: str, *flags: str) -> str:
        name = f"kis-test-{secrets.token_hex(6)}"
        made.append(name)
        flags = ("--name", name, "--label", f"test={name}", "--network", "none", *flags)
        docker("create", *flags, "--entrypoint", "sh", image, "-c", script)
        return name

    yield make
    for name in made:
        docker("rm", "--force", name)


def state(client: Control, container: str) -> dict[str, Any]:
    found = client.inspect(container)
    assert found is not None
    return dict(found["State"])


def test_this_engine_can_start_containers(client: Control) -> None:
    assert client.can_start()


def test_a_container_is_listed_started_and_stopped(
    client: Control, new_container: Callable[..., str]
) -> None:
    name = new_container(SPEAKS)
    filters = {"label": [f"test={name}"]}
    assert client.containers(filters=filters) == []
    (summary,) = client.containers(all=True, filters=filters)
    assert summary["Names"] == [f"/{name}"]
    client.start(name)
    client.start(name)  # no error
    assert [found["Id"] for found in client.containers(filters=filters)] == [summary["Id"]]
    wait_for(lambda: b"err\n" in client.logs(name), "the script runs")
    client.stop(name, grace=20)
    assert state(client, name)["ExitCode"] == 3  # the script exited within the grace period
    client.stop(name)
    client.start(summary["Id"])
    assert state(client, name)["Running"]
    client.stop(summary["Id"], grace=0)
    assert not state(client, name)["Running"]


def test_a_stop_without_a_grace_uses_the_containers_stop_timeout(
    client: Control, new_container: Callable[..., str]
) -> None:
    name = new_container("trap '' TERM; echo out; while :; do sleep 0.1; done", "--stop-timeout=1")
    client.start(name)
    wait_for(lambda: client.logs(name), "the script runs")
    began = time.monotonic()
    client.stop(name)
    assert time.monotonic() - began < 8  # the engine's default is 10
    assert state(client, name)["ExitCode"] == 137


@pytest.mark.parametrize("path", ["/nowhere", "/etc/passwd/below", "/proc/self/fd/x/y"])
def test_a_path_that_a_container_does_not_have(
    client: Control, new_container: Callable[..., str], path: str
) -> None:
    container = new_container("true")
    assert client.file(container, path, 100) is None
    assert client.directory(container, path, 100) == {}


def test_missing_objects(client: Control) -> None:
    name = f"kis-test-{secrets.token_hex(6)}"
    assert client.inspect(name) is None
    assert client.image(f"{name}:1") is None
    assert client.containers(all=True, filters={"label": [name]}) == []
    calls: list[Callable[[str], object]] = [client.start, client.stop, client.logs]
    for call in calls:
        with pytest.raises(EngineError, match=f"No such container: {name}") as caught:
            call(name)
        assert caught.value.status == 404


@pytest.mark.parametrize("name", ["", ".", "..", "../../info", "../../containers/json?all=1#"])
def test_a_name_cannot_reach_another_path(client: Control, name: str) -> None:
    try:
        assert client.inspect(name) is None
    except EngineError as error:
        assert error.status in {301, 400}


def test_a_refusal_is_the_engines_own_message(
    client: Control, new_container: Callable[..., str]
) -> None:
    name = new_container(SPEAKS, "--user", "no-such-user")
    with pytest.raises(EngineError, match="no-such-user") as caught:
        client.start(name)
    assert caught.value.status >= 400
    with pytest.raises(EngineError) as caught:
        client.containers(filters={"no-such-filter": ["x"]})
    assert caught.value.status == 400


def test_images_and_the_engine_itself(client: Control, image: str) -> None:
    found = client.image(image)
    assert found is not None
    assert image in found["RepoTags"]
    assert client.image(found["Id"]) == client.image(f"docker.io/library/{image}") == found
    assert client.info()["ServerVersion"] == docker("info", "--format", "{{.ServerVersion}}")


@pytest.mark.parametrize("flags", [(), ("--tty",)])
def test_logs_equal_those_of_docker_logs(
    client: Control, new_container: Callable[..., str], flags: tuple[str, ...]
) -> None:
    name = new_container(COUNTS, *flags)
    before = time.time()
    client.start(name)
    wait_for(lambda: state(client, name)["Status"] == "exited", "the script ends")
    shown = subprocess.run(["docker", "logs", name], capture_output=True, timeout=60, check=True)
    logs = client.logs(name)
    assert logs == shown.stdout
    assert logs.split() == [b"%d" % number for number in range(1, 20_001)]
    assert client.logs(name, limit=9_999) == logs[-9_999:]
    assert client.logs(name, tail=2).split() == [b"19999", b"20000"]
    assert client.logs(name, since=before) == logs
    assert client.logs(name, since=time.time()) == b""
    (line,) = client.logs(name, tail=1, timestamps=True).splitlines()
    assert line.startswith(time.strftime("%Y-", time.gmtime()).encode())
    assert line.endswith(b"Z 20000")


def test_standard_error_is_in_the_logs(client: Control, new_container: Callable[..., str]) -> None:
    name = new_container("echo out; echo err >&2")
    client.start(name)
    wait_for(lambda: state(client, name)["Status"] == "exited", "the script ends")
    assert sorted(client.logs(name).split()) == [b"err", b"out"]


def test_a_restart_policy_is_changed(client: Control, new_container: Callable[..., str]) -> None:
    name = new_container(SPEAKS)
    client.start(name)
    for policy, retries in [("unless-stopped", 0), ("on-failure", 3), ("no", 0)]:
        client.set_restart_policy(name, policy, retries)
        found = client.inspect(name)
        assert found is not None
        assert found["HostConfig"]["RestartPolicy"] == {
            "Name": policy,
            "MaximumRetryCount": retries,
        }


def test_a_container_is_removed(client: Control, new_container: Callable[..., str]) -> None:
    name = new_container("true")
    client.remove(name)
    assert client.inspect(name) is None
    client.remove(name)


@pytest.fixture
def archive() -> Iterator[tuple[str, str, bytes]]:
    """An image that the engine lacks: its name, its id, and its archive from `docker save`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        member = tarfile.TarInfo("random")
        member.size = 3 << 20
        layer.addfile(member, io.BytesIO(secrets.token_bytes(member.size)))
    name = f"kis-test-{secrets.token_hex(6)}:1"
    imported = subprocess.run(
        ["docker", "import", "-", name],
        input=content.getvalue(), capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    image_id = imported.stdout.decode().strip()
    saved = subprocess.run(["docker", "save", name], capture_output=True, timeout=60, check=True)
    docker("rmi", name)
    yield name, image_id, saved.stdout
    command("docker", "rmi", "--force", image_id)


def test_an_image_is_loaded(client: Control, archive: tuple[str, str, bytes]) -> None:
    name, image_id, content = archive
    assert client.image(name) is None
    size = 100_000
    chunks = (content[at : at + size] for at in range(0, len(content), size))
    assert client.load(chunks) == [name]
    found = client.image(name)
    assert found is not None
    assert found["Id"] == image_id
    unnamed = subprocess.run(
        ["docker", "save", image_id], capture_output=True, timeout=60, check=True
    )
    assert client.load([unnamed.stdout]) == [image_id]


def test_an_invalid_archive_is_an_error(client: Control, archive: tuple[str, str, bytes]) -> None:
    name, _, content = archive
    for chunks in [[b"no archive"], [], [content[: len(content) // 2]]]:
        with pytest.raises(EngineError):
            client.load(chunks)
    assert client.image(name) is None
