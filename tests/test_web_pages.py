from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.mail.attempt import Attempt, Outcome, State
from relay.mail.envelope import Recipient
from relay.mail.learned import ANYWHERE, LIFETIME
from relay.mail.reply import Reply
from relay.web import pages
from relay.web.views import QUEUE_ROWS, SEARCH_ROWS
from tests.support.queue import NOW, Gate, accept, deferred, outcome, states
from tests.support.web import House, Visitor, learned_route, login, next_hop, page, visitor

FULL = Attempt(
    Reply(452, "4.2.2", "Over quota"),
    host="mx.example.net[192.0.2.1]:25",
    command="RCPT TO",
    is_remote=True,
    next_hop="example.net:25",
)
HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</title></textarea></script><svg onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;",
    "\u202egnp.exe",
    "a\x00b\x1b[2J\udcff",
    "W" * 10_000,
]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with page(tmp_path) as house:
        yield house


@pytest.fixture
async def guest(house: House) -> AsyncIterator[Visitor]:
    async with visitor(house) as guest:
        yield guest


class Text(HTMLParser):
    """The text of a page as a reader sees it, and the names of its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    def __str__(self) -> str:
        return " ".join(self.words)


async def read(guest: Visitor, path: str = "/", status: int = 200) -> str:
    answer = await guest.get(path)
    assert answer.status == status
    return str(Text(answer.text))


class TestTheFirstPage:
    async def test_all_is_well(self, guest: Visitor) -> None:
        text = await read(guest)
        assert "All is well: nothing waits. Running since" in text
        assert "The queue is empty." in text
        assert "No messages yet." in text
        assert "No smarthost has an account" in text

    async def test_what_waits_and_why(self, house: House, guest: Visitor) -> None:
        message = await accept(house.store, subject="Roof", retry_at=NOW + 3)
        await house.store.record([Outcome(message.number, 0, State.DEFERRED, FULL, NOW + 600)])
        text = await read(guest)
        assert "1 message waits. 1 recipient deferred. The oldest message came just now" in text
        assert (
            "Roof deferred chris@free.fr → u0@example.net mx.example.net: the mailbox is full 25 bytes came"
            " just now next attempt in 10 minutes Retry now Hold Delete" in text
        )

    async def test_a_message_that_is_due_is_next(self, house: House, guest: Visitor) -> None:
        await accept(house.store)
        assert "next attempt as soon as possible" in await read(guest)

    async def test_many_recipients_and_messages_are_cut(self, house: House, guest: Visitor) -> None:
        for _ in range(QUEUE_ROWS + 2):
            message = await accept(house.store, 7, now=NOW - 60)
        text = await read(guest)
        assert "u4@example.net and 2 others" in text
        html = (await guest.get("/")).text
        (after,) = re.findall(r'href="/\?after=([0-9A-F]+)"', html)
        rest = await read(guest, f"/?after={after}")
        assert "First page" in rest
        assert "More messages" not in rest
        assert f'href="/message/{message.queue_id}"' in (await guest.get(f"/?after={after}")).text
        assert await read(guest, "/?after=no-id")

    async def test_next_hops_logins_and_troubles(self, house: House, guest: Visitor) -> None:
        house.hops = [
            next_hop("b.test:25", in_flight=2, waiting=30),
            next_hop("c.test:25"),
            next_hop(
                "a.test:25",
                state="blocked",
                blocked_until=NOW + 300,
                failure="connect to mx.a.test[192.0.2.1]:25: connection refused",
            ),
        ]
        house.accounts = [
            login("isp", "chris@free.fr"),
            login("outlook", "c@outlook.com", expires_at=NOW + 3000),
            login("gmail", "c@gmail.com", expires_at=NOW - 60, problem="log in again: relay login gmail"),
        ]
        house.troubles = ["relay.toml:3: queue.retry: too short", "log in again: relay login gmail"]
        text = await read(guest)
        assert "2 things to mend. Nothing waits. a.test does not answer." in text
        assert "relay.toml:3: queue.retry: too short" in text
        assert "a.test waits no connection to mx.a.test: connection refused next probe in 5 minutes" in text
        assert "b.test works 2 messages under way 30 waiting" in text
        assert "c.test works idle" in text
        assert "isp fine chris@free.fr" in text
        assert "outlook fine c@outlook.com token ends in 50 minutes , renewed by itself" in text
        assert (
            "gmail to mend c@gmail.com log in again: relay login gmail token ended 1 minute ago ;"
            " the next login renews it" in text
        )

    async def test_the_charts_have_words(self, house: House, guest: Visitor) -> None:
        house.counts._count_attempt("delivered", "x.test:25", 0.3, NOW)
        house.now = NOW + 7200
        text = await read(guest)
        assert "Since the start 2 hours ago: 1 delivered, 0 deferred, 0 bounced." in text
        house.now = NOW + 40 * 3600
        assert "Since the start 1 day ago: 1 delivered" in await read(guest)
        house.now = NOW + 100 * 3600
        assert "In the last 48 hours: 0 delivered" in await read(guest)

    async def test_a_queue_that_does_not_answer(self, house: House, guest: Visitor) -> None:
        await house.store._writer.close()
        for path in ("/", "/messages", "/message/3F"):
            assert "Sorry" in await read(guest, path, 503)
        answer = await guest.get("/healthz")
        assert answer.status == 503
        assert '"status": "failing"' in answer.text
        assert (await guest.get("/metrics")).status == 503


class TestButtons:
    async def test_each_does_what_it_says(self, house: House, guest: Visitor) -> None:
        message = await accept(house.store, retry_at=NOW + 3)
        for command, said, after in (
            ("hold", "1 message put on hold.", [State.HELD]),
            ("release", "1 message released.", [State.QUEUED]),
            ("retry", "1 message retried.", [State.QUEUED]),
            ("delete", "1 message deleted.", []),
        ):
            answer = await guest.press("/", "/act", command=command, id=message.queue_id)
            assert answer.status == 303
            assert said in await read(guest, answer.headers["Location"])
            assert await states(house.store, message) == after
        assert house.changes == 4

    async def test_all_are_retried_at_once(self, house: House, guest: Visitor) -> None:
        for _ in range(3):
            await accept(house.store, retry_at=NOW + 3)
        answer = await guest.press("/", "/act", command="retry", id="all")
        assert "3 messages retried." in await read(guest, answer.headers["Location"])

    async def test_they_lead_back_to_where_they_stand(self, house: House, guest: Visitor) -> None:
        message = await accept(house.store)
        place = f"/message/{message.queue_id}"
        answer = await guest.press(place, "/act", command="hold", id=message.queue_id, back="message")
        assert answer.headers["Location"] == f"{place}?did=hold&count=1"
        answer = await guest.press(place, "/act", command="delete", id=message.queue_id, back="message")
        assert answer.headers["Location"] == "/?did=delete&count=1"

    @pytest.mark.parametrize(
        ("command", "queue_id"),
        [
            ("delete", "all"),
            ("hold", "all"),
            ("delete", ""),
            ("", "3F"),
            ("list", "3F"),
            ("delete", "3f'; --"),
            ("delete", "3F" * 20),
            ("retry", "ALL"),
        ],
    )
    async def test_other_buttons_are_not_known(
        self, house: House, guest: Visitor, command: str, queue_id: str
    ) -> None:
        message = await accept(house.store)
        answer = await guest.press("/", "/act", command=command, id=queue_id)
        assert answer.status == 400
        assert await states(house.store, message) == [State.QUEUED]

    async def test_a_message_that_is_gone_already(self, guest: Visitor) -> None:
        assert "0 messages deleted." in await read(
            guest, (await guest.press("/doctor", "/act", command="delete", id="3F")).headers["Location"]
        )

    async def test_a_queue_that_is_broken_is_told(self, house: House, guest: Visitor) -> None:
        token = (await guest.get("/")).token
        await house.store._writer.close()
        answer = await guest.post("/act", {"token": token, "command": "retry", "id": "all"})
        assert answer.status == 503
        assert "is closed" in answer.text

    @pytest.mark.parametrize(
        "query", ["did=hold", "did=hold&count=x", "did=evil&count=1", "did=hold&count=1e9", "count=1"]
    )
    async def test_nobody_else_makes_the_page_say_things(self, guest: Visitor, query: str) -> None:
        assert 'class="did"' not in (await guest.get(f"/?{query}")).text


class TestLearnedRoutes:
    async def test_they_are_shown_with_the_reason(self, house: House, guest: Visitor) -> None:
        await house.store.learn(learned_route("friends.example"))
        await house.store.learn(
            learned_route(ANYWHERE, reason="port 25 not reached", reply="timed out", is_pinned=True)
        )
        text = await read(guest)
        assert (
            "friends.example blocklist mx.friends.example: a rule of the server forbids it goes over isp"
            " (smtp.isp.example) learned just now tried directly again in 30 days Try directly Keep for ever"
        ) in text
        assert "All sites port 25 not reached timed out" in text
        assert text.count("for ever") == 2  # the pinned one has no button for it
        house.now = NOW + LIFETIME
        assert "tried directly again with the next message" in await read(guest)

    async def test_buttons_keep_and_forget_one(self, house: House, guest: Visitor) -> None:
        await house.store.learn(learned_route("friends.example"))
        answer = await guest.press("/", "/route", command="pin", domain="friends.example")
        assert (answer.status, answer.headers["Location"]) == (303, "/#routes")
        assert house.store.learned["friends.example"].is_pinned
        answer = await guest.press("/", "/route", command="forget", domain="friends.example")
        assert answer.status == 303
        assert house.store.learned == {}
        assert _routes_of((await guest.get("/")).text)["hidden"] is None

    async def test_one_that_is_gone_already_is_told(self, guest: Visitor) -> None:
        answer = await guest.press("/", "/route", command="pin", domain="friends.example")
        assert answer.status == 503
        assert "no route was learned for friends.example" in answer.text

    @pytest.mark.parametrize(
        "form", [{"command": "retry", "domain": "x.example"}, {"command": "pin"}, {"domain": "x.example"}]
    )
    async def test_other_buttons_are_not_known(
        self, house: House, guest: Visitor, form: dict[str, str]
    ) -> None:
        route = learned_route("x.example")
        await house.store.learn(route)
        token = (await guest.get("/")).token
        assert (await guest.post("/route", {"token": token, **form})).status == 400
        assert (await guest.post("/route", {"command": "forget", "domain": "x.example"})).status == 403
        assert house.store.learned == {"x.example": route}

    async def test_without_any_their_place_is_kept_for_the_script(self, guest: Visitor) -> None:
        assert "hidden" in _routes_of((await guest.get("/")).text)


def _routes_of(html: str) -> dict[str, str | None]:
    """Return the attributes of the section of learned routes."""
    [section] = [attributes for _, attributes in Text(html).elements if attributes.get("id") == "routes"]
    return section


class TestOneMessage:
    async def test_its_history_word_for_word(self, house: House, guest: Visitor) -> None:
        message = await accept(
            house.store,
            [Recipient("aunt@example.net", original="auntie@gw1")],
            content=b"Subject: =?utf-8?q?=C3=89t=C3=A9?=\r\nX-Other: yes\r\n\r\nhello\r\n",
            header_size=48,
            client="pc[192.168.0.12]",
            message_id="<1@pc>",
        )
        for minute in (1, 2):
            await house.store.record([Outcome(message.number, 0, State.DEFERRED, FULL, NOW + 60 * minute)])
        text = await read(guest, f"/message/{message.queue_id}")
        assert "Été deferred Retry now Hold Delete" in text
        assert "Client pc[192.168.0.12]" in text
        assert "Message-ID <1@pc>" in text
        assert "given as auntie@gw1" in text
        assert "2 attempts, word for word" in text
        assert text.count("host mx.example.net[192.0.2.1] said: 452 4.2.2 Over quota") == 2
        assert "X-Other: yes" in text

    async def test_one_that_is_finished(self, house: House, guest: Visitor) -> None:
        message = await accept(house.store, 2, reverse_path="")
        await house.store.record([outcome(message, State.DELIVERED), outcome(message, State.BOUNCED, 1)])
        await house.store.record([], reported=[(message.number, 1)])
        text = await read(guest, f"/message/{message.queue_id}")
        assert f"Message {message.queue_id} bounced" in text
        assert "nobody (a report)" in text
        assert "Retry now" not in text
        assert "mx: there is no such mailbox" in text
        assert "Header" not in text

    @pytest.mark.parametrize("queue_id", ["3F", "0", "FFFFFFFFFFFFFFFF"])
    async def test_one_that_there_is_not(self, guest: Visitor, queue_id: str) -> None:
        assert "There is no such message" in await read(guest, f"/message/{queue_id}", 404)

    @pytest.mark.parametrize(
        "path", ["/message/", "/message/xyz", "/message/3f", "/message/3F/..", "/nowhere"]
    )
    async def test_no_such_page(self, guest: Visitor, path: str) -> None:
        assert (await guest.get(path)).status == 404


class TestSearch:
    async def test_by_recipient_and_subject(self, house: House, guest: Visitor) -> None:
        await accept(house.store, [Recipient("aunt@example.net")], subject="Holiday photos")
        await accept(house.store, [Recipient("bob@example.org")], subject="Invoice", now=NOW + 1)
        for query, subject in (("aunt@example.net", "Holiday photos"), ("nvoic", "Invoice")):
            text = await read(guest, f"/messages?{urlencode({'q': query})}")
            assert subject in text
            assert ("Invoice" in text) is (subject == "Invoice")
        assert "Invoice" in await read(guest, "/messages")

    async def test_nothing_found(self, house: House, guest: Visitor) -> None:
        assert "No messages yet." in await read(guest, "/messages")
        await accept(house.store, now=NOW - 7200)
        text = await read(guest, f"/messages?{urlencode({'q': '<b>nobody'})}")
        assert "Nothing was found for <b>nobody . The history begins 2 hours ago ." in text

    async def test_many_messages_come_in_pages(self, house: House, guest: Visitor) -> None:
        for number in range(SEARCH_ROWS + 3):
            await accept(house.store, subject=f"Number {number}.", now=NOW + number)
        first = await guest.get("/messages?q=u0@example.net")
        assert f"Number {SEARCH_ROWS + 2}." in first.text
        assert "Number 2." not in first.text
        (older,) = [
            attributes["href"] for tag, attributes in Text(first.text).elements
            if tag == "a" and "before=" in (attributes["href"] or "")
        ]  # fmt: skip
        assert older
        rest = await read(guest, older)
        assert "Number 2." in rest
        assert "Older messages" not in rest
        assert await read(guest, "/messages?before=no-id&q=u0@example.net") == str(Text(first.text))


class TestHostileText:
    """What a stranger writes into a message stays text."""

    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    async def test_it_makes_no_element(self, house: House, guest: Visitor, text: str) -> None:
        async def elements() -> list[list[tuple[str, dict[str, str | None]]]]:
            found = []
            for path in ("/", "/messages", f"/message/{message.queue_id}", "/doctor"):
                html = Text((await guest.get(path)).text)
                assert "\u202e" not in str(html)
                assert "\x1b" not in str(html)
                found.append([(tag, {n: a[n] for n in a if n not in _OWN}) for tag, a in html.elements])
            return found

        harmless = "harmless"
        for words in (harmless, text):
            message = await accept(
                house.store,
                [Recipient(words, original=words)],
                reverse_path=words,
                subject=words,
                client=words,
                message_id=words,
                content=f"Subject: {words}\r\n\r\n".encode("utf-8", "surrogateescape"),
                header_size=100,
            )
            attempt = Attempt(
                Reply(450, "4.0.0", words), host=words, command="<b>", is_remote=True, next_hop=words
            )
            for _ in range(2):
                await house.store.record([Outcome(message.number, 0, State.DEFERRED, attempt, NOW)])
            house.hops = [next_hop(words, state="blocked", blocked_until=NOW + 1, failure=words)]
            house.accounts = [login(words, words, problem=words)]
            house.troubles = [words]
            await house.store.forget([*house.store.learned])
            await house.store.learn(learned_route(words, via=words, reason=words, reply=words))
            if words == harmless:
                expected = await elements()
                await guest.press("/", "/act", command="delete", id=message.queue_id)
            else:
                assert await elements() == expected
                assert "49" not in await read(guest, f"/message/{message.queue_id}")

    async def test_a_search_is_text_too(self, guest: Visitor) -> None:
        plain = Text((await guest.get("/messages?q=x")).text).elements
        for text in HOSTILE:
            html = (await guest.get(f"/messages?{urlencode({'q': text[:500]}, errors='replace')}")).text
            assert [tag for tag, _ in Text(html).elements] == [tag for tag, _ in plain]


_OWN = {"href", "title", "aria-label", "value", "id"}
"""Attributes that hold queue ids, replies or times."""


class TestForPrograms:
    async def test_healthz(self, house: House, guest: Visitor) -> None:
        answer = await guest.get("/healthz")
        assert (answer.status, answer.text) == (200, '{"status": "ok", "problems": []}\n')
        assert answer.headers["Content-Type"].startswith("application/json")
        house.troubles = ["mend me"]
        assert '"degraded", "problems": ["mend me"]' in (await guest.get("/healthz")).text

    async def test_a_queue_that_is_stuck(
        self, house: House, guest: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "PATIENCE_SECONDS", 0.01)
        gate = Gate(house.store._writer)
        await gate.entered()
        answer = await guest.get("/healthz")
        assert answer.status == 503
        assert "the queue does not answer" in answer.text
        await gate.let_go()
        assert (await guest.get("/healthz")).status == 200

    async def test_metrics(self, house: House, guest: Visitor) -> None:
        message = await accept(house.store, 2, now=NOW - 30)
        await house.store.record([deferred(message, "x.test:25")])
        answer = await guest.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        by_state = {s.labels["state"]: s.value for s in families["relay_queue_recipients"].samples}
        assert by_state == {"queued": 1, "deferred": 1, "held": 0}
        assert families["relay_queue_oldest_seconds"].samples[0].value == 30
        assert families["relay_queue_commits"].samples[0].value >= 2
        assert families["relay_queue_fsync_seconds"].samples[0].value > 0

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")],
    )
    async def test_assets(self, guest: Visitor, name: str, kind: str) -> None:
        answer = await guest.get(f"/static/{name}?v=1")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(kind)

    @pytest.mark.parametrize("name", ["nothing.css", "..%2f..%2fevents.py", "../server.py", "...", ""])
    async def test_no_other_files(self, guest: Visitor, name: str) -> None:
        assert (await guest.get(f"/static/{name}")).status == 404
