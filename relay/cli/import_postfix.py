"""``relay import-postfix``: turn the configuration of a Postfix into relay.toml."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from relay.cli.progress import showing_progress
from relay.config.loading import choose_hostname
from relay.files import write_new
from relay.postfix.draft import Draft
from relay.postfix.translation import translate
from relay.postfix.writing import write_toml

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

LARGEST_FILE = 50_000_000
HOME = Path("etc/postfix")
"""Where Postfix's files are, from the root of a machine."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "import-postfix",
        help="make a relay.toml of a Postfix's main.cf",
        description="Read main.cf, master.cf and the tables that they name, and write a relay.toml: on"
        " standard output, without passwords, or with --output. What has no equivalent is"
        " in it as a comment.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the folder with main.cf, such as /etc/postfix"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write this file, which must not be there yet; only its owner may read it",
    )
    parser.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> int:
    if args.output and (args.output.exists() or args.output.is_symlink()):
        print(f"relay: {args.output} is there already; choose another name or move it away", file=sys.stderr)
        return 1
    try:
        main_cf = read_text(args.folder / "main.cf")
        has_services = (args.folder / "master.cf").exists()
        master_cf = read_text(args.folder / "master.cf") if has_services else ""
    except OSError as error:
        print(f"relay: {error.filename}: {error.strerror}; DIR is where main.cf is", file=sys.stderr)
        return 1
    with showing_progress() as show:
        draft, taken = translate(
            main_cf,
            master_cf,
            machine_name=choose_hostname(socket.gethostname()),
            read_file=Files(args.folder, show).read,
            tell=show,
        )
    if not args.output:
        _hide_passwords(draft)
    text = write_toml(draft, str(args.folder))
    if args.output:
        write_new(args.output, text, 0o600)
    else:
        print(text, end="")
    print(_sum_up(taken, len(draft.lacks)), file=sys.stderr)
    return 0


def read_text(path: Path) -> str:
    """Return the text of a file, taken as Latin-1 where it is not UTF-8.

    Raises OSError, also for what is no file and for one that is too large.
    """
    # Without O_NONBLOCK a named pipe would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a file", str(path))
        if status.st_size > LARGEST_FILE:
            raise OSError(errno.EFBIG, f"has more than {LARGEST_FILE} bytes", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read()
    finally:
        os.close(descriptor)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


class Files:
    """The files that main.cf names, wherever the folder with main.cf was copied to.

    What belongs to /etc/postfix is looked for in that folder. Where the folder is an etc/postfix itself,
    other paths start beside it: those of a backup in the backup, those of /etc/postfix on this machine.
    Nothing outside is read: neither ``..`` nor a link leads out of a copy.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        absolute = folder.absolute()
        is_usual = absolute.parts[-2:] == HOME.parts
        self._root = absolute.parent.parent if is_usual else None
        self._bounds = (self._root or folder).resolve()

    def read(self, name: str) -> str:
        """Return the text of a file; raises OSError."""
        try:
            path = self._find(Path(name))
            if not path.resolve().is_relative_to(self._bounds):
                raise PermissionError(errno.EPERM, f"is outside {self._bounds}, so it was not read", name)
            self._tell(f"reading {path}")
            return read_text(path)
        except (ValueError, RuntimeError):  # a NUL in the name, or links that go round
            raise FileNotFoundError(errno.ENOENT, "is no name of a file", name) from None

    def _find(self, path: Path) -> Path:
        if not path.is_absolute():
            return self._folder / path
        if path.is_relative_to("/" / HOME):
            return self._folder / path.relative_to("/" / HOME)
        return self._root / path.relative_to("/") if self._root else self._folder / path.name


def _hide_passwords(draft: Draft) -> None:
    """Replace passwords by files that are yet to be made: what is printed may be read by others."""
    for name in draft.table("smarthost"):
        table = draft.table("smarthost", name)
        if table.pop("password", ""):
            table["password_file"] = f"/run/secrets/{name}"
            draft.remark("Put the password into that file; it is not printed.", "smarthost", name)


def _sum_up(taken: int, lacking: int) -> str:
    sentence = f"{taken} setting{'' if taken == 1 else 's'} taken"
    if not lacking:
        return f"{sentence}; nothing is left out"
    return f"{sentence}, {lacking} {'has' if lacking == 1 else 'have'} no equivalent: see the comments"
