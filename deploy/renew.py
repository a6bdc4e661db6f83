"""Usage: pyinfra -y INVENTORY deploy/renew.py"""

from kis_gateway_deploy.deploys import renew

renew()
