"""The KIS simulator follows KIS's rules: each rule over HTTP, on a clock that the test sets."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest
import requests

if TYPE_CHECKING:
    from tests.services.conftest import RunningSimulator

MINUTE, HOUR, DAY = 60, 3600, 86400
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=timezone(timedelta(hours=9))).timestamp()
PRICE = "/uapi/domestic-stock/v1/quotations/inquire-price"
BALANCE = "/uapi/domestic-stock/v1/trading/inquire-balance"
TOO_SOON = {
    "error_description": "접근토큰 발급 잠시 후 다시 시도하세요(1분당 1회)",
    "error_code": "EGW00133",
}


class Kis:
    """A client of the simulator that sends only what the test says."""

    def __init__(
        self, simulator: RunningSimulator, kind: Literal["real", "paper"] = "real"
    ) -> None:
        self.simulator = simulator
        self.url = simulator.real_url if kind == "real" else simulator.paper_url
        field = "kis-r" if kind == "real" else "kis-v"
        self.kind = kind
        self.key = simulator.credentials[f"{field}-app-key"]
        self.secret = simulator.credentials[f"{field}-app-secret"]

    def post(self, path: str, **body: str) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=5)

    def ask(self, **other: str) -> requests.Response:
        body = {
            "grant_type": "client_credentials",
            "appkey": self.key,
            "appsecret": self.secret,
        }
        return self.post("/oauth2/tokenP", **(body | other))

    def token(self) -> str:
        response = self.ask()
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    def revoke(self, token: str, **other: str) -> requests.Response:
        body = {"appkey": self.key, "appsecret": self.secret, "token": token}
        return self.post("/oauth2/revokeP", **(body | other))

    def call(
        self, token: str | None, path: str = PRICE, method: str = "GET", **headers: str
    ) -> requests.Response:
        sent = {"appkey": self.key, "appsecret": self.secret, "tr_id": "FHKST01010100"}
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        return requests.request(method, self.url + path, headers=sent | headers, timeout=5)

    def code(self, token: str | None, **headers: str) -> str:
        """``msg_cd`` of a call; checks the shape and the status of a refusal."""
        response = self.call(token, **headers)
        body = response.json()
        if response.status_code != 200:
            assert response.status_code == 500
            assert body.keys() == {"rt_cd", "msg1", "msg_cd"}
            assert body["rt_cd"] == "1"
        return str(body["msg_cd"])

    def advance(self, seconds: float) -> None:
        self.simulator.control("PUT", "clock", {"advance": seconds})

    def rules(self, **changes: object) -> None:
        self.simulator.control("PUT", "rules", changes)

    def fault(self, **fault: object) -> None:
        self.simulator.control("POST", "faults", fault)

    def counters(self, app_key: str | None = None) -> dict[str, Any]:
        counters = self.simulator.control("GET", "counters")[self.kind][app_key or self.key]
        assert isinstance(counters, dict)
        return counters


@pytest.fixture
def frozen(simulator: RunningSimulator) -> RunningSimulator:
    """The simulator at nine in the morning in Seoul, with a stopped clock."""
    simulator.control("PUT", "clock", {"now": NOW, "rate": 0})
    return simulator


@pytest.fixture
def kis(frozen: RunningSimulator) -> Kis:
    return Kis(frozen)


@pytest.fixture
def paper(frozen: RunningSimulator) -> Kis:
    return Kis(frozen, "paper")


def refusal(response: requests.Response) -> str:
    """``error_code`` of a refusal under /oauth2; checks its shape and status."""
    assert response.status_code == 403
    assert response.json().keys() == {"error_description", "error_code"}
    return str(response.json()["error_code"])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not within 10 s"
        time.sleep(0.01)


# The token.


def test_token_looks_like_a_jwt(kis: Kis) -> None:
    token = kis.token()
    header, claims, _signature = (
        base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")
    )
    assert json.loads(header)["alg"] == "HS512"
    assert json.loads(claims)["jti"] == kis.key
    assert len(token) <= 350


def test_opaque_tokens_are_as_long_as_the_limit_and_work(kis: Kis) -> None:
    kis.rules(opaque_tokens=True)
    token = kis.token()
    assert len(token) == 350
    assert "." not in token
    assert kis.code(token) == "MCA00000"


def test_the_expiry_is_a_day_later_in_korean_time_without_a_zone(kis: Kis) -> None:
    answer = kis.ask().json()
    assert answer["access_token_token_expired"] == "2026-03-03 09:00:00"
    assert answer["expires_in"] == DAY
    assert answer["token_type"] == "Bearer"
    assert answer.keys() == {
        "access_token",
        "access_token_token_expired",
        "token_type",
        "expires_in",
    }


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        (0, "refused"),
        (59.9, "refused"),
        (60, "same"),
        (6 * HOUR - 1, "same"),
        (6 * HOUR, "new"),
        (DAY + 1, "new"),
    ],
)
def test_second_issuance(kis: Kis, after: float, outcome: str) -> None:
    first = kis.ask().json()
    kis.advance(after)
    second = kis.ask()
    if outcome == "refused":
        assert second.status_code == 403
        assert second.json() == TOO_SOON
        assert second.json()["error_description"] in second.text  # not escaped
    else:
        # The same token keeps its absolute expiry, but expires_in is always a full day.
        assert second.json()["expires_in"] == DAY
        assert (second.json() == first) == (outcome == "same")


def test_an_answer_with_the_same_token_starts_the_minute_too(kis: Kis) -> None:
    kis.token()
    kis.advance(MINUTE)
    kis.token()
    kis.advance(59)
    assert refusal(kis.ask()) == "EGW00133"


@pytest.mark.parametrize(("extend", "outcome"), [(False, 200), (True, 403)])
def test_whether_a_refusal_extends_the_minute(kis: Kis, extend: bool, outcome: int) -> None:
    kis.rules(rejections_extend_window=extend)
    kis.token()
    kis.advance(40)
    assert refusal(kis.ask()) == "EGW00133"
    kis.advance(20)
    assert kis.ask().status_code == outcome


def test_the_rules_of_the_six_hours_can_be_switched(kis: Kis) -> None:
    kis.rules(expires_in_counts_down=True)
    first = kis.ask().json()
    kis.advance(HOUR)
    second = kis.ask().json()
    assert second["access_token"] == first["access_token"]
    assert second["expires_in"] == 23 * HOUR
    kis.rules(same_token_for_six_hours=False)
    kis.advance(MINUTE)
    assert kis.ask().json()["access_token"] != first["access_token"]


@pytest.mark.parametrize(("dies", "code"), [(True, "EGW00121"), (False, "MCA00000")])
def test_what_a_new_token_does_to_the_old_one(kis: Kis, dies: bool, code: str) -> None:
    kis.rules(old_token_dies=dies)
    old = kis.token()
    kis.advance(6 * HOUR)
    new = kis.token()
    assert kis.code(old) == code
    assert kis.code(new) == "MCA00000"
    kis.advance(18 * HOUR)  # the old token expires now in any case
    assert kis.code(old) == ("EGW00121" if dies else "EGW00123")
    assert kis.code(new) == "MCA00000"


def test_state_is_kept_per_host_and_per_app_key(kis: Kis, paper: Kis) -> None:
    other = Kis(kis.simulator)
    other.key, other.secret = "another-app-key", "another-app-secret"
    body = {"app_key": other.key, "app_secret": other.secret, "host": "real"}
    kis.simulator.control("PUT", "credentials", body)

    tokens = [kis.token(), paper.token(), other.token()]

    clients = (kis, paper, other)
    codes = [client.code(token) for client, token in zip(clients, tokens, strict=True)]
    assert codes == ["MCA00000"] * 3
    assert kis.code(tokens[2]) == "EGW00121"  # another key's token
    assert kis.counters()["issuances"] == other.counters()["issuances"] == 1
    assert paper.counters()["issuances"] == 1
    for client in clients:
        assert refusal(client.ask()) == "EGW00133"


def test_one_key_on_both_hosts_has_two_states(kis: Kis, paper: Kis) -> None:
    body = {"app_key": kis.key, "app_secret": kis.secret, "host": "paper"}
    kis.simulator.control("PUT", "credentials", body)
    paper.key, paper.secret = kis.key, kis.secret
    assert kis.token() != paper.token()


# Refusals.


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"appkey": "P" * 36}, "EGW00103"),
        ({"appkey": ""}, "EGW00103"),
        ({"appsecret": "S" * 180}, "EGW00105"),
        ({"appsecret": ""}, "EGW00105"),
        ({"appsecret": "비밀"}, "EGW00105"),
        ({"grant_type": "password"}, "EGW00116"),
    ],
)
def test_bad_credentials_are_refused_before_the_minute_is_checked(
    kis: Kis, wrong: dict[str, str], code: str
) -> None:
    assert refusal(kis.ask(**wrong)) == code
    kis.token()  # the refusal did not use up the minute
    assert refusal(kis.ask(**wrong)) == code  # the minute does not hide the error


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_a_secret_with_white_space_at_its_end_is_wrong(kis: Kis, end: str) -> None:
    assert refusal(kis.ask(appsecret=kis.secret + end)) == "EGW00105"


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b'{"appkey": 1}'])
def test_a_body_that_is_no_json_object_is_refused(kis: Kis, body: bytes) -> None:
    assert refusal(requests.post(kis.url + "/oauth2/revokeP", data=body, timeout=5)) == "EGW00103"


def test_calls_with_a_bad_token_or_secret(kis: Kis) -> None:
    token = kis.token()
    assert kis.code(token) == "MCA00000"
    assert kis.code("unknown") == "EGW00121"
    assert kis.code(None) == "EGW00122"
    assert kis.code(token, authorization=token) == "EGW00122"  # without "Bearer"
    assert kis.code(token, appsecret="wrong") == "EGW00304"
    assert kis.code(token, appkey="wrong") == "EGW00103"
    kis.rules(missing_token_code="EGW00205")
    assert kis.code(None) == "EGW00205"
    kis.advance(DAY - 1)
    assert kis.code(token) == "MCA00000"
    kis.advance(1)
    assert kis.code(token) == "EGW00123"


def test_a_paper_key_on_the_real_host(kis: Kis, paper: Kis) -> None:
    token = paper.token()
    paper.url = kis.url
    assert paper.code(token) == "EGW02004"
    assert refusal(paper.ask()) == "EGW00103"


@pytest.mark.parametrize(("kind", "limit"), [("real", 18), ("paper", 1)])
def test_limit_per_second(
    frozen: RunningSimulator, kind: Literal["real", "paper"], limit: int
) -> None:
    kis = Kis(frozen, kind)
    token = kis.token()
    assert [kis.code(token) for _ in range(limit)] == ["MCA00000"] * limit
    assert kis.code(token) == "EGW00201"
    kis.advance(1)
    assert kis.code(token) == "MCA00000"


def test_limit_per_second_can_be_set(kis: Kis) -> None:
    kis.rules(requests_per_second_real=3)  # as for new customers
    token = kis.token()
    assert [kis.code(token) for _ in range(4)] == ["MCA00000"] * 3 + ["EGW00201"]


def test_counters(kis: Kis) -> None:
    assert kis.counters()["issuances"] == 0
    token = kis.token()
    kis.ask()
    kis.ask(appsecret="wrong")
    kis.ask(appkey="unknown")
    kis.advance(MINUTE)
    kis.token()  # the same token, and still a phone message
    kis.call(token)
    kis.call("wrong")
    assert kis.counters() == {
        "issuances": 2,
        "new_tokens": 1,
        "rejections": 2,
        "requests": 2,
        "codes": {"EGW00133": 1, "EGW00105": 1, "EGW00121": 1},
    }
    assert kis.counters("(unknown)")["rejections"] == 1


@pytest.mark.parametrize(("switch", "header"), [(False, None), (True, "60")])
def test_retry_after(kis: Kis, switch: bool, header: str | None) -> None:
    kis.rules(retry_after_header=switch)
    kis.token()
    assert kis.ask().headers.get("Retry-After") == header


def test_many_refusals_block_the_key_for_a_day_if_enabled(kis: Kis) -> None:
    kis.rules(block_after_rejections=3)
    kis.token()
    assert [refusal(kis.ask()) for _ in range(4)] == ["EGW00133"] * 3 + ["EGW00103"]
    kis.advance(DAY - 1)
    assert refusal(kis.ask()) == "EGW00103"
    kis.advance(1)
    kis.token()


@pytest.mark.parametrize(("clears", "outcome"), [(False, 403), (True, 200)])
def test_revoke(kis: Kis, clears: bool, outcome: int) -> None:
    kis.rules(revoke_clears_window=clears)
    token = kis.token()
    assert refusal(kis.revoke(token, appsecret="wrong")) == "EGW00105"
    assert refusal(kis.revoke("unknown")) == "EGW00121"
    assert kis.code(token) == "MCA00000"

    response = kis.revoke(token)

    assert response.status_code == 200
    assert response.json() == {"code": 200, "message": "접근토큰 폐기에 성공하였습니다"}
    assert kis.code(token) == "EGW00121"
    assert kis.ask().status_code == outcome
    kis.advance(MINUTE)
    assert kis.token() != token


# The other calls.


def test_approval_key(kis: Kis) -> None:
    body = {"grant_type": "client_credentials", "appkey": kis.key}
    answer = kis.post("/oauth2/Approval", **body, secretkey=kis.secret)
    assert answer.status_code == 200
    assert answer.json().keys() == {"approval_key"}
    # The name of the field differs from that of a token request.
    assert refusal(kis.post("/oauth2/Approval", **body, appsecret=kis.secret)) == "EGW00105"


def test_hashkey_needs_no_token(kis: Kis) -> None:
    def ask(secret: str) -> requests.Response:
        headers = {"appkey": kis.key, "appsecret": secret}
        return requests.post(
            kis.url + "/uapi/hashkey", json={"PDNO": "005930"}, headers=headers, timeout=5
        )

    assert ask(kis.secret).json()["BODY"] == {"PDNO": "005930"}
    assert re.fullmatch("[0-9a-f]{64}", ask(kis.secret).json()["HASH"])
    assert ask("wrong").json()["msg_cd"] == "EGW00304"


def test_quote(kis: Kis) -> None:
    token = kis.token()
    samsung, again, hynix = (
        kis.call(token, f"{PRICE}?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD={code}")
        for code in ("005930", "005930", "000660")
    )
    assert samsung.json()["rt_cd"] == "0"
    assert samsung.json()["msg1"] == "정상처리 되었습니다."
    assert samsung.json()["output"] == again.json()["output"]
    assert samsung.json()["output"] != hynix.json()["output"]
    assert int(samsung.json()["output"]["stck_prpr"]) > 0
    assert samsung.headers["tr_id"] == "FHKST01010100"
    assert samsung.headers["gt_uid"]


def test_other_calls_are_echoed_without_the_credentials(kis: Kis) -> None:
    token = kis.token()
    response = kis.call(token, f"{BALANCE}?CANO=1", "POST", custtype="P")
    output = response.json()["output"]
    assert (output["method"], output["path"], output["query"]) == ("POST", BALANCE, "CANO=1")
    assert output["headers"]["custtype"] == "P"
    assert token not in response.text
    assert kis.secret not in response.text


# Faults.


def test_empty_500(kis: Kis) -> None:
    token = kis.token()
    kis.fault(path="/uapi", kind="empty500", count=2)
    assert kis.call(token).json() == {"rt_cd": "1", "msg1": "", "msg_cd": ""}
    assert kis.code(token) == ""
    assert kis.code(token) == "MCA00000"


def test_one_key_can_be_refused_for_some_simulated_time(kis: Kis, paper: Kis) -> None:
    kis.fault(
        path="/oauth2/tokenP", kind="error", code="EGW00133", app_key=kis.key, for_seconds=120
    )
    assert kis.ask().json() == TOO_SOON
    paper.token()
    kis.advance(119)
    assert refusal(kis.ask()) == "EGW00133"
    kis.advance(1)
    kis.token()
    assert kis.counters()["rejections"] == 2


def test_an_injected_error_may_have_any_status(kis: Kis) -> None:
    kis.fault(path="/oauth2/tokenP", kind="error", code="EGW00002", status=502)
    assert kis.ask().status_code == 502
    kis.simulator.control("DELETE", "faults")
    kis.token()


def exchange(url: str) -> bytes:
    """The answer to a minimal token request; raises ``ConnectionResetError`` on a RST."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(b"POST /oauth2/tokenP HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        return connection.makefile("rb").read()


def test_connection_reset(kis: Kis) -> None:
    kis.fault(path="/oauth2", kind="reset", count=1)
    with pytest.raises(ConnectionResetError):
        exchange(kis.url)
    assert b"EGW00116" in exchange(kis.url)


def test_a_request_whose_answer_hangs_is_carried_out(kis: Kis) -> None:
    kis.fault(path="/oauth2/tokenP", kind="hang", seconds=600)
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            kis.url + "/oauth2/tokenP",
            json={
                "grant_type": "client_credentials",
                "appkey": kis.key,
                "appsecret": kis.secret,
            },
            timeout=0.2,
        )
    assert kis.counters()["issuances"] == 1
    kis.simulator.control("DELETE", "faults")
    assert refusal(kis.ask()) == "EGW00133"


def test_clearing_the_faults_releases_hanging_answers(kis: Kis) -> None:
    kis.fault(path="/oauth2/tokenP", kind="hang", seconds=600)
    answers: list[requests.Response] = []
    client = threading.Thread(target=lambda: answers.append(kis.ask()))
    client.start()
    wait_until(lambda: kis.counters()["issuances"] == 1)
    assert not answers
    kis.simulator.control("DELETE", "faults")
    client.join(5)
    assert answers[0].status_code == 200


# Control.


def test_clock(simulator: RunningSimulator) -> None:
    assert simulator.control("GET", "clock")["now"] == pytest.approx(time.time(), abs=60)
    assert simulator.control("PUT", "clock", {"now": NOW, "rate": 0}) == {"now": NOW, "rate": 0}
    assert simulator.control("PUT", "clock", {"advance": 90.5})["now"] == NOW + 90.5
    simulator.control("PUT", "clock", {"rate": 100_000})  # a day in 0.9 s
    wait_until(lambda: simulator.control("GET", "clock")["now"] > NOW + HOUR)


def test_rules_are_merged(simulator: RunningSimulator) -> None:
    defaults = simulator.control("GET", "rules")
    assert simulator.control("PUT", "rules", {"old_token_dies": False}) == {
        **defaults,
        "old_token_dies": False,
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PUT", "rules", {"old_token_lives": True}, "old_token_dies"),
        ("PUT", "rules", {"old_token_dies": 1}, "old_token_dies must be of type bool"),
        ("PUT", "rules", {"requests_per_second_real": True}, "of type int"),
        ("PUT", "rules", {"requests_per_second_real": -1}, "not negative"),
        ("PUT", "rules", None, "JSON object"),
        ("PUT", "clock", {"speed": 2}, "there are: now, advance, rate"),
        ("PUT", "clock", {"now": "today"}, "now must be of type float"),
        ("PUT", "clock", {"now": 1e18}, "1970 to 2099"),
        ("PUT", "clock", {"rate": -1}, "0 or more"),
        ("PUT", "credentials", {"app_key": "a", "host": "real"}, "missing: app_secret"),
        (
            "PUT",
            "credentials",
            {"app_key": "a", "app_secret": "b", "host": "demo"},
            "real or paper",
        ),
        ("POST", "faults", {"path": "/uapi", "kind": "slow"}, "empty500, reset, hang, error"),
        ("POST", "faults", {"path": "/uapi", "kind": "error"}, "needs a code"),
        ("POST", "faults", {"path": "/uapi", "kind": "reset", "count": 0}, "1 or more"),
        ("POST", "faults", {"kind": "reset"}, "missing: path"),
        (
            "POST",
            "faults",
            {"path": "/", "kind": "error", "code": "E", "status": 200},
            "400 to 599",
        ),
    ],
)
def test_mistakes_are_explained(
    simulator: RunningSimulator, method: str, path: str, body: object, words: str
) -> None:
    url = f"{simulator.real_url}/_simulator/{path}"
    response = requests.request(method, url, json=body, timeout=5)
    assert response.status_code == 400
    assert words in response.json()["error"]


def test_reset_restores_the_initial_state(kis: Kis) -> None:
    kis.rules(old_token_dies=False)
    body = {"app_key": kis.key, "app_secret": "changed", "host": "real"}
    kis.simulator.control("PUT", "credentials", body)
    assert refusal(kis.ask()) == "EGW00105"
    token = kis.ask(appsecret="changed").json()["access_token"]
    kis.fault(path="/uapi", kind="reset")

    kis.simulator.control("POST", "reset")

    assert kis.counters()["issuances"] == 0
    assert kis.code(token) == "EGW00121"
    assert kis.simulator.control("GET", "rules")["old_token_dies"] is True
    assert kis.simulator.control("GET", "clock")["rate"] == 1
    kis.token()


def test_the_control_api_shows_no_secret(kis: Kis) -> None:
    token = kis.token()
    kis.ask(appkey=kis.secret, appsecret=kis.key)  # key and secret are swapped
    kis.call(token, appkey=kis.secret)
    for path in ("counters", "rules", "clock", "health"):
        text = json.dumps(kis.simulator.control("GET", path))
        assert kis.secret not in text
        assert token not in text


def test_deep_json_is_a_refusal_as_any_other_body(kis: Kis) -> None:
    deep = b'{"appkey":' * 100_000
    assert requests.post(f"{kis.url}/oauth2/tokenP", data=deep, timeout=5).status_code == 403
    headers = {"appkey": kis.key, "appsecret": kis.secret}
    answer = requests.post(f"{kis.url}/uapi/hashkey", data=deep, headers=headers, timeout=5)
    assert (answer.status_code, answer.json()["BODY"]) == (200, None)
    assert requests.put(f"{kis.url}/_simulator/clock", data=deep, timeout=5).status_code == 400


def test_query_names_have_no_case(kis: Kis) -> None:
    """`mojito2` sends them in lower case, and KIS accepts them."""
    token = kis.token()
    path = PRICE.partition("?")[0]
    quotes = [
        kis.call(token, f"{path}?{query}").json()["output"]
        for query in ("FID_INPUT_ISCD=005930", "fid_input_iscd=005930")
    ]
    assert quotes[0] == quotes[1]
    assert quotes[0]["stck_shrn_iscd"] == "005930"


# With gunicorn, as in the container.


@pytest.fixture
def in_gunicorn(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """URLs of the real and the paper host of a simulator that gunicorn serves."""
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        real, paper = a.getsockname()[1], b.getsockname()[1]
    urls = (f"http://127.0.0.1:{real}", f"http://127.0.0.1:{paper}")
    command = [sys.executable, "-m", "gunicorn", "--threads", "4", "--graceful-timeout", "1"]
    command += ["--header-map", "dangerous"]
    command += ["--bind", f"127.0.0.1:{real}", "--bind", f"127.0.0.1:{paper}"]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    with subprocess.Popen(
        [*command, f"kis_simulator.app:create_app(paper_port={paper})"],
        env=os.environ | environment,
    ) as server:
        try:
            wait_until(lambda: server.poll() is not None or is_up(urls[1]))
            yield urls
        finally:
            server.terminate()
            assert server.wait(5) == 0


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/_simulator/health", timeout=1).ok
    except requests.ConnectionError:
        return False


def test_in_gunicorn(in_gunicorn: tuple[str, str], frozen: RunningSimulator) -> None:
    real_url, paper_url = in_gunicorn
    paper = Kis(replace(frozen, real_url=real_url, paper_url=paper_url), "paper")

    # The port selects the KIS host, not the name in the Host header.
    headers = {"Host": "openapivts.koreainvestment.com:29443"}
    assert requests.get(f"{real_url}{PRICE}", headers=headers, timeout=5).status_code == 500
    assert paper.simulator.control("GET", "counters")["real"]["(unknown)"]["requests"] == 1
    # Headers with an underscore in their name are passed on.
    assert paper.call(paper.token()).headers["tr_id"] == "FHKST01010100"
    # The fault `reset` is a TCP RST.
    paper.fault(path="/oauth2", kind="reset")
    with pytest.raises(ConnectionResetError):
        exchange(paper_url)
