"""A gateway with a real and a paper app key, whose tokens are in one file.

It writes the file after each token: for a moment only one of them is in it.
"""

import json
import os
import time
from pathlib import Path

import requests
from flask import Flask

TOKEN_FILE = Path(os.environ.get("TOKENS_DIR", "/data")) / "tokens.json"
PREFIXES = {"real": "KIS_", "paper": "KIS_PAPER_"}

tokens = json.loads(TOKEN_FILE.read_text()) if TOKEN_FILE.exists() else {}
for name, prefix in PREFIXES.items():
    if name in tokens and tokens[name]["expires_at"] > time.time():
        continue
    answer = requests.post(
        os.environ[f"{prefix}BASE_URL"] + "/oauth2/tokenP",
        json={
            "grant_type": "client_credentials",
            "appkey": os.environ[f"{prefix}APP_KEY"],
            "appsecret": os.environ[f"{prefix}APP_SECRET"],
        },
        timeout=5,
    )
    answer.raise_for_status()
    issued = answer.json()
    expires_at = time.time() + issued["expires_in"]
    tokens[name] = {"access_token": issued["access_token"], "expires_at": expires_at}
    TOKEN_FILE.write_text(json.dumps(tokens))

app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


app.run("0.0.0.0", int(os.environ["PORT"]))  # noqa: S104
