"""The replay of a page: its blocks are done in order, and what they show is returned."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.support.service import find_flaw
from tests.tutorial.internet import GATEWAY_ADDRESS, PC_ADDRESS
from tests.tutorial.page import Block, compose
from tests.tutorial.steady import Steady
from tests.tutorial.world import PATIENCE, UNTOLD, World

SETTINGS = Path("/etc/relay/relay.toml")
WIDTH = 100
_NAMESPACES = ("--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
_PROMPT = re.compile(r"(?P<user>\w+)@(?P<machine>\w+):~[$#] (?P<command>.*)")
_COMMAND = re.compile(r"[A-Z]{4}(?= |$)")
_END_OF_REPLY = re.compile(r"\d{3} |\+OK|-ERR|\.$")


def replay(blocks: Sequence[Block]) -> list[str]:
    """Do the blocks of a page in a world of their own; return their texts, as they are seen.

    Raises RuntimeError where one of them cannot be done.
    """
    with tempfile.TemporaryDirectory(prefix="tutorial-") as folder:
        finished = subprocess.run(
            ["unshare", *_NAMESPACES, sys.executable, "-m", "tests.tutorial.replay", folder],
            input=json.dumps([asdict(block) for block in blocks]),
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    seen: list[str] = json.loads(finished.stdout)
    return seen


class Replay:
    """Does blocks, one after the other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._steady = Steady()
        self._pieces: list[str] = []
        """What has been done to relay.toml."""
        self._place = 0
        """Where in the log the last block that did something began."""

    async def do(self, block: Block) -> str:
        """Do one block; return its text, as it is seen."""
        await self._world.settle(is_to_show=block.kind in {"log", "mail", "heard"})
        match block.kind:
            case "log":
                return self._read_log(block.about)
            case "mail":
                return self._steady(self._find_message(block.about).decode().replace("\r\n", "\n"))
            case "heard":
                commands = [
                    command.decode() for command in self._world.sites[block.about].sessions[-1].commands
                ]
                return "".join(map(self._show, (command for command in commands if command != "QUIT")))
        self._place = len(self._world.log)
        match block.kind:
            case "toml":
                return await self._edit_settings(block)
            case "file":
                Path(block.about).parent.mkdir(parents=True, exist_ok=True)
                Path(block.about).write_text(block.text)
                return block.text
            case "console":
                return await self._run_commands(block.text.splitlines())
            case "telnet":
                return await self._type(*block.text.splitlines())
            case "smtp":
                return await self._speak(block.text.splitlines())
            case "world":
                await self._world.happen(block.about)
                return block.text
        raise ValueError(f"there is no such kind of block: {block.kind}")

    def _read_log(self, wanted: str = "") -> str:
        lines = [line for line in self._world.log[self._place :].splitlines() if UNTOLD not in line]
        return "".join(self._show(line) for line in _in_order(lines) if re.search(wanted, line))

    def _show(self, line: str) -> str:
        """Return a line as the pages show it, with its line feed: a long one goes on in indented lines."""
        text = self._steady(line)
        if len(text) > WIDTH:
            indent = " " * (len(text) - len(text.lstrip()) + 4)
            folded = textwrap.wrap(
                text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
            text = "\n".join(folded)
        return f"{text}\n"

    def _find_message(self, place: str) -> bytes:
        if place.startswith("/"):
            return max(Path(place, "new").iterdir(), key=lambda path: path.stat().st_ctime_ns).read_bytes()
        sessions = self._world.sites[place].sessions
        return [message for session in sessions for message in session.messages][-1]

    async def _edit_settings(self, block: Block) -> str:
        if block.about == "relay.toml whole":
            return compose(self._pieces)
        assert block.about == "relay.toml"
        self._pieces.append(block.text)
        draft = SETTINGS.with_suffix(".new")
        draft.write_text(compose(self._pieces))
        draft.rename(SETTINGS)
        await self._world.reload()
        return block.text

    async def _run_commands(self, lines: Iterable[str]) -> str:
        shown = ""
        for line in lines:
            prompt = _PROMPT.fullmatch(line)
            if prompt is None:  # what was printed when the page was written
                continue
            if shown:
                await self._world.settle(is_to_show=True)
            shown += f"{line}\n"
            if prompt["command"] == "relay serve":
                await self._world.start_relay(**prompt.groupdict())
                await self._world.settle(is_to_show=True)
                shown += self._read_log()
            else:
                printed = await self._world.run(**prompt.groupdict())
                shown += "".join(map(self._show, printed.splitlines()))
        return shown

    async def _type(self, first: str, *lines: str) -> str:
        """Run telnet, and type what a person typed there."""
        prompt = _PROMPT.fullmatch(first)
        assert prompt, first
        words = prompt["command"].split()
        telnet = await self._world.start(prompt["user"], prompt["machine"], *words, stdin=PIPE)
        assert telnet.stdin is not None
        assert telnet.stdout is not None
        shown = f"{first}\n" + await self._converse(telnet.stdout, telnet.stdin, _typed(lines), "", "")
        await telnet.wait()
        return shown

    async def _speak(self, lines: Sequence[str]) -> str:
        """Say to the relay what a mail program says."""
        reader, writer = await asyncio.open_connection(GATEWAY_ADDRESS, 25, local_addr=(PC_ADDRESS, 0))
        said = iter([line[2:].removeprefix(" ") for line in lines if line.startswith("C:")])
        shown = await self._converse(reader, writer, said, "S: ", "C: ")
        writer.close()
        await writer.wait_closed()
        return shown

    async def _converse(
        self, reader: StreamReader, writer: StreamWriter, words: Iterator[str], theirs: str, ours: str
    ) -> str:
        """Say the words, each when it is time, until the other side is gone; return all that was said.

        The lines of the two sides are shown with these marks in front of them.
        """
        shown = said = ""
        async with asyncio.timeout(PATIENCE):
            while answer := (await reader.readline()).decode():
                line = answer.rstrip("\r\n")
                shown += self._show(theirs + line)
                # Telnet itself makes CR LF of a line's end.
                end = "\r\n" if ours else "\n"
                is_content = line.startswith("354 ")
                if is_content or _ends_reply(line, said):
                    for said in words:
                        shown += f"{ours}{said}".rstrip() + "\n"
                        writer.write(f"{said}{end}".encode())
                        if not is_content or said == ".":
                            break
        return shown


def _in_order(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a log, attempts that were made at the same time in the order of their recipients."""
    for attempt, group in itertools.groupby(lines, _attempted):
        together = list(group)
        if attempt:
            together.sort(key=lambda line: line.partition(" to=<")[2].partition(">")[0])
        yield from together


def _attempted(line: str) -> str:
    """Return the queue id in the line of an attempt, "" in others."""
    found = re.search(r"(\w+): to=", line)
    return found[1] if found else ""


def _typed(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a session that a person typed."""
    is_content = False
    for line in lines:
        if is_content or _COMMAND.match(line):
            yield line
        if line.startswith("354 ") or line == ".":
            is_content = line != "."


def _ends_reply(line: str, said: str) -> bool:
    """Whether a line is the last one of a reply to what was said; some of POP3 end with a dot."""
    has_more = said.startswith(("LIST", "RETR")) and line.startswith("+OK")
    return _END_OF_REPLY.match(line) is not None and not has_more


async def main(folder: str) -> None:
    """Do the blocks that standard input has; print their texts."""
    texts = []
    async with World(Path(folder)) as world:
        play = Replay(world)
        for block in (Block(**block) for block in json.load(sys.stdin)):
            try:
                texts.append(await play.do(block))
            except Exception as error:
                error.add_note(
                    f"line {block.line}: {block.kind} {block.about}\n{block.text}\n{world.log[-3000:]}"
                )
                raise
    assert not (flaw := find_flaw(world.log + "".join(texts))), flaw
    json.dump(texts, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
