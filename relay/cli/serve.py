"""``relay serve``: run the relay in the foreground."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from relay.app import run
from relay.cli.options import add_config_option, load_chosen_config
from relay.events import configure_logging

if TYPE_CHECKING:
    from relay.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "serve", help="run the relay", description="Run the relay until it is stopped."
    )
    add_config_option(parser)
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    config = load_chosen_config(args)
    configure_logging(config.log)
    return run(config)
