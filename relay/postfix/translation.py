"""From a Postfix to relay.toml, as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relay.config.loading import find_problems
from relay.config.problems import KeyPath, format_path
from relay.mail.address import fold
from relay.mail.rewrite import Home
from relay.postfix.addresses import translate_rewriting
from relay.postfix.checks import translate_header_checks
from relay.postfix.draft import Draft, Table
from relay.postfix.house import read_domains, translate_house
from relay.postfix.leftovers import note_leftovers
from relay.postfix.limits import translate_limits, translate_names
from relay.postfix.listeners import translate_listeners, translate_networks
from relay.postfix.main_cf import Settings, read_main_cf
from relay.postfix.master_cf import read_master_cf
from relay.postfix.routes import Routes
from relay.postfix.source import Source
from relay.postfix.tables import ReadFile

MOST_ROUNDS = 30
_WHOLE = frozenset({"smarthost", "header_checks", "listen"})
"""Tables whose entries are of no use in part."""


def translate(
    main_cf: str, master_cf: str, *, machine_name: str, read_file: ReadFile, tell: Callable[[str], None]
) -> tuple[Draft, int]:
    """Return the draft, which the relay accepts, and how many settings of main.cf it has.

    ``read_file`` reads what these files name, and ``tell`` is told what is being done.
    """
    given, mistakes = read_main_cf(main_cf)
    services, more_mistakes = read_master_cf(master_cf)
    settings = Settings(given, machine_name)
    source = Source(settings, read_file, services)
    for mistake in (*mistakes, *more_mistakes):
        source.draft.lack(mistake, "can't be read")
    hostname = settings.get("myhostname").lower()
    domain = translate_names(source, hostname)
    tell("listeners and networks")
    translate_listeners(source)
    translate_networks(source)
    translate_limits(source)
    domains = read_domains(source)
    home = Home(domain, frozenset({"localhost", *map(fold, domains)}))
    tell("rewriting and header checks")
    translate_rewriting(source, home)
    translate_header_checks(source)
    tell("routes")
    nothing_leaves = Routes(source).translate()
    tell("aliases and mailboxes")
    translate_house(source, domains)
    if nothing_leaves:
        _keep_at_home(source.draft, domains)
    note_leftovers(source)
    for name, reason in settings.mistakes.items():
        source.draft.lack(f"{name} = {given[name].value}" if name in given else name, reason)
    settle(source.draft, machine_name, tell)
    return source.draft, len(settings.taken)


def settle(draft: Draft, machine_name: str, tell: Callable[[str], None], rounds: int = MOST_ROUNDS) -> None:
    """Take out what the relay does not accept, and note each such thing with the reason.

    What is not settled after some rounds goes as a whole.
    """
    for number in range(1, rounds + 1):
        tell(f"checking, round {number}")
        problems = find_problems(draft.document, machine_name=machine_name, folder=Path("/"))
        if not problems:
            return
        if tls := [message for path, message in problems if path[0] == "tls"]:
            _go_without_tls(draft, tls[0])
            continue
        # From the end, so that places in lists stay true.
        for path, message in reversed(problems):
            _take_out(draft, path, message)
    while problems := find_problems(draft.document, machine_name=machine_name, folder=Path("/")):
        for key in {str(path[0]): None for path, _ in problems}:
            draft.lack(key, "too much of it is not accepted")
            draft.drop(key)


def _keep_at_home(draft: Draft, domains: list[str]) -> None:
    """Keep local domains out of the reach of default_transport, which is for other mail only."""
    for domain in dict.fromkeys((*domains, "localhost")):
        if domain not in draft.table("transport"):
            draft.put("local", "transport", domain)


def _take_out(draft: Draft, path: KeyPath, message: str) -> None:
    whole = path[:2] if path[0] in _WHOLE else path[:3]
    value = draft.find(*whole)
    if value is None:
        return
    shown = format_path(whole)
    if not isinstance(value, dict | list):
        shown += f" = {value}"
    elif isinstance(value, dict) and "pattern" in value:
        shown += f": {value['pattern']} {value.get('action')}"
    draft.lack(shown, message)
    draft.drop(*whole)


def _go_without_tls(draft: Draft, message: str) -> None:
    """Turn TLS for clients off, for want of a certificate; ports that are nothing without it are closed."""
    tls: Table = draft.table("tls")
    for key, value in tls.items():
        draft.offer(f'{key} = "{value}"', "tls")
    draft.drop("tls")
    draft.lack("TLS for clients", message)
    draft.remark(f"TLS is off: {message}. With a certificate, turn it on again in [[listen]].", "tls")
    blocks = draft.blocks("listen")
    for place in range(len(blocks) - 1, -1, -1):
        block = blocks[place]
        tls_mode = block.pop("tls", "none")
        block.pop("tls_minimum", None)
        if tls_mode == "implicit":
            draft.lack(f"the listener {block['address']}", "is nothing without TLS")
            draft.drop("listen", place)
        elif tls_mode == "starttls":
            draft.offers.setdefault(("listen", place), []).insert(0, 'tls = "starttls"')
