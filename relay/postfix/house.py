"""Mail for the house: local domains, aliases, mailboxes (local(8), virtual(8), aliases(5), virtual(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from relay.config.house import SOMEBODY
from relay.mail.address import fold
from relay.mail.destinations import RESERVED
from relay.postfix.logical_lines import logical_lines
from relay.postfix.source import Source
from relay.postfix.tables import INDEXED, read_alias_entries, split_targets

Aliases = dict[str, list[str]]

_ACCOUNT = re.compile(r"([^:]*):[^:]*:(\d{1,9}):(?:[^:]*:){3}(.*)")
_NO_LOGIN = ("nologin", "false")
_PEOPLE = range(1000, 60000)
"""Numbers of people's accounts (Debian's adduser.conf)."""
_PROGRAM = re.compile(r'["|/]|:include:')
_LMTP = re.compile(r"lmtp:(?:unix:(?P<path>.+)|(?:inet:)?(?P<host>\S+))")


def read_domains(source: Source) -> list[str]:
    """Return the domains whose mail stays here (postconf(5), mydestination and the virtual ones)."""
    domains: dict[str, None] = {}
    for name in ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains"):
        if name == "virtual_alias_domains" and source.settings.is_default(name):
            source.settings.get(name)
            continue
        for item in source.settings.items(name):
            domains |= dict.fromkeys(map(str.lower, _domains_of(item, name, source)))
    return [*domains]


def translate_house(source: Source, domains: list[str]) -> None:
    """Put [local] and [aliases] into the draft."""
    aliases = _read_aliases(source)
    virtual = _read_virtual(source, domains)
    luser = source.settings.get("luser_relay")
    written = source.settings.written("luser_relay")
    if "$" in written:
        source.draft.lack(f"luser_relay = {written}", 'the relay has one address for all: [aliases] "*"')
    elif luser:
        aliases["*"] = [luser]
    for key, targets in virtual.items():
        aliases.setdefault(key, targets)
    source.draft.put(domains, "local", "domains")
    _put_mailboxes(source, aliases, domains)
    _put_aliases(source, aliases)
    is_house = bool(source.draft.document.get("aliases")) or len(source.draft.table("local")) > 1
    is_open = source.settings.items("inet_interfaces") != ["loopback-only"] and _takes_strangers(source)
    if domains and is_house and is_open:
        source.draft.put("anyone", "local", "accept")
        source.draft.remark(
            'Postfix took mail for these domains from everybody: accept = "anyone". "networks" would take it'
            " from your own only.",
            "local",
        )


def _takes_strangers(source: Source) -> bool:
    """Whether smtpd takes mail from others than mynetworks and people who logged in."""
    for kind in ("client", "recipient"):
        words = [word.lower() for word in source.settings.items(f"smtpd_{kind}_restrictions")]
        allowed = {"permit_mynetworks", "permit_sasl_authenticated", "reject"}
        if words[-1:] == ["reject"] and set(words) <= allowed:
            return False
    return True


def _domains_of(item: str, name: str, source: Source) -> Iterator[str]:
    kind, _, path = item.removeprefix("proxy:").partition(":")
    if item.startswith("/") or (kind in INDEXED and path):
        for _, line in logical_lines(source.read(path or item, f"{name} = {item}")):
            yield line.split()[0]
    elif ":" in item:
        source.draft.lack(f"{name} = ... {item}", "the relay asks no database; name the domains")
    else:
        yield item


def _read_aliases(source: Source) -> Aliases:
    aliases: Aliases = {}
    is_given = source.settings.is_given("alias_maps")
    for table in source.tables("alias_maps"):
        shown = f"alias_maps = {table}"
        if table.kind in INDEXED:
            text = source.read(table.path, shown) if is_given else _read_quietly(source, table.path)
            for line, name, targets in read_alias_entries(text):
                if not targets:
                    source.draft.lack(f"{table.path}:{line}: {name[:60]}", "is no alias")
                aliases.setdefault(name.lower(), _usable(f"alias {name}", targets, source))
        else:
            source.draft.lack(shown, "the relay asks no database; write the aliases into relay.toml")
    return {name: targets for name, targets in aliases.items() if targets}


def _read_quietly(source: Source, path: str) -> str:
    """Return the text of a file that main.cf does not name; "" where there is none."""
    try:
        return source.read_file(path)
    except OSError:
        return ""


def _usable(what: str, targets: list[str], source: Source, depth: int = 0) -> list[str]:
    """Return the targets that are addresses; a file of addresses is read."""
    kept: list[str] = []
    for target in targets:
        if target.startswith(":include:") and depth < 3:
            text = source.read(target.removeprefix(":include:").strip(), f"{what}: {target}")
            inner = [name for _, line in logical_lines(text) for name in split_targets(line)]
            kept += _usable(what, inner, source, depth + 1)
        elif _PROGRAM.match(target):
            kind = "a program" if target.startswith(("|", '"|')) else "a file"
            source.draft.lack(f"{what}: {kind}", "aliases of the relay go to users and addresses")
        else:
            kept.append(target.removeprefix("\\"))
    return kept


def _read_virtual(source: Source, domains: list[str]) -> Aliases:
    name = "virtual_alias_maps"
    entries = source.entries_alone(name)
    named = {key.rpartition("@")[2] for key in entries if "@" in key}
    aliases: Aliases = {}
    for key, value in entries.items():
        if (
            "@" not in key
            and "." in key
            and (key in named or value.lower() in ("anything", "virtual", "domain"))
        ):
            # A domain's own line, the older way to name a virtual alias domain (virtual(5)).
            if key not in domains:
                domains.append(key)
        elif targets := _usable(f"{name}: {key}", split_targets(value), source):
            aliases[key] = targets
    return aliases


def _put_mailboxes(source: Source, aliases: Aliases, domains: list[str]) -> None:
    settings, draft = source.settings, source.draft
    if lmtp := _choose_lmtp(source):
        draft.put(lmtp, "local", "lmtp")
        for name in ("home_mailbox", "virtual_mailbox_maps", "local_recipient_maps", "mail_spool_directory"):
            settings.get(name)
        return
    virtual_users, virtual_folder = _virtual_mailboxes(source)
    people = (*_people(source), *_people_named(aliases, domains), *virtual_users)
    users = {fold(user): user for user in people if fold(user) not in aliases or user in aliases[fold(user)]}
    if users:
        draft.put([*users.values()], "local", "users")
        draft.put(virtual_folder or _maildir(source), "local", "maildir")
    elif domains:
        draft.remark(
            "Nobody with a mailbox was found, and the accounts of the machine are not known here: name them.",
            "local",
        )
        draft.offer('users = ["chris", "marc"]', "local")
        draft.offer(f'maildir = "{_maildir(source)}"', "local")


def _choose_lmtp(source: Source) -> str:
    """Return the one LMTP server of the mailboxes, "" where there is none."""
    chosen = ""
    for name in ("mailbox_transport", "virtual_transport", "local_transport"):
        lmtp = _lmtp(source, name)
        if chosen and lmtp and lmtp != chosen:
            source.settings.leave(name)
        chosen = chosen or lmtp
    return chosen


def _lmtp(source: Source, name: str) -> str:
    """Return the LMTP server that a parameter names, "" where it names none."""
    value = source.settings.get(name)
    if name == "local_transport" and value.startswith("local:"):
        return ""
    if name == "virtual_transport" and value == "virtual":
        return ""
    match = _LMTP.fullmatch(value)
    if match is None:
        if value:
            source.settings.leave(name)
        return ""
    if match["host"]:
        return match["host"]
    is_absolute = match["path"].startswith("/")
    return match["path"] if is_absolute else f"{source.settings.get('queue_directory')}/{match['path']}"


def _maildir(source: Source) -> str:
    settings = source.settings
    home_mailbox, spool = settings.get("home_mailbox"), settings.get("mail_spool_directory")
    if home_mailbox.endswith("/"):
        return "/home/{user}/" + home_mailbox.rstrip("/")
    if spool.endswith("/") and not home_mailbox:
        return spool + "{user}"
    where = f"~/{home_mailbox}" if home_mailbox else f"{spool}/USER"
    source.draft.remark(
        f"Postfix appended to the file {where} (mbox). The relay keeps folders in Maildir format: tell the"
        " mail programs where, or name another place.",
        "local",
    )
    return "/home/{user}/Maildir"


def _people(source: Source) -> Iterator[str]:
    """Yield the people of the machine, as far as its list of accounts came with main.cf."""
    for line in _read_quietly(source, "/etc/passwd").splitlines():
        account = _ACCOUNT.fullmatch(line)
        if account and int(account[2]) in _PEOPLE and not account[3].endswith(_NO_LOGIN):
            yield account[1]


def _people_named(aliases: Aliases, domains: Iterable[str]) -> Iterator[str]:
    """Yield the users that aliases lead to, who must be somebody then."""
    for targets in aliases.values():
        for target in targets:
            user, at, domain = target.rpartition("@")
            name = user if at else domain
            is_ours = not at or domain.lower() in domains
            if (
                is_ours
                and name
                and fold(name) not in RESERVED
                and fold(name) != SOMEBODY
                and re.fullmatch(r"[\w.-]+", name)
            ):
                yield name


def _virtual_mailboxes(source: Source) -> tuple[list[str], str]:
    """Return the users of virtual_mailbox_maps and the pattern of their Maildirs (virtual(8))."""
    base = source.settings.get("virtual_mailbox_base")
    entries = source.entries_alone("virtual_mailbox_maps")
    users, folders = [], set()
    for key, value in entries.items():
        user = key.rpartition("@")[0]
        if user:
            users.append(user)
            folders.add(
                re.sub(rf"(?<![\w.-]){re.escape(user)}/$", "{user}", f"{base}/{value}", flags=re.IGNORECASE)
            )
    if not users:
        return [], ""
    folder = folders.pop() if len(folders) == 1 else ""
    if "{user}" not in folder:
        source.draft.lack(
            f"virtual_mailbox_maps: {len(entries)} mailboxes",
            "the relay has one pattern with {user} for all Maildirs",
        )
        return [], ""
    return users, folder


def _put_aliases(source: Source, aliases: Aliases) -> None:
    draft = source.draft
    relocated = source.entries_alone("relocated_maps")
    users = source.draft.table("local").get("users")
    has_root = bool(aliases.keys() & {"root"}) or (isinstance(users, list) and "root" in users)
    table: dict[str, object] = {}
    for key, targets in aliases.items():
        if [fold(target) for target in targets] == [key]:
            continue
        if not has_root and key in RESERVED and all(fold(target) in RESERVED for target in targets):
            draft.remark("Reserved names such as root go to postmaster, at the top.", "aliases")
            continue
        table[key] = targets[0] if len(targets) == 1 else targets
    for key, where in relocated.items():
        table.setdefault(key, f"error:5.1.6 User has moved to {where}")
    if table:
        draft.put(table, "aliases")
    for key in ("postmaster", "root"):
        target = _follow(aliases, key)
        if target and "@" in target:
            draft.put(target, "postmaster")
            draft.remark("Where mail for root goes, by the aliases.", "postmaster")
            break


def _follow(aliases: Aliases, key: str) -> str:
    """Return the one address that an alias comes to; "" where there are several, or none."""
    seen = set()
    while key in aliases and key not in seen:
        seen.add(key)
        if len(aliases[key]) != 1:
            return ""
        key = aliases[key][0]
    return key if seen else ""
