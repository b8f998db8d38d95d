"""The cache against a plain list, and under threads."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_engine.cache import ByteCache, CacheStatistics

THREADS = 20
BUDGET = 100


@dataclass(frozen=True)
class Value:
    nbytes: int
    name: str = ""


class ListCache:
    """What the cache promises, on a list that runs from the oldest to the newest."""

    def __init__(self) -> None:
        self.held: list[tuple[str, Value]] = []
        self.hits = self.misses = self.evictions = 0

    def get(self, key: str) -> Value | None:
        for entry in self.held:
            if entry[0] == key:
                self.held.remove(entry)
                self.held.append(entry)
                self.hits += 1
                return entry[1]
        self.misses += 1
        return None

    def put(self, key: str, value: Value) -> None:
        self.held = [entry for entry in self.held if entry[0] != key]
        if value.nbytes <= BUDGET:
            self.held.append((key, value))
        while sum(value.nbytes for _, value in self.held) > BUDGET:
            self.held = self.held[1:]
            self.evictions += 1

    def get_or_compute(self, key: str, compute: Callable[[], Value]) -> Value:
        value = self.get(key)
        if value is None:
            value = compute()
            self.put(key, value)
        return value

    def statistics(self) -> CacheStatistics:
        total = sum(value.nbytes for _, value in self.held)
        return CacheStatistics(self.hits, self.misses, self.evictions, len(self.held), total)


STEPS = st.tuples(
    st.sampled_from(["get", "put", "get_or_compute"]), st.sampled_from("abcdef"), st.integers(0, BUDGET + 20)
)


@given(st.lists(STEPS, max_size=60))
def test_any_sequence_behaves_as_the_plain_list(steps):
    ours, plain = ByteCache[Value](BUDGET), ListCache()
    for i, (action, key, size) in enumerate(steps):
        value = Value(size, f"{key}{i}")
        if action == "get":
            assert ours.get(key) is plain.get(key)
        elif action == "put":
            ours.put(key, value)
            plain.put(key, value)
        else:
            assert ours.get_or_compute(key, lambda v=value: v) is plain.get_or_compute(key, lambda v=value: v)
        assert ours.statistics() == plain.statistics()
        assert ours.statistics().bytes <= BUDGET


def test_the_least_recently_used_goes_first():
    cache = ByteCache[Value](BUDGET)
    for key in "abc":
        cache.put(key, Value(30, key))
    cache.get("a")
    cache.get_or_compute("b", lambda: pytest.fail("b is held"))
    cache.put("d", Value(30, "d"))
    assert [key for key in "abcd" if cache.get(key)] == ["a", "b", "d"]


def test_a_value_larger_than_the_budget_is_given_but_not_kept():
    cache = ByteCache[Value](BUDGET)
    cache.put("small", Value(BUDGET))
    computed = []

    def compute() -> Value:
        computed.append(1)
        return Value(BUDGET + 1, "large")

    assert cache.get_or_compute("large", compute).name == "large"
    assert cache.get_or_compute("large", compute).name == "large"
    assert len(computed) == 2
    assert cache.get("small") is not None
    assert cache.statistics().evictions == 0


def together(work: Callable[[int], object]) -> list[object]:
    """Results, or errors, of many threads that start at the same moment."""
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> object:
        barrier.wait(timeout=30)
        try:
            return work(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def until_all_have_asked(cache: ByteCache[Value]) -> None:
    """Each thread that asks for what is not held counts as a miss before it waits."""
    deadline = time.monotonic() + 30
    while cache.statistics().misses < THREADS:
        assert time.monotonic() < deadline, "a thread was kept from asking while the value was computed"


def test_many_threads_compute_once():
    cache = ByteCache[Value](BUDGET)
    computed = []

    def compute() -> Value:
        until_all_have_asked(cache)
        computed.append(1)
        return Value(7)

    results = together(lambda _: cache.get_or_compute("key", compute))
    assert len(computed) == 1
    assert all(result is results[0] for result in results)
    assert cache.get("key") is results[0]


def test_different_keys_do_not_wait_for_each_other():
    cache = ByteCache[Value](BUDGET)

    def work(number: int) -> Value:
        def compute() -> Value:
            until_all_have_asked(cache)
            return Value(1, str(number))

        return cache.get_or_compute(str(number), compute)

    assert [result.name for result in together(work)] == [str(i) for i in range(THREADS)]
    assert cache.statistics() == CacheStatistics(
        hits=0, misses=THREADS, evictions=0, entries=THREADS, bytes=THREADS
    )


def test_an_error_reaches_all_who_wait_and_is_not_kept():
    cache = ByteCache[Value](BUDGET)
    computed = []

    def compute() -> Value:
        until_all_have_asked(cache)
        computed.append(1)
        raise ZeroDivisionError("no picture")

    results = together(lambda _: cache.get_or_compute("key", compute))
    assert len(computed) == 1
    assert [str(error) for error in results if isinstance(error, ZeroDivisionError)] == [
        "no picture"
    ] * THREADS
    assert cache.statistics().entries == 0
    assert cache.get_or_compute("key", lambda: Value(3)).nbytes == 3


def test_a_value_without_a_size_is_an_error_and_not_a_wait_without_end():
    cache = ByteCache[Value](BUDGET)
    with pytest.raises(AttributeError):
        cache.get_or_compute("key", lambda: None)
    assert cache.get_or_compute("key", lambda: Value(3)).nbytes == 3
    assert cache.statistics().bytes == 3
