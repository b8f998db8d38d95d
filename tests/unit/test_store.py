"""Embeddings on disk: the same after a restart, never a damaged one, never more than the budget."""

import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_engine.checkpoints import MODEL_DIR, SHIPPED_FILE
from sam_engine.embedding_store import EmbeddingStore
from sam_engine.engine import SamEngine
from sam_engine.store import ABANDONED_S, LEFT_FREE_BYTES, Record, TensorStore

KEY, OTHER = "a" * 64, "b" * 64
RECORD = Record(
    {"x": torch.arange(1000.0).half(), "y": torch.ones(2, 3, dtype=torch.bfloat16)}, {"size": [3, 4]}
)


def key_of(number: int) -> str:
    return f"{number:064x}"


def same(a: Record | None, b: Record) -> bool:
    return (
        a is not None
        and a.about == b.about
        and a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(a.tensors[name], b.tensors[name]) for name in b.tensors)
    )


@pytest.fixture
def store(tmp_path: Path) -> TensorStore:
    return TensorStore(tmp_path / "kept", 1_000_000)


def file_of(store: TensorStore) -> Path:
    (path,) = store.folder.iterdir()
    return path


def test_what_is_kept_is_found_by_another_process(store):
    assert store.load(KEY) is None
    assert store.save(KEY, RECORD)
    again = TensorStore(store.folder, store.budget_bytes)
    assert same(again.load(KEY), RECORD)
    assert again.load(OTHER) is None
    told = again.statistics()
    assert (told.hits, told.misses, told.damaged, told.entries) == (1, 1, 0, 1)
    assert told.bytes == file_of(store).stat().st_size


@pytest.mark.parametrize("at", [0, 4, 12, 60, 200, 400, 1500, -1])
def test_a_changed_byte_is_noticed_wherever_it_is(store, at):
    store.save(KEY, RECORD)
    path = file_of(store)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    assert store.load(KEY) is None
    assert not path.exists()
    assert store.statistics().damaged == 1


@pytest.mark.parametrize("length", [0, 5, 100, 1000])
def test_a_file_cut_short_is_noticed(store, length):
    store.save(KEY, RECORD)
    path = file_of(store)
    path.write_bytes(path.read_bytes()[:length])
    assert store.load(KEY) is None
    assert store.save(KEY, RECORD)
    assert same(store.load(KEY), RECORD)


def test_a_file_under_another_key_is_not_believed(store):
    store.save(KEY, RECORD)
    path = file_of(store)
    path.rename(path.with_name(path.name.replace(KEY, OTHER)))
    assert store.load(OTHER) is None


def test_the_least_recently_used_go_first(tmp_path):
    TensorStore(tmp_path / "one", 10**6).save(KEY, RECORD)
    size = next((tmp_path / "one").iterdir()).stat().st_size
    store = TensorStore(tmp_path / "kept", 3 * size + 10)
    for number in range(3):
        store.save(key_of(number), RECORD)
        os.utime(store.folder / f"{key_of(number)}.safetensors", (1000 + number, 1000 + number))
    assert same(store.load(key_of(0)), RECORD)  # now the newest
    store.save(key_of(3), RECORD)
    assert [store.load(key_of(n)) is not None for n in range(4)] == [True, False, True, True]
    assert store.statistics().evictions == 1
    assert not TensorStore(tmp_path / "none", size - 1).save(KEY, RECORD)
    assert not (tmp_path / "none").exists()


def test_what_a_killed_process_left_goes_after_a_while(store):
    store.folder.mkdir()
    old, new = store.folder / ".a.part", store.folder / ".b.part"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 2 * ABANDONED_S,) * 2)
    store.save(KEY, RECORD)
    assert not old.exists()
    assert new.exists()
    assert store.statistics().entries == 1


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = TensorStore(tmp_path / "file", 10**6)
    assert not store.save(KEY, RECORD)
    assert store.load(KEY) is None
    assert store.statistics().entries == 0


def test_a_folder_that_became_read_only_still_gives_what_it_holds(store, monkeypatch):
    store.save(KEY, RECORD)
    store.save(OTHER, RECORD)
    damaged = store.folder / f"{OTHER}.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    for owner, name in ((os, "utime"), (os, "unlink"), (Path, "unlink"), (tempfile, "mkstemp")):
        monkeypatch.setattr(owner, name, refuse)
    assert same(store.load(KEY), RECORD)
    assert store.load(OTHER) is None
    assert not store.save(OTHER, RECORD)
    assert store.statistics().entries == 2


def test_a_disk_that_is_nearly_full_is_left_alone(store, monkeypatch):
    usage = shutil.disk_usage(store.folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=LEFT_FREE_BYTES))
    assert not store.save(KEY, RECORD)
    assert list(store.folder.iterdir()) == []


def test_a_disk_that_is_full_leaves_no_half_file(store, monkeypatch):
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert not store.save(KEY, RECORD)
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("key", ["", "../x", "A" * 64, "a" * 64 + "/..", "a" * 63])
def test_only_digests_name_files(store, key):
    with pytest.raises(ValueError, match="hexadecimal"):
        store.load(key)


def test_many_threads(tmp_path):
    store = TensorStore(tmp_path / "kept", 12_000)  # room for three or four

    def work(number: int) -> bool:
        record = Record({"x": torch.full((1000,), number % 5).half()}, {"n": number % 5})
        store.save(key_of(number % 5), record)
        found = store.load(key_of(number % 5))
        return found is None or same(found, record)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(work, range(300)))
    told = store.statistics()
    assert told.damaged == 0
    assert told.bytes <= 12_000


def test_an_engine_that_starts_again_does_not_encode_again(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)

    def engine() -> SamEngine:
        store = EmbeddingStore(tmp_path / "embeddings", 10**8)
        return SamEngine(MODEL_DIR, MODEL_DIR / SHIPPED_FILE, device="cpu", store=store)

    first = engine()
    embedding = first.embed(picture)
    fields = (*first.instance_fields(picture, embedding), first.instance_field_of_tile(picture[:30]))
    second = engine()
    handle = second.load().sam.image_encoder.register_forward_hook(lambda *_: pytest.fail("encoded again"))
    recalled = second.embed(picture)
    assert torch.equal(recalled.features, embedding.features)
    assert (recalled.original_size, recalled.input_size, recalled.key) == (
        (60, 90),
        (683, 1024),
        embedding.key,
    )
    again = (*second.instance_fields(picture, recalled), second.instance_field_of_tile(picture[:30]))
    for field, wanted in zip(again, fields, strict=True):
        assert torch.equal(field.values, wanted.values)
        assert (field.pitch_yx, field.origin_xy) == (wanted.pitch_yx, wanted.origin_xy)
    handle.remove()
    assert second.store.statistics().hits == 3
    path = tmp_path / "embeddings" / f"{embedding.key}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    third = engine()
    assert torch.equal(third.embed(picture).features, embedding.features)
    assert third.store.statistics().damaged == 1
    assert path.exists()
