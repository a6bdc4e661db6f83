"""This machine, with the reference gateway and the KIS simulator: no account and no hub needed.

Copy `example_fleet.py`, not this file, for hosts and an image of your own.
"""

import os
from pathlib import Path

_services = Path(__file__).parents[1] / "services"

local = [
    (
        "@local",
        {
            "_sudo": os.geteuid() != 0,
            "gateway_image": "kis-gateway",
            "gateway_image_source": "build",
            "gateway_build_context": _services / "kis-gateway",
            # The simulator's own credentials: plainly made up, and the only ones it knows.
            "gateway_secrets_file": _services / "kis-simulator/kis_simulator/demo_credentials.json",
            "gateway_app_key_field": "kis-r-app-key",
            "gateway_environment": {"KIS_BASE_URL": "http://host.docker.internal:9443"},
            "gateway_simulator": True,
        },
    ),
]
