"""What a power loss would leave: the files as they were synced, rebuilt from what strace saw of the relay.

A write counts as on disk once a sync of its file has returned that began after it, the name of a content's
file once one of its folder has. What is not synced may be lost, or may be there in part, sector by sector.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "pwrite64,fdatasync,fsync,ftruncate,unlink,write,writev,sendto,sendmsg"
SECTOR = 512
CONTENTS = "queue.db.content"
QUEUED = "".join(f"\\x{byte:02x}" for byte in b"Ok: queued as ")


def strace(record: Path) -> Sequence[str | Path]:
    """Return the command that runs the relay and records what is needed here."""
    return ("strace", "-f", "-qq", "-y", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-o", record)


Name = tuple[str, str]


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes in their order: (offset, data), or (size, None) for a truncation."""
    written: int = 0
    """Bytes that were written one after the other."""
    is_named: bool = True


@dataclass
class Disk:
    """The files of the queue as the disk has them, each by its folder's name and its own."""

    files: dict[Name, _File] = field(default_factory=dict)
    syncs: int = 0
    _deleted: set[Name] = field(default_factory=set)

    def delete(self, name: Name) -> None:
        """Note that a file was deleted."""
        self._deleted.add(name)

    def sync(self, name: Name) -> None:
        """Take over what was written; of a folder, what was made and deleted in it."""
        of_folder = [file for file in self.files if file[0] == name[1]]
        if of_folder or name[1] == CONTENTS:
            for file_name in of_folder:
                self.files[file_name].is_named = True
                if file_name in self._deleted:
                    del self.files[file_name]
            self._deleted -= {*of_folder}
            self.syncs += 1
            return
        file = self.files.setdefault(name, _File())
        for offset, data in file.pending:
            _apply(file.synced, offset, data)
        file.pending.clear()
        self.syncs += 1

    def write(self, name: Name, offset: int, data: bytes | None) -> None:
        """Note a write, or a truncation."""
        self.files.setdefault(name, _File()).pending.append((offset, data))

    def append(self, name: Name, data: bytes) -> None:
        """Note a write to a content's file, which begins with it."""
        file = self.files.setdefault(name, _File(is_named=False))
        file.pending.append((file.written, data))
        file.written += len(data)

    def lose_power(self, folder: Path, chance: random.Random | None) -> None:
        """Write the files into a folder as a power loss leaves them.

        Nothing of what is pending is there or, with ``chance``, any part of it.
        """
        (folder / CONTENTS).mkdir(parents=True)
        for (parent, name), file in self.files.items():
            if not file.is_named and not (chance and chance.random() < 0.5):
                continue
            left = bytearray(file.synced)
            for offset, data in file.pending if chance else ():
                assert chance
                if data is None:
                    continue
                for start in range(0, len(data), SECTOR):
                    if chance.random() < 0.5:
                        _apply(left, offset + start, data[start : start + SECTOR])
            (folder / CONTENTS / name if parent == CONTENTS else folder / name).write_bytes(left)


def _apply(file: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del file[offset:]
        return
    file.extend(bytes(max(0, offset - len(file))))
    file[offset : offset + len(data)] = data


def replay(record: Path, disk: Disk) -> Iterator[str]:
    """Follow the record; yield each queue id as it is acknowledged, with the disk as it is at that moment."""
    begun: dict[str, Name] = {}
    """Per thread: the file that is being synced."""
    with record.open() as lines:
        for line in lines:
            thread, _, call = line.partition(" ")
            call = call.lstrip()
            if written := re.match(r'pwrite64\(\d+<([^>]*)>, "([^"]*)", \d+, (\d+)', call):
                disk.write(_name(written[1]), int(written[3]), _decode(written[2]))
            elif (more := re.match(r'write\(\d+<([^>]*)>, "([^"]*)"', call)) and _name(more[1])[
                0
            ] == CONTENTS:
                disk.append(_name(more[1]), _decode(more[2]))
            elif cut := re.match(r"ftruncate\(\d+<([^>]*)>, (\d+)", call):
                disk.write(_name(cut[1]), int(cut[2]), None)
            elif gone := re.match(r'unlink\("([^"]*)"\)', call):
                disk.delete(_name(gone[1]))
            elif synced := re.match(r"(?:fdatasync|fsync)\(\d+<([^>]*)>(.*)", call):
                if synced[2].rstrip().endswith("= 0"):
                    disk.sync(_name(synced[1]))
                else:
                    assert "unfinished" in synced[2], call
                    begun[thread] = _name(synced[1])
            elif re.match(r"<\.\.\. (fdatasync|fsync) resumed>\) += 0$", call):
                disk.sync(begun.pop(thread))
            elif QUEUED in call:
                for text in re.findall(r'"([^"]*)"', call):
                    for queue_id in re.findall(rb"250 2\.0\.0 Ok: queued as ([0-9A-F]+)\r\n", _decode(text)):
                        yield queue_id.decode()


def _name(path: str) -> Name:
    """Return the names of a file's folder and of the file; strace may write paths in hexadecimal as well."""
    found = Path(_decode(path).decode() if path.startswith("\\x") else path)
    return found.parent.name, found.name


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
