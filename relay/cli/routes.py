"""``relay routes``: the sites that refuse this relay, so that their mail goes over the fallback."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from relay.cli.control import ask
from relay.cli.options import add_config_option, find_queue
from relay.mail.learned import ANYWHERE
from relay.texts import make_plain

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

_NOTHING = "no routes were learned: every site is tried directly first"


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "routes",
        help="the sites whose mail goes over the fallback, because they refuse mail from here",
        description="The learned routes: sites that refuse mail from here, which goes over the fallback.",
    )
    parser.set_defaults(run=_list, as_json=False)
    add_config_option(parser)
    actions = parser.add_subparsers(metavar="ACTION")
    lister = actions.add_parser("list", help="show them; so does the command alone")
    pin = actions.add_parser("pin", help="keep one for ever")
    forget = actions.add_parser("forget", help="try a site directly again")
    for action in (parser, lister):
        action.add_argument("--json", dest="as_json", action="store_true", help="one JSON object on a line")
    for action in (lister, pin, forget):
        add_config_option(action)
    for action, run in ((pin, _pin), (forget, _forget)):
        action.add_argument("domain", metavar="DOMAIN", help='a domain of the list; "*" stands for all')
        action.set_defaults(run=run)


def _list(args: argparse.Namespace) -> int:
    try:
        routes = ask(find_queue(args), {"command": "routes"})["routes"]
    except FileNotFoundError:
        routes = []  # no queue yet
    if args.as_json:
        for route in routes:
            print(json.dumps(route))
    elif routes:
        print("\n".join(_describe(route) for route in routes))
    else:
        print(_NOTHING)
    return 0


def _pin(args: argparse.Namespace) -> int:
    domain = ask(find_queue(args), {"command": "pin", "domain": args.domain})["domain"]
    print(f"mail for {_name(domain)} goes over the fallback until you say: relay routes forget '{domain}'")
    return 0


def _forget(args: argparse.Namespace) -> int:
    domain = ask(find_queue(args), {"command": "forget", "domain": args.domain})["domain"]
    print(f"the next message for {_name(domain)} goes directly")
    return 0


def _describe(route: Mapping[str, Any]) -> str:
    since, until = _day(route["learned_at"]), route["expires_at"]
    if until is None:
        end = "pinned"
    elif until <= time.time():
        end = "until the next message, which tries the site directly"
    else:
        end = f"until {_day(until)}"
    head = f"{route['domain']}  {route['reason']}, {since}; over {route['via']} {end}"
    return f"{make_plain(head)}\n    {make_plain(route['reply'])}"


def _name(domain: str) -> str:
    return "all sites" if domain == ANYWHERE else domain


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
