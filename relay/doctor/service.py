"""The running relay: whether it is up, what troubles it, and what its queue tells of its clients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from relay.config.model import PRIVATE_NETWORKS, Network
from relay.doctor.finding import Finding, Kind, Severity
from relay.queue.control import NotRunningError, request

MOST_MESSAGES = 1000
"""Waiting messages that are looked at."""

_CLIENT = re.compile(r"\[([0-9A-Fa-f:.]+)\]$")

UP = Kind("service.up", Severity.OK, "the relay is running")
DOWN = Kind(
    "service.down",
    Severity.INFO,
    "the relay is not running on the queue {path}",
    "Nothing is taken in or delivered meanwhile; mail in the queue is safe.",
    "Start it: `relay serve`, or `docker start`.",
)
HIDDEN = Kind(
    "service.hidden",
    Severity.INFO,
    "whether the relay is running can't be seen: {reason}",
    "The queue is for root and the relay's own user alone.",
    "Run `relay doctor` as root or as that user (docker exec does).",
)
DEGRADED = Kind(
    "service.degraded",
    Severity.WARNING,
    "the running relay reports: {problem}",
    "Some mail may wait because of it.",
    "Do what the sentence says; `relay healthcheck` tells when it is over.",
)
ALL_GATEWAY = Kind(
    "clients.gateway",
    Severity.PROBLEM,
    "all clients look like {gateway}, the gateway of the container",
    "The relay can't tell your devices from strangers on the internet, so that it must refuse all of them"
    " or none, and limits for one client hit everybody.",
    "Run the container in the host's network (network_mode: host); then it sees the real addresses.",
)
ALLOWED_GATEWAY = Kind(
    "clients.allowed",
    Severity.WARNING,
    "networks in [access] lets {gateway} send, the gateway of the container",
    "Port forwarding may make everybody appear under that address: if the port can be reached from the"
    " internet, strangers can send through this relay.",
    "Run the container in the host's network (network_mode: host) and take {gateway} out, or make sure that"
    " the internet can't reach the port.",
)
BRIDGE = Kind(
    "clients.bridge",
    Severity.INFO,
    "the relay is in a container behind the gateway {gateway}; what comes from that address is refused",
    "Some kinds of port forwarding (Docker Desktop, rootless Docker) show all clients as the gateway.",
    'If clients are told "relay access denied; your address is {gateway}", run the container in the host\'s'
    " network (network_mode: host).",
)
REAL = Kind("clients.real", Severity.OK, "clients are seen under their own addresses")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the running relay's queue shows."""

    clients: tuple[str, ...] = ()
    """The addresses that waiting messages came from, each as often as it sent one."""
    newest: float = 0.0
    """When the last of them was received, in epoch seconds; 0: there is none."""


def ask_service(queue_path: Path) -> tuple[list[Finding], Waiting]:
    """Ask the running relay how it is and what waits in its queue. Blocks."""
    try:
        pong = request(queue_path, {"command": "ping"})
        reply = request(queue_path, {"command": "list", "after": "0", "limit": MOST_MESSAGES})
    except NotRunningError:
        return [DOWN.found(path=queue_path)], Waiting()
    except OSError as error:
        return [HIDDEN.found(reason=error.strerror or str(error))], Waiting()
    findings = [DEGRADED.found(problem=problem) for problem in pong.get("problems", ())]
    messages = reply.get("messages", ())
    clients = tuple(match[1] for message in messages if (match := _CLIENT.search(message["client"])))
    newest = max((message["received_at"] for message in messages), default=0.0)
    return [UP.found(), *findings], Waiting(clients, newest)


def judge_clients(gateway: str, networks: Sequence[Network], clients: Sequence[str]) -> list[Finding]:
    """Judge whether clients can be told apart; ``gateway`` is a container's default one, "" without one."""
    if not gateway:
        return [REAL.found()]
    others = {client for client in clients if not ip_address(client).is_loopback}
    if others == {gateway}:
        return [ALL_GATEWAY.found(gateway=gateway)]
    if tuple(networks) != PRIVATE_NETWORKS and any(ip_address(gateway) in network for network in networks):
        return [ALLOWED_GATEWAY.found(gateway=gateway)]
    return [REAL.found() if others - {gateway} else BRIDGE.found(gateway=gateway)]
