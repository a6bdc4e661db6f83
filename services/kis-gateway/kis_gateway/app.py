"""The HTTP side of the gateway.

==============  ==================================================================================
``/health``     200 while the process is alive, with or without a token
``/ready``      200 with a valid token; else 503 with the reason and the time of the next attempt
``/uapi/…``     GET and POST, forwarded to KIS with token and credentials added
``/metrics``    for Prometheus
==============  ==================================================================================

The gateway's own errors are JSON, ``{"error": …, "message": …}``: 404 (only ``/uapi`` is
forwarded), 413, 429 (KIS's limit per second), 502 (no connection to KIS, or it broke), 503 (no
token, or too many requests in progress) and 504 (no answer in time). KIS's answers are passed on
with their status.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping

import requests
from flask import Flask, Response, abort, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from .config import ConfigurationError, Settings
from .keeper import Keeper
from .kis import (
    MAX_IN_FLIGHT,
    REFUSED_TOKENS,
    Kis,
    KisTimeout,
    KisUnavailable,
    json_object,
)
from .limiter import Limiter, TooManyRequests
from .metrics import Metrics
from .tokens import Token, TokenStore, fingerprint_of, format_time

log = logging.getLogger(__name__)

LONGEST_TURN_WAIT = 5.0
LONGEST_TOKEN_WAIT = 10.0
"""Seconds that a request waits at most for its turn, and for a token that is being issued."""

# The headers that KIS documents. No other is passed on: client credentials, hop-by-hop headers, …
REQUEST_HEADERS = (
    "accept",
    "content-type",
    "custtype",
    "gt_uid",
    "hashkey",
    "ip_addr",
    "mac_address",
    "personalseckey",
    "phone_number",
    "seq_no",
    "tr_cont",
    "tr_id",
)
RESPONSE_HEADERS = ("content-type", "gt_uid", "tr_cont", "tr_id")

NOT_FOUND = "there are /health, /ready and /metrics, and what is under /uapi/… is forwarded to KIS"
MAYBE_AN_ORDER = ". KIS may have acted on it: if it was an order, look before you send it again"

# All KIS paths match this. Without dots and escapes, no path can leave /uapi.
PATH = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


def create_app() -> Flask:
    """The gateway that the environment describes; wrong settings: one line and exit status 1."""
    try:
        settings = Settings.from_environ(os.environ)
    except ConfigurationError as error:
        sys.exit(f"kis-gateway cannot start: {error}")
    metrics = Metrics()
    kis = Kis(settings)
    store = TokenStore(settings.token_file, fingerprint_of(settings.app_key))
    keeper = Keeper(store, kis, metrics)
    return build_app(kis, keeper, Limiter(settings.requests_per_second), metrics)


def build_app(kis: Kis, keeper: Keeper, limiter: Limiter, metrics: Metrics) -> Flask:
    """The WSGI application; its server must start and stop ``app.extensions["keeper"]``."""
    app = Flask(__name__)
    app.extensions["keeper"] = keeper
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = 1024 * 1024
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    # If KIS hangs, it can hold at most this many threads: /health needs a free one.
    slots = threading.BoundedSemaphore(MAX_IN_FLIGHT)

    @app.get("/health")
    def health() -> Response:
        return jsonify(status="alive")

    @app.get("/ready")
    def ready() -> Response:
        token = keeper.status().token
        if token is None:
            return not_ready()
        return jsonify(ready=True, token_expires_at=format_time(token.expires_at))

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_LATEST)

    @app.route("/uapi/<path:path>", methods=["GET", "POST"])
    def forward(path: str) -> Response:
        if not PATH.fullmatch(path):
            abort(404)
        if not slots.acquire(blocking=False):
            return problem(503, "busy", f"already {MAX_IN_FLIGHT} requests to KIS in progress", 1)
        try:
            token = keeper.token(LONGEST_TOKEN_WAIT)
            if token is None:
                return not_ready()
            answer = send(token)
            if error_code(answer) in REFUSED_TOKENS:
                token = keeper.replace(token, LONGEST_TOKEN_WAIT)
                if token is None:
                    return not_ready()
                answer = send(token)
        except TooManyRequests as error:
            metrics.limiter_refusals.inc()
            return problem(429, "too_many_requests", f"KIS's limit per second: {error}", error.wait)
        except KisUnavailable as error:
            metrics.upstream_requests.labels("none", "").inc()
            log.warning("%s %s: %s", request.method, request.path, error)
            message = f"{error}{MAYBE_AN_ORDER if request.method == 'POST' else ''}"
            if isinstance(error, KisTimeout):
                return problem(504, "kis_timeout", message)
            return problem(502, "kis_unreachable", message)
        finally:
            slots.release()
        return Response(answer.content, answer.status_code, only(RESPONSE_HEADERS, answer.headers))

    def send(token: Token) -> requests.Response:
        metrics.limiter_wait.observe(limiter.wait_for_turn(LONGEST_TURN_WAIT))
        answer = kis.call(
            token,
            request.method,
            request.path,
            request.query_string.decode("latin-1"),
            only(REQUEST_HEADERS, request.headers),
            request.get_data(),
        )
        code = error_code(answer)
        metrics.upstream_requests.labels(str(answer.status_code), code).inc()
        if answer.status_code != 200:
            status = answer.status_code
            log.warning("%s %s: HTTP %d %s", request.method, request.path, status, code)
        return answer

    def not_ready() -> Response:
        status = keeper.status()
        return problem(
            503,
            "not_ready",
            status.problem,
            retry_after=status.next_attempt_in,
            next_attempt_at=format_time(status.next_attempt_at),
        )

    def problem(
        status: int, error: str, message: str, retry_after: float | None = None, **more: str
    ) -> Response:
        response = jsonify(error=error, message=message, **more)
        response.status_code = status
        if retry_after is not None:
            response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        return response

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        name = error.name.lower().replace(" ", "_")
        message = NOT_FOUND if error.code == 404 else str(error.description)
        return problem(error.code or 500, name, message)

    return app


def only(names: Iterable[str], headers: Mapping[str, str] | Headers) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def error_code(answer: requests.Response) -> str:
    """KIS's ``msg_cd``, e.g. ``EGW00121``; empty for HTTP 200 or if KIS gives none."""
    if answer.status_code == 200:
        return ""
    return str(json_object(answer).get("msg_cd", ""))
