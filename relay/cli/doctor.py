"""``relay doctor``: find out why mail does not go out, and how to mend it. Sends nothing, changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from relay.cli.options import add_config_option, load_chosen_config
from relay.cli.progress import Show, showing_progress
from relay.doctor.finding import Finding, Severity
from relay.doctor.run import Progress, Section, examine

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

WIDEST = 100
_MARKS = {
    Severity.OK: "ok",
    Severity.INFO: "note",
    Severity.WARNING: "WARNING",
    Severity.PROBLEM: "PROBLEM",
}
_INDENT = " " * 10


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="find out why mail does not go out, and how to mend it",
        description="Look at DNS, the public address, blocklists, port 25, each smarthost with its login,"
        " sender domains, certificates, clock and disk. No mail is sent and nothing is changed; the relay may"
        " be running. Exit status 1 if there is a problem, else 0. See docs/doctor.md.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    config = load_chosen_config(args)
    logging.basicConfig(handlers=[logging.NullHandler()])  # what there is to say stands in the findings
    with showing_progress() as show:
        sections = asyncio.run(examine(config, _teller(show)))
    if args.json:
        print(json.dumps(_describe(sections), indent=2))
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # what others said may not be in the terminal's alphabet
        width = min(shutil.get_terminal_size().columns, WIDEST)
        print(*_lines(sections, width), sep="\n")
    return 1 if _count(sections, Severity.PROBLEM) else 0


def _teller(show: Show) -> Progress:
    """Return what shows which checks are not done yet, of those that are known so far."""
    known: dict[str, None] = {}

    def tell(pending: Sequence[str]) -> None:
        known.update(dict.fromkeys(pending))
        if pending:
            show(f"looking at {', '.join(pending)}", len(known) - len(pending), len(known))

    return tell


def _describe(sections: Sequence[Section]) -> dict[str, object]:
    findings = [
        {"about": section.title, **asdict(finding)} for section in sections for finding in section.findings
    ]
    counts = {f"{severity}s": _count(sections, severity) for severity in (Severity.PROBLEM, Severity.WARNING)}
    return {**counts, "findings": findings}


def _count(sections: Sequence[Section], severity: Severity) -> int:
    return sum(finding.severity is severity for section in sections for finding in section.findings)


# Words


def _lines(sections: Sequence[Section], width: int) -> Iterator[str]:
    """Yield the report: what is well first, what is worst last, next to the reader's eyes."""
    for section in sorted(sections, key=lambda s: max(f.severity.rank for f in s.findings)):
        yield section.title
        for finding in sorted(section.findings, key=lambda f: f.severity.rank):
            yield from _finding_lines(finding, width)
        yield ""
    yield _summary(sections)


def _finding_lines(finding: Finding, width: int) -> Iterator[str]:
    mark = _MARKS[finding.severity]
    yield from textwrap.wrap(
        f"  {mark:8}{finding.what}", width, subsequent_indent=_INDENT, break_on_hyphens=False
    )
    for label, text in (("Why: ", finding.why), ("Mend: ", finding.remedy)):
        if text and finding.severity is not Severity.OK:
            yield from textwrap.wrap(
                f"{label}{text}",
                width,
                initial_indent=_INDENT,
                subsequent_indent=f"{_INDENT}  ",
                break_on_hyphens=False,
            )


def _summary(sections: Sequence[Section]) -> str:
    problems, warnings = _count(sections, Severity.PROBLEM), _count(sections, Severity.WARNING)
    if not problems and not warnings:
        return "All is well."
    counted = ((problems, "problem"), (warnings, "warning"))
    return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counted if count)
