"""The throw-away hosts of `make lab`, with the reference gateway and the lab's simulator."""

import sys

from lab.engine import LabError
from lab.lab import Lab

_lab = Lab.from_environment()
try:
    _hosts = _lab.hosts()
except LabError as _error:
    sys.exit(str(_error))

lab = [
    (
        host.name,
        {
            "ssh_hostname": "127.0.0.1",
            "ssh_port": host.ssh_port,
            "ssh_user": "ops",
            "ssh_key": str(_lab.key),
            "ssh_known_hosts_file": str(_lab.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "_sudo": True,
            "gateway_image": "kis-gateway",
            "gateway_image_source": "archive",
            "gateway_image_archive": _lab.gateway_archive,
            # Each host has its own account: KIS issues one token per minute and app key.
            "gateway_secrets_file": host.secrets_file,
            "gateway_app_key_field": "kis-r-app-key",
            "gateway_environment": {"KIS_BASE_URL": _lab.simulator_url},
            "gateway_cached_token_log": "유효한 캐시 토큰 사용",
        },
    )
    for host in _hosts
]
