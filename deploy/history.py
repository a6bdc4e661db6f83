"""Usage: pyinfra -y INVENTORY deploy/history.py"""

from kis_gateway_deploy.deploys import history

history()
