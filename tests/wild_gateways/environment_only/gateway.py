"""A gateway that has its keys from the environment and its token in memory: it has no file."""

import os

import requests
from flask import Flask

answer = requests.post(
    os.environ["KIS_BASE_URL"] + "/oauth2/tokenP",
    json={
        "grant_type": "client_credentials",
        "appkey": os.environ["KIS_APP_KEY"],
        "appsecret": os.environ["KIS_APP_SECRET"],
    },
    timeout=5,
)
answer.raise_for_status()
token = answer.json()["access_token"]

app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


app.run("0.0.0.0", int(os.environ["PORT"]))  # noqa: S104
