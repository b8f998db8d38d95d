"""The engine: loading, threads, order, and what it refuses."""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sam_engine import checkpoints
from sam_engine.checkpoints import MODEL_DIR, SHIPPED_FILE
from sam_engine.engine import RETRY_S, Prediction, SamEngine, input_size_of, validate_prompt
from sam_engine.errors import InvalidPrompt, ModelUnavailable
from sam_engine.types import ImageEmbedding, InstanceField, Prompt
from tests.drawn import Disc, draw, iou

THREADS = 20
SIZE = (360, 480)


def together(work: Callable[[int], object], threads: int = THREADS) -> list:
    """Results of threads that start at the same moment."""
    barrier = threading.Barrier(threads)

    def run(number: int) -> object:
        barrier.wait(timeout=60)
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the checkpoints that were read."""
    read = []

    def load(path: Path, **options: object) -> checkpoints.Checkpoint:
        read.append(path)
        return real(path, **options)

    real = checkpoints.load
    monkeypatch.setattr(checkpoints, "load", load)
    return read


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def same(a: Prediction, b: Prediction) -> bool:
    return (
        np.array_equal(a.low_res_masks, b.low_res_masks)
        and len(a.masks) == len(b.masks)
        and all(
            np.array_equal(m.full(), n.full())
            and (m.predicted_iou, m.stability_score) == (n.predicted_iou, n.stability_score)
            for m, n in zip(a.masks, b.masks, strict=True)
        )
    )


# --- loading ---


def test_first_requests_that_arrive_together_load_once(loads):
    engine = SamEngine(MODEL_DIR, MODEL_DIR / SHIPPED_FILE, device="cpu", precision="float32")
    assert not engine.loaded
    models = together(lambda _: engine.load())
    assert len(loads) == 1
    assert all(model is models[0] for model in models)
    assert engine.loaded


def test_a_bad_checkpoint_is_read_once_by_all_who_ask_together(tmp_path, loads):
    (tmp_path / SHIPPED_FILE).write_bytes(b"not a checkpoint")
    engine = SamEngine(tmp_path, device="cpu", clock=Clock())

    def message(_: int) -> str:
        with pytest.raises(ModelUnavailable) as caught:
            engine.load()
        return str(caught.value)

    messages = together(message)
    assert len(loads) == 1
    assert set(messages) == {messages[0]}
    assert str(tmp_path / SHIPPED_FILE) in messages[0]


def test_a_failure_is_recalled_for_a_while_and_then_looked_at_again(tmp_path, loads):
    (tmp_path / SHIPPED_FILE).write_bytes(b"not a checkpoint")
    clock = Clock()
    engine = SamEngine(tmp_path, device="cpu", clock=clock)
    reads = []
    for step in (0, RETRY_S / 2, RETRY_S * 0.49, RETRY_S * 0.02, RETRY_S / 2):
        clock.now += step
        with pytest.raises(ModelUnavailable, match="not a checkpoint"):
            engine.load()
        reads.append(len(loads))
    assert reads == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("change", ["size", "time", "path", "gone"])
def test_a_changed_file_is_looked_at_at_once(change, tmp_path, loads):
    path = tmp_path / SHIPPED_FILE
    path.write_bytes(b"not a checkpoint")
    engine = SamEngine(tmp_path, device="cpu", clock=Clock())
    with pytest.raises(ModelUnavailable):
        engine.load()
    if change == "size":
        before = path.stat()
        path.write_bytes(b"not a checkpoint either")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    elif change == "path":
        (tmp_path / checkpoints.OFFICIAL_FILE).write_bytes(b"not a checkpoint")
    else:
        path.unlink()
    with pytest.raises(ModelUnavailable) as caught:
        engine.load()
    assert len(loads) == (1 if change == "gone" else 2)
    assert ("no checkpoint" in str(caught.value)) == (change == "gone")


def test_a_mended_file_needs_no_restart(tmp_path):
    path = tmp_path / SHIPPED_FILE
    engine = SamEngine(tmp_path, device="cpu", precision="float32", clock=Clock())
    with pytest.raises(ModelUnavailable, match="There is no checkpoint"):
        engine.load()
    whole = (MODEL_DIR / SHIPPED_FILE).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelUnavailable, match="damaged, truncated"):
        engine.load()
    assert not engine.loaded
    shutil.copy(MODEL_DIR / "droplet_head.safetensors", tmp_path)
    path.write_bytes(whole)
    assert engine.load().name
    assert engine.loaded


def test_the_manifest_beside_the_models_is_the_one_that_counts(tmp_path):
    for name in (SHIPPED_FILE, "droplet_head.safetensors"):
        shutil.copy(MODEL_DIR / name, tmp_path)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {SHIPPED_FILE}\n")
    with pytest.raises(ModelUnavailable, match=f"SHA256SUMS expects SHA-256 {'0' * 64}"):
        SamEngine(tmp_path, device="cpu").load()
    with pytest.raises(ModelUnavailable, match="SHA256SUMS expects"):
        SamEngine(tmp_path, tmp_path / SHIPPED_FILE, device="cpu").load()


def test_weights_that_do_not_fit_are_unavailable(tmp_path):
    weights = load_file(MODEL_DIR / SHIPPED_FILE)
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, tmp_path / "own.safetensors")
    with pytest.raises(ModelUnavailable, match=r"missing mask_decoder\.iou_token\.weight"):
        SamEngine(tmp_path, tmp_path / "own.safetensors", device="cpu").load()


@pytest.mark.parametrize(
    ("device", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("gpu", 1), ("cuda:x", 1), ("meta", 1)]
)
def test_a_device_that_is_not_there(device, gpus, monkeypatch, loads):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ModelUnavailable, match=f"device '?{device}'? "):
        SamEngine(MODEL_DIR, device=device).load()
    assert not loads


def test_another_model_type_than_asked_for_is_unavailable():
    with pytest.raises(ModelUnavailable, match="vit_b"):
        SamEngine(MODEL_DIR, MODEL_DIR / SHIPPED_FILE, model_type="vit_b", device="cpu").load()


# --- threads ---


def test_threads_with_different_pictures_get_what_one_after_the_other_gets(engine, picture, discs):
    pictures = [picture, draw(discs[:4], SIZE, seed=1)]
    prompts = [
        Prompt(points=((discs[0].x, discs[0].y, 1),)),
        Prompt(box=(10.0, 10.0, 200.0, 180.0)),
        Prompt(points=((200.0, 150.0, 1), (5.0, 5.0, 0)), multimask=False),
    ]

    def work(
        engine: SamEngine, number: int
    ) -> tuple[ImageEmbedding, Sequence[InstanceField], list[Prediction]]:
        picture = pictures[number % 2]
        embedding = engine.embed(picture)
        return embedding, engine.instance_fields(picture, embedding), engine.predict(embedding, prompts)

    serial = [work(engine, i) for i in range(2)]
    other = SamEngine(MODEL_DIR, MODEL_DIR / SHIPPED_FILE, device="cpu", precision="float32")
    for number, (embedding, fields, answers) in enumerate(together(lambda i: work(other, i), threads=6)):
        wanted, wanted_fields, wanted_answers = serial[number % 2]
        assert embedding is not wanted
        assert embedding.key == wanted.key
        assert torch.equal(embedding.features, wanted.features)
        for field, wanted_field in zip(fields, wanted_fields, strict=True):
            assert torch.equal(field.values, wanted_field.values)
        assert all(same(a, b) for a, b in zip(answers, wanted_answers, strict=True))
    assert not torch.equal(serial[0][0].features, serial[1][0].features)


def test_a_picture_that_many_threads_ask_for_is_encoded_once(engine):
    picture = np.full((40, 50, 3), 77, dtype=np.uint8)
    encoded = []
    handle = engine.load().sam.image_encoder.register_forward_hook(
        lambda _, inputs, __: encoded.append(inputs[0].shape[-1])
    )
    try:
        embeddings = together(lambda _: engine.embed(picture.copy()))
        assert encoded == [1024]
        fields = together(lambda _: engine.instance_fields(picture.copy(), embeddings[0]))
        assert encoded == [1024, 512, 256]  # the coarse ones when instances are asked for
        assert all(len(seen) == 3 and seen[1] is fields[0][1] for seen in fields)
        assert all(embedding is embeddings[0] for embedding in embeddings)
        before = engine.cache_statistics()
        assert engine.embed(picture) is embeddings[0]
        assert engine.cache_statistics().hits == before.hits + 1
        assert engine.embed(picture.reshape(50, 40, 3)) is not embeddings[0]  # the same bytes
        assert encoded == [1024, 512, 256, 1024]
        tiles = [engine.instance_field_of_tile(picture[10:30, 5:25]) for _ in range(2)]
        assert tiles[0] is tiles[1]
        whole = engine.instance_field_of_tile(picture)  # not the field that its embedding came with
        assert torch.equal(whole.values, fields[0][0].values)
        assert encoded == [1024, 512, 256, 1024, 1024, 1024]
    finally:
        handle.remove()


def test_warm_runs_every_size_that_requests_need():
    engine = SamEngine(MODEL_DIR, MODEL_DIR / SHIPPED_FILE, device="cpu", precision="float32")
    seen = []
    engine.load().sam.image_encoder.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape[-1])
    )
    engine.warm()
    assert seen == [1024, 512, 256]


# --- prompts ---


def test_answers_come_in_the_order_of_the_prompts(engine, embedding, discs):
    def box(d: Disc) -> tuple[float, float, float, float]:
        return d.x - d.radius, d.y - d.radius, d.x + d.radius, d.y + d.radius

    logits = np.zeros((256, 256), dtype=np.float32)
    prompts = [
        Prompt(points=((discs[0].x, discs[0].y, 1),)),
        Prompt(box=box(discs[5]), multimask=False),
        Prompt(points=((discs[2].x, discs[2].y, 1), (120.0, 120.0, 0))),
        Prompt(points=((discs[3].x, discs[3].y, 1),), mask_input=logits),
        Prompt(box=box(discs[6]), points=((discs[6].x, discs[6].y, 1),)),
        Prompt(points=((discs[11].x, discs[11].y, 1),), multimask=False),
        Prompt(mask_input=logits),
        Prompt(box=box(discs[9])),
        *(Prompt(points=((d.x, d.y, 1),)) for d in (discs[4], discs[10], discs[8])),
    ]
    targets = [0, 5, 2, 3, 6, 11, None, 9, 4, 10, 8]
    answers = engine.predict(embedding, prompts)
    assert len(answers) == len(prompts)
    for i, (prompt, target, answer) in enumerate(zip(prompts, targets, answers, strict=True)):
        assert answer.low_res_masks.shape == (3 if prompt.multimask else 1, 256, 256)
        assert {mask.prompt_index for mask in answer.masks} <= {i}
        positive = tuple((x, y) for x, y, label in prompt.points if label)
        assert all(mask.point_coords == positive for mask in answer.masks)
        if target is not None:
            wanted = discs[target].pixels(SIZE)
            assert max(iou(mask.full(), wanted) for mask in answer.masks) > 0.6
        alone = engine.predict(embedding, [prompt])[0]
        largest = np.abs(alone.low_res_masks).max()
        np.testing.assert_allclose(answer.low_res_masks, alone.low_res_masks, atol=1e-5 * largest)


def test_no_prompts_have_no_answers(engine, embedding):
    assert engine.predict(embedding, []) == []
    assert list(engine.decode_points(embedding, np.zeros((0, 2), dtype=np.float32))) == []


def test_a_mask_belongs_to_its_row_of_logits(engine, embedding, discs):
    answer = engine.predict(embedding, [Prompt(points=((discs[0].x, discs[0].y, 1),))])[0]
    assert [mask.mask_index for mask in answer.masks] == [0, 1, 2]
    for mask in answer.masks:
        inside = answer.low_res_masks[mask.mask_index] > 0
        cell = 4 * SIZE[1] / 1024
        assert np.count_nonzero(inside) * cell**2 == pytest.approx(mask.area, rel=0.05)


def test_a_mask_input_may_be_read_only_or_run_backwards(engine, embedding):
    logits = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    plain = engine.predict(embedding, [Prompt(mask_input=logits[::-1, ::-1].copy())])[0]
    fixed = np.frombuffer(logits.tobytes(), dtype=np.float32).reshape(256, 256)
    assert same(engine.predict(embedding, [Prompt(mask_input=fixed[::-1, ::-1])])[0], plain)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("point", "shown"),
    [
        ((9999, 3, 1), "(9999, 3)"),
        ((-1, 3, 1), "(-1, 3)"),
        ((3, -0.5, 0), "(3, -0.5)"),
        ((640, 3, 1), "(640, 3)"),
        ((3, 480, 1), "(3, 480)"),
        ((NAN, 3, 1), "(nan, 3)"),
        ((3, NAN, 1), "(3, nan)"),
        ((INF, 3, 1), "(inf, 3)"),
        ((3, -INF, 1), "(3, -inf)"),
    ],
)
def test_points_outside(point, shown):
    prompt = Prompt(points=((0, 0, 1), point))
    with pytest.raises(InvalidPrompt) as caught:
        validate_prompt(prompt, "prompts[2]", (480, 640))
    assert caught.value.field == "prompts[2].points[1]"
    for part in ("prompts[2].points[1]", shown, "640x480"):
        assert part in str(caught.value)


@pytest.mark.parametrize("label", [-1, 2, 3, NAN])
def test_labels_that_are_none(label):
    with pytest.raises(InvalidPrompt, match=rf"points\[0\]\.label.*={label} is neither 0 nor 1"):
        validate_prompt(Prompt(points=((3, 3, label),)), "prompts[0]", (480, 640))


@pytest.mark.parametrize(
    ("box", "shown", "why"),
    [
        ((-1, 0, 5, 5), "(-1, 0, 5, 5)", "640x480"),
        ((0, -1, 5, 5), "(0, -1, 5, 5)", "640x480"),
        ((0, 0, 641, 5), "(0, 0, 641, 5)", "640x480"),
        ((0, 0, 5, 480.5), "(0, 0, 5, 480.5)", "640x480"),
        ((NAN, 0, 5, 5), "(nan, 0, 5, 5)", "640x480"),
        ((0, NAN, 5, 5), "(0, nan, 5, 5)", "640x480"),
        ((0, 0, NAN, 5), "(0, 0, nan, 5)", "640x480"),
        ((0, 0, 5, NAN), "(0, 0, 5, nan)", "640x480"),
        ((0, 0, INF, 5), "(0, 0, inf, 5)", "640x480"),
        ((5, 0, 4, 5), "(5, 0, 4, 5)", "x1 < x2"),
        ((0, 5, 5, 4), "(0, 5, 5, 4)", "y1 < y2"),
        ((5, 0, 5, 5), "(5, 0, 5, 5)", "empty"),
        ((0, 5, 5, 5), "(0, 5, 5, 5)", "empty"),
    ],
)
def test_boxes_that_are_none(box, shown, why):
    with pytest.raises(InvalidPrompt) as caught:
        validate_prompt(Prompt(box=box), "prompts[0]", (480, 640))
    assert caught.value.field == "prompts[0].box"
    assert shown in str(caught.value)
    assert why in str(caught.value)


def test_the_borders_belong_to_the_picture():
    corners = Prompt(points=((0, 0, 1), (639, 479, 0)), box=(0, 0, 640, 480))
    validate_prompt(corners, "prompts[0]", (480, 640))
    validate_prompt(Prompt(points=((0, 0, 1),), box=(0, 0, 1, 1)), "prompts[0]", (1, 1))


def broken(value: float) -> np.ndarray:
    logits = np.zeros((256, 256), dtype=np.float32)
    logits[100, 7] = value
    return logits


@pytest.mark.parametrize(
    ("mask_input", "why"),
    [
        (np.zeros((255, 256), np.float32), r"\(255, 256\), not \(256, 256\)"),
        (np.zeros((1, 256, 256), np.float32), r"\(1, 256, 256\), not \(256, 256\)"),
        (np.zeros((480, 640), np.float32), r"\(480, 640\), not \(256, 256\)"),
        (np.zeros((256, 256)), "float64, not float32"),
        (np.zeros((256, 256), bool), "bool, not float32"),
        (broken(NAN), "not finite"),
        (broken(-INF), "not finite"),
    ],
    ids=["row short", "batched", "picture", "double", "bool", "nan", "infinite"],
)
def test_mask_inputs_that_are_none(mask_input, why):
    with pytest.raises(InvalidPrompt, match=rf"prompts\[0\]\.mask_input.*{why}"):
        validate_prompt(Prompt(mask_input=mask_input), "prompts[0]", (480, 640))


def test_a_prompt_of_nothing_names_itself_and_nothing_is_decoded(engine, embedding, monkeypatch):
    monkeypatch.setattr(engine.load().decoder.__class__, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InvalidPrompt, match=r"prompts\[1\] has neither points nor a box nor a mask_input"):
        engine.predict(embedding, [Prompt(points=((3, 3, 1),)), Prompt()])


# --- pictures ---


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((1, 1), (1024, 1024)),
        ((1, 3000), (1, 1024)),
        ((3000, 1), (1024, 1)),
        ((480, 640), (768, 1024)),
        ((777, 1001), (795, 1024)),
        ((2048, 1025), (1024, 513)),
        ((2048, 2047), (1024, 1024)),
    ],
)
def test_the_longest_side_becomes_1024(size, resized):
    assert input_size_of(*size) == resized


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_pictures_of_extreme_shape(size, engine):
    height, width = size
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    embedding = engine.embed(picture)
    assert (embedding.original_size, embedding.input_size) == (size, input_size_of(*size))
    assert torch.isfinite(embedding.features).all()
    last = (width - 1, height - 1)
    prompts = [Prompt(points=((0, 0, 1), (*last, 1))), Prompt(box=(0, 0, width, height))]
    answers = engine.predict(embedding, prompts)
    for answer in answers:
        assert np.isfinite(answer.low_res_masks).all()
        for mask in answer.masks:
            assert mask.full().shape == size
            assert mask.area >= 1


def test_a_view_is_the_picture_that_it_shows(engine):
    whole = np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    uncached = SamEngine(
        MODEL_DIR, MODEL_DIR / SHIPPED_FILE, device="cpu", precision="float32", cache_bytes=0
    )
    view = whole[::2, ::-1].transpose(1, 0, 2)
    copied, seen = engine.embed(view.copy()), uncached.embed(view)
    assert seen.original_size == (60, 40)
    assert seen.key == copied.key
    assert torch.equal(seen.features, copied.features)
    assert uncached.cache_statistics().entries == 0


def test_precision_is_part_of_the_key(embedding, picture):
    rough = SamEngine(MODEL_DIR, MODEL_DIR / SHIPPED_FILE, device="cpu", precision="bfloat16")
    coarse = rough.embed(picture)
    assert coarse.key != embedding.key
    assert (coarse.features.dtype, embedding.features.dtype) == (torch.float16, torch.float32)
    difference = (coarse.features.float() - embedding.features).abs().mean()
    assert 0 < difference < 0.05 * embedding.features.abs().mean()


def test_warming_up_leaves_nothing_in_the_cache(loads):
    engine = SamEngine(MODEL_DIR, MODEL_DIR / SHIPPED_FILE, device="cpu", precision="float32")
    engine.warm()
    assert engine.loaded
    assert len(loads) == 1
    assert engine.cache_statistics().entries == 0
