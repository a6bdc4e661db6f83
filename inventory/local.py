"""This machine, with the reference gateway and the KIS simulator: needs no account or registry.

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
            # The simulator's demo credentials: invented, and the only ones that it accepts.
            "gateway_secrets_file": _services / "kis-simulator/kis_simulator/demo_credentials.json",
            "gateway_app_key_field": "kis-r-app-key",
            "gateway_environment": {"KIS_BASE_URL": "http://host.docker.internal:9443"},
            "gateway_simulator": True,
            # A quotation: it shows whether KIS accepts the token, and costs none.
            "gateway_probe": {
                "path": "/uapi/domestic-stock/v1/quotations/inquire-price"
                "?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=005930",
                "headers": {"tr_id": "FHKST01010100"},
                "expect": {"rt_cd": "0"},
            },
            "gateway_cached_token_log": "유효한 캐시 토큰 사용",
        },
    ),
]
