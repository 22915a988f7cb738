"""relay import-postfix, the command; and whole configurations with the relay.toml that they become.

What is expected is in tests/postfix_imports/NAME/relay.toml; tests/support/postfix_import.py writes it anew.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tomllib
from pathlib import Path

import pytest

from relay.config.loading import parse_config
from relay.config.model import Config
from relay.mail.route import NextHop
from tests.support.postfix_import import (
    IMPORTS,
    MACHINE,
    NAMES,
    folder_of,
    import_files,
    import_folder,
    lacks_of,
)
from tests.support.service import run_program
from tests.support.terminal import TAKEN_AWAY, WIDE, converse

RELAY = (sys.executable, "-m", "relay")
COMMAND = (*RELAY, "import-postfix")
DOCUMENT = Path(__file__).parent.parent / "docs/from-postfix.md"


def load(name: str) -> Config:
    return parse_config((IMPORTS / name / "relay.toml").read_text("utf-8"), machine_name=MACHINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_becomes_what_is_expected(name: str) -> None:
    text = import_folder(folder_of(name))
    assert text == (IMPORTS / name / "relay.toml").read_text("utf-8")
    load(name)


@pytest.mark.parametrize("name", ["gmail", "dovecot-lmtp", "hostile", "empty"])
async def test_relay_check_accepts_what_is_printed(name: str, tmp_path: Path) -> None:
    printed = await run_program(*COMMAND, folder_of(name))
    assert printed.status == 0
    assert re.fullmatch(
        r"\d+ settings? taken(; nothing is left out|, \d+ ha.+: see the comments)\n", printed.err
    )
    assert not re.search("^password =", printed.out, re.MULTILINE)
    file = tmp_path / "relay.toml"
    file.write_text(printed.out)
    checked = await run_program(*RELAY, "check", "--config", file)
    assert checked.status == 0, checked.err


def test_accounts_by_sender() -> None:
    config = load("accounts-by-sender")
    hops = {sender: hop.smarthost for sender, hop in config.sender_relayhost.items()}
    accounts = {name: smarthost.username for name, smarthost in config.smarthost.items()}
    assert {sender: accounts[name] for sender, name in hops.items()} == {
        "chris@gmail.com": "chris@gmail.com",
        "marc@gmail.com": "marc@gmail.com",
        "@gandi.example": "postmaster@gandi.example",
        "aunt@maison.example": "aunt@maison.example",
    }
    assert config.relayhost
    assert accounts[config.relayhost.smarthost] == "home@maison.example"
    assert config.smarthost["gmail-marc"].password
    assert config.smarthost["gmail-marc"].password.value == "eeeeffffgggghhhh"


def test_the_tutorial() -> None:
    config = load("tutorial")
    assert config.local.domains == ("gw1.maison.mrs", "localhost.maison.mrs", "maison.mrs")
    assert config.transport[".aol.com"].via == NextHop("smtp.wanadoo.fr", 25, use_mx=True)
    assert config.sender_canonical.entries["root"] == ("christian.caleca@free.fr", "")
    assert config.rewrite.scope == "all"
    assert [str(check.action) for check in config.header_checks] == ["IGNORE", "REJECT"]
    assert config.aliases.entries["decode"] == ("root",)
    assert config.aliases.entries["root"] == ("chris",)
    assert config.local.users == ("chris",)
    assert config.queue.warn_after == 4 * 3600


async def test_a_file_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    done = await run_program(*COMMAND, folder_of("gmail"), "--output", file)
    assert (done.status, done.out) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert tomllib.loads(file.read_text())["smarthost"]["gmail"]["password"] == "abcd efgh ijkl mnop"
    assert "ijkl" not in done.err


async def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("mine")
    done = await run_program(*COMMAND, folder_of("gmail"), "--output", file)
    assert (done.status, file.read_text()) == (1, "mine")
    assert done.err == f"relay: {file} is there already; choose another name or move it away\n"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert (await run_program(*COMMAND, folder_of("gmail"), "--output", link)).status == 1
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.needs_root
async def test_a_file_that_cannot_be_written_whole_is_none() -> None:
    done = await run_program(*COMMAND, folder_of("gmail"), "--output", Path("/proc/relay.toml"))
    assert done.status == 1
    assert done.err.startswith("relay: ")


@pytest.mark.parametrize("what", ["missing", "empty", "a folder", "a pipe"])
async def test_where_there_is_no_main_cf(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "postfix"
    main_cf = folder / "main.cf"
    if what != "missing":
        folder.mkdir()
    if what == "a folder":
        main_cf.mkdir()
    if what == "a pipe":
        os.mkfifo(main_cf)
    done = await run_program(*COMMAND, folder)
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(f"relay: {main_cf}: .+; DIR is where main.cf is\n", done.err)


async def test_a_main_cf_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "main.cf").open("wb") as file:
        file.truncate(50_000_001)
    done = await run_program(*COMMAND, tmp_path)
    assert (done.status, done.out) == (1, "")
    assert "has more than 50000000 bytes" in done.err


async def test_a_person_who_waits_sees_what_is_being_done() -> None:
    shown = await converse(*COMMAND, folder_of("maildir"), answers=[], env=WIDE)
    assert f" reading {folder_of('maildir')}/" in shown.text
    _, _, staying = shown.text.rpartition(TAKEN_AWAY)
    assert staying.startswith("# Made by")
    assert staying.endswith("see the comments\n")


async def test_a_terminal_that_knows_no_more_than_lines_gets_no_others(tmp_path: Path) -> None:
    command = (*COMMAND, folder_of("hostile"), "--output", tmp_path / "relay.toml")
    shown = await converse(*command, answers=[], env={"TERM": "dumb"})
    assert shown.text.count("\n") == 1


async def test_names_of_files_do_not_disturb_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("transport_maps = hash:/etc/postfix/\x1b[31mred\n")
    shown = await converse(*COMMAND, tmp_path, "--output", tmp_path / "relay.toml", answers=[], env=WIDE)
    assert "?[31mred" in shown.text
    assert "\x1b[31m" not in shown.text


def test_tables_of_this_machine_are_not_those_of_a_copy(tmp_path: Path) -> None:
    main_cf = "alias_maps = hash:/etc/aliases, hash:/srv/more\ncompatibility_level = 3.6\n"
    files = {"../aliases": "root: a@example.org\n", "../../srv/more": "news: b@example.org\n"}
    config, _ = import_files(tmp_path / "etc/postfix", main_cf, files)
    assert config.aliases.entries == {"root": ("a@example.org",), "news": ("b@example.org",)}
    config, draft = import_files(tmp_path / "copy", main_cf, {"more": "news: c@example.org\n"})
    assert config.aliases.entries == {"news": ("c@example.org",)}
    assert lacks_of(draft)["alias_maps = hash:/etc/aliases"].startswith("/etc/aliases: ")


OUTSIDE = ["hash:../../outside", "hash:/etc/postfix/../../outside", "hash:link", "regexp:../../outside"]


@pytest.mark.parametrize("table", OUTSIDE)
def test_nothing_outside_of_a_copy_is_read(table: str, tmp_path: Path) -> None:
    copy = tmp_path / "copies/postfix"
    copy.mkdir(parents=True)
    (tmp_path / "outside").write_text("root: a@example.org\n/x/ y@example.org\n")
    (copy / "link").symlink_to("../../outside")
    config, draft = import_files(copy, f"alias_maps = {table}\ntransport_maps = {table}\n")
    assert not config.aliases.entries
    assert not config.transport
    reason = f"is outside {copy}, so it was not read"
    assert lacks_of(draft)[f"transport_maps = {table}"] == f"{table.partition(':')[2]}: {reason}"


def test_nothing_outside_of_a_backup_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "backup/etc/postfix"
    (tmp_path / "outside").write_text("root: a@example.org\n")
    main_cf = "alias_maps = hash:/../outside, hash:../../../outside, hash:../aliases, hash:round\n"
    files = {"../aliases": "news: b@example.org\n"}
    folder.mkdir(parents=True)
    (folder / "round").symlink_to("round")
    config, draft = import_files(folder, main_cf, files)
    assert config.aliases.entries == {"news": ("b@example.org",)}
    reason = f"is outside {tmp_path / 'backup'}, so it was not read"
    assert lacks_of(draft)["alias_maps = hash:/../outside"] == f"/../outside: {reason}"
    assert lacks_of(draft)["alias_maps = hash:../../../outside"] == f"../../../outside: {reason}"


def example(start: str) -> str:
    """Return the indented block of the document that begins with a line."""
    text = DOCUMENT.read_text("utf-8")
    block = re.search(rf"^    {re.escape(start)}.*\n(?:(?:    .*)?\n)*", text, re.MULTILINE)
    assert block, start
    return re.sub(r"^    ", "", block[0], flags=re.MULTILINE).rstrip() + "\n"


def test_the_example_of_the_document(tmp_path: Path) -> None:
    files = {
        "main.cf": example("compatibility_level"),
        "sasl_passwd": example("[smtp.orange.fr]:465"),
        "generic": example("root@gw1.maison.example"),
        "header_checks": example("/^X-Originating-IP:/"),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert import_folder(tmp_path) == example("# Made by")
