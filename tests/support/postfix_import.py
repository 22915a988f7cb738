"""The configurations of Postfix under tests/postfix_imports, and what ``relay import-postfix`` makes of them.

``python -m tests.support.postfix_import`` writes what is expected of each anew; look at the difference.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from relay.cli.import_postfix import Files, read_text
from relay.config.loading import parse_config
from relay.config.model import Config
from relay.postfix.draft import Draft
from relay.postfix.translation import translate
from relay.postfix.writing import write_toml

IMPORTS = Path(__file__).parent.parent / "postfix_imports"
NAMES = sorted(path.name for path in IMPORTS.iterdir())
MACHINE = "gw1.maison.example"


def folder_of(name: str) -> Path:
    """Return the folder with main.cf."""
    usual = IMPORTS / name / "etc/postfix"
    return usual if usual.exists() else IMPORTS / name


def draft_of(folder: Path, machine_name: str = MACHINE) -> tuple[Draft, int]:
    """Return what comes of a folder, on a machine of a certain name."""
    master_cf = folder / "master.cf"
    return translate(
        read_text(folder / "main.cf"),
        read_text(master_cf) if master_cf.exists() else "",
        machine_name=machine_name,
        read_file=Files(folder, lambda what: None).read,
        tell=lambda what: None,
    )


def import_folder(folder: Path) -> str:
    """Return the text of the relay.toml of a folder."""
    return write_toml(draft_of(folder)[0], "/etc/postfix")


def import_files(folder: Path, main_cf: str, files: Mapping[str, str] | None = None) -> tuple[Config, Draft]:
    """Write main.cf and files beside it; return the configuration that comes of it, and the draft."""
    for name, text in {"main.cf": main_cf, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    draft, _ = draft_of(folder)
    text = write_toml(draft, "/etc/postfix")
    assert_written(text, draft)
    return parse_config(text, machine_name=MACHINE), draft


def assert_written(text: str, draft: Draft) -> None:
    """Fail if a text does not say what a draft says, but for tables with nothing in them."""
    assert {key: value for key, value in tomllib.loads(text).items() if value} == {
        key: value for key, value in draft.document.items() if value
    }


def lacks_of(draft: Draft) -> dict[str, str]:
    """Return what has no equivalent, with the reasons."""
    return dict(draft.lacks.keys())


def main() -> None:
    """Write all expected files."""
    for name in NAMES:
        (IMPORTS / name / "relay.toml").write_text(import_folder(folder_of(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
