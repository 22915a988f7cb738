"""The benchmark rig: what its report makes of results. The rig itself is run by `make bench`."""

from __future__ import annotations

import pytest

from bench.durability import find_syncs
from bench.goals import GOALS
from bench.report import BEGIN, END, insert, report

MACHINE = {
    "kind": "machine",
    "date": "2025-01-31",
    "commit": "abc",
    "processor": "Z80",
    "cores": 1,
    "memory_gb": 1,
    "kernel": "6",
    "python": "3",
    "sqlite": "3",
    "postfix": "3",
    "syncs_per_s": 1000,
}
WORKLOAD = "1 KB, 10 sessions, kept"


def rate(number: int, server: str, accepted: float) -> dict[str, object]:
    return {
        "kind": "rate",
        "round": number,
        "server": server,
        "workload": WORKLOAD,
        "accept_per_s": accepted,
        "others": 0.01,
    }


def row(tables: str, start: str) -> list[str]:
    (line,) = [line for line in tables.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_is_that_of_two_figures_of_one_round() -> None:
    records = [MACHINE]
    for number, ours, theirs in [(0, 300.0, 100.0), (1, 800.0, 400.0), (2, 500.0, 200.0)]:
        records += [rate(number, "relay", ours), rate(number, "postfix-tuned", theirs)]
    tables = report(records)
    assert row(tables, WORKLOAD) == [
        WORKLOAD,
        "500 (300–800)",
        "–",
        "200 (100–400)",
        "–",
        "2.50 (2.00–3.00)",
    ]
    assert row(tables, f"accept, {WORKLOAD}")[1:] == ["≥ 2.5×", "3.5×", "2.50 (2.00–3.00)", "yes"]


def test_rounds_of_different_runs_are_not_mixed_up() -> None:
    first = [MACHINE, rate(0, "relay", 100.0), rate(0, "postfix-tuned", 100.0)]
    second = [MACHINE, rate(0, "relay", 300.0), rate(0, "postfix-tuned", 200.0)]
    assert row(report(first + second), f"accept, {WORKLOAD}")[3:] == ["1.25 (1.00–1.50)", "**no**"]


def test_a_bound_that_is_to_stay_above_the_figure() -> None:
    records = [
        MACHINE,
        {"kind": "footprint", "round": 0, "server": "relay", "figure": "idle_memory", "value": 34_000_000},
        {"kind": "footprint", "round": 0, "server": "relay", "figure": "lone_written", "value": 107_000},
    ]
    tables = report(records)
    assert row(tables, "memory, idle |")[1:] == ["< 45 MB", "", "34.0", "yes"]
    assert row(tables, "written for a lone 1 KB message |")[1:] == ["< 64 KB", "", "107", "**no**"]


def test_what_was_not_measured_is_left_out() -> None:
    assert "### Machine" in report([MACHINE])
    assert "### Targets" not in report([MACHINE])


def test_every_goal_does_without_results() -> None:
    assert len({goal.text for goal in GOALS}) == len(GOALS)
    assert report([]) == ""


def test_a_failure_is_in_the_report() -> None:
    failed = {"kind": "error", "round": 0, "server": "relay", "step": "latency", "error": "no answer"}
    assert "- relay, latency: no answer" in report([MACHINE, failed])


def test_tables_replace_what_is_between_the_markers() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert insert(insert(page, "new"), "newer") == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="the page has no"):
        insert("no markers", "new")


def trace(*calls: str) -> list[str]:
    content = r'read(9<socket:[1]>, "xxx\r\n.\r\n", 4096) = 8'
    reply = r'write(9<socket:[1]>, "250 2.0.0 Ok: queued as A\r\n", 27) = 27'
    return [f"10    {call}" for call in (content, *calls, reply)]


def test_an_fsync_counts_between_final_dot_and_reply() -> None:
    sync = "fdatasync(14<queue.db-wal>) = 0"
    assert list(find_syncs(trace(sync))) == [sync]
    assert list(find_syncs([f"10    {sync}", *trace(), f"10    {sync}"])) == []
    assert list(find_syncs(trace("fdatasync(14<queue.db-wal>) = -1 EIO"))) == []


def test_an_fsync_counts_when_it_is_done() -> None:
    begun = "11    fsync(13<incoming/A> <unfinished ...>"
    done = "11    <... fsync resumed>)           = 0"
    content, reply = trace()
    assert list(find_syncs([content, begun, done, reply])) == ["fsync(13<incoming/A>) = 0"]
    assert list(find_syncs([content, begun, reply, done])) == []
    assert list(find_syncs([begun, content, done, reply])) == []
