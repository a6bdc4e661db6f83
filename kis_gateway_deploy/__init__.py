"""Deploys KIS gateways with pyinfra so that their access token outlives the container."""
