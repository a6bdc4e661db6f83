"""Gateways with one app key that share a token: real HTTP between them, in simulated time."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from cryptography.fernet import InvalidToken
from kis_gateway.app import build_app
from kis_gateway.config import ConfigurationError, Settings
from kis_gateway.keeper import Keeper
from kis_gateway.kis import Kis
from kis_gateway.limiter import Limiter
from kis_gateway.metrics import Metrics
from kis_gateway.peers import Peers
from kis_gateway.tokens import Token, TokenStore, fingerprint_of

from tests.services.conftest import RunningSimulator, Serve
from tests.services.test_gateway_http import PRICE, metric, wait_until

TOKEN = Token("eyJ0.e30.x", 1800000000.0)


def settings(simulator: RunningSimulator, directory: Path) -> Settings:
    return Settings(
        token_file=directory / "kis_token.json",
        secrets_file=Path("/app/config/secrets.json"),
        app_key_field="kis-r-app-key",
        app_secret_field="kis-r-app-secret",
        app_key=simulator.credentials["kis-r-app-key"],
        app_secret=simulator.credentials["kis-r-app-secret"],
        base_url=simulator.real_url,
        requests_per_second=18,
    )


@dataclass
class Gateways:
    """Gateways with one app key, each with a directory of its own, that know of each other."""

    simulator: RunningSimulator
    serve: Serve
    directory: Path
    urls: list[str] = field(default_factory=list)
    keepers: list[Keeper] = field(default_factory=list)
    started: list[Keeper] = field(default_factory=list)

    def now(self) -> float:
        return float(self.simulator.control("GET", "clock")["now"])

    def advance(self, seconds: float) -> None:
        self.simulator.control("PUT", "clock", {"advance": seconds})

    def counts(self) -> tuple[int, int]:
        key = self.simulator.credentials["kis-r-app-key"]
        counters = self.simulator.control("GET", "counters")["real"][key]
        return counters["issuances"], counters["rejections"]

    def add(self, jitter: float, secret: str | None = None) -> str:
        """Starts one more; its keeper is not started yet. Its URL is in the list of all."""
        directory = self.directory / f"gateway-{len(self.urls)}"
        directory.mkdir()
        own = settings(self.simulator, directory)
        store = TokenStore(own.token_file, fingerprint_of(own.app_key))
        metrics = Metrics()
        kis = Kis(own)
        peers = Peers(self.urls, own.app_key, secret or own.app_secret)
        keeper = Keeper(store, kis, metrics, peers, self.now, lambda: jitter)
        url: str = self.serve(build_app(kis, keeper, Limiter(own.requests_per_second), metrics))
        self.urls.append(url)
        self.keepers.append(keeper)
        return url

    def start(self) -> None:
        for keeper in self.keepers:
            keeper.start()
            self.started.append(keeper)
        self.wait_for_tokens()

    def wait_for_tokens(self) -> None:
        wait_until(lambda: all(k.status().token for k in self.keepers), "all have a token")

    def ask_all(self) -> list[int]:
        """A client request to each of them at the same time; the HTTP statuses."""
        with ThreadPoolExecutor() as pool:
            answers = pool.map(lambda url: requests.get(url + PRICE, timeout=15), self.urls)
            return [answer.status_code for answer in answers]


@pytest.fixture
def gateways(
    simulator: RunningSimulator, serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[Gateways]:
    caplog.set_level(logging.WARNING, "werkzeug")
    simulator.control("PUT", "clock", {"rate": 0})
    made = Gateways(simulator, serve, tmp_path)
    yield made
    for keeper in made.started:
        keeper.stop()


@pytest.fixture
def four(gateways: Gateways) -> Gateways:
    for number in range(4):
        gateways.add(jitter=number / 4)
    gateways.start()
    return gateways


def test_four_that_start_at_once_make_one_issuance(four: Gateways) -> None:
    assert four.counts() == (1, 0)
    assert len({keeper.status().token for keeper in four.keepers}) == 1
    assert sum(metric(url, "kis_peer_tokens_used_total") for url in four.urls) == 3
    assert four.ask_all() == [200] * 4


def test_a_token_that_kis_ends_for_all_at_once_costs_one_issuance(four: Gateways) -> None:
    four.advance(6 * 3600 + 1)
    token = four.keepers[0].status().token
    assert token is not None
    key, secret = (four.simulator.credentials[f"kis-r-app-{name}"] for name in ("key", "secret"))
    body = {"appkey": key, "appsecret": secret, "token": token.value}
    requests.post(f"{four.simulator.real_url}/oauth2/revokeP", json=body, timeout=5)
    four.advance(61)
    assert four.ask_all() == [200] * 4
    assert four.counts() == (2, 0)


@pytest.mark.simulation
def test_a_day_under_load_costs_one_issuance(four: Gateways) -> None:
    minutes = 24 * 60 + 30
    for _ in range(minutes // 5):
        four.advance(300)
        assert four.ask_all() == [200] * 4
    assert four.counts() == (2, 0)  # that of the start, and one


def test_a_peer_that_is_refused_is_not_followed_to_kis(
    gateways: Gateways, simulator: RunningSimulator
) -> None:
    fault = {"path": "/oauth2/tokenP", "kind": "error", "code": "EGW00133"}
    simulator.control("POST", "faults", fault)
    for number in range(3):
        gateways.add(jitter=number / 4)
    for keeper in gateways.keepers:
        keeper.step()
    assert gateways.counts() == (0, 1)
    assert "issues one token a minute" in gateways.keepers[1].status().problem
    simulator.control("DELETE", "faults")
    gateways.advance(80)
    for keeper in gateways.keepers:
        keeper.step()
    assert gateways.counts() == (1, 1)
    assert all(keeper.status().token for keeper in gateways.keepers)


def test_a_peer_that_is_gone_or_has_other_credentials_is_passed_over(
    gateways: Gateways, caplog: pytest.LogCaptureFixture
) -> None:
    gateways.urls.append("http://127.0.0.1:9")
    gateways.add(jitter=0)
    stranger = gateways.add(jitter=0, secret="of another app")
    gateways.keepers[0].step()
    assert gateways.counts() == (1, 0)
    assert f"The gateway at {stranger} has other credentials" in caplog.text
    gateways.keepers[1].step()
    assert gateways.keepers[1].status().token is None


@pytest.mark.parametrize("change", ["key", "secret", "content"])
def test_who_lacks_the_credentials_reads_and_forges_nothing(change: str) -> None:
    sealed = Peers([], "key", "secret").seal(TOKEN, None)
    assert TOKEN.value.encode() not in sealed
    other = Peers(
        [], "other" if change == "key" else "key", "other" if change == "secret" else "secret"
    )
    if change == "content":
        sealed = sealed[:-8] + bytes(reversed(sealed[-8:]))
    with pytest.raises(InvalidToken):
        other.open(sealed)
    assert Peers([], "key", "secret").open(Peers([], "key", "secret").seal(TOKEN, 7.0)).token == (
        TOKEN
    )


def test_without_peers_nothing_is_told(gateways: Gateways, serve: Serve) -> None:
    own = settings(gateways.simulator, gateways.directory)
    kis, metrics = Kis(own), Metrics()
    store = TokenStore(own.token_file, fingerprint_of(own.app_key))
    keeper = Keeper(store, kis, metrics, Peers([], own.app_key, own.app_secret))
    url: str = serve(build_app(kis, keeper, Limiter(18), metrics))
    assert requests.get(f"{url}/peer/token", timeout=5).status_code == 404


def test_peers_are_base_urls(tmp_path: Path, simulator: RunningSimulator) -> None:
    secrets_file = tmp_path / "secrets"
    secrets_file.write_text(json.dumps(simulator.credentials))
    environ = {"KIS_TOKEN_FILE_PATH": str(tmp_path / "t"), "SECRETS_FILE": str(secrets_file)}
    read: Callable[[str], Settings] = lambda peers: Settings.from_environ(  # noqa: E731
        environ | {"KIS_TOKEN_PEERS": peers}
    )
    assert read("").token_peers == ()
    assert read(" http://a:8080/, http://b:8080 ,").token_peers == (
        "http://a:8080",
        "http://b:8080",
    )
    with pytest.raises(ConfigurationError, match="KIS_TOKEN_PEERS must look like"):
        read("a:8080")
