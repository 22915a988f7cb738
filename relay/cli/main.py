"""The ``relay`` command: runs a subcommand, and turns what goes wrong into a sentence and an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import relay
from relay.config.problems import ConfigError

COMMANDS = (
    "serve",
    "init",
    "check",
    "doctor",
    "explain",
    "queue",
    "trace",
    "routes",
    "send",
    "healthcheck",
    "login",
    "passwd",
    "dkim",
    "import-postfix",
)
"""Modules of ``relay.cli`` whose ``add_parser`` sets ``run``; only the one in use is imported."""

SENDMAIL = {"sendmail": [], "mailq": ["-bp"], "newaliases": ["-bi"]}
"""Other names that the program can be called by, with the options of sendmail that they stand for."""

EX_CONFIG = 78
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 78 a configuration error.

    ``relay send`` has those of sendmail. Raises SystemExit(2) for wrong usage, as argparse does.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    name = Path(sys.argv[0]).name
    if argv is None and name in SENDMAIL:
        arguments = ["send", *SENDMAIL[name], *arguments]
    try:
        if arguments[:1] == ["send"] and arguments[1:] not in (["-h"], ["--help"]):
            from relay.cli import send  # noqa: PLC0415 - only the command in use is imported

            status = send.main(arguments[1:], _run)
        else:
            status = _run(arguments)
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except ConfigError as error:
        print(*error.errors, sep="\n", file=sys.stderr)
        return EX_CONFIG
    except OSError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _run(arguments: Sequence[str]) -> int:
    """Run one command; raises what goes wrong."""
    args = _build_parser(arguments).parse_args(arguments)
    status: int = args.run(args)
    return status


def _fail(error: OSError) -> int:
    if not isinstance(error, BrokenPipeError):
        print(f"relay: {error}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        # It was the output that failed: at exit Python would try again, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="relay", description="The mail relay for a home gateway.")
    parser.add_argument("--version", action="version", version=f"relay {relay.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    named = [name for name in COMMANDS if name in arguments[:1]]
    for name in named or COMMANDS:
        import_module(f"relay.cli.{name.replace('-', '_')}").add_parser(subparsers)
    return parser
