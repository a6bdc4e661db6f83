"""The control API under ``/_simulator``: for tests and demonstrations, on either port, JSON.

=========================  ========================================================================
``GET health``             200
``GET counters``           ``{"real": {app key: {…}}, "paper": {…}}``, see below
``GET clock``              ``{"now": epoch seconds, "rate": simulated seconds per real second}``
``PUT clock``              any of ``now``, ``advance`` (seconds), ``rate``; 0 stops the clock
``GET rules``              the switches and limits (``rules.Rules``) with their values
``PUT rules``              changes some of them; the others stay
``POST faults``            ``path`` (prefix) and ``kind``; optional: ``count``, ``app_key``,
                           ``for_seconds`` (simulated), ``code``, ``status``, ``seconds``
``DELETE faults``          ends all faults and releases the requests that hang
``PUT credentials``        ``app_key``, ``app_secret``, ``host``: ``real`` or ``paper``
``POST reset``             back to the initial state
=========================  ========================================================================

Counters: ``issuances`` are the successful calls of ``/oauth2/tokenP`` (on the real host, each sends
the customer a phone message, even if the token is the same); ``new_tokens`` are the issuances that
made a new token; ``rejections`` are the refused calls of ``/oauth2/tokenP``, including injected
errors; ``requests`` are all calls of ``/uapi``; ``codes`` counts every refusal by its code. Keys
that are not registered are counted together, as ``(unknown)``.

Kinds of faults: ``error`` (answers with ``code``; ``status`` replaces KIS's HTTP status),
``empty500`` (500 with empty code and message), ``reset`` (TCP reset, the request is not executed),
``hang`` (the request is executed; the answer comes after ``seconds`` of real time, by default 10).
Without ``count`` and ``for_seconds`` a fault lasts until it is cleared; the first that applies is
used.

An answer never contains a secret or a token. A wrong request gets 400 ``{"error": text}``.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from .simulation import Fault, Simulation

FAULT_KINDS = ("empty500", "reset", "hang", "error")


def control_api(simulation: Simulation) -> Blueprint:
    api = Blueprint("control", __name__)

    @api.errorhandler(ValueError)
    def bad_request(error: ValueError) -> ResponseReturnValue:
        return jsonify(error=str(error)), 400

    @api.get("/health")
    def health() -> ResponseReturnValue:
        return jsonify(status="ok")

    @api.get("/counters")
    def counters() -> ResponseReturnValue:
        return jsonify(simulation.counters())

    @api.get("/clock")
    def clock() -> Response:
        return jsonify(now=simulation.clock.now(), rate=simulation.clock.rate)

    @api.put("/clock")
    def change_clock() -> ResponseReturnValue:
        simulation.change_clock(**_fields(now=float, advance=float, rate=float))
        return clock()

    @api.get("/rules")
    def rules() -> Response:
        return jsonify(asdict(simulation.rules))

    @api.put("/rules")
    def change_rules() -> ResponseReturnValue:
        simulation.change_rules(_json_object())
        return rules()

    @api.post("/faults")
    def add_fault() -> ResponseReturnValue:
        simulation.add_fault(_fault(simulation.clock.now()))
        return jsonify(status="ok")

    @api.delete("/faults")
    def clear_faults() -> ResponseReturnValue:
        simulation.clear_faults()
        return jsonify(status="ok")

    @api.put("/credentials")
    def register() -> ResponseReturnValue:
        given = _fields("app_key", "app_secret", "host", app_key=str, app_secret=str, host=str)
        if given["host"] not in ("real", "paper"):
            raise ValueError("host must be real or paper")
        simulation.register(given["host"], given["app_key"], given["app_secret"])
        return jsonify(status="ok")

    @api.post("/reset")
    def reset() -> ResponseReturnValue:
        simulation.reset()
        return jsonify(status="ok")

    return api


def _fault(now: float) -> Fault:
    given = _fields(
        "path",
        "kind",
        path=str,
        kind=str,
        code=str,
        status=int,
        seconds=float,
        count=int,
        app_key=str,
        for_seconds=float,
    )
    if given["kind"] not in FAULT_KINDS:
        raise ValueError(f"kind must be one of {', '.join(FAULT_KINDS)}")
    if given["kind"] == "error" and "code" not in given:
        raise ValueError('a fault of kind "error" needs a code, e.g. "EGW00133"')
    if not 400 <= given.get("status", 500) <= 599:
        raise ValueError("status must be an HTTP status of an error: 400 to 599")
    if given.get("count", 1) < 1:
        raise ValueError("count must be 1 or more, or null for no limit")
    lasts = given.pop("for_seconds", None)
    return Fault(**given, until=None if lasts is None else now + lasts)


def _json_object() -> dict[str, Any]:
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


def _fields(*required: str, **types: type) -> dict[str, Any]:
    """The fields of the body that are not null; raises ``ValueError`` with a message."""
    body = _json_object()
    if unknown := sorted(set(body) - set(types)):
        raise ValueError(f"no such field: {', '.join(unknown)}; there are: {', '.join(types)}")
    given = {name: value for name, value in body.items() if value is not None}
    if missing := [name for name in required if name not in given]:
        raise ValueError(f"missing: {', '.join(missing)}")
    for name, value in given.items():
        allowed = (int, float) if types[name] is float else types[name]
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise ValueError(f"{name} must be of type {types[name].__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number")
    return given
