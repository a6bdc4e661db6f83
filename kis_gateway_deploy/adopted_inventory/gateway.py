"""Image, network, health check and limits of the container, as settings."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

from kis_gateway_deploy.adopted_inventory.draft import Draft
from kis_gateway_deploy.compose_changes import harmless

URL = re.compile(
    r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(?::(\d{1,5}))?(/[^\s'\"|;)\\`$]*)?"
)


def put_image(draft: Draft) -> None:
    found = draft.found
    if not draft.put("gateway_image", found.image):
        return
    if not found.has_digest:
        draft.data["gateway_image_source"] = "host"
        draft.comments["gateway_image_source"] = "the image is from no registry"
    if not found.image_is_current:
        draft.note(
            f"gateway_image: {found.image} is another image now than the container runs "
            f"({found.image_id}), so a deploy would change it"
        )


def put_network(draft: Draft, is_in_place: bool) -> None:
    found = draft.found
    tcp = [each for each in found.ports if each[1] == "tcp"]
    likely = [each for each in tcp if str(each[0]) == found.variables.get("PORT")]
    port = next(iter(likely or tcp), None)
    mode = found.network_mode
    if mode == "host":
        draft.put("gateway_network_mode", "host")
        if not is_in_place:
            draft.put("gateway_open_to_network", True, "as it is now: restrict it by a firewall")
        _container_port(draft, _likely_port(draft), "in the host's network")
        return
    if mode.startswith("container:") or mode == "none":
        draft.note(f"gateway_network_mode: {mode} is not supported: it would become bridge")
    if port is None:
        _container_port(draft, _likely_port(draft), "")
        draft.note(
            "gateway_port: the container publishes no port; the deploy publishes port 8080 on "
            "127.0.0.1 of the host"
        )
        return
    others = [f"{each[0]}/{each[1]}" for each in found.ports if each is not port]
    if others and not is_in_place:
        draft.note(f"gateway_port: only one port is published; not {', '.join(others)}")
    in_container, _, address, on_host = port
    _container_port(draft, in_container, "")
    if on_host.isdecimal() and len(on_host) < 6:
        if int(on_host) != 8080:
            draft.put("gateway_port", int(on_host))
    else:
        draft.note("gateway_port: the port on the host is unknown; the default is 8080")
    address = address or "0.0.0.0"  # noqa: S104 - never bound here
    if address == "127.0.0.1" or not draft.put("gateway_bind_address", address):
        return
    if not is_in_place and not ip_address(address).is_loopback:
        draft.put("gateway_open_to_network", True, "as it is now: restrict it by a firewall")


def _container_port(draft: Draft, port: int | None, where: str) -> None:
    if port is None:
        draft.note(
            f"gateway_container_port: the port that the gateway listens on {where} is "
            "unknown; the default is 8080"
        )
    elif port != 8080:
        draft.put("gateway_container_port", port)


def _likely_port(draft: Draft) -> int | None:
    found = draft.found
    exposed = [each.partition("/")[0] for each in found.exposed if each.endswith("/tcp")]
    candidates = [found.variables.get("PORT", ""), _url(draft)[0]]
    candidates += exposed if len(exposed) == 1 else []
    return next((int(each) for each in candidates if re.fullmatch("[0-9]{1,5}", each)), None)


def _url(draft: Draft) -> tuple[str, str]:
    """Port and path that the health check asks; each empty if there is none."""
    test = (draft.found.healthcheck or {}).get("Test")
    match = URL.search(" ".join(test)) if isinstance(test, tuple) else None
    return (match[1] or "", match[2] or "/") if match else ("", "")


def put_health_path(draft: Draft) -> None:
    path = _url(draft)[1]
    if path and harmless(path):
        if path != "/health":
            draft.put("gateway_health_path", path)
        return
    draft.data["gateway_health_path"] = "/health"
    draft.comments["gateway_health_path"] = (
        "the default: no health check names another; None for a program without HTTP"
    )


def put_healthcheck(draft: Draft, service: dict[str, Any]) -> None:
    check, found = draft.found.healthcheck, draft.found
    if not check or not found.has_healthcheck:
        return
    test = check.get("Test")
    if not isinstance(test, tuple) or not test:
        return
    if test[0] == "NONE":
        service["healthcheck"] = {"disable": True}
        return
    names = {"Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period"}
    names["StartInterval"] = "start_interval"
    made: dict[str, Any] = {"test": list(test)}
    for name, ours in names.items():
        nanoseconds = check.get(name)
        if isinstance(nanoseconds, int) and nanoseconds > 0:
            made[ours] = f"{max(1, nanoseconds // 10**6)}ms"
    if isinstance(retries := check.get("Retries"), int) and retries > 0:
        made["retries"] = retries
    values = [value for value in found.environment.values() if len(value) > 5]
    if any(value in word for word in test for value in values if not harmless(value)):
        service["healthcheck"] = made  # it has a secret, and the override is not shown
    else:
        draft.data["gateway_healthcheck"] = made


def put_limits(draft: Draft) -> None:
    found = draft.found
    if found.memory:
        draft.put("gateway_memory_limit", f"{found.memory}b")
    if found.cpus:
        draft.put("gateway_cpus", round(found.cpus, 3))
    missing = [
        name for name, value in (("memory", found.memory), ("processors", found.cpus)) if not value
    ]
    if missing:
        draft.note(
            f"the container has no limit of {' and '.join(missing)}; a deploy sets one "
            "(gateway_memory_limit, gateway_cpus)"
        )
    if not found.read_only:
        draft.put("gateway_read_only", False)


def note_doubts(draft: Draft) -> None:
    """What a copy by this package does otherwise."""
    found = draft.found
    if found.privileged:
        draft.note("the container is privileged or has devices, which is not taken over")
    if found.user.startswith("0:") and "ALL" not in found.cap_drop:
        draft.note(
            "the container is root with Docker's capabilities; a deploy drops them all (an "
            "override can give some back: cap_add)"
        )
    is_root = found.configured_user in {"", "0", "root", "0:0"}
    if is_root and found.user and not found.user.startswith("0:"):
        draft.note(
            f"the container starts as root and becomes {found.user}; a deploy starts it as "
            "that user"
        )
    if found.auto_remove:
        draft.note(
            "gateway_adopt_container: it was started with --rm, so a deploy refuses to stop "
            "it: start it again without --rm"
        )
    if found.sharers:
        draft.note(
            f"these containers are in its network, and lose it when it is replaced: "
            f"{', '.join(found.sharers)}"
        )
