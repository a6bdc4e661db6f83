"""Updates the kernel's neighbour table (ARP) while a container starts.

A client that connects meanwhile creates an incomplete ARP entry on the bridge. The kernel queues
the client's first packet there and repeats the ARP request after a second. Some milliseconds after
Docker has published the port, it deletes the connection's conntrack entry (NAT): the client does
not recognize the answer to the queued packet, and retransmits a second later. Two netlink messages
(rtnetlink(7), RTM_NEWNEIGH) avoid both delays: first, waiting clients get an immediate host
unreachable error; when the container runs, its address is announced. No kernel setting is changed.
"""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEW_NEIGHBOUR = 28
REQUEST, ACK, REPLACE, CREATE = 0x1, 0x4, 0x100, 0x400
REACHABLE, FAILED = 0x02, 0x20
DESTINATION, LINK_ADDRESS = 1, 2

REFUSE_SECONDS = 0.09
"""For how long waiting clients are refused. The kernel sends a client at most six such errors in
quick succession (icmp(7), icmp_ratelimit), and a client that still waits when Docker has published
the port is served."""


def announce(details: dict[str, Any]) -> None:
    """Announces the addresses of an inspected container; failures are ignored."""
    for bridge, address, link in addresses(details):
        _tell(bridge, address, link)


def refuse(waiting: list[tuple[str, bytes, bytes]]) -> None:
    """Refuses the clients that wait for one of these addresses, if there are any."""
    for bridge, address, _ in waiting:
        _tell(bridge, address, None)


def addresses(details: dict[str, Any] | None) -> list[tuple[str, bytes, bytes]]:
    """Bridge, IPv4 address and link address of an inspected container, on each of its networks."""
    found = []
    networks = details["NetworkSettings"].get("Networks") or {} if details else {}
    for network in networks.values():
        bridge = f"br-{str(network.get('NetworkID'))[:12]}"
        try:
            address = socket.inet_aton(network["IPAddress"])
            link = bytes.fromhex(network["MacAddress"].replace(":", ""))
        except (OSError, KeyError, TypeError, ValueError):
            continue
        if len(link) == 6 and os.path.isdir(f"/sys/class/net/{bridge}"):
            found.append((bridge, address, link))
    return found


def _tell(bridge: str, address: bytes, link: bytes | None) -> None:
    """Sends one RTM_NEWNEIGH. `link`: None marks the address as unreachable."""
    state, flags = (REACHABLE, REPLACE | CREATE) if link else (FAILED, REPLACE)
    try:
        interface = socket.if_nametoindex(bridge)
        body = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, interface, state, 0, 0)
        body += struct.pack("=HH4s", 8, DESTINATION, address)
        if link:
            body += struct.pack("=HH6sxx", 10, LINK_ADDRESS, link)
        size = 16 + len(body)
        head = struct.pack("=IHHII", size, NEW_NEIGHBOUR, REQUEST | ACK | flags, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(1)
            netlink.sendto(head + body, (0, 0))
            netlink.recv(4096)
    except OSError:
        pass
