"""Where a configuration and what is known of a provider disagree: no errors, but mail may not go out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from relay.config.house import destinations_of
from relay.config.model import Config, Smarthost
from relay.config.problems import format_path
from relay.config.providers import ADDRESS, LOCAL, PROVIDERS, UNKNOWN, Provider
from relay.config.values import format_size
from relay.mail.address import fold, split_address
from relay.mail.aliases import Aliases
from relay.mail.destinations import Destinations
from relay.mail.route import NextHop

_APP_PASSWORD = re.compile(r"[a-z0-9]{16}")
_NO_PASSWORDS: Mapping[str, str] = MappingProxyType({})


def advise(config: Config, passwords: Mapping[str, str] = _NO_PASSWORDS) -> tuple[str, ...]:
    """Return a sentence for each disagreement; none of them shows a secret.

    ``passwords`` are those of the smarthosts by name, as far as they can be read.
    """
    advice: list[str] = []
    for name, smarthost in config.smarthost.items():
        if provider := PROVIDERS.get(smarthost.provider):
            advice += _advise_on_login(name, smarthost, provider, passwords.get(name))
            if provider.from_policy != "unknown" and "@" in smarthost.username:
                advice += _advise_on_senders(config, name, smarthost, provider)
            advice += _advise_on_size(config, name, provider)
    if config.fallback and config.relayhost:
        advice.append(
            "fallback: does nothing beside relayhost, which takes all mail; it is for mail that goes to the"
            " recipients' own servers"
        )
    if config.local.lmtp and not config.postmaster:
        advice.append(
            "postmaster: nobody is named; mail for root, and reports, reach somebody only where the mailbox"
            " server knows these names"
        )
    return (*advice, *_advise_on_aliases(config))


def _advise_on_login(
    name: str, smarthost: Smarthost, provider: Provider, password: str | None
) -> Iterator[str]:
    has_domain = "@" in smarthost.username
    username = f"smarthost.{name}.username"
    if provider.username == ADDRESS and not has_domain:
        yield f"{username}: {provider.name} wants the full mail address"
    elif provider.username == LOCAL and has_domain:
        yield f'{username}: {provider.name} wants only what stands before the "@"'
    elif provider.username not in (ADDRESS, LOCAL, UNKNOWN, smarthost.username):
        yield f'{username}: at {provider.name} it is "{provider.username}" for everybody'
    if provider.auth == "xoauth2" != smarthost.auth:
        yield f"smarthost.{name}.auth: {provider.name} takes no passwords; {provider.note}"
    elif provider.needs_app_password and password is not None and not _is_app_password(password):
        yield (
            f"smarthost.{name}.password: does not look like an app password, and {provider.name} takes no"
            f" other; {provider.note}"
        )


def _is_app_password(password: str) -> bool:
    """Whether it has the form of those made by a provider: 16 letters or digits, often shown in groups."""
    return bool(_APP_PASSWORD.fullmatch(re.sub(r"[ -]", "", password)))


def _advise_on_senders(config: Config, name: str, smarthost: Smarthost, provider: Provider) -> Iterator[str]:
    account = fold(smarthost.username)
    home = f"@{split_address(account)[1]}"
    consequence = (
        f"{provider.name} puts {smarthost.username} in place of any other sender"
        if provider.from_policy == "rewrites"
        else f"{provider.name} refuses any other sender than {smarthost.username}"
    )
    becomes = {fold(address) for address, _ in config.sender_canonical.entries.values()}
    if _takes_any_sender(config, name) and not becomes & {account, home}:
        yield f"smarthost.{name}: {consequence}; give your senders that address in [sender_canonical]"
    for key, hop in config.sender_relayhost.items():
        if hop.smarthost == name and key not in (account, home):
            yield f"{format_path(('sender_relayhost', key))}: {consequence}, unless it is an alias there"


def _takes_any_sender(config: Config, name: str) -> bool:
    """Whether mail goes to this smarthost whoever sent it."""
    ways = (config.relayhost, config.fallback, *(entry.via for entry in config.transport.values()))
    return any(isinstance(way, NextHop) and way.smarthost == name for way in ways)


def _advise_on_size(config: Config, name: str, provider: Provider) -> Iterator[str]:
    limit = provider.message_size
    if limit and config.limits.message_size > limit:
        yield (
            f"limits.message_size: {format_size(config.limits.message_size)} is more than {provider.name}"
            f" takes (smarthost.{name}, {format_size(limit)}); larger messages would come back"
        )


def _advise_on_aliases(config: Config) -> Iterator[str]:
    """Yield what tells of users whose mail an alias for their whole domain takes away."""
    destinations = destinations_of(config)
    for domain in config.local.domains:
        key = f"@{domain}"
        if key not in config.aliases.entries:
            continue
        addresses = [f"{user}{key}" for user in destinations.mailboxes.users.values()]
        lost = [address for address in addresses if not _keeps_mail(address, config.aliases, destinations)]
        if lost:
            yield (
                f"{format_path(('aliases', key))}: takes the mail of {', '.join(lost)} too;"
                ' "*" would take only what nobody else does'
            )


def _keeps_mail(address: str, aliases: Aliases, destinations: Destinations) -> bool:
    """Whether a user's mail reaches the user's mailbox, or goes elsewhere by an alias of that name."""
    is_named = {fold(address), fold(split_address(address)[0])} & aliases.entries.keys()
    reached = map(destinations.identity, destinations.expand(address))
    return bool(is_named) or destinations.identity(address) in reached
