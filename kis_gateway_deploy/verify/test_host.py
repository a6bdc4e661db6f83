"""The host: the files that `up` put there, with the right owners and modes."""

from __future__ import annotations

import pytest

from kis_gateway_deploy.settings import key_fingerprint
from kis_gateway_deploy.verify.gateway import Gateway


def test_token_directory_belongs_to_the_containers_user_alone(gateway: Gateway) -> None:
    directory = gateway.host.file(gateway.settings.token_dir)
    assert directory.is_directory
    assert (directory.uid, directory.gid) == (gateway.settings.uid, gateway.settings.gid)
    assert f"{directory.mode:o}" == "700"


def test_compose_file_is_the_current_releases_and_valid(gateway: Gateway) -> None:
    file = gateway.host.file(f"{gateway.release_dir}/docker-compose.yml")
    assert file.is_file
    assert (file.user, f"{file.mode:o}") == ("root", "600")
    if gateway.settings.is_in_place:
        return  # it is an override: valid only with the operator's own file
    result = gateway.host.run("docker compose --file %s config --quiet", file.path)
    assert (result.rc, result.stdout, result.stderr) == (0, "", "")


def test_secrets_are_readable_for_the_containers_user_alone(gateway: Gateway) -> None:
    settings = gateway.settings
    assert f"{gateway.host.file(gateway.release_dir).mode:o}" == "700"
    secrets = gateway.host.file(f"{gateway.release_dir}/secrets.json")
    assert secrets.exists == settings.has_secrets_file
    if settings.has_secrets_file:
        assert (secrets.uid, f"{secrets.mode:o}") == (settings.uid, "400")
    env_file = gateway.host.file(f"{gateway.release_dir}/gateway.env")
    assert env_file.exists == (settings.env_file is not None)
    if settings.env_file is not None:  # compose reads it
        assert (env_file.user, f"{env_file.mode:o}") == ("root", "600")


def test_the_port_is_open_where_the_settings_say_and_nowhere_else(gateway: Gateway) -> None:
    settings = gateway.settings

    def listens(address: str) -> bool:
        return bool(gateway.host.socket(f"tcp://{address}:{settings.published_port}").is_listening)

    client = settings.client_address
    everywhere = "::" if ":" in client else "0.0.0.0"  # noqa: S104
    if settings.network_mode == "host" or settings.is_in_place:
        # The gateway itself or the operator's compose file decides the address.
        if settings.health_path is None:
            pytest.skip("gateway_health_path is None: no client asks this gateway")
        assert listens(client) or listens(everywhere)
        return
    assert listens(settings.bind_address)
    if not settings.is_open:
        assert not listens(everywhere)


def test_the_token_directory_knows_whose_token_it_holds(gateway: Gateway) -> None:
    settings = gateway.settings
    file = gateway.host.file(f"{settings.app_dir}/tokens/whose")
    assert file.content_string.strip() == f"{key_fingerprint(settings)} {settings.token_path}"
    assert f"{file.mode:o}" == "600"
