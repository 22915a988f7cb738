"""The tables of docs/performance.md, made of results."""

from __future__ import annotations

from collections.abc import Sequence

from bench.goals import ACCEPT, END_TO_END, GOALS
from bench.rates import Record
from bench.results import PEER, Results, Spread, table

BEGIN, END = "<!-- made by python -m bench report: begin -->", "<!-- end -->"
_MB = 1e6
_SERVERS = ("relay", "postfix", PEER)
_FIGURES = {
    "idle_memory": ("memory, idle, MB", _MB),
    "large_messages_memory": ("memory, 20 clients with 25 MB each at once, MB", _MB),
    "memory_after_large_messages": ("memory after that, MB", _MB),
    "idle_connections_memory": ("memory, 1,000 idle connections, MB", _MB),
    "wakeups_per_s": ("wake-ups a second, idle, 1,000 deferred messages", 1),
    "idle_written": ("written to disk meanwhile, bytes", 1),
    "lone_written": ("written to disk for a lone 1 KB message, KB", 1000),
    "written_per_byte_100_kb": ("written for each byte of content, messages of 100 KB", 1),
    "written_per_byte_10_mb": ("written for each byte of content, messages of 10 MB", 1),
}


def report(records: Sequence[Record]) -> str:
    """Return the tables of some results, as Markdown; those without figures are left out."""
    results = Results.of(records)
    sections = {
        "Machine": _machine(results),
        "Targets": table(
            ("target", "bound", "aim", "measured", "met"), [goal.row(results) for goal in GOALS]
        ),
        "Accepted, messages a second": _rates(results, ACCEPT),
        "Passed on, messages a second": _rates(results, END_TO_END),
        "CPU per message, ms": _rates(results, "cpu_ms"),
        "Memory at most, MB": _rates(results, "peak_memory", _MB),
        "Flushes of the disk per message": _rates(results, "flushes"),
        "Latency of a lone message, ms": _latency(results),
        "Memory, wake-ups, disk": _footprint(results),
        "With messages waiting": _backlog(results),
        "Drain once the next hop is back": _drain(results),
        "On disk before `250`": _durability(results),
        "Errors": "\n".join(f"- {e['server']}, {e['step']}: {e['error']}" for e in results.find("error")),
    }
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in sections.items() if text)


def insert(page: str, tables: str) -> str:
    """Return the page with the tables between its markers. Raises ValueError where it has none."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"


def _machine(results: Results) -> str:
    syncs: dict[str, list[float]] = {}
    for m in results.find("machine"):
        machine = (
            f"- {m['date']}, commit {m['commit']}: "
            f"{m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, Linux {m['kernel']}, "
            f"Python {m['python']}, SQLite {m['sqlite']}, Postfix {m['postfix']}"
        )
        syncs.setdefault(machine, []).append(m["syncs_per_s"])
    lines = [f"{name}; fsyncs of 1 KB a second: {Spread(tuple(rates))}" for name, rates in syncs.items()]
    others = [record["others"] for record in results.find("rate")]
    if others:
        lines.append(
            f"- everything else on it used at most {100 * max(others):.0f} % of its CPU during a run"
        )
    return "\n".join(lines)


def _rates(results: Results, field: str, unit: float = 1.0) -> str:
    return table(
        ("workload", *_SERVERS, "to Postfix", "to tuned Postfix"),
        [
            [
                workload,
                *(
                    results.spread("rate", field, unit=unit, workload=workload, server=name)
                    for name in _SERVERS
                ),
                *(results.ratio("rate", field, peer, workload=workload) for peer in _SERVERS[1:]),
            ]
            for workload in results.distinct("rate", "workload")
        ],
    )


def _latency(results: Results) -> str:
    words = {
        "reply_p50_ms": "final dot to `250`, p50",
        "reply_p99_ms": "final dot to `250`, p99",
        "delivery_p50_ms": "final dot to delivery, p50",
        "delivery_p99_ms": "final dot to delivery, p99",
    }
    return table(
        ("messages", "relay", PEER, "ratio"),
        [
            [
                f"{series}: {text}",
                *(results.spread("latency", field, series=series, server=name) for name in ("relay", PEER)),
                results.ratio("latency", field, series=series),
            ]
            for series in results.distinct("latency", "series")
            for field, text in words.items()
        ],
    )


def _footprint(results: Results) -> str:
    return table(
        ("what", "relay", PEER),
        [
            [
                text,
                *(
                    results.spread("footprint", "value", unit=unit, figure=name, server=server)
                    for server in ("relay", PEER)
                ),
            ]
            for name, (text, unit) in _FIGURES.items()
        ],
    )


def _backlog(results: Results) -> str:
    fields = {
        "fill_per_s": ("deferred a second, until so many wait", 1.0),
        "fill_cpu_ms": ("CPU for each of them, ms", 1.0),
        "fill_peak_memory": ("memory at most meanwhile, MB", _MB),
        ACCEPT: ("new mail accepted a second", 1.0),
        END_TO_END: ("new mail passed on a second", 1.0),
        "cpu_ms": ("CPU per new message, ms", 1.0),
        "peak_memory": ("memory at most meanwhile, MB", _MB),
        "idle_memory": ("memory, idle, MB", _MB),
        "start_s": ("start until 220, s", 1.0),
        "started_memory": ("memory after a start, MB", _MB),
        "first_page_s": ("first line of the list of the queue, s", 1.0),
    }
    depths = sorted({record["depth"] for record in results.find("backlog")})
    columns = [(server, depth) for server in results.distinct("backlog", "server") for depth in depths]
    return table(
        ("what", *(f"{server}, {depth:,}" for server, depth in columns)),
        [
            [
                text,
                *(
                    results.spread("backlog", field, unit=unit, server=server, depth=depth)
                    for server, depth in columns
                ),
            ]
            for field, (text, unit) in fields.items()
        ],
    )


def _drain(results: Results) -> str:
    fields = {
        "drain_per_s": ("messages a second", 1.0),
        "cpu_ms": ("CPU per message, ms", 1.0),
        "peak_memory": ("memory at most, MB", _MB),
    }
    return table(
        ("what", "relay", PEER, "ratio"),
        [
            [
                f"{depth:,} messages: {text}",
                *(
                    results.spread("drain", field, unit=unit, server=server, depth=depth)
                    for server in ("relay", PEER)
                ),
                results.ratio("drain", field, depth=depth),
            ]
            for depth in sorted({record["depth"] for record in results.find("drain")})
            for field, (text, unit) in fields.items()
        ],
    )


def _durability(results: Results) -> str:
    last = {record["server"]: record["syncs"] for record in results.find("durability")}
    lines = [f"{server}: {sync}" for server, syncs in last.items() for sync in syncs]
    return "```\n" + "\n".join(lines) + "\n```" if lines else ""
