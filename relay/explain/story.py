"""The way of a message in words: what happens to it, step by step, and which line of relay.toml says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from relay.config.places import Places
from relay.explain.headers import tell_arrival, tell_departure
from relay.explain.passage import Passage
from relay.explain.ways import Ways
from relay.explain.words import Citing, Step, show
from relay.mail.address import complete
from relay.mail.envelope import Client, Recipient
from relay.mail.route import NextHop, Rule
from relay.oauth.tokens import Tokens
from relay.wiring import Wiring


def tell(wiring: Wiring, tokens: Tokens, places: Places, passage: Passage) -> list[Step]:
    """Return the steps of a passage in the order in which a reader wants them."""
    return list(_Story(wiring, tokens, Citing(places), passage).steps())


def sum_up(steps: Sequence[Step]) -> str:
    """Return what it all comes to."""
    stuck = [step for step in steps if step.is_obstacle]
    if not stuck:
        return "The message would be taken, and everybody's copy has a way."
    if all(step.step == "delivery" for step in stuck):
        return (
            f"The message would be taken, but not all copies would arrive now: see {_numbers(steps, stuck)}."
        )
    return f"The message would not be taken as it is: see {_numbers(steps, stuck)}."


def _numbers(steps: Sequence[Step], chosen: Sequence[Step]) -> str:
    return " and ".join(str(number) for number, step in enumerate(steps, 1) if step in chosen)


class _Story:
    def __init__(self, wiring: Wiring, tokens: Tokens, citing: Citing, passage: Passage) -> None:
        self._wiring = wiring
        self._tokens = tokens
        self._citing = citing
        self._passage = passage

    def steps(self) -> Iterator[Step]:
        passage = self._passage
        for recipient in passage.envelope.recipients:
            access = self._tell_access(passage.client, recipient)
            yield access
            if not access.is_obstacle:
                yield from self._tell_recipient(recipient)
        if len(passage.refusals) == len(set(passage.envelope.recipients)):
            return
        yield from self._tell_sender()
        yield from tell_arrival(
            self._wiring, self._citing, passage.content, passage.kept_header, passage.on_arrival
        )
        yield from self._tell_reply()
        if passage.leaves_the_house:
            yield from tell_departure(
                self._wiring,
                self._citing,
                passage.kept_header,
                passage.outside_header,
                passage.on_departure,
            )
        ways = Ways(self._wiring.config, self._tokens, self._citing)
        for copy in passage.copies:
            via = copy.route.via
            servers = passage.servers[via] if isinstance(via, NextHop) else ()
            yield ways.tell(copy, servers, passage.learned)

    def _tell_access(self, client: Client, recipient: Recipient) -> Step:
        access, citing = self._wiring.access, self._citing
        address, given = client.address, show(recipient.address)
        refusal = access.judge(client, recipient)
        if refusal:
            rule = citing.cite("access", "networks")
            what = f'{address} may not send to {given} ({rule}): the client is told "{refusal}"'
        elif access.is_ours(client):
            what = f"{address} may send to anywhere ({self._tell_network(address)})"
        else:
            rule = citing.cite("local", "accept")
            what = f"{address} may write to {given}, as anybody may ({rule})"
        if all(listen.auth == "required" for listen in self._wiring.config.listen):
            what += f", once it has logged in ({citing.cite('listen', 0, 'auth')})"
        return citing.step("access", address, what, is_obstacle=refusal is not None)

    def _tell_network(self, address: str) -> str:
        settings = self._wiring.config.access
        if settings.open_relay:
            return str(self._citing.cite("access", "open_relay"))
        network = self._wiring.access.network_of(address)
        if self._citing.has("access", "networks"):
            return f"it is in {network}: {self._citing.cite('access', 'networks')}"
        return f"it is in {network}, a default of access.networks"

    def _tell_recipient(self, recipient: Recipient) -> Iterator[Step]:
        wiring, given = self._wiring, recipient.address
        rewritten = wiring.arrival.rewrite_recipient(given)
        turns = list(wiring.destinations.walk(rewritten, given))
        steps = [] if turns[0].address == "" else list(self._tell_rewriting("recipient", given))
        for address, targets, rule in turns:
            reached = ", ".join(map(show, targets))
            if not address:
                why = self._citing.cite(*rule) if rule else "a name alone is somebody here, where it is known"
                steps.append(self._step("recipient", given, f"-> {reached} ({why})"))
            elif targets != (address,):
                steps.append(self._step("recipient", address, f"-> {reached} ({self._citing.cite(*rule)})"))
        yield from steps or [self._step("recipient", given, "stays as it is")]
        refusal = self._passage.refusals.get(recipient)
        if refusal and refusal == self._passage.sender_refusal:
            what = f'may not write to {show(given)}: the client is told "{refusal}"'
            yield self._step("sender", self._passage.envelope.reverse_path, what, is_obstacle=True)
        elif refusal:
            routes = [wiring.ways.route(address, "") for address in wiring.ways.expand(rewritten, given)]
            rules = dict.fromkeys(self._decided(route.rule) for route in routes)
            what = f'is refused ({"; ".join(rules)}): the client is told "{refusal}"'
            yield self._step("recipient", given, what, is_obstacle=True)

    def _tell_sender(self) -> Iterator[Step]:
        passage, departure = self._passage, self._wiring.departure
        given = passage.envelope.reverse_path
        steps = list(self._tell_rewriting("sender", given))
        if passage.message is not None and passage.leaves_the_house:
            kept = passage.message.envelope.reverse_path
            match = departure.sender_canonical.match(kept, departure.home) if kept else None
            if match is not None:
                where = "in copies that leave the house"
                rule = self._citing.cite("sender_canonical", match[0])
                steps.append(self._step("sender", kept, f"-> {show(match[1])} {where} ({rule})"))
        yield from steps or [
            self._step("sender", given, "stays as it is" if given else "is nobody, as in reports")
        ]

    def _tell_rewriting(self, kind: Literal["sender", "recipient"], given: str) -> Iterator[Step]:
        """Yield what is made of an address of the envelope on arrival: it is completed and rewritten."""
        rules = self._wiring.arrival
        address = complete(given, rules.home.domain)
        if address != given:
            rule = self._citing.cite_first(("domain",), ("hostname",))
            why = f"completed: {rule}" if address == f"{given}@{rules.home.domain}" else "as always"
            yield self._step(kind, given, f"-> {show(address)} ({why})")
        table = rules.sender_canonical if kind == "sender" else rules.recipient_canonical
        for key, rewritten, _ in table.steps(address, rules.home):
            rule = self._citing.cite(f"{kind}_canonical", key)
            yield self._step(kind, address, f"-> {show(rewritten)} ({rule})")
            address = rewritten

    def _tell_reply(self) -> Iterator[Step]:
        passage = self._passage
        if not passage.reply.is_positive:
            what = f'The message is refused: the client is told "{passage.reply}"'
            yield self._citing.step("message", "", what, is_obstacle=True)
        elif passage.message is None:
            yield self._citing.step("message", "", "The message is accepted and thrown away")
        elif passage.is_held:
            yield self._citing.step(
                "message", "", "The message waits until it is let go: relay queue release"
            )

    def _step(self, kind: str, address: str, what: str, *, is_obstacle: bool = False) -> Step:
        return self._citing.step(kind, show(address), f"{show(address)} {what}", is_obstacle=is_obstacle)

    def _decided(self, rule: Rule) -> str:
        return str(self._citing.cite(*rule)) if rule else "no line of relay.toml names another way"
