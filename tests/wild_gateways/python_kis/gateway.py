"""A gateway with python-kis, which keeps a directory of token files, one for each app key."""

import os

import pykis.kis
from flask import Flask

pykis.kis.REAL_DOMAIN = os.environ["KIS_BASE_URL"]
kis = pykis.PyKis(
    id="trader",
    account="00000000-01",
    appkey=os.environ["KIS_APP_KEY"],
    secretkey=os.environ["KIS_APP_SECRET"],
    keep_token="/app/.pykis",
    use_websocket=False,
)
kis.token  # noqa: B018 - it asks KIS, or is the stored one

app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


app.run("0.0.0.0", int(os.environ["PORT"]))  # noqa: S104
