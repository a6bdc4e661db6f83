"""The gateway's token: its file, its lock, its refresh and its refusals, against the simulator."""

from __future__ import annotations

import json
import logging
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from kis_gateway.config import Settings
from kis_gateway.keeper import CACHED_TOKEN_USED, CLIENT_READY, Keeper, retry_delay
from kis_gateway.kis import Kis
from kis_gateway.metrics import Metrics
from kis_gateway.tokens import Token, TokenStore, UnreadableToken, fingerprint_of, parse_token

from tests.services.conftest import RunningSimulator

HOUR = 3600
EXPIRY = 1767312000.0  # 2026-01-02 09:00:00 in Korea
CONNECTION_REFUSED = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_at": EXPIRY},
        {"expires_at": int(EXPIRY), "issued_at": 1, "app_key_fingerprint": "0123456789ab"},
        {"expires_at": "2026-01-02T09:00:00"},
        {"expires_at": "2026-01-02 09:00:00"},
        {"expires_at": "2026-01-02T00:00:00Z"},
        {"expires_at": "2026-01-02T01:00:00+01:00"},
        {"access_token_token_expired": "2026-01-02 09:00:00", "expires_in": 86400},
    ],
)
def test_each_form_of_token_file_is_read(fields: dict[str, Any]) -> None:
    token = parse_token({"access_token": "abc", **fields})
    assert (token.value, token.expires_at) == ("abc", EXPIRY)
    assert "abc" not in repr(token)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"access_token": "abc"},
        {"access_token": "", "expires_at": EXPIRY},
        {"access_token": "a\nb", "expires_at": EXPIRY},
        {"access_token": 7, "expires_at": EXPIRY},
        {"access_token": "abc", "expires_at": True},
        {"access_token": "abc", "expires_at": "tomorrow"},
        {"access_token": "abc", "expires_at": float("nan")},
        {"access_token": "abc", "expires_at": 10**400},
        {"access_token": "abc", "expires_at": EXPIRY * 1000},
        {"access_token": "abc", "expires_in": 86400},
    ],
)
def test_an_invalid_token_is_refused_and_not_quoted(data: object) -> None:
    with pytest.raises(UnreadableToken) as caught:
        parse_token(data)
    assert "abc" not in str(caught.value)


def test_a_token_counts_as_expired_ten_minutes_early() -> None:
    token = Token("abc", EXPIRY)
    assert token.is_valid(EXPIRY - 600.1)
    assert not token.is_valid(EXPIRY - 600)


@dataclass
class Bench:
    """Keepers of one token file in front of one simulator, in simulated time, without threads."""

    simulator: RunningSimulator
    settings: Settings

    @property
    def path(self) -> Path:
        return self.settings.token_file

    def now(self) -> float:
        return float(self.simulator.control("GET", "clock")["now"])

    def advance(self, seconds: float) -> None:
        self.simulator.control("PUT", "clock", {"advance": seconds})

    def count(self, name: str) -> int:
        return int(self.simulator.control("GET", "counters")["real"][self.settings.app_key][name])

    def keeper(
        self,
        jitter: float = 0.5,
        base_url: str | None = None,
        app_key: str | None = None,
        read_timeout: float = 10,
    ) -> Keeper:
        """A gateway process that has just started: it knows only what the directory holds."""
        settings = Settings(
            **{
                **vars(self.settings),
                "base_url": base_url or self.settings.base_url,
                "app_key": app_key or self.settings.app_key,
            }
        )
        store = TokenStore(settings.token_file, fingerprint_of(settings.app_key))
        kis = Kis(settings, timeout=(5, read_timeout))
        return Keeper(store, kis, Metrics(), self.now, lambda: jitter)

    def written(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.path.read_text())
        return data

    def write(self, **data: object) -> None:
        self.path.write_text(json.dumps(data))


@pytest.fixture
def bench(simulator: RunningSimulator, tmp_path: Path) -> Bench:
    simulator.control("PUT", "clock", {"rate": 0})
    return Bench(
        simulator,
        Settings(
            token_file=tmp_path / "kis_token.json",
            secrets_file=Path("/app/config/secrets.json"),
            app_key_field="kis-r-app-key",
            app_secret_field="kis-r-app-secret",
            app_key=simulator.credentials["kis-r-app-key"],
            app_secret=simulator.credentials["kis-r-app-secret"],
            base_url=simulator.real_url,
            requests_per_second=18,
        ),
    )


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "werkzeug")  # the simulator's requests
    caplog.set_level(logging.INFO)
    return caplog


def test_the_first_start_asks_and_writes(bench: Bench, log: pytest.LogCaptureFixture) -> None:
    keeper = bench.keeper()
    assert keeper.status().token is None
    keeper.step()
    token = keeper.status().token
    assert token is not None
    assert log.messages.count(CLIENT_READY) == 1
    assert CACHED_TOKEN_USED not in log.messages
    assert bench.written() == {
        "access_token": token.value,
        "expires_at": pytest.approx(bench.now() + 24 * HOUR, abs=1),
        "issued_at": pytest.approx(bench.now(), abs=1),
        "app_key_fingerprint": fingerprint_of(bench.settings.app_key),
    }
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in bench.path.parent.iterdir()}
    assert modes == {
        "kis_token.json": 0o600,
        "kis_token.json.attempt": 0o600,
        "kis_token.json.lock": 0o600,
    }


def test_a_restart_uses_the_cached_token(bench: Bench, log: pytest.LogCaptureFixture) -> None:
    first = bench.keeper()
    first.step()
    log.clear()
    second = bench.keeper()
    second.step()
    assert second.status().token is not None
    assert second.status().token == parse_token(bench.written())
    assert bench.count("issuances") == 1
    assert bench.count("rejections") == 0
    assert log.messages == [CACHED_TOKEN_USED, CLIENT_READY]
    second.step()
    assert log.messages == [CACHED_TOKEN_USED, CLIENT_READY]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe", b'{"access_token": "abc', b"[" * 100_000, b"[]", b'{"token": 1}'],
)
def test_a_corrupt_token_file_is_a_miss(
    bench: Bench, log: pytest.LogCaptureFixture, content: bytes
) -> None:
    bench.path.write_bytes(content)
    keeper = bench.keeper()
    keeper.step()
    assert keeper.status().token is not None
    assert bench.count("issuances") == 1
    warnings = [r.getMessage() for r in log.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert str(bench.path) in warnings[0]


def test_a_corrupt_record_of_the_attempt_is_a_miss(bench: Bench) -> None:
    bench.path.with_name("kis_token.json.attempt").write_text("{")
    keeper = bench.keeper()
    keeper.step()
    assert keeper.status().token is not None


def test_an_expired_file_is_replaced(bench: Bench) -> None:
    bench.write(access_token="old", expires_at=bench.now() + 599)
    keeper = bench.keeper()
    keeper.step()
    assert bench.written()["access_token"] != "old"


def test_a_foreign_token_is_never_used_and_its_replacement_is_logged(
    bench: Bench, log: pytest.LogCaptureFixture
) -> None:
    foreign = fingerprint_of("another key")
    expires_at = bench.now() + 20 * HOUR
    bench.write(access_token="foreign", expires_at=expires_at, app_key_fingerprint=foreign)
    keeper = bench.keeper()
    keeper.step()
    token = keeper.status().token
    assert token is not None
    assert token.value != "foreign"
    assert bench.written()["app_key_fingerprint"] == fingerprint_of(bench.settings.app_key)
    assert any("another app key" in message and foreign in message for message in log.messages)
    aside = bench.path.with_name(f"{bench.path.name}.of-{foreign}")  # its key may be used again
    assert json.loads(aside.read_text())["access_token"] == "foreign"


def test_a_token_that_kis_repeats_and_refuses_is_requested_less_and_less_often(
    bench: Bench,
) -> None:
    keeper = bench.keeper()
    keeper.step()
    asked = bench.count("issuances")
    for _ in range(60):  # minutes
        token = keeper.status().token
        if token is not None:
            keeper.replace(token, 0)
        bench.advance(61)
        keeper.step()
    assert 2 <= bench.count("issuances") - asked <= 16


def test_a_file_without_fingerprint_is_ours(bench: Bench) -> None:
    bench.write(access_token="ours", expires_at=bench.now() + HOUR)
    keeper = bench.keeper()
    keeper.step()
    token = keeper.status().token
    assert token is not None
    assert token.value == "ours"
    assert bench.count("issuances") == 0


def test_two_gateways_on_one_directory_make_one_issuance(bench: Bench) -> None:
    keepers = [bench.keeper() for _ in range(2)]
    threads = [threading.Thread(target=keeper.step) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    first, second = (keeper.status().token for keeper in keepers)
    assert first is not None
    assert second is not None
    assert first.value == second.value
    assert bench.count("issuances") == 1
    assert bench.count("rejections") == 0


def test_no_gateway_asks_while_another_process_holds_the_lock(bench: Bench) -> None:
    keeper = bench.keeper()
    thread = threading.Thread(target=keeper.step)
    with TokenStore(bench.path, "another process").lock():
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert bench.count("issuances") == 0
        bench.write(access_token="theirs", expires_at=bench.now() + HOUR)
    thread.join(10)
    token = keeper.status().token
    assert token is not None
    assert token.value == "theirs"
    assert bench.count("issuances") == 0


def test_a_restarted_gateway_waits_for_the_end_of_the_minute(bench: Bench) -> None:
    bench.keeper().step()
    bench.path.unlink()
    bench.advance(30)
    keeper = bench.keeper()
    keeper.step()
    status = keeper.status()
    assert status.token is None
    assert status.next_attempt_in == pytest.approx(31, abs=0.1)
    assert "one token a minute" in status.problem
    bench.advance(31)
    keeper.step()
    assert keeper.status().token is not None
    assert bench.count("rejections") == 0
    assert bench.count("issuances") == 2
    assert bench.count("new_tokens") == 1


def test_an_attempt_with_another_key_does_not_count(bench: Bench) -> None:
    other = bench.keeper(app_key="X" * 36)
    other.step()
    assert other.status().token is None
    keeper = bench.keeper()
    keeper.step()
    assert keeper.status().token is not None


def test_an_attempt_from_the_future_does_not_count(bench: Bench) -> None:
    store = TokenStore(bench.path, fingerprint_of(bench.settings.app_key))
    store.record_attempt(bench.now() + 24 * HOUR)
    keeper = bench.keeper()
    keeper.step()
    assert keeper.status().token is not None


def test_a_gateway_that_asks_too_soon_stays_up_and_retries_after_the_minute(bench: Bench) -> None:
    elsewhere = Kis(bench.settings)
    elsewhere.issue_token()
    keeper = bench.keeper(jitter=1)
    keeper.step()
    status = keeper.status()
    assert status.token is None
    assert "EGW00133" in status.problem
    assert status.next_attempt_in == pytest.approx(75, abs=0.1)
    keeper.step()
    assert bench.count("rejections") == 1
    bench.advance(75)
    keeper.step()
    assert keeper.status().token is not None


@pytest.mark.parametrize(
    ("wrong", "code", "field"),
    [
        ({"app_secret": "WRONG" * 36}, "EGW00105", "kis-r-app-secret"),
        ({"app_key": "WRONG" * 7 + "X"}, "EGW00103", "kis-r-app-key"),
    ],
)
def test_wrong_credentials_are_explained_and_not_retried_soon(
    bench: Bench, log: pytest.LogCaptureFixture, wrong: dict[str, str], code: str, field: str
) -> None:
    bench.settings = Settings(**{**vars(bench.settings), **wrong})
    keeper = bench.keeper(jitter=0)
    keeper.step()
    status = keeper.status()
    assert status.token is None
    assert status.next_attempt_in == pytest.approx(HOUR, abs=0.1)
    for part in (code, field, "/app/config/secrets.json"):
        assert part in status.problem
    assert status.problem in log.text
    assert "Next try at 20" in log.text
    assert "WRONG" not in log.text + status.problem


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (None, "ConnectionRefusedError"),
        ({"kind": "empty500"}, "HTTP 500"),
        ({"kind": "reset"}, "ConnectionResetError"),
        ({"kind": "hang", "seconds": 10}, "did not answer within 0.5 s"),
    ],
)
def test_kis_is_unreachable(bench: Bench, fault: dict[str, object] | None, reason: str) -> None:
    if fault:
        bench.simulator.control("POST", "faults", {"path": "/oauth2", **fault})
    base_url = None if fault else CONNECTION_REFUSED
    keeper = bench.keeper(jitter=0, base_url=base_url, read_timeout=0.5)
    delays = []
    for _ in range(5):
        keeper.step()
        status = keeper.status()
        assert status.token is None
        assert reason in status.problem
        delays.append(round(status.next_attempt_in))
        bench.advance(status.next_attempt_in)
        if fault and fault["kind"] == "hang":  # one round is enough: it waits in real time
            break
    assert delays == [61, 122, 244, 300, 300][: len(delays)]
    bench.simulator.control("DELETE", "faults")
    if fault:
        keeper.step()
        assert keeper.status().token is not None


def test_the_absolute_expiry_is_used(bench: Bench) -> None:
    """KIS answers with the same token for six hours, and each time with expires_in 86400."""
    bench.keeper().step()
    before = bench.written()
    bench.path.unlink()
    bench.advance(6 * HOUR - 1)
    bench.keeper().step()
    assert bench.written() == before
    korean = datetime.fromtimestamp(before["expires_at"], ZoneInfo("Asia/Seoul"))
    assert korean.timestamp() == pytest.approx(bench.now() + 18 * HOUR + 1, abs=1)


@pytest.mark.parametrize(("jitter", "before_expiry"), [(0.0, 900), (1.0, 661)])
def test_a_token_is_refreshed_in_the_first_window(
    bench: Bench, jitter: float, before_expiry: float
) -> None:
    keeper = bench.keeper(jitter)
    keeper.step()
    old = bench.written()
    bench.advance(old["expires_at"] - before_expiry - bench.now() - 2)
    keeper.step()
    assert bench.count("issuances") == 1
    bench.advance(3)
    keeper.step()
    assert bench.count("issuances") == 2
    token = keeper.status().token
    assert token is not None
    assert token.value != old["access_token"]
    assert bench.written()["access_token"] == token.value


def test_a_failed_refresh_keeps_the_old_token_until_it_ends(
    bench: Bench, log: pytest.LogCaptureFixture
) -> None:
    keeper = bench.keeper(jitter=0)
    keeper.step()
    old = bench.written()
    bench.advance(old["expires_at"] - 900 - bench.now())
    bench.simulator.control("POST", "faults", {"path": "/oauth2", "kind": "empty500"})
    keeper.step()
    token = keeper.status().token
    assert token is not None
    assert token.value == old["access_token"]
    assert "The token in use stays until" in log.messages[-1]
    bench.advance(300)
    status = keeper.status()
    assert status.token is None
    assert "HTTP 500" in status.problem
    bench.simulator.control("DELETE", "faults")
    keeper.step()
    assert keeper.status().token is not None


def test_a_refused_token_is_replaced_by_a_newer_one_in_the_file(bench: Bench) -> None:
    keeper = bench.keeper()
    keeper.step()
    refused = keeper.status().token
    assert refused is not None
    bench.write(access_token="newer", expires_at=refused.expires_at + 1)
    assert keeper.replace(refused, timeout=0) is None
    keeper.step()
    replacement = keeper.replace(refused, timeout=0)
    assert replacement is not None
    assert replacement.value == "newer"
    assert bench.count("issuances") == 1


def test_a_refused_token_is_removed_from_the_file_and_the_minute_is_kept(bench: Bench) -> None:
    keeper = bench.keeper()
    keeper.step()
    refused = keeper.status().token
    assert refused is not None
    keeper.replace(refused, timeout=0)
    keeper.step()
    assert keeper.status().token is None
    assert (
        keeper.replace(refused, timeout=5) is None
    )  # returns at once: the keeper waits for the minute
    assert not bench.path.exists()
    assert bench.count("issuances") == 1
    bench.advance(61)
    keeper.step()
    assert keeper.status().token is not None
    assert bench.count("issuances") == 2
    assert bench.count("rejections") == 0


def test_an_unwritable_directory_is_explained_and_kis_is_not_asked(
    bench: Bench,
) -> None:
    """If an attempt cannot be recorded, KIS is not asked. (Directories block even root.)"""
    (bench.path.parent / "kis_token.json.tmp").mkdir()
    (bench.path.parent / "kis_token.json.attempt.tmp").mkdir()
    keeper = bench.keeper()
    keeper.step()
    assert "must exist and be writable" in keeper.status().problem
    assert bench.count("issuances") == 0


def test_a_token_that_cannot_be_written_is_used(
    bench: Bench, log: pytest.LogCaptureFixture
) -> None:
    (bench.path.parent / "kis_token.json.tmp").mkdir()
    keeper = bench.keeper()
    keeper.step()
    assert keeper.status().token is not None
    assert "a restart will lose it" in log.text


@pytest.mark.parametrize(
    ("code", "failures", "jitter", "delay"),
    [
        ("EGW00133", 1, 0, 61),
        ("EGW00133", 9, 1, 75),
        ("EGW00105", 1, 0, 3600),
        ("EGW00103", 1, 1, 3660),
        ("EGW99999", 2, 0, 122),
        (None, 1, 0, 61),
        (None, 100_000, 0, 300),
    ],
)
def test_retry_delay(code: str | None, failures: int, jitter: float, delay: float) -> None:
    assert retry_delay(code, failures, jitter) == delay


def test_nothing_secret_is_logged(bench: Bench, log: pytest.LogCaptureFixture) -> None:
    """All loggers are at DEBUG, libraries included; the steps include many kinds of errors."""
    log.set_level(logging.DEBUG)
    keeper = bench.keeper()
    secrets = [bench.settings.app_secret]
    steps: list[Callable[[], object]] = [
        keeper.step,
        lambda: secrets.append(bench.written()["access_token"]),
        lambda: bench.keeper().step(),
        lambda: keeper.replace(keeper.status().token or Token("", 0), 0),
        keeper.step,
        lambda: bench.advance(6 * HOUR),
        lambda: bench.simulator.control("POST", "faults", {"path": "/oauth2", "kind": "reset"}),
        keeper.step,
        lambda: bench.simulator.control("DELETE", "faults"),
        lambda: bench.advance(200),
        keeper.step,
        lambda: secrets.append(bench.written()["access_token"]),
        lambda: bench.path.write_text(json.dumps({"access_token": secrets[1]})),
        lambda: bench.keeper().step(),
    ]
    for step in steps:
        step()
    assert len(set(secrets)) == 3
    assert log.text.count("Not ready") >= 2
    for secret in secrets:
        assert secret not in log.text
