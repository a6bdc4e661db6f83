"""A gateway as found in the wild, with the habits that this project has to handle.

It asks KIS for a token while it starts, and exits if it gets none. It trusts any token file that it
finds, does not record the app key of the token, writes in place, and always answers /health with
200. Its token file is in the container unless KIS_TOKEN_FILE_PATH names another path.

TOKEN_FORM is the form of the file: `json`; `sealed`: only the gateway can read it; `naive`: with a
date without a zone; `bare`: with `token` in place of `access_token`.

HABIT is one more habit: `rewrites`: it rewrites its file at each start; `patient`: it waits for
65 s if KIS refuses it; `private`: it listens only on 127.0.0.1 of the container; `flaky`: it
answers every other request with 503; `mortal`: it exits 3 s after its start; `at_home`: its token
file has a fixed path, and its keys are in the environment; `late`: if KIS refuses its token, it
answers /price well, and its file has the new one 0.4 s later.

It answers 503 while a file `bad` is next to its token file, and /price with KIS's own answer.
"""

import base64
import json
import os
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FORM = os.environ.get("TOKEN_FORM", "json")
FIELD = os.environ.get("APP_KEY_FIELD", "kis-r-app-key")
HABIT = os.environ.get("HABIT", "")
if HABIT == "at_home":
    TOKEN_FILE = Path("/srv/kis/.kis_token_cache.json")
    SECRETS = {FIELD: os.environ["KIS_APP_KEY"], "kis-r-app-secret": os.environ["KIS_APP_SECRET"]}
else:
    TOKEN_FILE = Path(os.environ.get("KIS_TOKEN_FILE_PATH", "/tmp/kis_token_gateway.json"))  # noqa: S108
    SECRETS = json.loads(Path(os.environ["SECRETS_FILE"]).read_text())
PATIENCE = 65
BAD = TOKEN_FILE.with_name("bad")


def read() -> tuple[str, float]:
    text = TOKEN_FILE.read_text()
    if FORM == "sealed":
        text = base64.b64decode(text.removeprefix("SEALED:")).decode()
    cached = json.loads(text)
    if FORM == "naive":
        return cached["access_token"], datetime.fromisoformat(cached["expires_at"]).timestamp()
    if FORM == "bare":
        return cached["token"], cached["expires_at"]
    return cached["access_token"], cached["expires_at"]


def write(token: str, expires_at: float) -> None:
    text = json.dumps({"access_token": token, "expires_at": expires_at})
    if FORM == "sealed":
        text = "SEALED:" + base64.b64encode(text.encode()).decode()
    if (
        FORM == "naive"
    ):  # the container's zone is UTC; read as Korean time, this moment is in the past
        ends = datetime.now() + timedelta(hours=8)
        text = json.dumps({"access_token": "opaque", "expires_at": ends.isoformat()})
    if FORM == "bare":
        text = json.dumps({"token": token, "expires_at": expires_at})
    TOKEN_FILE.write_text(text)


def token() -> str:
    if TOKEN_FILE.exists():
        cached, expires_at = read()
        if time.time() < expires_at - 600:
            print("(Auth) ✅ 유효한 캐시 토큰 사용. (잠금 내)", flush=True)
            if HABIT == "rewrites":
                write(cached, expires_at)
            return cached
    body = {
        "grant_type": "client_credentials",
        "appkey": SECRETS[FIELD],
        "appsecret": SECRETS[FIELD.replace("app-key", "app-secret")],
    }
    request = urllib.request.Request(
        os.environ["KIS_BASE_URL"] + "/oauth2/tokenP",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            issued = json.load(answer)
    except urllib.error.HTTPError as error:
        # Like httpx and requests: the code on one line, the status on the next.
        print(f"token refused: {error.read().decode()}", flush=True)
        if HABIT != "patient":
            raise
        time.sleep(PATIENCE)
        return token()
    write(issued["access_token"], time.time() + issued["expires_in"])
    return str(issued["access_token"])


def price() -> tuple[int, bytes]:
    """KIS's answer to a quotation, as it is: a refused token is not replaced."""
    headers = {
        "authorization": f"Bearer {read()[0]}",
        "appkey": SECRETS[FIELD],
        "appsecret": SECRETS[FIELD.replace("app-key", "app-secret")],
    }
    url = f"{os.environ['KIS_BASE_URL']}/uapi/domestic-stock/v1/quotations/inquire-price"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as got:
            return got.status, got.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def renewed_later() -> tuple[int, bytes]:
    TOKEN_FILE.unlink()
    threading.Timer(0.4, token).start()
    return 200, b'{"rt_cd": "0"}'


class Health(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        if self.path.startswith("/price"):
            status, content = price()
            if HABIT == "late" and status != 200:
                status, content = renewed_later()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)
            return
        Health.asked += 1
        is_bad = (HABIT == "flaky" and Health.asked % 2 == 0) or BAD.exists()
        self.send_response(503 if is_bad else 200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


token()
print("✅ KIS Client 초기화 완료 (토큰 발급 성공)", flush=True)
if HABIT == "mortal":
    threading.Timer(3, os._exit, [7]).start()
address = "127.0.0.1" if HABIT == "private" else "0.0.0.0"  # noqa: S104
ThreadingHTTPServer((address, int(os.environ.get("PORT", "8080"))), Health).serve_forever()
