"""A gateway with the token file of KIS's official sample (kis_auth.py): YAML, one file a day.

The file is created empty when the module is imported. The dates are Korean, from the image's TZ.
"""

import os
from datetime import datetime
from pathlib import Path

import requests
import yaml
from flask import Flask

TOKEN_FILE = Path.home() / "KIS/config" / datetime.now().strftime("KIS%Y%m%d")
TOKEN_FILE.parent.mkdir(parents=True, exist_ok=True)
TOKEN_FILE.touch()


def read_token() -> str | None:
    try:
        stored = yaml.safe_load(TOKEN_FILE.read_text())
        return stored["token"] if stored["valid-date"] > datetime.now() else None
    except Exception:  # as in the sample
        return None


def auth() -> None:
    if read_token():
        return
    keys = {"appkey": os.environ["KIS_APP_KEY"], "appsecret": os.environ["KIS_APP_SECRET"]}
    answer = requests.post(
        os.environ["KIS_BASE_URL"] + "/oauth2/tokenP",
        json={"grant_type": "client_credentials"} | keys,
        timeout=5,
    )
    answer.raise_for_status()
    issued = answer.json()
    TOKEN_FILE.write_text(
        f"token: {issued['access_token']}\nvalid-date: {issued['access_token_token_expired']}\n"
    )


auth()

app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


app.run("0.0.0.0", int(os.environ["PORT"]))  # noqa: S104
