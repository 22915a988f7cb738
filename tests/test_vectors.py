"""The relay against what a real Postfix did: every case in scope, one test each (tests/vectors).

Cases that are to differ are listed, with the reason, in docs/differences.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from relay.config.problems import ConfigError
from tests.support import explained

HERE = Path(__file__).parent / "vectors"
DIFFERENCES = Path(__file__).parents[1] / "docs" / "differences.md"
ORACLE, DRIVER = HERE / "oracle.py", HERE / "driver.py"
WORKERS = "4"
REPLY_SECONDS = 8

sys.path.insert(0, str(HERE))
import oracle  # type: ignore[import-not-found]  # noqa: E402 - a script beside the cases, in no package

Case = dict[str, Any]


def words_of(path: Path) -> set[str]:
    """Return the first word of each line of a list."""
    return {line.split()[0] for line in path.read_text().splitlines() if line.strip()}


@cache
def cases() -> dict[str, Case]:
    """Return the cases in scope by id: what relay.toml can say, whatever the relay does then."""
    scope, inexpressible = words_of(HERE / "scope.txt"), words_of(HERE / "inexpressible.txt")
    every = [case for path in sorted(HERE.glob("cases/*.json")) for case in json.loads(path.read_text())]
    return {
        case["id"]: case
        for case in every
        if scope.issuperset(case["tags"]) and case["id"] not in inexpressible
    }


@cache
def differences() -> dict[str, str]:
    """Return the ids of the cases that are to differ, with the reason."""
    rows = re.findall(r"^\| ([a-z_]+-\d+) \| (.+) \|$", DIFFERENCES.read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a case stands twice in docs/differences.md"
    return dict(rows)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """What the relay did in each case that is asked for; one run of the oracle for all of them."""
    wanted = {
        str(item.callspec.params["case_id"]): None
        for item in request.session.items
        if isinstance(item, pytest.Function) and "outcomes" in item.fixturenames
    }
    folder = tmp_path_factory.mktemp("vectors")
    chosen, results = folder / "chosen.json", folder / "results.json"
    chosen.write_text(json.dumps([in_haste(cases()[case_id]) for case_id in wanted]))
    # The driver and the relay that it starts run under the interpreter of these tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        [sys.executable, ORACLE, "run", "--driver", DRIVER, "-j", WORKERS, "--out", results, chosen],
        check=False,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert results.exists(), finished.stderr
    return {result["id"]: result["outcome"] for result in json.loads(results.read_text()) if result}


def in_haste(case: Case) -> Case:
    """Return a case that waits less long for a reply that will not come."""
    sessions = [
        {**session, "steps": [{"timeout": REPLY_SECONDS, **step} for step in session["steps"]]}
        for session in case["input"]["sessions"]
    ]
    return {**case, "input": {**case["input"], "sessions": sessions}}


def compare(case: Case, outcome: Case | None) -> Iterator[str]:
    """Yield each strict difference between the recording and what the relay did."""
    if outcome is None or "error" in outcome:
        yield f"the case could not be run: {outcome and outcome['error']}"
        return
    yield from oracle.diff(*oracle.relax(oracle.strict_view(case["expected"]), oracle.strict_view(outcome)))


@pytest.mark.needs_root
@pytest.mark.needs("unshare", "ip")
@pytest.mark.parametrize("case_id", cases())
def test_the_relay_does_as_postfix_does(case_id: str, outcomes: dict[str, Case]) -> None:
    found = list(compare(cases()[case_id], outcomes.get(case_id)))
    if case_id in differences() and not found:
        pytest.fail(f"{case_id} comes out as Postfix's: remove it from docs/differences.md", pytrace=False)
    if case_id not in differences() and found:
        pytest.fail("\n".join([cases()[case_id]["title"], *found]), pytrace=False)


@pytest.mark.needs_root
@pytest.mark.needs("unshare", "ip")
@pytest.mark.parametrize("case_id", sorted(cases().keys() - explained.CONVERTED - explained.DENIED))
async def test_relay_explain_says_what_the_relay_does(case_id: str, outcomes: dict[str, Case]) -> None:
    outcome = outcomes[case_id]
    try:
        await explained.compare(cases()[case_id], outcome)
    except (ConfigError, ValueError):
        assert {reply["code"] for steps in outcome["sessions"] for reply in steps[0]["replies"]} == {421}


def test_only_cases_in_scope_are_listed_as_different() -> None:
    assert differences().keys() <= cases().keys()
