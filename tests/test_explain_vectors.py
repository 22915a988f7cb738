"""What ``relay explain`` says is what the relay does: the cases of tests/vectors that come out as recorded.

``test_vectors`` compares it with what the whole program does, in the other cases too.
"""

from __future__ import annotations

import pytest

from tests.support.explained import CONVERTED, compare
from tests.test_vectors import cases, differences

CASES = sorted(cases().keys() - differences().keys() - CONVERTED)


@pytest.mark.parametrize("case_id", CASES)
async def test_it_says_what_was_recorded(case_id: str) -> None:
    await compare(cases()[case_id], cases()[case_id]["expected"])


async def test_most_cases_have_copies_to_compare() -> None:
    with_copies = [case_id for case_id in CASES if cases()[case_id]["expected"]["relayed"]]
    assert len(with_copies) > len(CASES) / 2
    first = cases()[with_copies[0]]
    assert await compare(first, first["expected"]) > 0
