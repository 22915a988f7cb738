"""``relay check``: validate the configuration and print it with everything filled in."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import tomli_w

from relay.cli.options import add_config_option, load_chosen_config
from relay.config.advice import advise
from relay.config.alerts import split_webhook
from relay.config.model import Alerts, Config
from relay.config.rendering import render
from relay.config.secrets import SecretError

if TYPE_CHECKING:
    from relay.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="tell what is wrong in relay.toml, and print all its settings",
        description="Tell all that is wrong in relay.toml; where nothing is, print its settings, with"
        " defaults filled in and secrets hidden. Warnings tell where mail may fail all the same.",
    )
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of TOML")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    config = load_chosen_config(args)
    table = render(config)
    print(json.dumps(table, indent=2, ensure_ascii=False) if args.json else tomli_w.dumps(table).rstrip())
    for warning in _find_warnings(config):
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _find_warnings(config: Config) -> Iterator[str]:
    yield from _find_warnings_of_alerts(config.alerts)
    passwords = {}
    for name, smarthost in config.smarthost.items():
        try:
            if smarthost.password:
                passwords[name] = smarthost.password.read(os.environ)
            if smarthost.client_secret:
                smarthost.client_secret.read(os.environ)
        except SecretError as error:
            yield f"smarthost.{name}: {error}"
    yield from advise(config, passwords)


def _find_warnings_of_alerts(alerts: Alerts) -> Iterator[str]:
    if alerts.command and shutil.which(alerts.command[0]) is None:
        yield f"alerts.command: there is no program {alerts.command[0]} that may be run"
    try:
        if alerts.webhook:
            split_webhook(alerts.webhook.read(os.environ))
    except (SecretError, ValueError) as error:
        yield f"alerts.webhook: {error}"
