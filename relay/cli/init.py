"""``relay init``: ask a few questions, try the login, and write a first relay.toml."""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import shlex
import shutil
import socket
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from relay.cli import login
from relay.cli.init_questions import NOTHING, Given, ask_address, ask_all, ask_login, ask_server
from relay.cli.interview import Interview, MissingError
from relay.cli.words import fail
from relay.config.advice import advise
from relay.config.loading import USUAL_PATHS, choose_hostname, find_config, parse_config
from relay.config.model import Config, Limits, Queue
from relay.config.problems import ConfigError
from relay.config.secrets import Secret, SecretError
from relay.config.values import parse_port
from relay.doctor.finding import LONGEST_DETAIL, Severity
from relay.doctor.port25 import BLOCKED, INTERCEPTED
from relay.doctor.smarthosts import CLOSED, NO_LOGIN, NO_RECIPIENT, NO_SENDER, NO_TLS, UNKNOWN
from relay.files import write_new
from relay.init import answers as parsers
from relay.init.answers import Answers
from relay.init.machine import choose_name, choose_queue
from relay.init.trial import Tried, send_test_message, try_way
from relay.init.writing import Surroundings, write_toml
from relay.texts import make_line

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

WIDEST = 100

_WORDS = {
    UNKNOWN.name: "there is no such server",
    CLOSED.name: "nobody answers at that server and port",
    NO_TLS.name: "the server can't prove who it is, so that it gets no password and no mail",
    NO_LOGIN.name: "the server lets nobody in with this user name and password",
    NO_SENDER.name: "the server takes no mail from your address",
    NO_RECIPIENT.name: "the server takes no mail for your address",
    BLOCKED.name: "port 25 is closed: mail can't leave directly. Send it through your provider's server",
    INTERCEPTED.name: "port 25 leads elsewhere: mail can't leave directly. Send it through your provider",
}
"""What is wrong, for somebody who has no relay.toml yet."""
_DIRECT = (
    "many mail servers refuse mail from home connections, and mail of an address whose provider did not send"
    " it. If mail comes back, `relay doctor` tells why; most homes do better through their provider"
)
_LOGIN, _ADDRESS, _SERVER, _AGAIN, _WRITE = (
    "another user name or password",
    "another e-mail address",
    "another server, or another way out of the house",
    "the same once more",
    "write relay.toml all the same",
)
_LIKELY = {NO_LOGIN.name: _LOGIN, NO_SENDER.name: _ADDRESS, NO_RECIPIENT.name: _ADDRESS}


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "init",
        help="ask a few questions and write a first relay.toml",
        description="Ask a few questions, try the login, and write relay.toml, with a password in a file"
        " of its own. Nothing is overwritten. Flags answer questions; with --yes none is asked.",
    )
    address = partial(parsers.parse_address, hostname=_hostname())
    parser.add_argument(
        "--output",
        "--config",
        type=Path,
        metavar="FILE",
        help="the file to write; else $RELAY_CONFIG or ./relay.toml",
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing: take the defaults")
    add = parser.add_argument
    add("--address", type=_checked(address), metavar="ADDRESS", help="your e-mail address")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--provider", type=_checked(parsers.parse_provider), help="send through this provider")
    way.add_argument("--direct", action="store_true", help="send straight to the recipients' servers")
    add("--host", type=_checked(parsers.parse_server_name), help="send through this server")
    add("--port", type=_checked(parse_port), help="its port")
    add(
        "--tls",
        type=_checked(parsers.parse_tls),
        help="how it encrypts: implicit, starttls, opportunistic or none",
    )
    add("--username", type=_checked(parsers.parse_username), help='your user name there; "-": no login')
    add("--password-file", type=Path, metavar="FILE", help="a file that holds the password")
    add("--client-id", type=_checked(parsers.parse_client_id), metavar="ID", help="your client id for OAuth")
    add("--networks", type=_checked(parsers.parse_networks), help='who may send: "private,192.0.2.0/24"')
    add(
        "--listen",
        type=_checked(parsers.parse_listen),
        metavar="[ADDRESS:]PORT",
        help="the port that devices send to",
    )
    add("--no-trial", action="store_true", help="do not try whether mail would leave")
    add("--test-message", action="store_true", help="send a message to your address in the end")
    parser.set_defaults(run=_init)


def _checked(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Return a parser that tells argparse why a value will not do."""

    def parse_flag(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(make_line(str(error), LONGEST_DETAIL)) from None

    return parse_flag


def _hostname() -> str:
    return choose_hostname(socket.gethostname())


def _init(args: argparse.Namespace) -> int:
    path = args.output or Path(os.environ.get("RELAY_CONFIG") or USUAL_PATHS[0])
    if refusal := _refuse_place(path):
        return fail(refusal)
    if refusal := _refuse_flags(args):
        return fail(refusal, status=2)
    logging.basicConfig(handlers=[logging.NullHandler()])  # what there is to say is said here
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # answers and servers' words may not be in its alphabet
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    interview = Interview(may_ask=is_terminal and not args.yes, takes_defaults=args.yes)
    setup = _Setup(interview, path)
    try:
        return setup.run(args)
    except MissingError as error:
        why = "with --yes" if args.yes else "without a terminal"
        defaults = "" if args.yes else "; --yes takes the defaults"
        return fail(f"{error} is missing: {why} nothing is asked{defaults}", status=2)
    except ConfigError as error:
        return fail("\n  ".join(["these answers don't go together:", *error.errors]), status=2)
    except EOFError:
        return fail(f"the input has ended; {setup.state}")
    except KeyboardInterrupt:
        print(f"\nrelay: {setup.state}", file=sys.stderr)
        raise


def _say(sentence: str) -> None:
    """Print a sentence, indented, on lines that fit the terminal."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    wrapped = textwrap.fill(
        sentence, width, initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False
    )
    print(wrapped)


def _refuse_place(path: Path) -> str:
    """Return why the file can't be written there; "" where nothing is seen that stands against it."""
    folder = path.absolute().parent
    if os.path.lexists(path):
        return f"{path} is there already and stays as it is; move it away, or choose another with --output"
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"this user may not write to the folder {folder}"


def _refuse_flags(args: argparse.Namespace) -> str:
    """Return what is wrong with flags beyond their own form."""
    of_server = (args.host, args.port, args.tls, args.username, args.password_file, args.client_id)
    if args.direct and any(of_server):
        return "--direct goes with no server and no login"
    if args.password_file:
        try:
            Secret(file=args.password_file).read(os.environ)
        except SecretError as error:
            return str(error)
    return ""


@dataclass(slots=True)
class _Setup:
    """One run: what was answered becomes a file, once it is known to work."""

    interview: Interview
    path: Path
    state: str = "nothing was written"
    """What there is on the disk, for somebody who ends it all."""

    @property
    def folder(self) -> Path:
        return self.path.absolute().parent

    def run(self, args: argparse.Namespace) -> int:
        """Return the exit status; raises MissingError, EOFError, KeyboardInterrupt and OSError."""
        given: Given = vars(args)
        self._greet()
        answers = ask_all(self.interview, given, _hostname())
        tried: Tried | None = Tried(())
        if not args.no_trial:
            answers, tried = self._try(answers)
        if tried is None:
            return fail(f"{self.state}; --no-trial writes it untried")
        draft = self._draft(answers, tried)
        self._write(draft)
        status = self._finish(draft, wants_message=args.test_message)
        self._tell_what_next(draft)
        return status

    def _greet(self) -> None:
        if self.interview.may_ask:
            print(f"A few questions, and then {self.path} is written. Enter takes the answer in [ ];")
            print("Ctrl-C ends it at any time, and nothing is written.")

    # What is to be written

    def _draft(self, answers: Answers, tried: Tried) -> _Draft:
        """Return the text of relay.toml and what the relay makes of it; raises ConfigError."""
        password_file = ""
        if answers.password and answers.server:
            password_file = choose_name(self.folder, f"{answers.server.name}-password")
        elif answers.password_file:
            absolute = answers.password_file.absolute()
            is_near = absolute.is_relative_to(self.folder)
            password_file = str(absolute.relative_to(self.folder) if is_near else absolute)
        preset = answers.server.provider.message_size if answers.server else None
        limits = [size for size in (preset, tried.message_size) if size and size < Limits().message_size]
        around = Surroundings(
            _hostname(), password_file, choose_queue(Queue().path), min(limits, default=None)
        )
        text = write_toml(answers, around)
        config = parse_config(text, machine_name=_hostname(), file=str(self.path), folder=self.folder)
        return _Draft(text, config, answers, password_file if answers.password else "")

    def _write(self, draft: _Draft) -> None:
        """Write both files, or none: a kill in between leaves a password file that nothing names."""
        password_path = self.folder / draft.new_password_file
        if draft.new_password_file:
            write_new(password_path, f"{draft.answers.password}\n", 0o600)
        try:
            write_new(self.path, draft.text, 0o644)
        except BaseException:
            if draft.new_password_file:
                password_path.unlink()
            raise
        self.state = f"{self.path} is written"
        and_password = f", and {draft.new_password_file} beside it, which only you may read"
        print(f"\nWritten: {self.path}{and_password if draft.new_password_file else ''}.")
        passwords = {
            name: draft.answers.password for name in draft.config.smarthost if draft.answers.password
        }
        direct = () if draft.answers.server else (_DIRECT,)
        for sentence in (*direct, *advise(draft.config, passwords)):
            _say(f"Note: {make_line(sentence)}")

    # Trial

    def _try(self, answers: Answers) -> tuple[Answers, Tried | None]:
        """Return answers under which mail would leave, or that are to be written all the same.

        None in the place of a trial says that nothing is to be written.
        """
        while not answers.client_id:  # a token can be had only when all is written
            tried = self._try_once(answers)
            if tried.problem is None:
                return answers, tried
            if not self.interview.may_ask:
                return answers, None
            choice = self._choose_remedy(answers, tried.problem.name)
            if choice == _WRITE:
                return answers, tried
            answers = self._correct(answers, choice)
        return answers, Tried(())

    def _try_once(self, answers: Answers) -> Tried:
        server = answers.server
        print(f"\nTrying {server.host if server else 'port 25 of well-known mail servers'} ...", flush=True)
        tried = asyncio.run(try_way(_with_password(self._draft(answers, Tried(())).config, answers.password)))
        for found in tried.findings:
            if found.severity is Severity.PROBLEM:
                _say(f"That does not work: {_WORDS.get(found.name, 'it wants no mail from here')}.")
                _say(f"In detail: {found.what}")
            else:
                _say(f"{'It works' if found.severity is Severity.OK else 'Note'}: {found.what}")
        return tried

    def _choose_remedy(self, answers: Answers, problem: str) -> str:
        choices = [_ADDRESS, _SERVER, _AGAIN, _WRITE]
        if answers.username:
            choices.insert(0, _LOGIN)
        default = choices.index(_LIKELY.get(problem, _SERVER)) + 1
        return self.interview.choose("What now? (Ctrl-C gives up)", {each: each for each in choices}, default)

    def _correct(self, answers: Answers, choice: str) -> Answers:
        """Return the answers after one of them was asked again; flags count no more."""
        interview, server = self.interview, answers.server
        if choice == _ADDRESS:
            return replace(answers, address=ask_address(interview, NOTHING, _hostname(), answers.address))
        if choice == _SERVER:
            server = ask_server(interview, NOTHING, answers.address)
            answers = replace(answers, server=server, username="")
            answers = replace(answers, password="", password_file=None, client_id="")
        if server and choice in (_SERVER, _LOGIN):
            return ask_login(interview, NOTHING, answers, server, is_correction=choice == _LOGIN)
        return answers

    # What comes after

    def _finish(self, draft: _Draft, *, wants_message: bool) -> int:
        """Log in with OAuth, and send a test message, as far as that is wanted; return 1 where it failed."""
        answers, config = draft.answers, draft.config
        if answers.client_id:
            [name] = config.smarthost
            command = f"relay login {name}{self._config_option()}"
            if not self.interview.confirm("Log in now, with a browser on any computer?"):
                print(f"\nBefore mail can leave, log in: {command}")
                return int(wants_message)
            if login.log_in(config, name):
                print(f"\nTry that again later: {command}")
                return 1
            if self._try_once(answers).problem:
                return 1
        return int(not self._send_test(config, answers.address, is_wanted=wants_message))

    def _send_test(self, config: Config, address: str, *, is_wanted: bool) -> bool:
        """Send a test message if one is wanted; return False where it was not taken."""
        if not (is_wanted or self.interview.confirm(f"Send a test message to {address}?")):
            return True
        print(f"\nSending a test message to {make_line(address)} ...", flush=True)
        attempt = asyncio.run(send_test_message(config, address))
        said = make_line(attempt.explain(), LONGEST_DETAIL)
        if not attempt.reply.is_positive:
            _say(f"It was not taken: {said}")
            return False
        _say(f"Taken: {said}")
        _say("It should be in your mailbox within minutes; if not, look among the spam.")
        return True

    def _tell_what_next(self, draft: _Draft) -> None:
        option, listen = self._config_option(), draft.config.listen[0]
        print("\nWhat comes next:")
        print(f"  relay serve{option}")
        print("      starts the relay; `relay doctor` finds out what is wrong if mail does not leave.")
        print(f"  In devices and mail programs, set as the server for outgoing mail (SMTP): {_hostname()},")
        print(f"      or the address of this machine; port {listen.port}, no encryption, no login.")

    def _config_option(self) -> str:
        """Return the option without which commands would not find the file."""
        found = find_config(None, os.environ)
        is_found = found is not None and found.absolute() == self.path.absolute()
        return "" if is_found else f" --config {shlex.quote(str(self.path))}"


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is to be written."""

    text: str
    config: Config
    answers: Answers
    new_password_file: str
    """Beside relay.toml; "" where no password was typed."""


def _with_password(config: Config, password: str) -> Config:
    """Return a configuration whose smarthost has a password that is in no file yet."""
    if not password:
        return config
    smarthosts = {
        name: replace(each, password=Secret(value=password)) for name, each in config.smarthost.items()
    }
    return replace(config, smarthost=MappingProxyType(smarthosts))
