from __future__ import annotations

import pytest

from kis_gateway_deploy.override import problems_in

HEAD = "services:\n  kis-gateway:\n    "


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ports: ['0.0.0.0:8080:8080']", "may not set ports"),
        ("scale: 2", "may not set scale"),
        ("deploy: {replicas: 2}", "may not set deploy"),
        ("volumes: ['/tmp/x:/app/tokens/kis_token.json']", "it would hide the token"),
        ("volumes: [{type: bind, source: /x, target: /app/tokens/}]", "it would hide the token"),
        ("tmpfs: /app/tokens", "it would hide the token"),
        ("environment: {EXTRA: $HOME}", "has a `$`"),
        ("environment: {EXTRA: a$$$b}", "has a `$`"),
        ("volumes: 5", ""),
        ("volumes: true", ""),
        ("environment: {EXTRA: pa$$word}", ""),
        ("volumes: ['data:/data', '/srv/logs:/logs:ro']", ""),
    ],
)
def test_an_override_may_not_publish_or_hide_the_token(text: str, why: str) -> None:
    found = problems_in((HEAD + text).encode(), "kis-gateway", "/app/tokens")
    assert found == [] if not why else any(why in problem for problem in found)
