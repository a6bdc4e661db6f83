"""Deploys KIS gateways with pyinfra so that their access token outlives the container.

In a deploy file of your own: `from kis_gateway_deploy import up`, and `up()` as one of its steps.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kis_gateway_deploy.deploys import (
        adopt,
        down,
        drift,
        history,
        logs,
        plan,
        renew,
        restart,
        rollback,
        status,
        up,
    )

__all__ = [
    "adopt",
    "down",
    "drift",
    "history",
    "logs",
    "plan",
    "renew",
    "restart",
    "rollback",
    "status",
    "up",
]


def __getattr__(name: str) -> object:
    """The verbs, imported when one is asked for: nothing else here needs pyinfra."""
    if name in __all__:
        from kis_gateway_deploy import deploys

        return getattr(deploys, name)
    raise AttributeError(name)
