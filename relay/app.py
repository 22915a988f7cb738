"""The composition root: builds the rooms, runs them, follows relay.toml, and takes them down in order."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import relay
from relay import events, log
from relay.alerts.alerts import Alerts
from relay.config.model import Config
from relay.config.problems import ConfigError
from relay.delivery.departure import Departures
from relay.delivery.fallback import Fallback, reaches
from relay.delivery.lane import Tools
from relay.delivery.maildir import Maildirs
from relay.delivery.manager import Manager
from relay.delivery.reports import Recorder
from relay.lookout import look
from relay.mail.envelope import Message
from relay.mail.reply import Reply
from relay.oauth.tokens import Tokens
from relay.queue.control import ControlServer
from relay.queue.errors import QueueError, refusal
from relay.queue.selection import Selection
from relay.queue.store import Store
from relay.reception.intake import Intake, Outlets
from relay.reception.logins import Logins
from relay.reception.maildrop import Maildrop
from relay.reception.reverse import ReverseNames
from relay.reception.server import ListenError, Reception
from relay.routing.public_name import PublicName
from relay.status import Page, Status
from relay.watch import Watch
from relay.wiring import Wiring, accounts_of

GRACE_SECONDS = 5.0
"""How long clients in the middle of a message, and transfers that have begun, may go on after SIGTERM."""
MAINTENANCE_SECONDS = 3600.0
"""How often the queue is tidied up."""


def run(config: Config, load: Callable[[], Config], watch: Watch) -> int:
    """Run the relay until SIGTERM or SIGINT; return the exit status.

    ``load`` reads the configuration anew, and raises ConfigError; ``watch`` is on its file.
    """
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # a thousand clients need more
    with asyncio.Runner(loop_factory=_choose_loop()) as runner:
        return runner.run(_run(config, load, watch))


def _choose_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:  # no wheel for this machine: asyncio's own loop does the same more slowly
        return None
    return uvloop.new_event_loop


async def _run(config: Config, load: Callable[[], Config], watch: Watch) -> int:
    stop = _stop_on_signals()
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    try:
        async with _serving(config, watch.file) as service:
            following = asyncio.create_task(_follow(service, load, watch, asked), name="configuration")
            await stop.wait()
            events.stopping("asked to")
            following.cancel()
            await asyncio.wait([following])
    except (QueueError, ListenError) as error:
        sys.stderr.write(f"relay: {error}\n")
        return 1
    events.stopped()
    return 0


def _stop_on_signals() -> asyncio.Event:
    """Return the event that the first SIGTERM or SIGINT sets; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    return stop


async def _follow(service: Service, load: Callable[[], Config], watch: Watch, asked: asyncio.Event) -> None:
    """Apply the configuration whenever its file changes, or somebody asks."""
    async for _ in watch.changes(asked):
        try:
            await service.configure(await asyncio.to_thread(load))
        except ConfigError as error:
            service.reject(error.errors)
        except ListenError as error:
            service.reject([str(error)])
        except Exception as error:
            service.reject([repr(error)])
            events.failed("the changed configuration", error)


@asynccontextmanager
async def _serving(config: Config, file: Path | None) -> AsyncIterator[Service]:
    """The relay at work: what is built first is taken down last."""
    tokens, logins = Tokens(accounts_of(config)), Logins(config.users)
    public_name = PublicName(config.queue.path)
    service = Service(Wiring.of(config, tokens, public_name), tokens, logins, public_name)
    store = await Store.open(config.queue.path, retry=lambda *claim: service.wiring.retry_at(*claim))
    try:
        await service.start(store, file)
        background = [
            asyncio.create_task(service.manager.run(), name="delivery"),
            asyncio.create_task(service.maildrop.run(), name="maildrop"),
            asyncio.create_task(service.maintain(), name="maintenance"),
            asyncio.create_task(tokens.keep_alive(), name="tokens"),
        ]
        try:
            await service.reception.open(config.listen, config.tls)
            gc.freeze()  # what lives as long as the process need not be looked at again and again
            addresses = ", ".join(service.reception.addresses) or "no address yet"
            events.started(relay.__version__, addresses, str(config.queue.path))
            await service.page.configure(config)
            yield service
        finally:
            await asyncio.gather(service.reception.close(GRACE_SECONDS), service.manager.close(GRACE_SECONDS))
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            service.maildrop.close()
            await service.control.close()
            await service.alerts.close()
            await public_name.close()
            await service.page.close()
    finally:
        logins.close()
        await store.close()


class Service:
    """The rooms, and the wiring between them, which is replaced when the configuration changes.

    What a room needs at each step goes through ``self.wiring``, so that the next step follows the new one.
    """

    def __init__(self, wiring: Wiring, tokens: Tokens, logins: Logins, public_name: PublicName) -> None:
        self.wiring = wiring
        self._tokens = tokens
        self._logins = logins
        self._public_name = public_name
        self._rejected: list[str] = []
        """What is wrong with the configuration that was not taken."""

    async def start(self, store: Store, file: Path | None) -> None:
        """Build the rooms on a queue, and serve the owner's commands and the maildrop."""
        wiring, config = self.wiring, self.wiring.config
        self._store = store
        self.recorder = Recorder(store, wiring.reporting, time.time)
        await self.recorder.report_leftovers()
        self._departures = Departures(wiring.departure, store.read)
        self._fallback = Fallback(
            lambda: self.wiring.config.fallback,
            store,
            lambda next_hop: reaches(next_hop, self.wiring.endpoints),
            time.time,
        )
        await self._fallback.keep(wiring.fallbacks)
        self.manager = self._build_manager()
        self.control = ControlServer(store, self.manager.retry_now, self._find_problems)
        intake = self._build_intake()
        self.reception = Reception(
            intake,
            wiring.session,
            config.limits,
            ReverseNames(
                lambda address: self.wiring.resolver.ptr(address),
                lambda name: self.wiring.resolver.addresses(name),
            ),
            self._logins,
        )
        self.maildrop = self._build_maildrop(intake)
        told = config.queue.path.with_name(f"{config.queue.path.name}.alerts")
        self.alerts = Alerts(told, lambda after: look(store, self._tokens, after))
        status = Status(
            store, self.control, self.manager, self._tokens, lambda: self.wiring.config, self._find_problems
        )
        self.page = Page(status, file)
        await self.control.start()
        await self.maildrop.open()
        self.alerts.configure(config)
        self._public_name.configure(config, self._announce)

    async def configure(self, config: Config) -> None:
        """Follow a changed configuration, without dropping a session or a transfer. Raises ListenError."""
        old = self.wiring.config
        if config.queue.path != old.queue.path:
            events.warned("restart the relay to apply the changed queue.path")
            config = replace(config, queue=replace(config.queue, path=old.queue.path))
        if (config.listen, config.tls) != (old.listen, old.tls):
            await self.reception.open(config.listen, config.tls)
        self._tokens.configure(accounts_of(config))
        self.wiring = wiring = Wiring.of(config, self._tokens, self._public_name)
        intake = self._build_intake()
        self._logins.configure(config.users)
        self.reception.configure(intake, wiring.session, config.limits)
        self.maildrop.configure(intake, config.limits.message_size)
        self.recorder.configure(wiring.reporting)
        self._departures.configure(wiring.departure)
        self.manager.configure(wiring.clock, has_postmaster=bool(config.postmaster))
        log.configure(config.log)
        self.alerts.configure(config)
        self._public_name.configure(config, self._announce)
        if (config.web, config.hostname) != (old.web, old.hostname):
            await self.page.configure(config)
        await self._fallback.keep(wiring.fallbacks)
        self._rejected = []
        events.configured(_name_changes(old, config))
        if _leads_elsewhere(old, config):
            self.manager.renew_connections()
            try:
                await self._store.retry(Selection())
            except QueueError as error:
                events.warned(f"what waits is not tried at once, but when it is due: {error}")
            self.manager.retry_now()

    def reject(self, problems: Sequence[str]) -> None:
        """Keep the configuration as it is: the changed one has problems."""
        self._rejected = [*problems]
        events.configuration_rejected(problems)

    async def maintain(self) -> None:
        """Drop old history, until cancelled."""
        while True:
            try:
                await self._store.purge(time.time() - self.wiring.config.queue.history)
            except QueueError as error:
                events.warned(f"the queue is not tidied up: {error}")
            await asyncio.sleep(MAINTENANCE_SECONDS)

    async def _announce(self, subject: str, text: str) -> bool:
        """Tell the postmaster something by mail; return whether it could be put into the queue."""
        try:
            await self.recorder.announce(subject, text)
        except QueueError as error:
            events.warned(f'the postmaster is not told yet that "{subject}": {error}')
            return False
        self.manager.wake()
        return True

    def _find_problems(self) -> list[str]:
        """Return what the owner must mend, a sentence each."""
        return [*self._rejected, *self._tokens.problems.values()]

    def _build_manager(self) -> Manager:
        def tools(pause: Callable[[int, float], float], changed: Callable[[], None]) -> Tools:
            return Tools(
                lambda next_hop: self.wiring.endpoints(next_hop),
                lambda *asked: self.wiring.connect(*asked),
                self._departures.send,
                pause,
                time.time,
                changed,
                time.monotonic,
            )

        hostname = self.wiring.config.hostname
        return Manager(
            self._store,
            lambda address, reverse_path: self.wiring.route(address, reverse_path, self._store.learned),
            self.recorder.record,
            tools,
            self.wiring.clock,
            time.time,
            maildirs=lambda changed: Maildirs(hostname, self._store.read, changed),
            fallback=self._fallback,
            has_postmaster=bool(self.wiring.config.postmaster),
            steady=time.monotonic,
        )

    def _build_intake(self) -> Intake:
        wiring, store, manager = self.wiring, self._store, self.manager
        outlets = Outlets(
            new_number=store.new_number,
            incoming=store.incoming,
            is_ours=wiring.access.is_ours,
            judge_access=wiring.access.judge,
            expand=wiring.ways.expand,
            identity=wiring.ways.identity,
            route=wiring.ways.route,
            verify=wiring.verify,
            verify_sender=wiring.verify_sender,
            has_room=manager.has_room,
            may_begin=manager.may_begin,
            submit=manager.submit,
            wake=manager.wake,
            retry_at=lambda number, now: wiring.retry_at(1, now, number),
            explain_failure=_explain_failure,
            now=time.time,
        )
        return Intake(wiring.arrival, wiring.arrival_checks, outlets)

    def _build_maildrop(self, intake: Intake) -> Maildrop:
        async def is_known(number: int) -> bool:
            return await self._store.show(number) is not None

        async def report(message: Message, original: bytes, reply: Reply) -> None:
            await self.recorder.refuse(message, original, reply)
            self.manager.wake()

        config = self.wiring.config
        return Maildrop(
            config.queue.maildrop, intake, limit=config.limits.message_size, is_known=is_known, report=report
        )


def _name_changes(old: Config, new: Config) -> list[str]:
    """Return the names of the sections and keys that differ."""
    return [name for name in Config.__dataclass_fields__ if getattr(old, name) != getattr(new, name)]


def _leads_elsewhere(old: Config, new: Config) -> bool:
    """Whether mail that waits may have a better way now, or another account."""
    names = (
        "relayhost",
        "fallback",
        "prefer",
        "smarthost",
        "transport",
        "sender_relayhost",
        "sender_canonical",
        "dns",
        "helo_name",
    )
    return any(getattr(old, name) != getattr(new, name) for name in names)


def _explain_failure(error: Exception) -> Reply:
    """Return what a client is told whose message could not be stored."""
    if isinstance(error, QueueError):
        events.warned(f"a message was refused: {error}")
    else:
        events.failed("a message was refused", error)
    return refusal(error)
