"""Usage: pyinfra -y INVENTORY deploy/restart.py"""

from kis_gateway_deploy.deploys import restart

restart()
