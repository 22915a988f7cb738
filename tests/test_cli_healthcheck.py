from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.cli.main import main
from relay.queue.control import ControlServer
from relay.queue.store import Store


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text(f'[queue]\npath = "{tmp_path}/queue.db"\n')
    return path


async def test_a_service_that_answers_is_healthy(config: Path) -> None:
    store = await Store.open(config.parent / "queue.db", retry=lambda _attempt, now, _number: now)
    server = ControlServer(store, lambda: None)
    await server.start()
    try:
        assert await asyncio.to_thread(main, ["healthcheck", "--config", str(config)]) == 0
    finally:
        await server.close()
        await store.close()


def test_a_service_that_is_down_is_told_in_a_sentence(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["healthcheck", "--config", str(config)]) == 1
    assert capsys.readouterr().err == f"relay: no relay is running on the queue {config.parent}/queue.db\n"


async def test_what_is_wrong_with_a_service_that_answers_is_printed(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = await Store.open(config.parent / "queue.db", retry=lambda _attempt, now, _number: now)
    server = ControlServer(store, lambda: None, lambda: ["log in again: relay login outlook"])
    await server.start()
    try:
        assert await asyncio.to_thread(main, ["healthcheck", "--config", str(config)]) == 0
    finally:
        await server.close()
        await store.close()
    assert capsys.readouterr().out == "degraded: log in again: relay login outlook\n"
