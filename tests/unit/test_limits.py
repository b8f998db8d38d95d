"""The limiter and its storages: one suite for every storage, then what only the SQLite file promises."""

import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import limits.errors
import limits.storage.memory
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerHour
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from service.limits import Allowance, RateLimiter, open_limiter
from service.store import sqlite_limits
from service.store.sqlite_limits import SWEEP_EVERY_S, SqliteStorage

T0 = 1_700_000_000.0
HOUR_S = 3600


class Clock:
    """Stands still until it is told to move."""

    def __init__(self, now: float = T0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def at(self, seconds: float) -> None:
        self.now = T0 + seconds


def frozen_clock() -> float:
    return T0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "limits.db"


@pytest.fixture
def sqlite_storage(database: Path, clock: Clock) -> Iterator[SqliteStorage]:
    with closing(SqliteStorage(database, clock=clock)) as storage:
        yield storage


@pytest.fixture
def memory_storage(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryStorage]:
    monkeypatch.setattr(limits.storage.memory, "time", SimpleNamespace(time=clock))
    storage = MemoryStorage()
    yield storage
    storage.timer.join()


@pytest.fixture(params=["memory_storage", "sqlite_storage"])
def storage(request: pytest.FixtureRequest) -> Storage:
    """Every storage that the suite below is run against."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def limiter(storage: Storage, clock: Clock) -> RateLimiter:
    return RateLimiter(storage, clock)


def hits_in_file(database: Path) -> int:
    with closing(sqlite3.connect(database)) as db:
        return db.execute("SELECT count(*) FROM limit_hits").fetchone()[0]


def keys_in_file(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as db:
        return [key for (key,) in db.execute("SELECT key FROM limit_windows ORDER BY key")]


def hit_at_once(hit: Callable[[], Allowance], times: int) -> list[Allowance]:
    """The answers to hits from as many threads, all held back until every thread is there."""
    barrier = threading.Barrier(times)

    def wait_and_hit() -> Allowance:
        barrier.wait(60)
        return hit()

    with ThreadPoolExecutor(times) as pool:
        return [future.result() for future in [pool.submit(wait_and_hit) for _ in range(times)]]


# Every storage


def test_lets_exactly_the_limit_through_and_counts_down(limiter: RateLimiter) -> None:
    answers = [limiter.hit("a", 5) for _ in range(7)]
    assert [answer.allowed for answer in answers] == [True] * 5 + [False] * 2
    assert [answer.remaining for answer in answers] == [4, 3, 2, 1, 0, 0, 0]
    assert {answer.limit for answer in answers} == {5}


def test_window_slides_hit_by_hit(limiter: RateLimiter, clock: Clock) -> None:
    for seconds in (0.0, 10.0, 20.0):
        clock.at(seconds)
        assert limiter.hit("a", 3).allowed
    for seconds in (0.0, 10.0, 20.0):
        clock.at(seconds + HOUR_S - 0.1)
        assert not limiter.hit("a", 3).allowed
        clock.at(seconds + HOUR_S + 0.1)
        assert limiter.hit("a", 3).allowed
        assert not limiter.hit("a", 3).allowed


def test_keys_are_independent(limiter: RateLimiter) -> None:
    assert limiter.hit("a", 1).allowed
    assert not limiter.hit("a", 1).allowed
    assert limiter.hit("b", 1).allowed


def test_refused_hits_are_not_counted(limiter: RateLimiter, clock: Clock) -> None:
    assert limiter.hit("a", 1).allowed
    clock.at(HOUR_S / 2)
    assert not any(limiter.hit("a", 1).allowed for _ in range(20))
    clock.at(HOUR_S + 0.1)
    assert limiter.hit("a", 1).allowed


def test_reset_is_when_the_oldest_hit_leaves(limiter: RateLimiter, clock: Clock) -> None:
    resets = []
    for seconds in (0.0, 0.5, 3000.0, 3599.5):
        clock.at(seconds)
        resets.append(limiter.hit("a", 3).reset_s)
    assert resets == [3600, 3600, 600, 1]
    clock.at(3600.1)
    assert limiter.hit("a", 3) == Allowance(allowed=True, limit=3, remaining=0, reset_s=1)
    clock.at(3600.6)
    assert limiter.hit("a", 3) == Allowance(allowed=True, limit=3, remaining=0, reset_s=3000)


def test_idle_hour_frees_the_whole_limit(limiter: RateLimiter, clock: Clock) -> None:
    for _ in range(3):
        limiter.hit("a", 3)
    clock.at(HOUR_S * 2)
    assert limiter.hit("a", 3) == Allowance(allowed=True, limit=3, remaining=2, reset_s=3600)


def test_changed_limit_goes_on_with_the_same_log(limiter: RateLimiter) -> None:
    assert [limiter.hit("a", 2).allowed for _ in range(3)] == [True, True, False]
    assert [limiter.hit("a", 3).allowed for _ in range(2)] == [True, False]
    assert limiter.hit("a", 1) == Allowance(allowed=False, limit=1, remaining=0, reset_s=3600)


def test_hundred_threads_get_exactly_the_limit(limiter: RateLimiter) -> None:
    answers = hit_at_once(lambda: limiter.hit("a", 50), times=100)
    assert sum(answer.allowed for answer in answers) == 50


@pytest.mark.parametrize("per_hour", [0, -1])
def test_limit_below_one_is_an_error(limiter: RateLimiter, per_hour: int) -> None:
    with pytest.raises(ValueError, match=f"per_hour={per_hour} "):
        limiter.hit("a", per_hour)


def test_several_at_once_are_all_or_nothing(storage: Storage) -> None:
    strategy = MovingWindowRateLimiter(storage)
    five = RateLimitItemPerHour(5)
    assert not strategy.hit(five, "a", cost=6)
    assert strategy.hit(five, "a", cost=3)
    assert not strategy.hit(five, "a", cost=3)
    assert strategy.get_window_stats(five, "a").remaining == 2
    assert strategy.hit(five, "a", cost=2)
    assert not strategy.test(five, "a")


def test_a_hit_of_several_is_all_or_nothing(limiter: RateLimiter) -> None:
    assert limiter.hit("a", 5).remaining == 4
    refused = limiter.hit("a", 5, 5)
    assert not refused.allowed
    assert 1 <= refused.retry_after_s <= HOUR_S
    taken = limiter.hit("a", 5, 4)
    assert (taken.allowed, taken.remaining) == (True, 0)
    assert not limiter.hit("a", 5).allowed


def test_more_than_the_limit_at_once_has_a_finite_wait(limiter: RateLimiter) -> None:
    refused = limiter.hit("a", 5, 6)
    assert not refused.allowed
    assert 1 <= refused.retry_after_s <= HOUR_S
    with pytest.raises(ValueError, match="amount=0"):
        limiter.hit("a", 5, 0)


def test_window_stats_of_the_library(storage: Storage, clock: Clock) -> None:
    strategy = MovingWindowRateLimiter(storage)
    two = RateLimitItemPerHour(2)
    assert strategy.get_window_stats(two, "a") == (T0 + HOUR_S, 2)
    strategy.hit(two, "a")
    clock.at(60)
    strategy.hit(two, "a")
    assert strategy.get_window_stats(two, "a") == (T0 + HOUR_S, 0)
    clock.at(HOUR_S + 1)
    assert strategy.get_window_stats(two, "a") == (T0 + 60 + HOUR_S, 1)


def test_clear_forgets_one_key_and_reset_all(storage: Storage) -> None:
    strategy = MovingWindowRateLimiter(storage)
    one = RateLimitItemPerHour(1)
    assert strategy.hit(one, "a")
    assert strategy.hit(one, "b")
    strategy.clear(one, "a")
    assert strategy.hit(one, "a")
    assert not strategy.hit(one, "b")
    storage.reset()
    assert strategy.hit(one, "a")
    assert strategy.hit(one, "b")


def test_check_of_a_sound_storage(storage: Storage) -> None:
    assert storage.check()


# The SQLite file: exact answers


@settings(deadline=None)
@given(moves=st.lists(st.tuples(st.integers(0, 1300), st.sampled_from("ab")), max_size=60))
def test_agrees_with_a_plain_list(
    moves: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whole seconds, so that hits also fall on the very instant at which another leaves."""
    clock = Clock()
    taken: dict[str, list[float]] = {"a": [], "b": []}
    with closing(open_limiter(tmp_path_factory.mktemp("model") / "limits.db", clock)) as limiter:
        for step, key in moves:
            clock.now += step
            live = [at for at in taken[key] if at + HOUR_S > clock.now]
            allowed = len(live) < 4
            live += [clock.now] * allowed
            taken[key] = live
            expected = Allowance(allowed, 4, 4 - len(live), int(live[0] + HOUR_S - clock.now))
            assert limiter.hit(key, 4) == expected


@settings(deadline=None)
@given(
    first=st.lists(st.floats(0, 3599), min_size=3, max_size=3).map(sorted),
    retry=st.floats(3599, 3599.999),
    limit=st.integers(1, 3),
)
def test_who_waits_retry_after_is_let_in(
    first: list[float], retry: float, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also where the limit was lowered meanwhile."""
    clock = Clock()
    with closing(open_limiter(tmp_path_factory.mktemp("retry") / "limits.db", clock)) as limiter:
        for seconds in first:
            clock.at(seconds)
            limiter.hit("a", 3)
        clock.at(retry)
        answer = limiter.hit("a", limit)
        assert not answer.allowed
        clock.now += answer.retry_after_s
        assert limiter.hit("a", limit).allowed


def test_lowered_limit_waits_until_the_next_would_pass(sqlite_storage: SqliteStorage, clock: Clock) -> None:
    limiter = RateLimiter(sqlite_storage, clock)
    for seconds in (0, 100, 200):
        clock.at(seconds)
        limiter.hit("a", 3)
    clock.at(300)
    assert [limiter.hit("a", limit).reset_s for limit in (3, 2, 1)] == [3300, 3400, 3500]


def test_more_than_the_limit_never_passes(sqlite_storage: SqliteStorage) -> None:
    assert sqlite_storage.acquire("a", 2, HOUR_S, 3).wait_s == float("inf")
    sqlite_storage.acquire("a", 2, HOUR_S)
    assert sqlite_storage.acquire("a", 2, HOUR_S, 3).wait_s == float("inf")


def test_each_of_many_threads_is_told_its_own_remaining(sqlite_storage: SqliteStorage, clock: Clock) -> None:
    limiter = RateLimiter(sqlite_storage, clock)
    answers = hit_at_once(lambda: limiter.hit("a", 50), times=60)
    assert sorted(answer.remaining for answer in answers if answer.allowed) == list(range(50))
    assert {answer.remaining for answer in answers if not answer.allowed} == {0}


def test_clock_set_back_locks_nobody_out(sqlite_storage: SqliteStorage, clock: Clock) -> None:
    limiter = RateLimiter(sqlite_storage, clock)
    clock.at(86_400)
    assert limiter.hit("a", 1).allowed
    clock.at(0)
    assert limiter.hit("a", 1) == Allowance(allowed=False, limit=1, remaining=0, reset_s=3600)
    clock.at(HOUR_S)
    assert limiter.hit("a", 1).allowed


@pytest.mark.parametrize(
    ("limit", "seen", "expected"),
    [
        (3, (T0, 5), Allowance(allowed=True, limit=3, remaining=0, reset_s=3600)),
        (1, (T0 - 3000, 0), Allowance(allowed=False, limit=1, remaining=0, reset_s=600)),
        (1, (T0 - 3600, 1), Allowance(allowed=False, limit=1, remaining=0, reset_s=1)),
        (1, (T0 + 5, 1), Allowance(allowed=False, limit=1, remaining=0, reset_s=3600)),
    ],
    ids=["overtaken by hits", "freed meanwhile", "leaving right now", "clock of the storage ahead"],
)
def test_answer_keeps_its_bounds_whatever_a_storage_says_afterwards(
    memory_storage: MemoryStorage,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    seen: tuple[float, int],
    expected: Allowance,
) -> None:
    limiter = RateLimiter(memory_storage, clock)
    limiter.hit("a", 1)
    monkeypatch.setattr(memory_storage, "get_moving_window", lambda *_: seen)
    assert limiter.hit("a", limit) == expected


@pytest.mark.parametrize(("reset_s", "retry_after_s"), [(0, 1), (1, 1), (59, 59)])
def test_retry_after_is_at_least_a_second(reset_s: int, retry_after_s: int) -> None:
    assert Allowance(False, 1, 0, reset_s).retry_after_s == retry_after_s


# The SQLite file: threads, processes, restarts


def hit_from_threads(
    database: Path, barrier: threading.Barrier, results: "multiprocessing.Queue[int]"
) -> None:
    """One of several processes; all find the file not there yet."""
    with closing(open_limiter(database, frozen_clock)) as limiter:
        barrier.wait(60)
        answers = hit_at_once(lambda: limiter.hit("a", 50), times=25)
        results.put(sum(answer.allowed for answer in answers))


def test_four_processes_get_exactly_the_limit(database: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    arguments = (database, barrier, results)
    processes = [context.Process(target=hit_from_threads, args=arguments, daemon=True) for _ in range(4)]
    for process in processes:
        process.start()
    counts = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sum(counts) == 50
    assert hits_in_file(database) == 50


def hit_and_die(database: Path) -> None:
    limiter = open_limiter(database, frozen_clock)
    for _ in range(7):
        limiter.hit("a", 50)
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_process_leaves_its_hits(database: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hit_and_die, args=(database,), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with closing(open_limiter(database, frozen_clock)) as limiter:
        assert limiter.hit("a", 50).remaining == 42


def test_restart_goes_on_counting(database: Path, clock: Clock) -> None:
    for allowed in ([True, True], [True, False], [False, False]):
        with closing(open_limiter(database, clock)) as limiter:
            assert [limiter.hit("a", 3).allowed for _ in range(2)] == allowed


def test_two_objects_share_one_file(database: Path, clock: Clock) -> None:
    with closing(open_limiter(database, clock)) as one, closing(open_limiter(database, clock)) as other:
        assert [limiter.hit("a", 3).remaining for limiter in (one, other, one)] == [2, 1, 0]
        assert not other.hit("a", 3).allowed


def test_forked_process_opens_its_own_connection(
    sqlite_storage: SqliteStorage, database: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_by: list[int] = []
    connect = sqlite_limits._connect

    def recording_connect(path: Path) -> sqlite3.Connection:
        opened_by.append(os.getpid())
        return connect(path)

    monkeypatch.setattr(sqlite_limits, "_connect", recording_connect)
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def hit_in_child() -> None:
        taken = sum(sqlite_storage.acquire_entry("a", 5, HOUR_S) for _ in range(3))
        sqlite_storage.close()
        results.put((os.getpid(), taken, list(opened_by)))

    assert sqlite_storage.acquire_entry("a", 5, HOUR_S)
    # Held as another thread of the parent may hold it: the child inherits a lock that nobody releases.
    with sqlite_storage._handle().lock:
        child = context.Process(target=hit_in_child, daemon=True)
        child.start()
        child_pid, taken, child_opened_by = results.get(timeout=60)
        child.join(60)
    assert (taken, child_opened_by) == (3, [os.getpid(), child_pid])
    assert [sqlite_storage.acquire_entry("a", 5, HOUR_S) for _ in range(2)] == [True, False]
    assert hits_in_file(database) == 5


def test_nothing_is_opened_before_the_first_hit(tmp_path: Path, clock: Clock) -> None:
    database = tmp_path / "new" / "folder" / "limits.db"
    with closing(open_limiter(database, clock)) as limiter:
        assert list(database.parent.iterdir()) == []
        limiter.hit("a", 1)
        assert database.exists()


def test_connections_do_not_grow_with_threads(
    sqlite_storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    connect = sqlite_limits._connect
    monkeypatch.setattr(sqlite_limits, "_connect", lambda path: opened.append(connect(path)) or opened[-1])
    for _ in range(5):
        thread = threading.Thread(target=sqlite_storage.acquire_entry, args=("a", 50, HOUR_S))
        thread.start()
        thread.join()
    assert len(opened) == 1
    assert sqlite_storage.get_moving_window("a", 50, HOUR_S) == (T0, 5)


def test_closed_storage_opens_again(sqlite_storage: SqliteStorage) -> None:
    assert sqlite_storage.acquire_entry("a", 2, HOUR_S)
    sqlite_storage.close()
    sqlite_storage.close()
    assert [sqlite_storage.acquire_entry("a", 2, HOUR_S) for _ in range(2)] == [True, False]


def test_file_is_in_wal_mode_with_normal_synchronisation(sqlite_storage: SqliteStorage) -> None:
    with sqlite_storage._connected() as db:
        modes = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        busy_timeout_ms = db.execute("PRAGMA busy_timeout").fetchone()[0]
    assert modes == ["wal", 1]
    assert busy_timeout_ms == 30_000


class LockedFile:
    """Stands for a connection whose first `failures` statements find the file locked."""

    def __init__(self, failures: float) -> None:
        self.failures = failures
        self.statements: list[str] = []

    def execute(self, statement: str) -> None:
        self.statements.append(statement)
        if len(self.statements) <= self.failures:
            raise sqlite3.OperationalError("database is locked")


@pytest.fixture
def waited_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collects what the storage would have slept; its monotonic clock goes by that."""
    waits: list[float] = []
    clocks = SimpleNamespace(sleep=waits.append, monotonic=lambda: sum(waits))
    monkeypatch.setattr(sqlite_limits, "time", clocks)
    return waits


def test_switch_to_wal_is_tried_again_while_others_do_it(waited_s: list[float]) -> None:
    db = LockedFile(failures=2)
    sqlite_limits._use_wal(db)
    assert db.statements == ["PRAGMA journal_mode = WAL"] * 3
    assert len(waited_s) == 2


def test_switch_to_wal_gives_up_after_the_busy_timeout(waited_s: list[float]) -> None:
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite_limits._use_wal(LockedFile(failures=float("inf")))
    assert sum(waited_s) == pytest.approx(30, abs=0.1)


# The SQLite file: tidiness and faults


def test_hits_outside_the_window_are_dropped(
    sqlite_storage: SqliteStorage, clock: Clock, database: Path
) -> None:
    for seconds in range(0, 4 * HOUR_S, 600):
        clock.at(seconds)
        sqlite_storage.acquire_entry("a", 50, HOUR_S)
    assert hits_in_file(database) == 6


def test_keys_never_used_again_are_forgotten(
    sqlite_storage: SqliteStorage, clock: Clock, database: Path
) -> None:
    for key in ("a", "b", "c"):
        sqlite_storage.acquire_entry(key, 50, HOUR_S, amount=10)
    clock.at(HOUR_S - 1)
    sqlite_storage.acquire_entry("b", 50, HOUR_S)
    clock.at(HOUR_S + SWEEP_EVERY_S)
    sqlite_storage.acquire_entry("z", 50, HOUR_S)
    assert keys_in_file(database) == ["b", "z"]
    assert hits_in_file(database) == 12
    clock.at(3 * HOUR_S)
    sqlite_storage.acquire_entry("z", 50, HOUR_S)
    assert keys_in_file(database) == ["z"]
    assert hits_in_file(database) == 1


def test_sweep_goes_on_after_the_clock_was_set_back(
    sqlite_storage: SqliteStorage, clock: Clock, database: Path
) -> None:
    clock.at(86_400)
    sqlite_storage.acquire_entry("z", 50, HOUR_S)
    clock.at(0)
    sqlite_storage.acquire_entry("a", 50, HOUR_S)
    clock.at(HOUR_S)
    sqlite_storage.acquire_entry("z", 50, HOUR_S)
    assert keys_in_file(database) == ["z"]


def test_refused_hit_of_an_unknown_key_leaves_no_trace(sqlite_storage: SqliteStorage, database: Path) -> None:
    assert not sqlite_storage.acquire_entry("a", 1, HOUR_S, amount=2)
    assert keys_in_file(database) == []


def test_reset_tells_how_many_keys_it_forgot(sqlite_storage: SqliteStorage, database: Path) -> None:
    for key in ("a", "a", "b"):
        sqlite_storage.acquire_entry(key, 50, HOUR_S)
    assert sqlite_storage.reset() == 2
    assert hits_in_file(database) == 0


def test_error_in_a_transaction_undoes_it_and_frees_the_lock(
    sqlite_storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    sqlite_storage.acquire_entry("a", 3, HOUR_S)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sqlite_limits, "_append", fail)
        sqlite_storage.acquire_entry("b", 3, HOUR_S)
    assert keys_in_file(sqlite_storage._database) == ["a"]
    assert sqlite_storage.acquire("a", 3, HOUR_S).count == 2


def test_registered_as_a_scheme(tmp_path: Path, clock: Clock) -> None:
    database = tmp_path / "lab limits.db"
    storage = storage_from_string(f"sqlite:///{tmp_path}/lab%20limits.db", clock=clock)
    assert isinstance(storage, SqliteStorage)
    with closing(storage):
        assert storage.acquire_entry("a", 1, HOUR_S)
    assert hits_in_file(database) == 1


@pytest.mark.parametrize("uri", ["sqlite:", "sqlite://", "sqlite:///", ""])
def test_uri_without_a_file_is_an_error(uri: str) -> None:
    with pytest.raises(ValueError, match="names no file"):
        SqliteStorage(uri)


def test_fixed_window_is_refused(sqlite_storage: SqliteStorage) -> None:
    strategy = FixedWindowRateLimiter(sqlite_storage)
    item = RateLimitItemPerHour(1)
    for call in (strategy.hit, strategy.test, strategy.get_window_stats):
        with pytest.raises(NotImplementedError, match="counters"):
            call(item, "a")
    with pytest.raises(NotImplementedError, match="counters"):
        sqlite_storage.get_expiry("a")


def test_unusable_file_is_reported(tmp_path: Path) -> None:
    database = tmp_path / "limits.db"
    database.write_bytes(b"this is no database, and long enough to be read as one" * 100)
    plain, wrapped = SqliteStorage(database), SqliteStorage(database, wrap_exceptions=True)
    assert not plain.check()
    with pytest.raises(sqlite3.DatabaseError):
        plain.acquire_entry("a", 1, HOUR_S)
    with pytest.raises(limits.errors.StorageError):
        wrapped.acquire_entry("a", 1, HOUR_S)
