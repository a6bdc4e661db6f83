"""Usage: pyinfra -y INVENTORY deploy/drift.py"""

from kis_gateway_deploy.deploys import drift

drift()
