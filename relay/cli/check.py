"""``relay check``: validate the configuration and print it with everything filled in."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import tomli_w

from relay.cli.options import add_config_option, load_chosen_config
from relay.config.rendering import render

if TYPE_CHECKING:
    from relay.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="validate the configuration and print it",
        description="Validate the configuration and print it, with defaults and names filled in.",
    )
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of TOML")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    table = render(load_chosen_config(args))
    print(json.dumps(table, indent=2, ensure_ascii=False) if args.json else tomli_w.dumps(table).rstrip())
    return 0
