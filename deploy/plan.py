"""Usage: pyinfra -y INVENTORY deploy/plan.py"""

from kis_gateway_deploy.deploys import plan

plan()
