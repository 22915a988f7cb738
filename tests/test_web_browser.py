"""The page in a real browser: what strangers write does not run, and everybody in the house can use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from relay.config.model import Web as Settings
from relay.config.secrets import Secret
from relay.mail.attempt import Attempt, Outcome, State
from relay.mail.envelope import Recipient
from relay.mail.learned import ANYWHERE
from relay.mail.reply import Reply
from tests.support.browser import DESKTOP, PHONE, browser, look, photograph
from tests.support.queue import NOW, accept, states
from tests.support.web import House, learned_route, login, next_hop, page

pytestmark = pytest.mark.needs("chromium", "chromedriver")
T = TypeVar("T")

HOSTILE = (
    "<script>document.title='owned'</script>"
    "\"'><img src=x onerror=\"document.title='owned'\">"
    "</title></script></textarea><svg onload=\"document.title='owned'\">"
    "<a href=\"javascript:document.title='owned'\">x</a>"
    "<iframe srcdoc=\"<script>top.document.title='owned'</script>\">"
    "\u202egnp.exe\x00"
)
LONG = "W" * 10_000
STRANGERS = "main img, main iframe, main script, main svg svg, main [onerror], main a[href^=javascript]"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as driver:
        yield driver


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with page(tmp_path) as house:
        yield house


async def use(work: Callable[[], T]) -> T:
    """Use the browser, while the page answers."""
    return await asyncio.to_thread(work)


async def open_page(chrome: Chrome, house: House, path: str = "") -> None:
    await use(lambda: chrome.get(f"{house.web.url}{path}"))


async def until(work: Callable[[], bool]) -> None:
    """Wait for something to be true in the browser; while it goes to another page, nothing is."""

    def is_true() -> bool:
        try:
            return work()
        except WebDriverException:
            return False

    async with asyncio.timeout(30):
        while not await use(is_true):
            await asyncio.sleep(0.05)


def text_of(chrome: Chrome, selector: str = "main") -> str:
    return str(chrome.find_element(By.CSS_SELECTOR, selector).text)


async def fill(house: House, words: str) -> str:
    """Put words wherever strangers, servers and the owner can put some; return a queue id."""
    message = await accept(
        house.store,
        [Recipient(words, original=words, index=0), Recipient(f"{words}@example.net", index=1)],
        reverse_path=words,
        subject=words,
        client=words,
        message_id=words,
        content=f"Subject: {words}\r\nX-Other: {words}\r\n\r\n".encode("utf-8", "surrogateescape"),
        header_size=2 * len(words) + 10,
    )
    attempt = Attempt(Reply(450, "4.0.0", words), host=words, command="DATA", is_remote=True, next_hop=words)
    for _ in range(2):
        await house.store.record(
            [Outcome(message.number, index, State.DEFERRED, attempt, NOW) for index in (0, 1)]
        )
    house.hops = [next_hop(words, state="blocked", blocked_until=NOW + 9, failure=words)]
    house.accounts = [login(words, words, problem=words)]
    house.troubles = [words]
    await house.store.learn(learned_route(words, via=words, reply=words))
    house.counts._count_attempt("deferred", words, 0.1, NOW)
    return message.queue_id


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("words", [HOSTILE, LONG], ids=["hostile", "long"])
async def test_what_strangers_write_does_not_run_or_break_the_page(
    chrome: Chrome, house: House, words: str, size: tuple[int, int]
) -> None:
    queue_id = await fill(house, words)
    await use(lambda: look(chrome, size))
    for path in (
        "",
        "messages",
        f"message/{queue_id}",
        "doctor",
        "messages?q=%3Cscript%3Ealert(1)%3C/script%3E",
    ):
        await open_page(chrome, house, path)
        await use(
            lambda: chrome.execute_script(
                "document.querySelectorAll('details').forEach(d => { d.open = true; })"
            )
        )
        assert "owned" not in (await use(lambda: chrome.title)).split("'")[0]
        assert await use(lambda: chrome.title) != "owned"
        wide, screen = await use(
            lambda: chrome.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        )
        assert wide <= screen
        assert await use(lambda: chrome.find_elements(By.CSS_SELECTOR, STRANGERS)) == []
    assert await use(lambda: chrome.get_log("browser")) == []


INTRUDER = """
    const script = document.createElement("script");
    script.textContent = "document.title = 'owned'";
    document.body.append(script);
    document.body.insertAdjacentHTML(
        "beforeend", "<img src='/static/icon.svg' onload=\\"document.title = 'owned'\\">"
    );
    const other = document.createElement("script");
    other.src = "http://127.0.0.1:1/evil.js";
    document.body.append(other);
"""


async def test_a_script_that_got_in_would_not_run(chrome: Chrome, house: House) -> None:
    """The policy holds where escaping would fail."""
    await open_page(chrome, house)
    blocked: list[str] = []

    def collect() -> bool:
        blocked.extend(entry["message"] for entry in chrome.get_log("browser"))
        return len(blocked) >= 3

    await use(lambda: chrome.execute_script(INTRUDER))
    await until(collect)
    assert all("Content Security Policy" in message for message in blocked)
    assert "owned" not in await use(lambda: chrome.title)


async def test_another_site_can_neither_frame_it_nor_send_its_forms(
    chrome: Chrome, house: House, tmp_path: Path
) -> None:
    message = await accept(house.store)
    site = tmp_path / "evil.html"
    site.write_text(
        f"<iframe src='{house.web.url}'></iframe><form method='post' action='{house.web.url}act'>"
        f"<input name='command' value='delete'><input name='id' value='{message.queue_id}'>"
        "<button id='go'>x</button></form>"
    )
    await use(lambda: chrome.get(site.as_uri()))
    await until(lambda: any("frame-ancestors" in entry["message"] for entry in chrome.get_log("browser")))
    await use(lambda: chrome.find_element(By.ID, "go").click())
    await until(lambda: "did not come from this page" in text_of(chrome, "body"))
    assert await states(house.store, message) == [State.QUEUED]
    await use(lambda: chrome.get_log("browser"))


async def test_it_is_used_by_keyboard_alone(chrome: Chrome, house: House) -> None:
    message = await accept(house.store, retry_at=NOW + 60)
    await use(lambda: look(chrome, DESKTOP))
    await open_page(chrome, house)

    def press(*keys: str) -> None:
        chrome.switch_to.active_element.send_keys(*keys)

    def focus_on(words: str) -> None:
        """Press Tab until something is focused that says this."""
        for _ in range(40):
            press(Keys.TAB)
            active = chrome.switch_to.active_element
            if active.text == words:
                outline = active.value_of_css_property("outline-style")
                assert outline != "none"
                return
        raise AssertionError(f"no way to {words}")

    await use(lambda: press(Keys.TAB))
    assert await use(lambda: chrome.switch_to.active_element.text) == "Skip to the content"
    await use(lambda: focus_on("Hold"))
    await use(lambda: press(Keys.ENTER))
    await until(lambda: "1 message put on hold." in text_of(chrome))
    assert await states(house.store, message) == [State.HELD]
    await use(lambda: focus_on("Delete"))
    await use(lambda: press(Keys.ENTER))
    await use(lambda: focus_on("Delete for good"))
    await use(lambda: press(Keys.ENTER))
    await until(lambda: "1 message deleted." in text_of(chrome))
    assert await states(house.store, message) == []


async def test_what_changes_shows_by_itself(chrome: Chrome, house: House) -> None:
    message = await accept(house.store, subject="First", retry_at=NOW + 60)
    await use(lambda: look(chrome, PHONE))
    await open_page(chrome, house)
    assert "1 message waits." in await use(lambda: chrome.title)
    await use(lambda: chrome.find_element(By.CSS_SELECTOR, "#queue summary").click())
    await use(lambda: chrome.find_element(By.CSS_SELECTOR, "#queue summary").send_keys(""))
    await use(lambda: chrome.find_element(By.ID, f"hold-{message.queue_id}").send_keys(""))
    await accept(house.store, subject="<b>Second</b>", retry_at=NOW + 60)
    await until(lambda: "<b>Second</b>" in text_of(chrome, "#queue"))
    assert "2 messages wait." in await use(lambda: chrome.title)
    assert (
        await use(lambda: text_of(chrome, "#queue details[open]"))
        == "Delete\nThe sender is not told.\nDelete for good"
    )
    assert (
        await use(lambda: chrome.switch_to.active_element.get_attribute("id")) == f"hold-{message.queue_id}"
    )
    await use(lambda: chrome.find_element(By.ID, f"hold-{message.queue_id}").click())
    await until(lambda: "put on hold" in text_of(chrome))
    assert "did=" not in await use(lambda: chrome.current_url)


LOOK_AGAIN = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.mark.parametrize("chosen", ["#queue a.title", "#queue summary", "#routes button[value=forget]"])
async def test_what_is_focused_stays_so_while_the_page_changes(
    chrome: Chrome, house: House, chosen: str
) -> None:
    await accept(house.store, subject="First", retry_at=NOW + 60)
    await house.store.learn(learned_route(ANYWHERE))
    await open_page(chrome, house)
    focus = f"document.querySelector('{chosen}').focus()"
    await use(lambda: chrome.execute_script(focus))
    await accept(house.store, subject="Second", retry_at=NOW + 60)
    await house.store.learn(learned_route("friends.example"))
    await use(lambda: chrome.execute_script(LOOK_AGAIN))
    await until(lambda: "Second" in text_of(chrome, "#queue") and "friends" in text_of(chrome, "#routes"))
    is_focused = f"return document.activeElement === document.querySelector('{chosen}')"
    assert await use(lambda: chrome.execute_script(is_focused))
    assert await use(lambda: chrome.find_element(By.TAG_NAME, "body").get_attribute("class")) == ""


async def test_learned_routes_come_and_go_by_themselves(chrome: Chrome, house: House) -> None:
    await use(lambda: look(chrome, DESKTOP))
    await open_page(chrome, house)
    section = await use(lambda: chrome.find_element(By.ID, "routes"))
    assert not await use(section.is_displayed)
    await house.store.learn(learned_route("friends.example"))
    await use(lambda: chrome.execute_script(LOOK_AGAIN))
    await until(lambda: section.is_displayed() and "friends.example" in section.text)
    await house.store.forget(["friends.example"])
    await use(lambda: chrome.execute_script(LOOK_AGAIN))
    await until(lambda: not section.is_displayed())


async def test_a_relay_that_is_gone_is_told(chrome: Chrome, tmp_path: Path) -> None:
    async with page(tmp_path) as house:
        await open_page(chrome, house)
    await use(lambda: chrome.execute_script(LOOK_AGAIN))
    await until(lambda: chrome.find_element(By.TAG_NAME, "body").get_attribute("class") == "stale")
    await use(lambda: chrome.get("about:blank"))
    await use(lambda: chrome.get_log("browser"))


async def test_login_and_logout(chrome: Chrome, tmp_path: Path) -> None:
    async with page(tmp_path, Settings(port=0, password=Secret(value="correct horse"))) as house:
        await open_page(chrome, house)
        assert (await use(lambda: chrome.current_url)).endswith("/login")

        def enter() -> None:
            chrome.switch_to.active_element.send_keys("correct horse", Keys.ENTER)

        await use(enter)
        await until(lambda: "All is well" in chrome.title)
        assert await use(lambda: chrome.execute_script("return document.cookie")) == ""
        await use(lambda: chrome.find_element(By.CSS_SELECTOR, "nav button").click())
        await until(lambda: chrome.current_url.endswith("/login"))


async def test_all_of_it_works_without_scripts(chrome: Chrome, house: House) -> None:
    message = await accept(house.store)
    await use(lambda: chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True}))
    try:
        await open_page(chrome, house)
        await use(lambda: chrome.find_element(By.CSS_SELECTOR, "#queue summary").click())
        await use(lambda: chrome.find_element(By.ID, f"delete-{message.queue_id}").click())
        await until(lambda: "1 message deleted." in text_of(chrome))
    finally:
        await use(lambda: chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False}))
    assert await states(house.store, message) == []


async def test_it_is_light_by_day_and_dark_by_night(chrome: Chrome, house: House) -> None:
    shots = []
    for dark in (False, True):
        await use(lambda dark=dark: look(chrome, PHONE, dark=dark))  # type: ignore[misc]
        await open_page(chrome, house)
        ground = await use(
            lambda: chrome.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        )
        shots.append((ground, await use(lambda: photograph(chrome))))
    (light, day), (dark_ground, night) = shots
    assert light != dark_ground
    assert day != night
