"""The exact log of hits of the `limits` library's moving window, in one SQLite file.

Memory storage counts per process, so N workers would let through N times the limit. Here every hit is
decided in one `BEGIN IMMEDIATE` transaction, which makes the count exact for any number of threads and
processes on one machine, and keeps it over a restart.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from limits.storage import MovingWindowSupport, Storage

BUSY_TIMEOUT_S = 30.0
SWEEP_EVERY_S = 60.0

# The hits of a window are numbered in order of time without gaps, so that its size is a subtraction
# instead of a count over up to a million rows.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS limit_windows (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        ends_at REAL NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS limit_hits (
        window_id INTEGER NOT NULL REFERENCES limit_windows (id) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (window_id, seq)
    ) WITHOUT ROWID""",
)

_READ = """
SELECT w.id, oldest.seq, oldest.at, newest.seq, newest.at
FROM limit_windows AS w
LEFT JOIN limit_hits AS newest ON newest.window_id = w.id AND newest.seq = (
    SELECT max(seq) FROM limit_hits WHERE window_id = w.id)
LEFT JOIN limit_hits AS oldest ON oldest.window_id = w.id AND oldest.seq = (
    SELECT seq FROM limit_hits WHERE window_id = w.id AND at + :expiry > :now ORDER BY seq LIMIT 1)
WHERE w.key = :key
"""

_TOUCH = """
INSERT INTO limit_windows (key, ends_at) VALUES (?, ?)
ON CONFLICT (key) DO UPDATE SET ends_at = excluded.ends_at
RETURNING id
"""


class _Window(NamedTuple):
    """One key's hits; `oldest_*` is the oldest hit that still counts, None when none does."""

    id: int | None = None
    oldest_seq: int | None = None
    oldest_at: float | None = None
    newest_seq: int = 0
    newest_at: float = 0.0

    @property
    def size(self) -> int:
        return 0 if self.oldest_seq is None else self.newest_seq - self.oldest_seq + 1


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What one attempt decided and saw, all in the same transaction.

    Attributes:
        acquired: whether the hits were taken; a refused attempt leaves no trace.
        count: hits in the window after the attempt.
        wait_s: seconds until a hit leaves the window, if acquired; until the same attempt would be
            taken, if refused (infinite if it asked for more than the limit).
    """

    acquired: bool
    count: int
    wait_s: float


@dataclass(eq=False, slots=True)
class _Handle:
    """One process's connection, and the lock by which its threads take turns."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: sqlite3.Connection | None = None


class SqliteStorage(Storage, MovingWindowSupport):
    """A storage for `limits.strategies.MovingWindowRateLimiter`, also by `sqlite:////path/to/file`.

    A hit counts from `at` until just before `at + expiry`. (The library's own storages still count it
    at that very instant; here whoever waits exactly `wait_s` gets in.) Each key has one window length.

    Nothing is opened before the first use, and each process opens its own connection, so a storage may
    be made before a fork. The threads of a process share that connection in turn: there is one writer
    anyway, a lock wakes the next thread at once where SQLite would have it sleep and poll, and servers
    that start a thread per request leave no connections behind.
    """

    STORAGE_SCHEME = ["sqlite"]  # noqa: RUF012 - the base class declares it so

    def __init__(
        self,
        database: str | Path,
        wrap_exceptions: bool = False,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`database` is a path or a `sqlite:///` URI; its folder must exist. `clock` gives Unix seconds."""
        super().__init__(None, wrap_exceptions)
        self._database = _path_of(database)
        self._clock = clock
        self._swept_at = float("-inf")
        self._handles: dict[int, _Handle] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        """What goes wrong below: a full disk, a damaged file, a lock not had within 30 s."""
        return sqlite3.Error

    def acquire(self, key: str, limit: int, expiry: int, amount: int = 1) -> Acquisition:
        """Take `amount` hits of `key` if at most `limit` then lie in the last `expiry` seconds."""
        with self._transaction() as db:
            now = self._clock()
            self._sweep(db, now)
            window = _slide(db, key, expiry, now)
            if window.size + amount > limit:
                surplus = window.size + amount - limit
                return Acquisition(False, window.size, _wait_s(db, window, surplus, expiry, now))
            window_id = _touch(db, key, now + expiry)
            _append(db, window_id, window.newest_seq, amount, now)
            oldest_at = now if window.oldest_at is None else window.oldest_at
            return Acquisition(True, window.size + amount, oldest_at + expiry - now)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """As `acquire`, for the library's strategies."""
        return self.acquire(key, limit, expiry, amount).acquired

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Time of the oldest hit in the window (now, if there is none) and the number of hits."""
        now = self._clock()
        with self._connected() as db:
            window = _read(db, key, expiry, now)
        return (now if window.oldest_at is None else window.oldest_at), window.size

    def check(self) -> bool:
        """Whether the file can be opened and read."""
        try:
            with self._connected() as db:
                db.execute("SELECT 1 FROM limit_windows LIMIT 1").fetchone()
        except sqlite3.Error:
            return False
        return True

    def reset(self) -> int:
        """Forget every hit; returns the number of keys forgotten."""
        with self._transaction() as db:
            return db.execute("DELETE FROM limit_windows").rowcount

    def clear(self, key: str) -> None:
        """Forget the hits of one key."""
        with self._transaction() as db:
            db.execute("DELETE FROM limit_windows WHERE key = ?", (key,))

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Refused: counters belong to the fixed window, which lets a burst through at its edge."""
        raise NotImplementedError("SqliteStorage keeps a log for the moving window, not counters")

    def get(self, key: str) -> int:
        """Refused, as `incr`; `get_moving_window` tells how many hits there are."""
        raise NotImplementedError("SqliteStorage keeps no counters; use get_moving_window")

    def get_expiry(self, key: str) -> float:
        """Refused, as `incr`; `get_moving_window` tells when the window began."""
        raise NotImplementedError("SqliteStorage keeps no counters; use get_moving_window")

    def close(self) -> None:
        """Close this process's connection; a later call opens it again."""
        handle = self._handle()
        with handle.lock:
            if handle.connection is not None:
                handle.connection.close()
                handle.connection = None

    def _handle(self) -> _Handle:
        # By process, because SQLite forbids a connection, and nobody can release a lock, across a fork.
        # What the parent left here is kept and never touched: closing it would disturb the parent's file.
        return self._handles.setdefault(os.getpid(), _Handle())

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        handle = self._handle()
        with handle.lock:
            if handle.connection is None:
                handle.connection = _connect(self._database)
            yield handle.connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _sweep(self, db: sqlite3.Connection, now: float) -> None:
        """Now and then, forget the keys whose last hit has left its window."""
        if 0 <= now - self._swept_at < SWEEP_EVERY_S:
            return
        db.execute("DELETE FROM limit_windows WHERE ends_at <= ?", (now,))
        self._swept_at = now


def _path_of(database: str | Path) -> Path:
    if isinstance(database, str) and database.startswith("sqlite:"):
        database = unquote(database.removeprefix("sqlite:").removeprefix("//").removeprefix("/"))
    if not str(database):
        raise ValueError("database names no file; write sqlite:////absolute/path or sqlite:///relative/path")
    return Path(database)


def _connect(database: Path) -> sqlite3.Connection:
    db = sqlite3.connect(database, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _use_wal(db)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _use_wal(db: sqlite3.Connection) -> None:
    """Switch a new file to WAL; SQLite fails at once, without its timeout, when two processes do it."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode = WAL")
            return
        time.sleep(0.005)
    db.execute("PRAGMA journal_mode = WAL")


def _read(db: sqlite3.Connection, key: str, expiry: int, now: float) -> _Window:
    row = db.execute(_READ, {"key": key, "expiry": expiry, "now": now}).fetchone()
    if row is None:
        return _Window()
    return _Window(*row) if row[3] is not None else _Window(row[0])


def _slide(db: sqlite3.Connection, key: str, expiry: int, now: float) -> _Window:
    """Drop the hits that have left the window; returns those that are in it."""
    window = _read(db, key, expiry, now)
    if window.newest_at > now:
        # The clock was set back. Left in the future, these hits would lock the key out until then.
        db.execute("UPDATE limit_hits SET at = ? WHERE window_id = ? AND at > ?", (now, window.id, now))
        window = _read(db, key, expiry, now)
    keep = window.newest_seq + 1 if window.oldest_seq is None else window.oldest_seq
    db.execute("DELETE FROM limit_hits WHERE window_id = ? AND seq < ?", (window.id, keep))
    return window


def _touch(db: sqlite3.Connection, key: str, ends_at: float) -> int:
    (window_id,) = db.execute(_TOUCH, (key, ends_at)).fetchone()
    return int(window_id)


def _append(db: sqlite3.Connection, window_id: int, newest_seq: int, amount: int, now: float) -> None:
    hits = ((window_id, newest_seq + n, now) for n in range(1, amount + 1))
    db.executemany("INSERT INTO limit_hits (window_id, seq, at) VALUES (?, ?, ?)", hits)


def _wait_s(db: sqlite3.Connection, window: _Window, surplus: int, expiry: int, now: float) -> float:
    """Seconds until the `surplus` oldest hits have left the window."""
    if window.oldest_seq is None or surplus > window.size:
        return float("inf")
    query = "SELECT at FROM limit_hits WHERE window_id = ? AND seq = ?"
    (at,) = db.execute(query, (window.id, window.oldest_seq + surplus - 1)).fetchone()
    return float(at) + expiry - now
