"""The gateway over HTTP, in front of the simulator; some tests run the deployed process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from kis_gateway.app import build_app
from kis_gateway.config import ConfigurationError, Settings
from kis_gateway.keeper import CACHED_TOKEN_USED, CLIENT_READY, Keeper
from kis_gateway.kis import MAX_IN_FLIGHT, Kis, json_object
from kis_gateway.limiter import WINDOW_SECONDS, Limiter, TooManyRequests
from kis_gateway.metrics import Metrics
from kis_gateway.tokens import TokenStore, fingerprint_of

from tests.services.conftest import RunningSimulator, Serve
from tests.tools import wait_for

GATEWAY = Path(__file__).parents[2] / "services" / "kis-gateway"
PRICE = "/uapi/domestic-stock/v1/quotations/inquire-price?FID_INPUT_ISCD=005930"


@pytest.fixture
def environ(simulator: RunningSimulator, tmp_path: Path) -> dict[str, str]:
    secrets_file = tmp_path / "secrets.json"
    secrets_file.write_text(json.dumps({**simulator.credentials, "telegram-token": "not ours"}))
    (tmp_path / "tokens").mkdir(mode=0o700)
    return {
        "KIS_TOKEN_FILE_PATH": str(tmp_path / "tokens" / "kis_token.json"),
        "SECRETS_FILE": str(secrets_file),
        "KIS_BASE_URL": simulator.real_url,
    }


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        time.sleep(0.01)


StartGateway = Callable[..., str]


@pytest.fixture
def gateway(serve: Serve, environ: dict[str, str]) -> Iterator[StartGateway]:
    """``gateway(**environ)`` starts a gateway and its keeper in this process; returns its URL."""
    keepers: list[Keeper] = []

    def start(limiter: Limiter | None = None, read_timeout: float = 10, **more: str) -> str:
        settings = Settings.from_environ({**environ, **more})
        metrics = Metrics()
        kis = Kis(settings, timeout=(5, read_timeout))
        store = TokenStore(settings.token_file, fingerprint_of(settings.app_key))
        keeper = Keeper(store, kis, metrics)
        limiter = limiter or Limiter(settings.requests_per_second)
        url: str = serve(build_app(kis, keeper, limiter, metrics))
        keeper.start()
        keepers.append(keeper)
        wait_until(
            lambda: keeper.status().token or keeper.status().next_attempt_in > 0, "a first attempt"
        )
        return url

    yield start
    for keeper in keepers:
        keeper.stop()


def metric(url: str, line: str) -> float:
    """The value of a metric, by its name and labels in /metrics; 0 if it is missing."""
    for found in requests.get(f"{url}/metrics", timeout=5).text.splitlines():
        name, _, value = found.rpartition(" ")
        if name == line:
            return float(value)
    return 0.0


def test_ready_and_forwarding(gateway: StartGateway, simulator: RunningSimulator) -> None:
    url = gateway()
    assert requests.get(f"{url}/health", timeout=5).json() == {"status": "alive"}
    # On a busy machine the first attempt may fail.
    wait_until(lambda: requests.get(f"{url}/ready", timeout=5).ok, "it is ready")
    ready = requests.get(f"{url}/ready", timeout=5)
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    answer = requests.get(url + PRICE, headers={"tr-id": "FHKST01010100"}, timeout=5)
    assert answer.status_code == 200
    assert answer.json()["output"]["stck_shrn_iscd"] == "005930"
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["gt_uid"]
    order = requests.post(f"{url}/uapi/domestic-stock/v1/trading/order-cash", json={}, timeout=5)
    assert order.json()["output"]["method"] == "POST"
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert (counters["issuances"], counters["requests"]) == (1, 2)
    assert metric(url, 'kis_upstream_requests_total{msg_cd="",status="200"}') == 2
    assert metric(url, 'kis_token_issuances_total{code="",outcome="issued"}') == 1
    assert metric(url, "kis_token_expiry_timestamp_seconds") > time.time() + 86000


def test_paper_trading_uses_another_host_and_another_key(
    gateway: StartGateway, simulator: RunningSimulator
) -> None:
    url = gateway(KIS_ENVIRONMENT="paper", KIS_BASE_URL=simulator.paper_url)
    assert requests.get(url + PRICE, timeout=5).json()["rt_cd"] == "0"
    counters = simulator.control("GET", "counters")
    assert counters["paper"][simulator.credentials["kis-v-app-key"]]["issuances"] == 1
    assert counters["real"][simulator.credentials["kis-r-app-key"]]["issuances"] == 0


@pytest.mark.parametrize(
    "path",
    [
        "/oauth2/tokenP",
        "/_simulator/health",
        "/uapi/../oauth2/tokenP",
        "/uapi/%2e%2e/oauth2/tokenP",
        "/uapi/%252e%252e/oauth2/tokenP",
        "/uapi/x/..%2f..%2foauth2/tokenP",
        "/uapi//oauth2/tokenP",
        "/uapi/..\\oauth2",
        "/uapi/a%3fb",
        "/uapi/a%0d%0ab",
        "/uapi/",
        "/uapi",
    ],
)
def test_only_uapi_is_forwarded(
    gateway: StartGateway, simulator: RunningSimulator, path: str
) -> None:
    url = gateway()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:  # clients normalize paths
        raw.sendall(f"POST {path} HTTP/1.0\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.split()[1] == b"404"
    assert "/uapi/… is forwarded to KIS" in answer.decode()
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert (counters["requests"], counters["issuances"], counters["rejections"]) == (0, 1, 0)


def test_a_gateway_without_a_token_is_alive_and_not_ready(
    gateway: StartGateway, simulator: RunningSimulator
) -> None:
    simulator.control(
        "POST", "faults", {"path": "/oauth2/tokenP", "kind": "error", "code": "EGW00133"}
    )
    url = gateway()
    assert requests.get(f"{url}/health", timeout=5).status_code == 200
    for path in ("/ready", PRICE):
        answer = requests.get(url + path, timeout=5)
        assert answer.status_code == 503
        assert answer.json()["error"] == "not_ready"
        assert "EGW00133" in answer.json()["message"]
        assert answer.json()["next_attempt_at"].endswith("+09:00")
        assert 55 <= int(answer.headers["Retry-After"]) <= 76
    assert metric(url, 'kis_token_issuances_total{code="EGW00133",outcome="rejected"}') == 1
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert counters["requests"] == 0


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ({"kind": "reset"}, 502, "kis_unreachable"),
        ({"kind": "hang", "seconds": 5}, 504, "kis_timeout"),
    ],
)
def test_kis_is_unreachable(
    gateway: StartGateway,
    simulator: RunningSimulator,
    fault: dict[str, object],
    status: int,
    error: str,
) -> None:
    url = gateway(read_timeout=0.5)
    simulator.control("POST", "faults", {"path": "/uapi", **fault})
    answer = requests.post(f"{url}/uapi/x?CANO=12345678", timeout=5)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert "look before you send it again" in answer.json()["message"]
    assert "12345678" not in answer.text
    assert metric(url, 'kis_upstream_requests_total{msg_cd="",status="none"}') == 1
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert counters["requests"] == 1  # no second try: the request might be an order
    simulator.control("DELETE", "faults")
    assert requests.get(url + PRICE, timeout=5).status_code == 200


def test_errors_of_kis_are_passed_on(gateway: StartGateway, simulator: RunningSimulator) -> None:
    url = gateway()
    simulator.control(
        "POST", "faults", {"path": "/uapi", "kind": "error", "code": "EGW00201", "count": 1}
    )
    answer = requests.get(url + PRICE, timeout=5)
    assert (answer.status_code, answer.json()["msg_cd"]) == (500, "EGW00201")
    assert metric(url, 'kis_upstream_requests_total{msg_cd="EGW00201",status="500"}') == 1


def test_a_refused_token_is_replaced_from_the_file(
    gateway: StartGateway, simulator: RunningSimulator, environ: dict[str, str]
) -> None:
    """Another gateway with the same directory has asked for a new token in the meantime."""
    path = Path(environ["KIS_TOKEN_FILE_PATH"])
    expires_at = time.time() + 3600
    path.write_text(json.dumps({"access_token": "stale", "expires_at": expires_at}))
    url = gateway()
    fresh = Kis(Settings.from_environ(environ)).issue_token()
    path.write_text(json.dumps({"access_token": fresh.value, "expires_at": fresh.expires_at}))
    assert requests.get(url + PRICE, timeout=5).json()["rt_cd"] == "0"
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert (counters["issuances"], counters["rejections"]) == (1, 0)
    assert counters["codes"] == {"EGW00121": 1}


def test_a_refused_token_is_replaced_by_one_issuance(
    gateway: StartGateway, simulator: RunningSimulator, environ: dict[str, str]
) -> None:
    """Four concurrent requests have a token that KIS does not know."""
    path = Path(environ["KIS_TOKEN_FILE_PATH"])
    path.write_text(json.dumps({"access_token": "stale", "expires_at": time.time() + 3600}))
    url = gateway()
    answers: list[requests.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(requests.get(url + PRICE, timeout=15)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert [answer.json().get("rt_cd") for answer in answers] == ["0"] * 4
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert (counters["issuances"], counters["rejections"]) == (1, 0)
    # The gateway uses a new token before it has written the file.
    wait_for(path.exists, "the token file is written")
    assert json.loads(path.read_text())["access_token"] != "stale"


def test_an_expired_token_is_replaced_too(
    gateway: StartGateway, simulator: RunningSimulator, environ: dict[str, str]
) -> None:
    elsewhere = Kis(Settings.from_environ(environ)).issue_token()
    simulator.control("PUT", "clock", {"advance": 25 * 3600})
    path = Path(environ["KIS_TOKEN_FILE_PATH"])
    cached = {"access_token": elsewhere.value, "expires_at": elsewhere.expires_at}
    path.write_text(json.dumps(cached))
    url = gateway()  # its clock is a day behind that of KIS
    assert requests.get(url + PRICE, timeout=15).json().get("rt_cd") == "0"
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert counters["codes"] == {"EGW00123": 1}
    assert counters["issuances"] == 2


def test_a_second_refusal_within_the_minute_makes_no_second_issuance(
    gateway: StartGateway, simulator: RunningSimulator
) -> None:
    url = gateway()
    simulator.control("POST", "faults", {"path": "/uapi", "kind": "error", "code": "EGW00121"})
    answer = requests.get(url + PRICE, timeout=9)
    assert (answer.status_code, answer.json()["error"]) == (503, "not_ready")
    assert requests.get(f"{url}/ready", timeout=5).status_code == 503
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert (counters["issuances"], counters["rejections"]) == (1, 0)


def test_requests_over_the_limit_get_429(gateway: StartGateway) -> None:
    limiter = Limiter(2, clock=lambda: 0.0, sleep=lambda _: None)
    url = gateway(limiter)
    statuses = [requests.get(url + PRICE, timeout=5).status_code for _ in range(12)]
    assert statuses == [200] * 10 + [429] * 2  # turns at 0, 1.05, … 4.2 s; at 5.25 s it is too late
    refusal = requests.get(url + PRICE, timeout=5)
    assert refusal.json()["error"] == "too_many_requests"
    assert refusal.headers["Retry-After"] == "6"
    assert metric(url, "kis_limiter_refusals_total") == 3
    assert metric(url, "kis_limiter_wait_seconds_count") == 10


def test_when_kis_hangs_the_gateway_stays_alive(
    gateway: StartGateway, simulator: RunningSimulator
) -> None:
    url = gateway(Limiter(1000), read_timeout=30)
    simulator.control("PUT", "rules", {"requests_per_second_real": 1000})
    simulator.control("POST", "faults", {"path": "/uapi", "kind": "hang", "seconds": 30})
    key = simulator.credentials["kis-r-app-key"]
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: statuses.append(requests.get(url + PRICE, timeout=30).status_code)
        )
        for _ in range(MAX_IN_FLIGHT)
    ]
    for thread in threads:
        thread.start()
    wait_until(
        lambda: simulator.control("GET", "counters")["real"][key]["requests"] == MAX_IN_FLIGHT,
        "all requests under way",
    )
    refused = requests.get(url + PRICE, timeout=5)
    assert (refused.status_code, refused.json()["error"]) == (503, "busy")
    assert requests.get(f"{url}/health", timeout=5).status_code == 200
    simulator.control("DELETE", "faults")
    for thread in threads:
        thread.join(10)
    assert statuses == [200] * MAX_IN_FLIGHT
    assert requests.get(url + PRICE, timeout=5).status_code == 200


def test_the_limiter_holds_its_limit_in_any_window() -> None:
    now = [0.0]
    limiter = Limiter(3, clock=lambda: now[0], sleep=lambda _: None)
    starts = [now[0] + limiter.wait_for_turn(60) for now[0] in (0, 0.1, 0.9, 1.0, 1.0, 1.0, 1.0)]
    assert starts == pytest.approx([0, 0.1, 0.9, 1.05, 1.15, 1.95, 2.1])
    with pytest.raises(TooManyRequests):
        limiter.wait_for_turn(0.1)
    now[0] = 100
    assert limiter.wait_for_turn(0) == 0


def test_the_limiter_counts_all_threads() -> None:
    waits: list[float] = []
    limiter = Limiter(5, clock=lambda: 0.0, sleep=lambda _: None)
    threads = [
        threading.Thread(target=lambda: waits.append(limiter.wait_for_turn(60))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(waits) == pytest.approx([n // 5 * WINDOW_SECONDS for n in range(20)])


# The deployed process.


class RecordingKis(BaseHTTPRequestHandler):
    """Issues a token; echoes the raw headers of other requests, which WSGI servers change."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer: dict[str, Any] = {
            "headers": [[name, value] for name, value in self.headers.items()],
            "path": self.path,
            "body": body,
        }
        if self.path == "/oauth2/tokenP":
            answer = {
                "access_token": "TOKEN",
                "access_token_token_expired": "2099-01-01 00:00:00",
            }
        content = json.dumps(answer).encode()
        self.send_response(200)
        for name, value in [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            ("tr_id", "TTTC0802U"),
            ("tr_cont", "M"),
            ("gt_uid", "uid"),
            ("Set-Cookie", "a=b"),
            ("X-Internal", "1"),
        ]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def recording_kis() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), RecordingKis)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def command() -> list[str]:
    return [sys.executable, "-m", "gunicorn", "--config", "python:kis_gateway.gunicorn_conf"]


@contextmanager
def running(environ: dict[str, str], log: Path) -> Iterator[str]:
    """The gateway's process as its image starts it, on a free port and without a HOME."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(),
            cwd=GATEWAY,
            env={**environ, "PORT": str(port), "GUNICORN_CMD_ARGS": "--timeout 600"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(f"{url}/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers, "ready")
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=3) == 0
    finally:
        process.kill()
        process.wait()


def test_only_headers_of_the_kis_api_are_forwarded(
    environ: dict[str, str], recording_kis: str, tmp_path: Path
) -> None:
    with running({**environ, "KIS_BASE_URL": recording_kis}, tmp_path / "log") as url:
        answer = requests.post(
            f"{url}/uapi/domestic-stock/v1/trading/order-cash?a=%20b&c=%ED%95%9C",
            data='{"PDNO":"한"}'.encode(),
            headers={
                "authorization": "Bearer CLIENTS",
                "appkey": "CLIENTS",
                "appsecret": "CLIENTS",
                "Content-Type": "application/json; charset=utf-8",
                "tr_id": "TTTC0802U",
                "tr_cont": "N",
                "custtype": "P",
                "Connection": "keep-alive, X-Hop",
                "X-Hop": "1",
                "Cookie": "a=b",
                "Proxy-Authorization": "Basic x",
                "X-Forwarded-For": "192.0.2.1",
                "TE": "trailers",
            },
            timeout=5,
        )
    seen = answer.json()
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert len(headers) == len(seen["headers"])
    transport = {"host", "user-agent", "accept-encoding", "connection", "content-length"}
    secrets = json.loads(Path(environ["SECRETS_FILE"]).read_text())
    assert {name: headers[name] for name in headers if name not in transport} == {
        "accept": "*/*",
        "authorization": "Bearer TOKEN",
        "appkey": secrets["kis-r-app-key"],
        "appsecret": secrets["kis-r-app-secret"],
        "content-type": "application/json; charset=utf-8",
        "tr_id": "TTTC0802U",
        "tr_cont": "N",
        "custtype": "P",
    }
    assert headers["connection"] == "keep-alive"
    assert seen["path"] == "/uapi/domestic-stock/v1/trading/order-cash?a=%20b&c=%ED%95%9C"
    assert seen["body"] == '{"PDNO":"한"}'
    passed_back = {name.lower(): value for name, value in answer.headers.items()}
    for name in ("date", "server", "connection", "content-length"):
        passed_back.pop(name)
    assert passed_back == {
        "content-type": "application/json",
        "tr_id": "TTTC0802U",
        "tr_cont": "M",
        "gt_uid": "uid",
    }


def test_a_new_process_uses_the_cached_token(
    environ: dict[str, str], simulator: RunningSimulator, tmp_path: Path
) -> None:
    logs = [tmp_path / "first", tmp_path / "second"]
    for log in logs:
        with running(environ, log) as url:
            assert requests.get(f"{url}{PRICE}&CANO=12345678", timeout=5).status_code == 200
            assert requests.get(f"{url}/uapi/x%00y?CANO=12345678", timeout=5).status_code == 404
    counters = simulator.control("GET", "counters")["real"][simulator.credentials["kis-r-app-key"]]
    assert (counters["issuances"], counters["rejections"]) == (1, 0)
    first, second = (log.read_text(encoding="utf-8").splitlines() for log in logs)
    assert not any(line.endswith(CACHED_TOKEN_USED) for line in first)
    assert sum(line.endswith(CACHED_TOKEN_USED) for line in second) == 1
    token = json.loads(Path(environ["KIS_TOKEN_FILE_PATH"]).read_text())["access_token"]
    for lines in (first, second):
        assert sum(line.endswith(CLIENT_READY) for line in lines) == 1
        assert all(line[:2] == "20" and " INFO " in line for line in lines)
        text = "\n".join(lines)
        for secret in (token, simulator.credentials["kis-r-app-secret"], "12345678", "urllib3"):
            assert secret not in text


@pytest.mark.parametrize(
    ("change", "content", "message"),
    [
        ({"SECRETS_FILE": ""}, None, "SECRETS_FILE is not set"),
        ({"KIS_TOKEN_FILE_PATH": ""}, None, "KIS_TOKEN_FILE_PATH is not set"),
        ({"SECRETS_FILE": "/nowhere"}, None, "does not exist"),
        ({"SECRETS_FILE": "/"}, None, "is a directory"),
        ({}, "{'kis", "is not JSON"),
        ({}, "[]", "must hold a JSON object"),
        ({}, '{"kis-r-app-key": "k"}', "needs the field 'kis-r-app-secret'"),
        ({}, '{"kis-r-app-key": "k", "kis-r-app-secret": "\\n"}', "'kis-r-app-secret'"),
        ({}, '{"kis-r-app-key": "k", "kis-r-app-secret": "SE CRET"}', "'kis-r-app-secret'"),
        ({"KIS_ENVIRONMENT": "virtual"}, None, "must be real or paper, not 'virtual'"),
        ({"KIS_BASE_URL": "localhost:80"}, None, "must look like https://host:port"),
        ({"KIS_REQUESTS_PER_SECOND": "0"}, None, "whole number from 1, not '0'"),
    ],
)
def test_bad_settings_are_named(
    environ: dict[str, str], change: dict[str, str], content: str | None, message: str
) -> None:
    if content is not None:
        Path(environ["SECRETS_FILE"]).write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environ({**environ, **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "SE CRET" not in str(caught.value)


def test_white_space_around_a_credential_is_removed_and_logged(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    content = {"kis-r-app-key": "KEY", "kis-r-app-secret": "SECRET\n"}
    Path(environ["SECRETS_FILE"]).write_text(json.dumps(content))
    settings = Settings.from_environ(environ)
    assert settings.app_secret == "SECRET"
    assert "'kis-r-app-secret'" in caplog.text
    for text in (caplog.text, repr(settings)):
        assert "SECRET" not in text.replace("SECRETS_FILE", "")


def test_bad_settings_end_the_process_with_one_line(environ: dict[str, str]) -> None:
    result = subprocess.run(
        command(),
        cwd=GATEWAY,
        env={**environ, "SECRETS_FILE": "/nowhere", "PORT": "0"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == 1
    assert (result.stdout + result.stderr).splitlines() == [
        "kis-gateway cannot start: SECRETS_FILE /nowhere does not exist: is it mounted?"
    ]


def test_half_sent_requests_do_not_block_the_others(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with running(environ, tmp_path / "log") as url, ExitStack() as stack:
        address = ("127.0.0.1", urlsplit(url).port)
        for _ in range(100):
            half = stack.enter_context(socket.create_connection(address))
            half.sendall(b"GET /health HTTP/1.1\r\n")
        wait_for(lambda: is_alive(url), "answers while requests are half sent", 40)


def is_alive(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=1).ok
    except requests.RequestException:
        return False


@pytest.mark.parametrize("header", ["SCRIPT_NAME", "PATH_INFO"])
def test_no_header_changes_the_path(environ: dict[str, str], tmp_path: Path, header: str) -> None:
    with running(environ, tmp_path / "log") as url:
        answer = requests.get(f"{url}/health", headers={header: "/elsewhere"}, timeout=5)
        assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_deep_json_from_kis_is_no_object() -> None:
    answer = requests.Response()
    answer._content = b'{"a":' * 100_000
    assert json_object(answer) == {}
