"""A gateway with mojito2, which pickles its token and both keys into the working directory."""

import os

import mojito
from flask import Flask


def set_base_url(broker: mojito.KoreaInvestment, mock: bool) -> None:  # noqa: ARG001
    broker.base_url = os.environ["KIS_BASE_URL"]


mojito.KoreaInvestment.set_base_url = set_base_url
mojito.KoreaInvestment(os.environ["KIS_APP_KEY"], os.environ["KIS_APP_SECRET"], "00000000-01")

app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


app.run("0.0.0.0", int(os.environ["PORT"]))  # noqa: S104
