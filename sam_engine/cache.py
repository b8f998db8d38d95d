"""Embeddings kept in memory within a number of bytes, least recently used first to go."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Anything that knows its size."""

    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


@dataclass(frozen=True)
class CacheStatistics:
    """Counters since start; `bytes` and `entries` are those held now."""

    hits: int
    misses: int
    evictions: int
    entries: int
    bytes: int


class ByteCache(Generic[Value]):
    """A value is computed once, even when many threads ask for it together.

    Args:
        budget_bytes: what the kept values may hold in all; a value larger than that is given but not kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._pending: dict[str, Future[Value]] = {}
        self._lock = Lock()
        self._bytes = self._hits = self._misses = self._evictions = 0

    def get(self, key: str) -> Value | None:
        """The kept value, or None."""
        with self._lock:
            return self._touch(key)

    def put(self, key: str, value: Value) -> None:
        """Keep a value."""
        with self._lock:
            self._keep(key, value)

    def get_or_compute(self, key: str, compute: Callable[[], Value]) -> Value:
        """The kept value, or what this or another thread computes now; its error reaches all who wait."""
        with self._lock:
            value = self._touch(key)
            if value is not None:
                return value
            pending = self._pending.get(key)
            mine = pending is None
            if pending is None:
                pending = self._pending[key] = Future()
        if mine:
            self._run(key, compute, pending)
        return pending.result()

    def statistics(self) -> CacheStatistics:
        """Counters as they stand."""
        with self._lock:
            return CacheStatistics(self._hits, self._misses, self._evictions, len(self._values), self._bytes)

    def _run(self, key: str, compute: Callable[[], Value], pending: Future[Value]) -> None:
        try:
            value = compute()
            with self._lock:
                self._keep(key, value)
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            pending.set_exception(error)
            return
        with self._lock:
            del self._pending[key]
        pending.set_result(value)

    def _touch(self, key: str) -> Value | None:
        value = self._values.get(key)
        if value is None:
            self._misses += 1
            return None
        self._values.move_to_end(key)
        self._hits += 1
        return value

    def _keep(self, key: str, value: Value) -> None:
        previous = self._values.pop(key, None)
        self._bytes -= previous.nbytes if previous is not None else 0
        if value.nbytes > self.budget_bytes:
            return
        self._values[key] = value
        self._bytes += value.nbytes
        while self._bytes > self.budget_bytes:
            _, oldest = self._values.popitem(last=False)
            self._bytes -= oldest.nbytes
            self._evictions += 1
