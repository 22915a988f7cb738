"""``relay login``: get an OAuth token for a smarthost. No browser is needed on this machine."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from relay.cli.options import add_config_option, load_chosen_config
from relay.cli.words import fail
from relay.config.problems import suggest
from relay.config.secrets import SecretError
from relay.oauth import client
from relay.oauth.account import OAuthAccount, oauth_account
from relay.oauth.client import Grant, OAuthError, UnreachableError
from relay.oauth.token_file import Token, write_token

if TYPE_CHECKING:
    from relay.cli.options import Subparsers
    from relay.config.model import Config

REDIRECT_URI = "http://127.0.0.1:8026/"
"""Where the provider sends the browser at last. Nothing listens there: the address itself is the answer."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "login",
        help="log in at a provider that takes no passwords (OAuth)",
        description="Get an OAuth token for [smarthost.NAME], with any machine's browser; see docs/oauth.md.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the smarthost in relay.toml")
    add_config_option(parser)
    parser.set_defaults(run=_login)


def _login(args: argparse.Namespace) -> int:
    return log_in(load_chosen_config(args), args.name)


def log_in(config: Config, name: str) -> int:
    """Get a token for the smarthost NAME, with what the owner does in a browser; return the exit status."""
    try:
        account = _find_account(config, name)
        grant = _log_in_by_code(account) if account.device_endpoint else _log_in_by_redirect(account)
        _keep(account, grant)
    except (_LoginError, SecretError, UnreachableError) as error:
        return fail(str(error))
    except OAuthError as error:
        return fail(_explain(error))
    return 0


class _LoginError(Exception):
    """The text tells what to do."""


def _find_account(config: Config, name: str) -> OAuthAccount:
    if name not in config.smarthost:
        raise _LoginError(
            f"there is no [smarthost.{name}] in relay.toml{suggest(name, list(config.smarthost))}"
        )
    account = oauth_account(name, config.smarthost[name])
    if account is None:
        raise _LoginError(
            f'[smarthost.{name}] does not use OAuth: set auth = "xoauth2" and a provider that has it'
        )
    return account


def _log_in_by_code(account: OAuthAccount) -> Grant:
    """Let the owner type a code at the provider (RFC 8628)."""
    device = client.start_device_flow(account.device_endpoint, account.client(), account.scope)
    print(f"1. On any computer or telephone, open {device.verification_uri}")
    print(f"2. Enter the code {device.user_code}")
    print(f"3. Log in as {account.username} and agree.")
    print(f"Waiting for you, {device.lifetime / 60:.0f} minutes at most (Ctrl-C gives up) ...", flush=True)
    return client.poll_device_flow(account.token_endpoint, account.client(), device)


def _log_in_by_redirect(account: OAuthAccount) -> Grant:
    """Let the owner bring back the address at which the browser ends (RFC 6749 §4.1)."""
    authorization = client.start_code_flow(
        account.authorize_endpoint, account.client(), account.scope, REDIRECT_URI, account.username
    )
    print(f"1. On any computer, open this link in a browser:\n\n{authorization.url}\n")
    print(f"2. Log in as {account.username} and agree.")
    print(f"3. The browser then fails to open a page at {REDIRECT_URI} - that is as it should be.")
    print("   Copy that page's whole address from the address bar, paste it here and press Enter.")
    while True:
        try:
            code = client.read_redirect(authorization, _ask("Address: "))
        except ValueError as error:
            print(f"relay: {error}", file=sys.stderr)
            continue
        return client.exchange_code(account.token_endpoint, account.client(), authorization, code)


def _ask(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        raise _LoginError("no address was given; in a container, use docker exec -it") from None


def _keep(account: OAuthAccount, grant: Grant) -> None:
    if not grant.refresh_token:
        raise _LoginError("the provider gave a token that cannot be renewed; see docs/oauth.md")
    write_token(account.token_file, Token.of(grant, time.time()))
    print(f"Logged in: smarthost {account.name} has its token, in {account.token_file}.")
    print("The relay uses it from its next attempt on; for that at once: relay queue retry --all")


def _explain(error: OAuthError) -> str:
    match error.code:
        case "access_denied" | "authorization_declined":
            return f"you or the provider did not agree ({error})"
        case "expired_token":
            return "the code has expired; start again"
        case "invalid_grant":
            return f"the provider does not take the answer ({error}); start again"
        case _:
            return f"the provider refuses ({error}); check client_id and client_secret, see docs/oauth.md"
