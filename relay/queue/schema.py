"""The tables of the queue and their versions.

Text that comes from outside may hold bytes beyond UTF-8 (as surrogate escapes), which SQLite's TEXT can't:
it is kept in BLOB columns, encoded by ``rows.pack``. TEXT is for words from closed lists.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, cast

from relay.queue.errors import QueueError

MIGRATIONS = (
    """
    CREATE TABLE message (
        number INTEGER PRIMARY KEY AUTOINCREMENT,   -- never given twice, even after its row is gone
        reverse_path BLOB NOT NULL,
        given_reverse_path BLOB NOT NULL,
        ret TEXT NOT NULL,
        envid BLOB NOT NULL,
        is_8bitmime INTEGER NOT NULL,
        is_smtputf8 INTEGER NOT NULL,
        size INTEGER NOT NULL,
        header_size INTEGER NOT NULL,
        body_is_8bit INTEGER NOT NULL,
        received_at REAL NOT NULL,
        client BLOB NOT NULL,
        is_report INTEGER NOT NULL,
        is_warned INTEGER NOT NULL DEFAULT 0,
        finished_at REAL
    ) STRICT;

    CREATE INDEX unfinished ON message (is_warned, received_at) WHERE finished_at IS NULL;

    CREATE TABLE recipient (
        message INTEGER NOT NULL REFERENCES message ON DELETE CASCADE,
        idx INTEGER NOT NULL,
        address BLOB NOT NULL,
        original BLOB NOT NULL,
        orcpt BLOB NOT NULL,
        notify TEXT NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        next_attempt_at REAL NOT NULL,
        next_hop BLOB NOT NULL DEFAULT x'',         -- of the last attempt
        is_reported INTEGER NOT NULL DEFAULT 0,     -- a failure that the sender was told of, or need not be
        attempted_at REAL,                          -- of the last attempt, and so what follows
        code INTEGER,
        enhanced TEXT,
        text BLOB,
        scope TEXT,
        host BLOB,
        command TEXT,
        is_remote INTEGER,
        is_possible_duplicate INTEGER,
        passes_dsn INTEGER,
        PRIMARY KEY (message, idx)
    ) STRICT, WITHOUT ROWID;

    CREATE INDEX due ON recipient (next_hop, next_attempt_at) WHERE state IN ('queued', 'deferred');
    CREATE INDEX unreported ON recipient (message) WHERE is_reported = 0 AND state IN ('bounced', 'expired');

    CREATE TABLE content (
        message INTEGER NOT NULL,                   -- no row in message yet: half-received
        seq INTEGER NOT NULL,
        data BLOB NOT NULL
    ) STRICT;

    CREATE UNIQUE INDEX content_of_message ON content (message, seq);
    """,
    """
    ALTER TABLE message ADD COLUMN content BLOB;    -- NULL: in a file (Contents), or finished
    UPDATE message SET content = (
        SELECT join_chunks(seq, data) FROM content WHERE message = number)
    WHERE finished_at IS NULL;
    DROP TABLE content;
    """,
    """
    ALTER TABLE message RENAME COLUMN content TO moved;
    ALTER TABLE message ADD COLUMN message_id BLOB NOT NULL DEFAULT x'';
    ALTER TABLE message ADD COLUMN subject BLOB NOT NULL DEFAULT x'';
    ALTER TABLE message ADD COLUMN content BLOB;    -- last: what stands behind it is slow to reach
    UPDATE message SET content = moved, moved = NULL WHERE moved IS NOT NULL;
    ALTER TABLE message DROP COLUMN moved;

    CREATE TABLE attempt (                          -- but for the last one of each recipient
        message INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        attempted_at REAL NOT NULL,
        next_hop BLOB,
        code INTEGER,
        enhanced TEXT,
        text BLOB,
        host BLOB,
        command TEXT,
        is_remote INTEGER,
        PRIMARY KEY (message, idx, attempted_at),
        FOREIGN KEY (message, idx) REFERENCES recipient ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;

    -- Nothing is written for a message whose first attempt is its last. Of very many, the first is kept and
    -- the newest: enough for all that the default queue.retry makes of the default queue.lifetime.
    CREATE TRIGGER keep_attempt AFTER UPDATE OF attempted_at ON recipient WHEN OLD.attempted_at IS NOT NULL
    BEGIN
        INSERT OR REPLACE INTO attempt
        VALUES (OLD.message, OLD.idx, OLD.attempted_at, OLD.next_hop, OLD.code, OLD.enhanced, OLD.text,
                OLD.host, OLD.command, OLD.is_remote);
        DELETE FROM attempt
        WHERE message = OLD.message AND idx = OLD.idx
            AND attempted_at = (
                SELECT attempted_at FROM attempt WHERE message = OLD.message AND idx = OLD.idx
                ORDER BY attempted_at DESC LIMIT 1 OFFSET 149)
            AND attempted_at > (
                SELECT min(attempted_at) FROM attempt WHERE message = OLD.message AND idx = OLD.idx);
    END;
    """,
    """
    CREATE TABLE learned_route (
        domain BLOB PRIMARY KEY,
        via BLOB NOT NULL,
        reason BLOB NOT NULL,
        reply BLOB NOT NULL,
        learned_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        is_pinned INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)
"""Scripts that lead from one version to the next; the version is ``PRAGMA user_version``."""

_PRAGMAS = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA secure_delete = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -8000;
"""


class _JoinChunks:
    """An aggregate function: group_concat() promises no order, and is for text."""

    def __init__(self) -> None:
        self._chunks: dict[int, bytes] = {}

    def step(self, seq: int, data: bytes) -> None:
        self._chunks[seq] = data

    def finalize(self) -> bytes:
        return b"".join(self._chunks[seq] for seq in sorted(self._chunks))


def connect(path: Path, log_size: int) -> sqlite3.Connection:
    """Open the database at its present version, making it where there is none.

    The write-ahead log is written back into the file when it has reached ``log_size`` bytes. The connection
    may be used in any one thread at a time. Raises sqlite3.Error, and QueueError for a file of a newer
    version.
    """
    db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        migrate(db, path)
        (page_size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute(f"PRAGMA wal_autocheckpoint = {max(32, log_size // page_size)}")  # 0 would turn it off
        db.execute(f"PRAGMA journal_size_limit = {log_size}")
    except BaseException:
        db.close()
        raise
    return db


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to the present version."""
    # Before the first look at the file: it spares the shared-memory file, which some file systems lack.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and (not version or "recipient" not in tables):
        raise QueueError(f"{path} belongs to another program: name another file in queue.path")
    if version > len(MIGRATIONS):
        raise QueueError(
            f"the queue {path} was written by a newer relay (format {version}, this one knows up to "
            f"{len(MIGRATIONS)}): install that version again, or name another file in queue.path"
        )
    db.executescript(_PRAGMAS)
    db.create_aggregate("join_chunks", 2, cast(Any, _JoinChunks))  # typeshed knows just those of numbers
    for target, script in enumerate(MIGRATIONS[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {target}; COMMIT;")
