"""Tensors kept on disk within a number of bytes, so that a restart need not encode pictures again."""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

SUFFIX, PART = ".safetensors", ".part"
FORMAT = 1
ABANDONED_S = 3600
LEFT_FREE_BYTES = 500 * 2**20  # of the disk: what only saves time must not crowd out what people sent
_KEY = re.compile(r"[0-9a-f]{64}(-[a-z]+)?")


@dataclass(frozen=True, eq=False, slots=True)
class Record:
    """Tensors on the CPU, and what must be said of them (JSON)."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """Counters since start; `bytes` and `entries` are those on disk now, by any process.

    `damaged` files were found, removed and counted as misses.
    """

    hits: int
    misses: int
    evictions: int
    damaged: int
    entries: int
    bytes: int


class TensorStore:
    """A folder of records. Any number of threads and processes may share it.

    Files are written whole or not at all, and carry the hash of their tensors: one that is cut short or
    changed is as good as none. A full disk or an unwritable folder loses nothing but time.

    Args:
        folder: made when first needed.
        budget_bytes: of all files together; the least recently used go first. 0 keeps nothing.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder, self.budget_bytes = folder, budget_bytes
        self._lock = Lock()
        self._hits = self._misses = self._evictions = self._damaged = 0

    def load(self, key: str) -> Record | None:
        """The record of a key: 64 hexadecimal digits, and a word where there are several of one picture."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            self._count(misses=1)
            return None
        record = _parse(data, key)
        if record is None:
            _remove(path)
            self._count(misses=1, damaged=1)
            return None
        with suppress(OSError):
            os.utime(path)  # used just now
        self._count(hits=1)
        return record

    def save(self, key: str, record: Record) -> bool:
        """Keep a record; False where it cannot be kept."""
        path = self._path(key)
        data = _bytes(record, key)
        if len(data) > self.budget_bytes:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < len(data) + LEFT_FREE_BYTES:
                return False
            number, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=PART)
        except OSError:
            return False
        part = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
            part.replace(path)
        except OSError:
            _remove(part)
            return False
        self._evict()
        return True

    def statistics(self) -> StoreStatistics:
        """Counters as they stand."""
        sizes = [size for _, size, _ in self._files()]
        with self._lock:
            return StoreStatistics(
                self._hits, self._misses, self._evictions, self._damaged, len(sizes), sum(sizes)
            )

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"key={key[:80]!r} is not 64 hexadecimal digits")
        return self.folder / f"{key}{SUFFIX}"

    def _files(self, suffix: str = SUFFIX) -> list[tuple[float, int, Path]]:
        """(last use, size, path) of each file, oldest first; one that another process removes is left out."""
        found = []
        with suppress(OSError):
            for entry in os.scandir(self.folder):
                with suppress(OSError):
                    status = entry.stat()
                    if entry.name.endswith(suffix):
                        found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return sorted(found)

    def _evict(self) -> None:
        """The oldest records, and what processes were writing when they were killed."""
        for last_use, _, path in self._files(PART):
            if time.time() - last_use > ABANDONED_S:
                _remove(path)
        files = self._files()
        held = sum(size for _, size, _ in files)
        for _, size, path in files:
            if held <= self.budget_bytes:
                break
            if _remove(path):
                self._count(evictions=1)
            held -= size

    def _count(self, hits: int = 0, misses: int = 0, evictions: int = 0, damaged: int = 0) -> None:
        with self._lock:
            self._hits += hits
            self._misses += misses
            self._evictions += evictions
            self._damaged += damaged


def _remove(path: Path) -> bool:
    """Whether it was removed just now; another process may have been quicker, or the folder is read-only."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _bytes(record: Record, key: str) -> bytes:
    about = {"format": FORMAT, "key": key, "about": record.about, "sha256": _digest(record)}
    return safetensors.torch.save(dict(record.tensors), {"record": json.dumps(about)})


def _parse(data: bytes, key: str) -> Record | None:
    """None for anything but the bytes that were written under this key."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["record"])
        record = Record(tensors, about["about"])
        whole = about["format"] == FORMAT and about["key"] == key and about["sha256"] == _digest(record)
        return record if whole else None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _digest(record: Record) -> str:
    digest = hashlib.sha256(json.dumps(record.about, sort_keys=True).encode())
    for name in sorted(record.tensors):
        tensor = record.tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
