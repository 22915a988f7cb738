"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from relay.config.lenient import read_queue
from relay.config.loading import find_config, load_config
from relay.config.model import Config
from relay.config.problems import ConfigError

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


def find_queue(args: argparse.Namespace) -> Path:
    """Return where the queue is. A file that is broken just now hides it from nobody: the relay goes on, too.

    Raises ConfigError where there is no file at all that was asked for.
    """
    try:
        return load_chosen_config(args).queue.path
    except ConfigError:
        file = find_config(args.config, os.environ)
        if file is None or not file.exists():
            raise
        return read_queue(file).path
