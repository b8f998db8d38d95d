"""How often a key may call: so many requests in any sixty minutes, exact across threads and processes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limits import RateLimitItemPerHour
from limits.storage import Storage
from limits.strategies import MovingWindowRateLimiter

from service.store.sqlite_limits import SqliteStorage


@dataclass(frozen=True, slots=True)
class Allowance:
    """The answer to one request, and the numbers that its `RateLimit-*` headers carry.

    Attributes:
        allowed: whether the request may go on; a refused request is not counted.
        limit: requests per hour.
        remaining: requests still free after this one.
        reset_s: whole seconds, 1 to 3600, until a slot frees: until the oldest request leaves the
            window, or, for a limit that was lowered below what is used, until the next would pass.
            Never 0, for at least one request lies in the window after any answer.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_s: int

    @property
    def retry_after_s(self) -> int:
        """Seconds for `Retry-After`; who waits as long is let in, unless the key was used meanwhile."""
        return max(1, self.reset_s)


class HourlyWindow(RateLimitItemPerHour):
    """Requests in any sixty minutes. A changed limit goes on with the same log."""

    def key_for(self, *identifiers: bytes | str | int | float) -> str:
        """Leaves out the amount, which the library puts in: a new limit would start from nothing."""
        return "/".join([self.namespace, *map(str, identifiers), self.GRANULARITY.name])


class RateLimiter:
    """A moving window of one hour for each key, over any storage of the `limits` library."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds and must be the one that the storage reads."""
        self._storage = storage
        self._strategy = MovingWindowRateLimiter(storage)
        self._clock = clock

    def hit(self, key_id: str, per_hour: int, amount: int = 1) -> Allowance:
        """Count `amount` requests of `key_id` if at most `per_hour` are then let through in an hour.

        Raises:
            ValueError: `per_hour` or `amount` is below 1; a client without a limit is not asked about at all.
        """
        if per_hour < 1 or amount < 1:
            raise ValueError(f"per_hour={per_hour} and amount={amount} must be at least 1")
        window = HourlyWindow(per_hour)
        if isinstance(self._storage, SqliteStorage):
            return _hit_at_once(self._storage, window, key_id, amount)
        return self._hit_then_ask(window, key_id, amount)

    def check(self) -> bool:
        """Whether the storage answers."""
        return self._storage.check()

    def close(self) -> None:
        """Close the storage's file, if it has one."""
        if isinstance(self._storage, SqliteStorage):
            self._storage.close()

    def _hit_then_ask(self, window: HourlyWindow, key_id: str, amount: int) -> Allowance:
        """For storages that answer yes or no: other requests may slip in before the second question."""
        allowed = self._strategy.hit(window, key_id, cost=amount)
        stats = self._strategy.get_window_stats(window, key_id)
        remaining = max(0, stats.remaining) if allowed else 0
        wait_s = stats.reset_time - self._clock()
        return Allowance(allowed, window.amount, remaining, _whole_seconds(wait_s, window))


def open_limiter(database: Path, clock: Callable[[], float] = time.time) -> RateLimiter:
    """A limiter over the SQLite file `database`; makes its folder. The file is opened at the first hit."""
    database.parent.mkdir(parents=True, exist_ok=True)
    return RateLimiter(SqliteStorage(database, clock=clock), clock)


def _hit_at_once(storage: SqliteStorage, window: HourlyWindow, key_id: str, amount: int) -> Allowance:
    outcome = storage.acquire(window.key_for(key_id), window.amount, window.get_expiry(), amount)
    remaining = max(0, window.amount - outcome.count)
    return Allowance(outcome.acquired, window.amount, remaining, _whole_seconds(outcome.wait_s, window))


def _whole_seconds(wait_s: float, window: HourlyWindow) -> int:
    return max(1, math.ceil(min(wait_s, window.get_expiry())))
