"""An account at a smarthost that takes OAuth 2.0 access tokens instead of a password."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from relay.config.model import Smarthost
from relay.config.providers import NO_PROVIDER, PROVIDERS
from relay.config.secrets import Secret
from relay.oauth.client import Client


@dataclass(frozen=True, slots=True)
class OAuthAccount:
    """Who the relay is to the provider, where its endpoints are, and where the token stands."""

    name: str
    """The NAME of [smarthost.NAME]."""
    client_id: str
    client_secret: Secret | None
    token_endpoint: str
    device_endpoint: str
    """"" where the provider has no device flow that may send mail."""
    authorize_endpoint: str
    scope: str
    token_file: Path
    username: str = ""
    """The address that logs in, so that the provider can ask for the right one."""

    def client(self) -> Client:
        """Return the client with its secret as it is now. Raises SecretError."""
        return Client(self.client_id, self.client_secret.read(os.environ) if self.client_secret else "")


def oauth_account(name: str, smarthost: Smarthost) -> OAuthAccount | None:
    """Return the account of a smarthost; None where the login is not by OAuth."""
    endpoints = PROVIDERS.get(smarthost.provider, NO_PROVIDER).oauth
    if smarthost.auth != "xoauth2" or endpoints is None or smarthost.token_file is None:
        return None
    tenant = quote(smarthost.tenant, safe="")
    return OAuthAccount(
        name,
        smarthost.client_id,
        smarthost.client_secret,
        token_endpoint=endpoints.token.format(tenant=tenant),
        device_endpoint=endpoints.device.format(tenant=tenant),
        authorize_endpoint=endpoints.authorize.format(tenant=tenant),
        scope=endpoints.scope,
        token_file=smarthost.token_file,
        username=smarthost.username,
    )
