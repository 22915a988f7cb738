"""``python -m bench``: what is measured and how is in bench/README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import isolation, plan
from bench.isolation import RigError
from bench.machine import describe
from bench.profile import record_profiles
from bench.rates import Record
from bench.report import insert, report
from bench.servers import SERVERS, python_command


def main() -> int:
    """Run one command; return the exit status."""
    args = _build_parser().parse_args()
    try:
        if args.command == "report":
            return _report(args)
        if isolation.FOLDER not in os.environ:
            return isolation.run_again(sys.argv[1:], args.folder)
        return _profile(args) if args.command == "profile" else _measure(args)
    except RigError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the relay beside Postfix.")
    commands = parser.add_subparsers(dest="command", required=True)

    compare = commands.add_parser("compare", help="how many messages a second, side by side")
    compare.add_argument("--short", action="store_true", help="a few workloads, once: about a minute")
    compare.add_argument(
        "--workloads", default="", metavar="TEXT", help="only those that have TEXT in their name"
    )

    targets = commands.add_parser("targets", help="latency, memory, wake-ups, disk, a long queue")
    targets.add_argument("--only", default="", metavar="STEP,...", help="only these")
    targets.add_argument("--depth", type=int, default=plan.DEPTHS[-1], help="the longest queue")

    for command in (compare, targets):
        command.add_argument("--servers", default=",".join(SERVERS), metavar="NAME,...", help="only these")
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of messages")
        command.add_argument("--quiet", type=float, default=20.0, help="seconds to wait for a quiet machine")
        command.add_argument("--out", type=Path, help="add the results to this file, one JSON object a line")

    profile = commands.add_parser("profile", help="flame graphs of the relay, made by py-spy")
    profile.add_argument("--seconds", type=int, default=10)
    profile.add_argument("--format", default="flamegraph", choices=["flamegraph", "raw"])
    profile.add_argument("--out", type=Path, default=Path("docs"), help="the folder that they go to")

    for command in (compare, targets, profile):
        command.add_argument(
            "--folder",
            type=Path,
            default=Path("/var/tmp/relay-bench"),
            help="where the queues are: on the disk to measure",
        )
        command.add_argument(
            "--root", type=Path, help="take the relay from this file system of its image, not from this tree"
        )

    tables = commands.add_parser("report", help="the tables of results, as Markdown")
    tables.add_argument("results", type=Path, nargs="+")
    tables.add_argument("--into", type=Path, metavar="PAGE", help="put them into a page, between its markers")
    return parser


def _measure(args: argparse.Namespace) -> int:
    records: list[Record] = []
    for record in _records(args):
        records.append(record)
        line = json.dumps(record)
        print(line, flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(f"{line}\n")
    print(report(records))
    return 1 if any(record["kind"] == "error" for record in records) else 0


def _records(args: argparse.Namespace) -> Iterator[Record]:
    folder, group = _settle_in(args)
    yield {"kind": "machine", **describe(folder, python_command(args.root))}
    if args.command == "compare":
        scale = args.scale * (plan.SHORT_SCALE if args.short else 1.0)
        steps = plan.comparison(scale, short=args.short, text=args.workloads)
    else:
        steps = plan.targets(args.scale, args.depth)
        steps = [step for step in steps if not args.only or step.name in args.only.split(",")]
    rounds = 1 if args.command == "compare" and args.short else args.rounds
    quiet = 0.0 if args.command == "compare" and args.short else args.quiet
    yield from plan.run(steps, rounds, args.servers.split(","), folder, group, quiet, args.root)


def _profile(args: argparse.Namespace) -> int:
    folder, group = _settle_in(args)
    record_profiles(folder, group, args.root, args.out, args.seconds, args.format)
    return 0


def _settle_in(args: argparse.Namespace) -> tuple[Path, Path]:
    folder, group = isolation.settle_in()
    if args.root is not None:
        isolation.show_inside(args.root, folder)
    return folder, group


def _report(args: argparse.Namespace) -> int:
    lines = [line for path in args.results for line in path.read_text().splitlines()]
    tables = report([json.loads(line) for line in lines if line.strip()])
    if args.into:
        args.into.write_text(insert(args.into.read_text(), tables))
    else:
        print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
