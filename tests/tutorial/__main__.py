"""``python -m tests.tutorial``: shows where the pages differ from what is seen; ``--write`` mends them."""

from __future__ import annotations

import argparse
import difflib
import sys

from tests.tutorial.page import PAGES, read_blocks, revise
from tests.tutorial.replay import replay


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tutorial", description="Replays the tutorial.")
    parser.add_argument("--write", action="store_true", help="put what is seen into the pages")
    args = parser.parse_args()
    try:
        seen = replay(read_blocks(PAGES[0].read_text()))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    is_same = True
    for path in PAGES:
        page = path.read_text()
        revised = revise(page, seen)
        lines = page.splitlines(keepends=True), revised.splitlines(keepends=True)
        sys.stdout.writelines(difflib.unified_diff(*lines, path.name, f"{path.name}, as it is seen"))
        is_same = is_same and revised == page
        if args.write:
            path.write_text(revised)
    return 0 if is_same or args.write else 1


if __name__ == "__main__":
    sys.exit(main())
