"""The search for token files and app keys in a container's root directory."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode
from pathlib import Path

import pytest

from kis_gateway_deploy.host import containers, describe

TOKEN = json.dumps({"access_token": "x", "expires_at": int(time.time()) + 3600})
KEYS = json.dumps({"kis-r-app-key": "PSkey", "kis-r-app-secret": "of nobody"})


def put(root: Path, path: str, content: str = TOKEN) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def searched(root: Path, *starts: str, paths: tuple[str, ...] = ()) -> describe._Search:
    search = describe._Search(list(paths), ["/config", "/one.json"])
    search.running(str(root), [*starts, *search.mounted])
    return search


def test_token_files_are_found_down_to_three_levels(tmp_path: Path) -> None:
    for path in ("/app/k.json", "/app/a/b/c/deep.json", "/app/a/b/c/d/too_deep.json"):
        put(tmp_path, path)
    put(tmp_path, "/app/sealed_token", "SEALED")
    put(tmp_path, "/app/token.py", "token = 1")
    put(tmp_path, "/app/large_token.json", TOKEN + " " * (64 * 1024))
    found = searched(tmp_path, "/app").tokens
    assert set(found) == {"/app/k.json", "/app/a/b/c/deep.json", "/app/sealed_token"}
    assert found["/app/k.json"]["state"] == "token"
    assert found["/app/sealed_token"]["state"] == "unknown"


def test_no_link_is_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(outside, "/token.json")
    put(root, "/app/real.json")
    (root / "app" / "link.json").symlink_to(outside / "token.json")
    (root / "app" / "directory").symlink_to(outside)
    (root / "config").symlink_to(outside)
    os.link(outside / "token.json", root / "app" / "hard.json")
    os.mkfifo(root / "app" / "token.fifo")
    assert set(searched(root, "/app", paths=("/app/directory/token.json",)).tokens) == {
        "/app/real.json"
    }


def test_what_another_part_of_the_kernel_shows_is_not_searched(tmp_path: Path) -> None:
    for path in ("/proc/token.json", "/sys/a/token.json", "/dev/mqueue/token.json"):
        put(tmp_path, path)
    assert searched(tmp_path, "/", "//proc", paths=("/dev/mqueue/token.json",)).tokens == {}


@pytest.mark.parametrize(
    ("others", "alone"),
    [
        ((), True),
        (("kis_token.json.attempt", "x.lock"), True),
        (("main.py",), False),
        (("settings.json",), False),
        (("sub/x",), False),
    ],
)
def test_whether_a_mount_would_hide_other_files(
    tmp_path: Path, others: tuple[str, ...], alone: bool
) -> None:
    put(tmp_path, "/data/kis_token.json")
    for name in others:
        put(tmp_path, f"/data/{name}", "x")
    found = searched(tmp_path, paths=("/data/kis_token.json",)).tokens
    assert found["/data/kis_token.json"]["alone"] == alone


def test_the_search_ends_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "/named/kis.json")
    for number in range(50):
        put(tmp_path, f"/app/{number}/token.json")
    monkeypatch.setattr(describe, "ENTRIES_LIMIT", 20)
    found = searched(tmp_path, "/app", paths=("/named/kis.json",)).tokens
    assert "/named/kis.json" in found, "what a variable names comes first"
    assert len(found) < 20


def test_mounted_files_with_an_app_key_are_found(tmp_path: Path) -> None:
    put(tmp_path, "/config/kis.json", KEYS)
    put(tmp_path, "/config/other.json", "{}")
    put(tmp_path, "/config/token_and_keys.json", KEYS)
    put(tmp_path, "/one.json", KEYS)
    put(tmp_path, "/app/in_the_image.json", KEYS)
    put(tmp_path, "/config/token.json", json.dumps(json.loads(TOKEN) | {"app_key_hash": "x"}))
    found = searched(tmp_path, "/app")
    assert set(found.secrets) == {"/config/kis.json", "/config/token_and_keys.json", "/one.json"}
    assert b64decode(found.secrets["/one.json"]["content"]).decode() == KEYS
    assert set(found.tokens) == {"/config/token.json"}


def test_the_paths_that_variables_name() -> None:
    environment = {
        "A": "/data/k.json",
        "B": "token.dat",
        "C": "~/KIS/config",
        "URL": "https://kis.example/x",
        "PATH": "/bin:/usr/bin",
        "WORD": "live",
        "UP": "/data/../etc",
    }
    assert describe._paths(environment, "/app", "/root") == [
        *("/data/k.json", "/app/token.dat", "/root/KIS/config", "/etc"),
        containers.DEFAULT_TOKEN_PATH,
    ]


def test_a_port_that_the_engine_has_chosen_is_known_while_it_runs() -> None:
    details = {
        "HostConfig": {
            "PortBindings": {
                "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
                "9/udp": [{"HostIp": "", "HostPort": "9"}],
                "1/tcp": None,
            }
        },
        "NetworkSettings": {"Ports": {"8080/tcp": [{"HostPort": "32768"}]}},
    }
    assert describe._ports(details) == [
        [8080, "tcp", "127.0.0.1", "32768"],
        [9, "udp", "", "9"],
    ]
