from __future__ import annotations

from typing import Any

import pytest

from kis_gateway_deploy.host.prepare import _holds

OWN: dict[str, Any] = {
    "user": "10001:10001",
    "environment": {"PORT": "8080"},
    "volumes": [{"type": "bind", "source": "/data", "target": "/app/tokens"}],
    "labels": {},
    "command": None,
}


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"dns": ["10.0.0.53"]}, True),
        ({"environment": {"PORT": "8080", "MORE": "1"}}, True),
        ({"volumes": [*OWN["volumes"], {"type": "volume", "target": "/x"}]}, True),
        ({"command": ["sh"]}, True),
        ({"user": "0:0"}, False),
        ({"user": None}, False),
        ({"environment": {"PORT": "9090"}}, False),
        ({"environment": None}, False),
        ({"volumes": []}, False),
        ({"volumes": [{"type": "bind", "source": "/other", "target": "/app/tokens"}]}, False),
    ],
)
def test_what_the_package_says_must_survive_the_merge(changes: dict[str, Any], holds: bool) -> None:
    assert _holds(OWN | changes, OWN) is holds
