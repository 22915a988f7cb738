"""The machine's own table of names, /etc/hosts (hosts(5)), which comes before DNS."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path


class HostsFile:
    """Names and addresses of a hosts file; a changed file is read again, a missing one is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._addresses: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}

    def addresses(self, name: str) -> list[str]:
        """Return the addresses of a name, in the file's order."""
        self._refresh()
        return self._addresses.get(name.lower(), [])

    def names(self, address: str) -> list[str]:
        """Return the names of an address, the canonical one first."""
        self._refresh()
        return self._names.get(address, [])

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            text = self._path.read_text(errors="replace")
        except OSError:
            stamp, text = None, ""
        self._stamp = stamp
        self._read(text)

    def _read(self, text: str) -> None:
        addresses: dict[str, list[str]] = defaultdict(list)
        names: dict[str, list[str]] = defaultdict(list)
        for line in text.splitlines():
            address, *aliases = line.partition("#")[0].split() or [""]
            for name in aliases:
                addresses[name.lower()].append(address)
                names[address].append(name)
        self._addresses, self._names = dict(addresses), dict(names)
