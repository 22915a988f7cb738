"""Flame graphs of the relay's two main paths, by py-spy."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bench.isolation import RigError
from bench.load import RECIPIENT, Load, Sink
from bench.servers import LATER, NEXT_HOP, Relay

_LOAD = Load(10, 1000, 1_000_000)
"""More than can be sent while the profile is made."""
_RATE = 200
"""Samples a second."""
_PATHS = {"accept": LATER, "end-to-end": RECIPIENT}
"""Mail whose next hop does not answer is accepted and deferred; the other is passed on as it comes."""


def record_profiles(folder: Path, group: Path, root: Path | None, out: Path, seconds: int, form: str) -> None:
    """Record what the relay does under both; each becomes a file in ``out``, in one of py-spy's formats.

    Raises RigError.
    """
    if shutil.which("py-spy") is None:
        raise RigError("needs py-spy on the PATH: pip install py-spy")
    suffix = "svg" if form == "flamegraph" else "txt"
    relay = Relay(folder, folder, group, root)
    for name, recipient in _PATHS.items():
        relay.set_up()
        relay.start()
        try:
            with Sink(NEXT_HOP):
                threading.Thread(target=_send, args=(relay.port, recipient), daemon=True).start()
                time.sleep(1.0)
                _record(relay.pid, out / f"profile-{name}.{suffix}", seconds, form)
        finally:
            relay.stop()


def _record(pid: int, path: Path, seconds: int, form: str) -> None:
    command = ["py-spy", "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(_RATE)]
    subprocess.run([*command, "--threads", "--format", form, "--output", str(path)], check=True)
    # Its title is the command line.
    path.write_text(re.sub(r"py-spy record [^<]*", path.stem, path.read_text()))


def _send(port: int, recipient: str) -> None:
    with suppress(RigError):  # the relay stops before it is through
        replace(_LOAD, recipient=recipient).send(port)
