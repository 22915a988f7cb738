"""Access tokens that stay valid: renewed before they expire, when they are refused, and weekly at least."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from relay import events
from relay.config.secrets import SecretError
from relay.oauth.account import OAuthAccount
from relay.oauth.client import Client, OAuthError, UnreachableError, refresh
from relay.oauth.token_file import Token, read_token, write_token
from relay.threads import in_thread

MARGIN_SECONDS = 300.0
"""How long before its expiry a token is renewed."""
RECENT_SECONDS = 60.0
"""How long after its renewal a token is not renewed again, refused or not."""
IDLE_SECONDS = 7 * 86400.0
"""How old a token grows while no mail is sent; providers forget a login that is not used for months."""
CHECK_SECONDS = 86400.0
FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 900.0
"""How long a provider that does not answer is left alone: at first, and at most."""
REFUSAL_PAUSE_SECONDS = 3600.0
"""How long a provider that refuses is not asked the same again."""


class Tokens:
    """The access tokens of all accounts; ``now`` is the clock, in epoch seconds."""

    def __init__(self, accounts: Mapping[str, OAuthAccount], now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._keepers: dict[str, _Keeper] = {}
        self.configure(accounts)

    def configure(self, accounts: Mapping[str, OAuthAccount]) -> None:
        """Follow a changed configuration; accounts that are the same go on as they are."""
        known = self._keepers
        self._keepers = {
            name: known[name]
            if name in known and known[name].account == account
            else _Keeper(account, self._now)
            for name, account in accounts.items()
        }

    async def access_token(self, name: str, *, is_refused: bool = False) -> str:
        """Return an access token for the smarthost NAME; ``is_refused`` says that the last one was refused.

        Raises SecretError, whose text tells the owner what to do.
        """
        return await self._keepers[name].access_token(is_refused=is_refused)

    def check(self, name: str) -> None:
        """Raise SecretError where the smarthost NAME has no token to begin with; none is renewed for this."""
        self._keepers[name].check()

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong now: a sentence by the name of each smarthost that has a problem."""
        return {name: problem for name, keeper in self._keepers.items() if (problem := keeper.problem)}

    async def keep_alive(self) -> None:
        """Renew what no mail renews, until cancelled."""
        while True:
            await self.renew_idle()
            await asyncio.sleep(CHECK_SECONDS)

    async def renew_idle(self) -> None:
        """Renew each token that is a week old, and warn of what is wrong."""
        for keeper in self._keepers.values():
            await keeper.renew_idle()


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a token could not be renewed, and for how long that is not tried again."""

    sentence: str
    basis: tuple[Token, Client] = field(repr=False)
    """What it was tried with: with anything else it may succeed at once."""
    at: float
    pause: float

    def is_fresh(self, now: float) -> bool:
        return 0 <= now - self.at < self.pause


class _Keeper:
    """Keeps the token of one account valid. The file is read at each use: the owner may have logged in."""

    def __init__(self, account: OAuthAccount, now: Callable[[], float]) -> None:
        self.account = account
        self._now = now
        self._renewal: asyncio.Task[Token | _Failure] | None = None
        self._last_failure: _Failure | None = None
        self._unsaved: Token | None = None
        """A token that could not be written."""
        self._write_error = ""
        self._warned_of = ""

    def check(self) -> None:
        self._token()

    async def access_token(self, *, is_refused: bool) -> str:
        try:
            token = self._token()
            if not self._is_due(token, is_refused=is_refused):
                return token.access_token
            try:
                return (await self._renewed(token)).access_token
            except SecretError:
                if is_refused or self._now() >= token.expires_at:
                    raise
                return token.access_token
        finally:
            self._warn()

    async def renew_idle(self) -> None:
        with suppress(SecretError):
            token = self._token()
            if not 0 <= self._now() - token.obtained_at < IDLE_SECONDS:
                await self._renewed(token)
        self._warn()

    @property
    def problem(self) -> str:
        """What the owner should know, "" where all is well."""
        try:
            failure = self._failure((self._token(), self.account.client()))
        except SecretError as error:
            return str(error)
        return failure.sentence if failure else self._write_error

    def _is_due(self, token: Token, *, is_refused: bool) -> bool:
        now = self._now()
        age = now - token.obtained_at
        if age < 0:  # the clock was set back: nothing is known of its expiry
            return True
        margin = min(MARGIN_SECONDS, (token.expires_at - token.obtained_at) / 2)
        return now >= token.expires_at - margin or (is_refused and age >= RECENT_SECONDS)

    def _token(self) -> Token:
        """Return the token as it is now. Raises SecretError."""
        name, path = self.account.name, self.account.token_file
        try:
            stored = read_token(path)
        except FileNotFoundError:
            raise SecretError(f"smarthost {name} has no token yet; log in: relay login {name}") from None
        except OSError as error:
            sentence = (
                f"the token file {path} cannot be read ({error.strerror}); log in again as the relay's user"
            )
            raise SecretError(f"{sentence}: relay login {name}") from None
        except ValueError:
            raise SecretError(f"the token file {path} is damaged; log in again: relay login {name}") from None
        if self._unsaved and self._unsaved.obtained_at > stored.obtained_at:
            return self._unsaved
        return stored

    async def _renewed(self, token: Token) -> Token:
        """Return a new token; who asks meanwhile shares the request. Raises SecretError."""
        if self._renewal is None:
            basis = token, self.account.client()
            failure = self._failure(basis)
            if failure and failure.is_fresh(self._now()):
                raise SecretError(failure.sentence)
            self._renewal = asyncio.create_task(self._renew(*basis), name=f"token of {self.account.name}")
        outcome = await asyncio.shield(self._renewal)
        if isinstance(outcome, _Failure):
            raise SecretError(outcome.sentence)
        return outcome

    async def _renew(self, token: Token, client: Client) -> Token | _Failure:
        """Renew the token to the end, even if those who asked for it are gone."""
        try:
            renewed, self._write_error = await in_thread(lambda: self._exchange(token, client))
        except (OAuthError, UnreachableError) as error:
            last = self._failure((token, client))
            self._last_failure = _Failure(
                self._explain(error), (token, client), self._now(), _choose_pause(error, last)
            )
            return self._last_failure
        finally:
            self._renewal = None
        self._last_failure = None
        self._unsaved = renewed if self._write_error else None
        return renewed

    def _exchange(self, token: Token, client: Client) -> tuple[Token, str]:
        """Have the provider renew a token, and save it in the same breath: the old one may be void.

        Returns the token and why it could not be saved, if so.
        """
        account = self.account
        grant = refresh(account.token_endpoint, client, token.refresh_token, account.scope)
        renewed = Token.of(grant, self._now(), token.refresh_token)
        with suppress(OSError, ValueError):
            stored = read_token(account.token_file)
            if stored.obtained_at > token.obtained_at:  # the owner has logged in meanwhile
                return stored, ""
        try:
            write_token(account.token_file, renewed)
        except OSError as error:
            return renewed, (
                f"smarthost {account.name}: the new token cannot be written to {account.token_file} "
                f"({error.strerror}) and is lost when the relay stops; see that its user may write there"
            )
        return renewed, ""

    def _failure(self, basis: tuple[Token, Client]) -> _Failure | None:
        failure = self._last_failure
        return failure if failure and failure.basis == basis else None

    def _explain(self, error: OAuthError | UnreachableError) -> str:
        name = self.account.name
        if isinstance(error, UnreachableError):
            return f"smarthost {name}: its token cannot be renewed: {error}; it is tried again by itself"
        if error.code == "invalid_grant":
            reason = f"smarthost {name}: the provider has withdrawn the login ({error})"
            return f"{reason}; log in again: relay login {name}"
        return (
            f"smarthost {name}: the provider refuses to renew the token ({error}); "
            f"check client_id and client_secret, and log in again: relay login {name}"
        )

    def _warn(self) -> None:
        """Log what is wrong, once."""
        problem = self.problem
        if problem and problem != self._warned_of:
            events.warned(problem)
        self._warned_of = problem


def _choose_pause(error: Exception, last: _Failure | None) -> float:
    if isinstance(error, OAuthError):
        return REFUSAL_PAUSE_SECONDS
    return min(2 * last.pause, LONGEST_PAUSE_SECONDS) if last else FIRST_PAUSE_SECONDS
