"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from relay.config.loading import load_config
from relay.config.model import Config

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Give a command the option ``--config``."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration file; else $RELAY_CONFIG, ./relay.toml or /etc/relay/relay.toml",
    )


def load_chosen_config(args: argparse.Namespace) -> Config:
    """Return the configuration that ``--config`` and the environment choose; raises ConfigError."""
    return load_config(args.config, os.environ)
