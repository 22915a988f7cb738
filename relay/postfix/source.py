"""What an import starts from: the settings, the services, and the files that they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from relay.postfix.draft import Draft
from relay.postfix.main_cf import Settings
from relay.postfix.master_cf import Service
from relay.postfix.patterns import Rule, read_rules
from relay.postfix.tables import (
    INDEXED,
    PATTERNS,
    ReadFile,
    TableName,
    first_of_each,
    parse_table_name,
    read_entries,
    read_inline,
)

SECRET_TABLES = frozenset({"smtp_sasl_password_maps", "lmtp_sasl_password_maps"})
_NOT_HERE = {
    "cidr": "the relay has no tables of networks",
    "environ": "the relay reads no tables from the environment",
    "unix": "the relay does not ask the system for users",
    "nis": "the relay asks no directory",
    "static": "the relay has no entry for everything",
}
_NO_DATABASE = "the relay asks no database or server; write its entries into relay.toml"


@dataclass(frozen=True, slots=True)
class Source:
    """A Postfix, and the draft of the relay.toml that is made from it."""

    settings: Settings
    read_file: ReadFile
    services: Sequence[Service] = ()
    draft: Draft = field(default_factory=Draft)
    _texts: dict[str, str] = field(default_factory=dict)

    def read(self, path: str, why: str) -> str:
        """Return the text of a file, read once; "" with a note where it can't be read."""
        if path not in self._texts:
            try:
                self._texts[path] = self.read_file(path)
            except OSError as error:
                self.draft.lack(why, f"{path}: {error.strerror}")
                self._texts[path] = ""
        return self._texts[path]

    def tables(self, name: str) -> list[TableName]:
        """Return the tables that a parameter names."""
        return [parse_table_name(item) for item in self.settings.items(name)]

    def entries(self, name: str) -> dict[str, str]:
        """Return the entries of the parameter's tables that have keys, under keys in small letters.

        Tables of patterns are left to ``rules``; others have no equivalent.
        """
        entries: dict[str, str] = {}
        for table in self.tables(name):
            if table.kind in PATTERNS:
                continue
            shown = f"{name} = {table.kind}:(hidden)" if name in SECRET_TABLES else f"{name} = {table}"
            for key, value in self._entries_of(table, shown):
                entries.setdefault(key, value)
        return entries

    def entries_alone(self, name: str) -> dict[str, str]:
        """Return the entries of a parameter whose patterns have no equivalent: those are noted."""
        for rule in self.rules(name):
            what = name if name in SECRET_TABLES else f"{name}: {rule.result}"
            self.draft.lack(f"{what} ({rule.place})", "the relay has no patterns here: name each")
        return self.entries(name)

    def rules(self, name: str) -> Iterator[Rule]:
        """Yield the rules of the parameter's tables of patterns."""
        for table in self.tables(name):
            if table.kind in PATTERNS:
                for rule in read_rules(self.read(table.path, f"{name} = {table}"), table.kind):
                    yield replace(rule, place=f"{table.path}:{rule.place}")

    def _entries_of(self, table: TableName, shown: str) -> list[tuple[str, str]]:
        if table.kind in INDEXED:
            text = self.read(table.path, shown)
            return [*first_of_each(read_entries(text)).items()]
        if table.kind == "inline":
            return [*first_of_each(read_inline(table.path)).items()]
        self.draft.lack(shown, _NOT_HERE.get(table.kind, _NO_DATABASE))
        return []
