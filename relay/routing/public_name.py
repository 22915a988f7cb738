"""The EHLO name that follows the public address (``helo_name = "auto"``).

The address is looked up at the start, each hour, and whenever a mail server shows another one in its reply
to EHLO; its name is asked of DNS each time. What came of it is kept beside the queue over a restart. A kill
loses at most the last state of that file: what it does not have is found out, and told, again.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from relay import events
from relay.config.model import AUTO, Config, Network
from relay.mail.public_address import (
    Echo,
    Known,
    choose_name,
    is_fit,
    parse_echo,
    read_public,
    weigh,
    write_notice,
)
from relay.mail.reply import Reply
from relay.routing.lookup import Lookup
from relay.routing.public_address import INSIDE, AskAt, ask_at, ask_mirrors, find_reverse
from relay.threads import in_thread

DNS_SECONDS = 6.0
"""How long one question to DNS may take."""
NOTICES_PER_DAY = 12
"""Mails about changes, at most: some lines have another address for each connection."""
WITNESSES = 2
"""Mail servers whose word counts, those heard last."""
_DAY = 86400.0

Told = tuple[str, str] | None
"""An address and its name; None: nothing."""
Announce = Callable[[str, str], Awaitable[bool]]
"""Puts a mail to the postmaster into the queue, given its subject and text; returns whether that was done."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When the address is looked at, in seconds."""

    again: float = 3600.0
    """After a look-up that found out all."""
    retry: float = 60.0
    """After one that did not; then twice as long, up to ``again``."""
    patience: float = 5.0
    """How long sessions wait for a look-up, from its beginning."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept over a restart."""

    known: Known = field(default_factory=Known)
    told: Told = None
    """Address and name that the postmaster was told of last; None where nobody wants to be told."""


class PublicName:
    """Finds the name out and follows it, from ``configure`` with ``helo_name = "auto"`` to ``close``."""

    def __init__(
        self,
        queue: Path,
        *,
        ask_at: AskAt = ask_at,
        inside: Sequence[Network] = INSIDE,
        pace: Pace | None = None,
    ) -> None:
        """``inside`` are the networks in which nobody knows what the internet sees."""
        self._file = _file_beside(queue)
        self._ask_at = ask_at
        self._inside = inside
        self._pace = pace or Pace()
        self._config = Config()
        self._memory = Memory()
        self._task: asyncio.Task[None] | None = None
        self._heard: deque[Echo] = deque(maxlen=WITNESSES)
        self._told_at: deque[float] = deque(maxlen=NOTICES_PER_DAY)
        self._logged = ""
        self._is_wanted = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._waited_until = 0.0

    def configure(self, config: Config, announce: Announce) -> None:
        """Begin to follow the name, follow a changed configuration, or follow no more."""
        old, self._config, self._announce = self._config, config, announce
        if config.helo_name != AUTO:
            self._stop()
        elif self._task is None:
            self._memory = _read(self._file)
            self._task = asyncio.create_task(self._run(), name="public name")
            self._look_soon()
        elif (config.dns, config.address_notice) != (old.dns, old.address_notice):
            self._look_soon()

    async def close(self) -> None:
        """Follow the name no more."""
        task = self._task
        self._stop()
        while task is not None and not task.done():
            task.cancel()  # again: before Python 3.12 wait_for, in dnspython, may lose one
            await asyncio.wait([task], timeout=0.05)

    async def get(self) -> str:
        """Return the name to say now; a look-up that has just begun is waited for, a few seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._waited_until):
                await self._is_idle.wait()
        return self._memory.known.helo_name(self._config.hostname)

    def hear(self, server: str, hello: Reply) -> None:
        """Take note of what the mail server at an IP address replied to EHLO or HELO.

        A server that is inside knows nothing.
        """
        if self._task is None:
            return
        server, shown = read_public(server, self._inside), parse_echo(hello.text, self._inside, server)
        if not (server and shown):
            return
        known, echo = self._memory.known, (server, shown)
        is_news = shown != known.address and echo not in self._heard
        self._heard.append(echo)
        # Name servers tell whether that is a change; of IPv6 where IPv4 is known, they need not.
        is_doubtful = is_news and (":" not in shown or ":" in known.address)
        asked = [known.asked] if known.asked else []
        if is_doubtful or weigh(known, asked, self._heard) != known:
            self._look_soon()

    def _look_soon(self) -> None:
        self._is_idle.clear()
        self._is_wanted.set()
        self._waited_until = asyncio.get_running_loop().time() + self._pace.patience

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._is_idle.set()

    async def _run(self) -> None:
        rest = self._pace.retry
        while True:
            self._is_wanted.clear()
            is_done = False
            try:
                is_done = await self._look_up()
            except Exception as error:
                events.failed("the public name", error)
            if asyncio.current_task() is not self._task:
                return
            self._release()
            if is_done:
                pause, rest = self._pace.again, self._pace.retry
            else:
                pause, rest = rest, min(2 * rest, self._pace.again)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_wanted.wait()

    def _release(self) -> None:
        """Let sessions go on, unless there is more to be found out."""
        if not self._is_wanted.is_set():
            self._is_idle.set()

    async def _look_up(self) -> bool:
        """Find address and name out, and follow them; return whether that could be done."""
        old = self._memory
        known, is_done = await self._find(old.known)
        self._memory = Memory(known, old.told if self._config.address_notice else None)
        self._log(known, is_done=is_done)
        self._release()
        if is_done:
            self._memory = replace(self._memory, told=await self._tell(known, self._memory.told))
        if self._memory != old:
            with suppress(OSError):
                await in_thread(partial(_write, self._file, self._memory))
        return is_done

    async def _find(self, old: Known) -> tuple[Known, bool]:
        """Return what is known now, and whether that is sure."""
        config = self._config
        ask = Lookup(config.dns.nameservers, timeout=DNS_SECONDS).ask
        seen = await ask_mirrors(ask, self._ask_at, self._inside)
        known = weigh(old, seen.addresses, self._heard)
        if known.address != old.address:
            self._heard = deque((echo for echo in self._heard if echo[1] == known.address), WITNESSES)
        if not known.address:
            return known, False
        reverse = await find_reverse(known.address, ask)
        if reverse.failure:
            return known, False
        return replace(known, name=choose_name(reverse.confirmed, known.name, config.hostname)), True

    def _log(self, known: Known, *, is_done: bool) -> None:
        """Say what the name is, where that has not been said yet."""
        if known.name:
            reason = f"the name of {known.address}, which leads back to it"
        elif not known.address:
            reason = "the public address is not known yet"
        elif is_done:
            reason = f"{known.address} has no name that leads back to it"
        else:
            reason = f"the name of {known.address} could not be looked up"
        name = known.helo_name(self._config.hostname)
        if self._logged != f"{name}: {reason}":
            self._logged = f"{name}: {reason}"
            events.ehlo_named(name, known.address, reason)

    async def _tell(self, known: Known, told: Told) -> Told:
        """Tell the postmaster of a change, and return what was told last."""
        now, config = asyncio.get_running_loop().time(), self._config
        if not config.address_notice or (known.address, known.name) == told:
            return told
        if len(self._told_at) == NOTICES_PER_DAY and now - self._told_at[0] < _DAY:
            return told
        if not await self._announce(*write_notice(known, told, config.hostname)):
            return told
        self._told_at.append(now)
        return known.address, known.name


def last_helo_name(config: Config) -> str:
    """Return the EHLO name; with ``"auto"`` the one that the relay found out last, if that can be read."""
    return recall(config).helo_name(config.hostname) if config.helo_name == AUTO else config.helo_name


def recall(config: Config) -> Known:
    """Return what the relay found out last, running or not."""
    return _read(_file_beside(config.queue.path)).known


def _file_beside(queue: Path) -> Path:
    return queue.with_name(f"{queue.name}.public-name")


def _read(file: Path) -> Memory:
    """Return what a file holds; nothing where it is not there or damaged."""
    try:
        found = json.loads(file.read_bytes())
        address, asked = (read_public(found[key], ()) for key in ("address", "asked"))
        name, told = found["name"], found["told"]
        known = Known(address, asked, name if is_fit(name) else "")
        return Memory(known, (str(told[0]), str(told[1])) if told else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return Memory()


def _write(file: Path, memory: Memory) -> None:
    new = file.with_name(f"{file.name}.new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({**asdict(memory.known), "told": memory.told}), encoding="ascii")
    new.replace(file)
