"""Usage: pyinfra -y INVENTORY deploy/status.py"""

from kis_gateway_deploy.deploys import status

status()
