"""A network of its own, in which the addresses that RFC 5737 keeps for documentation are those of servers."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

_CLONE_NEWNET = 0x40000000


def run_apart(scenario: Callable[[], Coroutine[object, object, None]], *addresses: str) -> None:
    """Run a coroutine where there is only the loopback interface, with these addresses too; needs root, ip.

    A network namespace belongs to a thread and to the programs that it starts: so nobody else notices.
    """

    def run() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        for command in ("link set lo up", *(f"addr add {address}/32 dev lo" for address in addresses)):
            subprocess.run(["ip", *command.split()], check=True)
        asyncio.run(scenario(), debug=True)

    with ThreadPoolExecutor(1) as executor:
        executor.submit(run).result()
