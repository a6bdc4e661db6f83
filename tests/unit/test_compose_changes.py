from __future__ import annotations

import pytest

from kis_gateway_deploy.compose_changes import compose_changes, variables_in
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.release import COMPOSE_FILE, make_release
from tests.unit import builders


def test_each_setting_that_differs_is_one_line() -> None:
    assert compose_changes("a: 1\n", "a: 1\n") == []
    before = "services:\n  kis-gateway:\n    mem_limit: 512m\n    cpus: 1.0\n    user: '1:1'\n"
    after = "services:\n  kis-gateway:\n    mem_limit: 768m  # why\n    cpus: 1.0\n    init: true\n"
    assert compose_changes(before, after) == [
        "~ mem_limit: 512m -> 768m",
        "+ init: true",
        "- user: 1:1",
    ]
    [only] = compose_changes("a: 1 # one\n", "a: 1\n")
    assert "differs only in comments or layout" in only
    assert compose_changes("", "a: 1\n") == ["+ a: 1"]


def test_ports_and_mounts_are_one_line_each() -> None:
    def compose(port: int, source: str) -> str:
        return (
            "services:\n  kis-gateway:\n"
            f"    ports:\n    - 127.0.0.1:{port}:8080\n"
            f"    volumes:\n    - {{type: bind, source: {source}, target: /app/tokens}}\n"
            "    - {type: bind, source: ./secrets.json, target: /app/secrets.json}\n"
        )

    assert compose_changes(compose(8080, "/a"), compose(8081, "/b")) == [
        "~ ports: 127.0.0.1:8080:8080 -> 127.0.0.1:8081:8080",
        "~ volumes./app/tokens.source: /a -> /b",
    ]


def test_a_second_service_keeps_its_name() -> None:
    own = "services:\n  kis-gateway:\n    image: kis:1\n"
    assert compose_changes(f"{own}  other:\n    image: x:1\n", own) == [
        "- services.other.image: x:1"
    ]


def environment(text: str) -> str:
    return f"services:\n  kis-gateway:\n    environment:\n{text}"


SECRETS = {
    "KIS_MY_SEC": "s3cr3t",
    "APP_SEC_REAL": "PSabcdefghijklmnopqrstuvwxyz01234567",
    "KIS_RSEC": "/9jA" + "k" * 40 + "+/=",
    "KIS_ACCT_PW": "12345678",
    "DATABASE_URL": "postgres://kim:s3cr3t@db:5432/kis",
    "WEBHOOK": "https://hooks.example/services/T0/B0/s3cr3t",
    "GREETING": "hello",
    "REDIS": "redis://:s3cr3t@10.0.0.1",
    "QUERY": "https://api.example?key=s3cr3t",
    "PIN": "kim:1234",
}


@pytest.mark.parametrize(("name", "value"), SECRETS.items())
def test_a_value_is_hidden_unless_its_form_is_harmless(name: str, value: str) -> None:
    before = f"      {name}: '{value}'\n"
    after = f"      {name}: n3w\n      ADDED: |\n        n3w\n"
    assert compose_changes(environment(before), environment(after)) == [
        f"~ environment.{name}: (changed)",
        "+ environment.ADDED: (hidden)",
    ]
    assert compose_changes(environment(before), environment("      A: 1\n")) == [
        "+ environment.A: 1",
        f"- environment.{name}: (hidden)",
    ]


@pytest.mark.parametrize(
    "value",
    [
        *("8080", "123456", "true", "/app/tokens/kis_token.json", "127.0.0.1:8080:8080", "1.5"),
        *("https://openapi.koreainvestment.com:9443", "http://10.0.0.1:8080", "./secrets.json"),
    ],
)
def test_a_short_number_a_boolean_a_path_and_an_address_are_shown(value: str) -> None:
    [line] = compose_changes("services: {}\n", environment(f"      KIS_TOKEN: {value}\n"))
    assert line == f"+ environment.KIS_TOKEN: {value}"


def test_a_value_whose_name_is_in_plan_show_is_shown() -> None:
    before, after = environment("      GREETING: old\n"), environment("      GREETING: new\n")
    assert compose_changes(before, after, {"GREETING"}) == ["~ environment.GREETING: old -> new"]


def test_the_value_of_a_variable_named_like_a_compose_key_is_hidden() -> None:
    after = "image: kis:2\n" + environment("      image: s3cr3t\n")
    assert compose_changes("image: kis:1\n", after) == [
        "~ image: kis:1 -> kis:2",
        "+ environment.image: (hidden)",
    ]


def test_the_changes_of_a_file_edited_by_hand_show_no_secret() -> None:
    before = environment("      - API_KEY=s3cr3t\n      - PORT=1\n      - FLAG\n")
    assert compose_changes(before, environment("      PORT: '1'\n")) == [
        "- environment.API_KEY: (hidden)",
        "- environment.FLAG: ",
    ]
    before = "services:\n  kis-gateway:\n    extra_hosts:\n    - {secret: s3cr3t}\n"
    assert compose_changes(before, "services: {}\n") == [
        "- services.kis-gateway.extra_hosts: (hidden)"
    ]


def test_a_hostile_file_prints_no_control_character_and_no_long_line() -> None:
    [line] = compose_changes(f'"a\\e[2J{"b" * 300}": 1\n', "{}")
    assert line == escaped(line)
    assert len(line) <= 160


@pytest.mark.parametrize(
    "content", ['API_KEY: "s3cr3t\n', "API_KEY=s3cr3t\n", "s3cr3t: 2026-13-45\n"]
)
def test_no_change_is_shown_of_an_invalid_compose_file(content: str) -> None:
    assert compose_changes(content, "a: 1\n") == [
        f"{COMPOSE_FILE}: what is on the host is no compose file, so no change is shown"
    ]


def test_the_variables_of_a_release_are_counted() -> None:
    release = make_release(builders.settings(environment={"A": "1", "B": "2"}))
    # With PORT, KIS_TOKEN_FILE_PATH, SECRETS_FILE, GUNICORN_CMD_ARGS.
    assert variables_in(release.compose_file) == 6
