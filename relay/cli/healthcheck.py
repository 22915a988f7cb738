"""``relay healthcheck``: tell whether the service is up, for Docker's HEALTHCHECK. Opens no SMTP session."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from relay.cli.control import NotRunningError, request
from relay.cli.options import add_config_option, find_queue, load_chosen_config

if TYPE_CHECKING:
    from relay.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "healthcheck",
        help="tell whether the relay is up",
        description="Exit with status 0 if the relay is up and answers, else with 1; print what is wrong.",
    )
    add_config_option(parser)
    parser.set_defaults(run=_healthcheck)


def _healthcheck(args: argparse.Namespace) -> int:
    try:
        reply = request(find_queue(args), {"command": "ping"})
    except NotRunningError:
        load_chosen_config(args)  # its errors, where it has some, are why
        raise
    for problem in reply.get("problems", ()):
        print(f"degraded: {problem}")
    return 0 if reply["ok"] else 1
