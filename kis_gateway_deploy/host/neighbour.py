"""Tells the kernel how to reach a container that is being started.

A client that connects meanwhile leaves an incomplete ARP entry on the bridge, in which its first
packet waits; the kernel asks again after a second. Docker forgets the connection (conntrack) some
milliseconds after it has published the port: a packet that waited gets an answer that its client
does not recognize, and the client sends again a second later. Two netlink messages (rtnetlink(7),
RTM_NEWNEIGH) change that: in the beginning, who waits is told that the host is unreachable, at
once; when the container runs, its address is announced. No kernel setting is changed.
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
"""For how long. The kernel tells one client no more than six times in short order (icmp(7),
icmp_ratelimit), and one that waits after Docker has published the port is served all the same."""


def announce(details: dict[str, Any]) -> None:
    """Announces the addresses of an inspected container; it is no error if that fails."""
    for bridge, address, link in addresses(details):
        _tell(bridge, address, link)


def refuse(waiting: list[tuple[str, bytes, bytes]]) -> None:
    """Has those refused who wait for one of these addresses, if any do."""
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
    """`link`: None if the address cannot be reached."""
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
