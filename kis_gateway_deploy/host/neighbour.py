"""Tells the kernel the address of a container that has just been started.

A client that connects while a re-created container has no address yet leaves an incomplete ARP
entry on the bridge, which the kernel tries again only after a second. One netlink message
(rtnetlink(7), RTM_NEWNEIGH) puts the address there. No kernel setting is changed.
"""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEW_NEIGHBOUR = 28
REQUEST_ACK_REPLACE_CREATE = 0x1 | 0x4 | 0x100 | 0x400
REACHABLE = 0x02
DESTINATION, LINK_ADDRESS = 1, 2


def announce(details: dict[str, Any]) -> None:
    """Announces the addresses of an inspected container; it is no error if that fails."""
    for network in details["NetworkSettings"].get("Networks", {}).values():
        name = f"br-{str(network.get('NetworkID'))[:12]}"
        try:
            address = socket.inet_aton(network["IPAddress"])
            link = bytes.fromhex(network["MacAddress"].replace(":", ""))
            if len(link) == 6 and os.path.isdir(f"/sys/class/net/{name}"):
                _tell(socket.if_nametoindex(name), address, link)
        except (OSError, KeyError, TypeError, ValueError):
            continue


def _tell(interface: int, address: bytes, link: bytes) -> None:
    body = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, interface, REACHABLE, 0, 0)
    body += struct.pack("=HH4s", 8, DESTINATION, address)
    body += struct.pack("=HH6sxx", 10, LINK_ADDRESS, link)
    head = struct.pack("=IHHII", 16 + len(body), NEW_NEIGHBOUR, REQUEST_ACK_REPLACE_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(1)
        netlink.sendto(head + body, (0, 0))
        netlink.recv(4096)
