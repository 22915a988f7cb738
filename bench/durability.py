"""The proof that a message is on disk before its sender hears 250: the system calls in between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bench.isolation import RigError
from bench.load import Client
from bench.rates import Record
from bench.servers import LATER, Server

_CALLS = "trace=read,recvfrom,recvmsg,write,writev,sendto,sendmsg,fsync,fdatasync"
_UNFINISHED = " <unfinished ...>"
_DOT = r"xxx\r\n.\r\n"
"""The end of the content, as strace shows it."""
_REPLY = '"250 2.0.0 Ok'


def prove_durability(server: Server) -> Record:
    """Send one message to a server under strace; return the fsyncs between its final dot and its 250.

    Raises RigError where there is none.
    """
    trace = server.folder / "strace"
    server.set_up()
    server.start("strace", "-f", "-y", "-s", "2000", "-e", _CALLS, "-e", "signal=none", "-o", str(trace))
    try:
        with Client(server.port) as client:
            client.send(1000, LATER)
    finally:
        server.stop()
    syncs = list(find_syncs(trace.read_text(errors="replace").splitlines()))
    if not syncs:
        raise RigError(f"{server.name} said 250 without fsync")
    spool = re.compile(rf"[^<]*{re.escape(str(server.spool))}/")
    return {"kind": "durability", "syncs": [spool.sub("", sync, count=1) for sync in syncs]}


def find_syncs(trace: Iterable[str]) -> Iterator[str]:
    """Yield the calls that put data on disk, begun and done between the final dot and the reply to it.

    ``trace`` has strace's lines, with the number of the process before each call.
    """
    begun: dict[str, str] = {}
    is_content_read = False
    for line in trace:
        pid, _, call = line.partition(" ")
        call = call.strip()
        if not is_content_read:
            is_content_read = _DOT in call and re.match(r"(<\.\.\. )?(read|recv)", call) is not None
        elif _REPLY in call:
            return
        elif re.match(r"f(data)?sync\(", call):
            if call.endswith(_UNFINISHED):
                begun[pid] = call.removesuffix(_UNFINISHED)
            elif call.endswith("= 0"):
                yield re.sub(r"\s+", " ", call)
        elif pid in begun and re.match(r"<\.\.\. f(data)?sync resumed>.*= 0$", call):
            yield f"{begun.pop(pid)}) = 0"
