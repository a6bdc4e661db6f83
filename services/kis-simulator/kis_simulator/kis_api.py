"""The wire format of KIS: the form of its requests and answers. The rules are in ``rules``.

Refusals under ``/oauth2``: 403 ``{"error_description", "error_code"}``; under ``/uapi``: 500
``{"rt_cd": "1", "msg_cd", "msg1"}``.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import uuid
from typing import Any

from flask import Blueprint, Response, current_app, g, jsonify, request
from flask.typing import ResponseReturnValue

from .rules import ISSUANCE_WINDOW, MESSAGES, Host, Refused
from .simulation import Fault, Simulation

CREDENTIAL_HEADERS = {"authorization", "appkey", "appsecret"}
QUOTE_PATH = "domestic-stock/v1/quotations/inquire-price"


def kis_api(simulation: Simulation) -> Blueprint:
    api = Blueprint("kis", __name__)

    @api.before_request
    def inject_fault() -> ResponseReturnValue | None:
        if not _is_oauth():
            simulation.count_request(_host(), _app_key())
        fault = simulation.take_fault(request.path, _app_key())
        match fault:
            case Fault(kind="empty500"):
                return _refusal("", 500)
            case Fault(kind="reset"):
                return _reset_connection()
            case Fault(kind="error"):
                return refuse(fault.code, fault.status)
            case Fault(kind="hang"):
                g.hang = fault
        return None

    @api.after_request
    def hang(response: Response) -> Response:
        # The request is already executed; only the answer hangs, as if the network had lost it.
        # A client that asked for a token has used up its minute. The wait is in real time.
        if "hang" in g:
            g.hang.cleared.wait(g.hang.seconds)
        return response

    def refuse(code: str, status: int | None = None) -> Response:
        of_token = request.path == "/oauth2/tokenP"
        simulation.count_refusal(_host(), _app_key(), code, of_token=of_token)
        response = _refusal(code, status)
        if code == "EGW00133" and simulation.rules.retry_after_header:
            response.headers["Retry-After"] = str(ISSUANCE_WINDOW)
        return response

    @api.errorhandler(Refused)
    def refused(refusal: Refused) -> Response:
        return refuse(refusal.code)

    @api.post("/oauth2/tokenP")
    def issue() -> ResponseReturnValue:
        _check_grant_type()
        token, expires_in = simulation.issue(_host(), _app_key(), _field("appsecret"))
        return jsonify(
            access_token=token.value,
            access_token_token_expired=token.expires_at_kst,
            token_type="Bearer",  # noqa: S106
            expires_in=expires_in,
        )

    @api.post("/oauth2/revokeP")
    def revoke() -> ResponseReturnValue:
        simulation.revoke(_host(), _app_key(), _field("appsecret"), _field("token"))
        return jsonify(code=200, message="접근토큰 폐기에 성공하였습니다")

    @api.post("/oauth2/Approval")
    def approve() -> ResponseReturnValue:
        _check_grant_type()
        simulation.approve(_host(), _app_key(), _field("secretkey"))
        return jsonify(approval_key=str(uuid.uuid4()))

    @api.post("/uapi/hashkey")
    def hashkey() -> ResponseReturnValue:
        simulation.hashkey(_host(), _app_key(), request.headers.get("appsecret", ""))
        digest = hashlib.sha256(request.get_data()).hexdigest()
        return jsonify(BODY=request.get_json(force=True, silent=True), HASH=digest)

    @api.route("/uapi/<path:path>", methods=["GET", "POST"])
    def call(path: str) -> ResponseReturnValue:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        simulation.call(
            _host(),
            _app_key(),
            request.headers.get("appsecret", ""),
            token.strip() if scheme.lower() == "bearer" else "",
        )
        is_quote = path == QUOTE_PATH and request.method == "GET"
        response = jsonify(
            output=_quote(_argument("FID_INPUT_ISCD")) if is_quote else _echo(),
            rt_cd="0",
            msg_cd="MCA00000",
            msg1="정상처리 되었습니다.",
        )
        response.headers["tr_id"] = request.headers.get("tr_id", "")
        response.headers["tr_cont"] = ""
        response.headers["gt_uid"] = uuid.uuid4().hex
        return response

    return api


def _host() -> Host:
    """By the port of the request, because the client can choose the Host header."""
    port = int(request.environ["SERVER_PORT"])
    return "paper" if port == current_app.config["PAPER_PORT"] else "real"


def _is_oauth() -> bool:
    return request.path.startswith("/oauth2/")


def _app_key() -> str:
    return _field("appkey") if _is_oauth() else request.headers.get("appkey", "")


def _field(name: str) -> str:
    """A string of the JSON body; "" if it is missing, which every rule rejects."""
    body = request.get_json(force=True, silent=True)
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else ""


def _check_grant_type() -> None:
    if _field("grant_type") != "client_credentials":
        raise Refused("EGW00116")


def _refusal(code: str, status: int | None = None) -> Response:
    message = MESSAGES.get(code, "")
    if _is_oauth():
        response = jsonify(error_description=message, error_code=code)
        response.status_code = status or 403
    else:
        response = jsonify(rt_cd="1", msg1=message, msg_cd=code)
        response.status_code = status or 500
    return response


def _reset_connection() -> Response:
    """Ends the connection with a TCP reset, without an answer.

    A close with SO_LINGER 0 sends a reset. The server still uses the descriptor: it then refers to
    a socket whose peer is closed, which servers handle.
    """
    connection: socket.socket = (
        request.environ.get("gunicorn.socket") or request.environ["werkzeug.socket"]
    )
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.dup2(ours.fileno(), connection.fileno())
    return Response()


def _argument(name: str) -> str:
    """Of the query, in upper or lower case: KIS accepts both, and `mojito2` sends lower case."""
    found = {key.upper(): value for key, value in request.args.items()}
    return found.get(name, "")


def _quote(stock_code: str) -> dict[str, str]:
    """A plausible quote, always the same for one code; all values are strings, as at KIS."""
    seed = int.from_bytes(hashlib.sha256(stock_code.encode()).digest()[:4])
    base = 5_000 + seed % 1_500 * 100
    change = (seed // 1_500 % 41 - 20) * 100
    sign = "2" if change > 0 else "5" if change < 0 else "3"
    return {
        "stck_shrn_iscd": stock_code,
        "stck_prpr": str(base + change),
        "prdy_vrss": str(change),
        "prdy_vrss_sign": sign,
        "prdy_ctrt": f"{100 * change / base:.2f}",
        "stck_oprc": str(base),
        "stck_hgpr": str(base + max(change, 0) + 100),
        "stck_lwpr": str(base + min(change, 0) - 100),
        "acml_vol": str(seed % 10_000_000),
    }


def _echo() -> dict[str, Any]:
    """The request without the credentials: for tests of what a gateway passes on.

    Header names are in lower case with hyphens, even ``tr_id``: WSGI does not keep the difference.
    """
    headers = {name.lower(): value for name, value in request.headers}
    return {
        "method": request.method,
        "path": request.path,
        "query": request.query_string.decode(),
        "headers": {k: v for k, v in headers.items() if k not in CREDENTIAL_HEADERS},
        "body": request.get_data(as_text=True),
    }
