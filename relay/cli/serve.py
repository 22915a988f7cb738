"""``relay serve``: run the relay in the foreground."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from relay import log
from relay.app import run
from relay.cli.options import add_config_option, load_chosen_config
from relay.config.loading import find_config
from relay.watch import Watch

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
    watch = Watch(find_config(args.config, os.environ))  # first: what changes from now on is noticed
    config = load_chosen_config(args)
    log.configure(config.log)
    return run(config, lambda: load_chosen_config(args), watch)
