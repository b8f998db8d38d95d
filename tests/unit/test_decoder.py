"""The rearranged decoder against the plain one, which is SAM's as published."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from sam_engine.decoder import PromptDecoder
from sam_engine.modeling.build import Sam, build_sam
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NOT_A_POINT
from tests.drawn import Disc
from tests.golden.reference import DATA, reference_weights

ALL = slice(0, 4)
TIGHT = 5e-6  # of the largest logit; rounding alone gives 1e-6
PROMPTS = 2

# Labels of one prompt's tokens
KINDS = {
    "1 point": [1, NOT_A_POINT],
    "2 points": [1, 0, NOT_A_POINT],
    "3 points": [1, 0, 1, NOT_A_POINT],
    "4 points": [0, 1, 1, 0, NOT_A_POINT],
    "5 points": [1, 1, 0, 1, 0, NOT_A_POINT],
    "box": [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT],
    "box and points": [1, 0, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT],
}


@pytest.fixture(scope="module", autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def droplet(engine) -> Sam:
    return engine.load().sam


@pytest.fixture(scope="module")
def reference() -> Sam:
    return build_sam("vit_t", reference_weights(DATA / "mobile_sam_vit_t" / "state_dict_shapes.json"))


@pytest.fixture(scope="module")
def exact(reference) -> MaskDecoder:
    return copy.deepcopy(reference.mask_decoder).double()


@pytest.fixture(scope="module")
def fast(droplet) -> PromptDecoder:
    return PromptDecoder(droplet, torch.float32)


def random(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def image_tokens(sam: Sam, seed: int, mask_logits: Tensor | None = None) -> Tensor:
    return random(seed, 4096, 256) + sam.prompt_encoder.dense(mask_logits)[0]


def prompt_tokens(sam: Sam, labels: list[int], prompts: int = PROMPTS, seed: int = 0) -> Tensor:
    places = np.random.default_rng(seed).uniform(0, 1024, (prompts, len(labels), 2)).astype(np.float32)
    return sam.prompt_encoder.sparse(torch.from_numpy(places), torch.tensor([labels] * prompts))


def by_plain(sam: Sam, image: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    return sam.mask_decoder(image[None], sam.prompt_encoder.positions(), sparse)


def by_fast(decoder: PromptDecoder, image: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    decoded = decoder.decode(decoder.prepare(image), sparse)
    return decoder.draw(decoded, torch.arange(len(sparse)), ALL), decoded.iou_predictions


def check_equal(ours: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor]) -> None:
    (logits, scores), (plain_logits, plain_scores) = ours, plain
    assert logits.shape == plain_logits.shape
    assert (logits - plain_logits).abs().max() < TIGHT * plain_logits.abs().max()
    assert (scores - plain_scores).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_decoder(kind, droplet, fast):
    image, sparse = image_tokens(droplet, 1), prompt_tokens(droplet, KINDS[kind])
    check_equal(by_fast(fast, image, sparse), by_plain(droplet, image, sparse))


def test_equals_the_plain_decoder_on_a_picture(droplet, fast, embedding):
    image = embedding.features[0].flatten(1).T + droplet.prompt_encoder.dense(None)[0]
    sparse = prompt_tokens(droplet, KINDS["1 point"])
    check_equal(by_fast(fast, image, sparse), by_plain(droplet, image, sparse))


def test_equals_the_plain_decoder_without_any_prompt_token(droplet, fast):
    image, sparse = image_tokens(droplet, 1), torch.zeros(1, 0, 256)
    check_equal(by_fast(fast, image, sparse), by_plain(droplet, image, sparse))


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("mask_input", [False, True])
@pytest.mark.parametrize("kind", ["1 point", "5 points", "box and points"])
def test_rounds_no_worse_than_the_plain_decoder_where_rounding_grows(kind, mask_input, reference, exact):
    """With the reference weights the decoder multiplies rounding by some thousands."""
    masks = 8 * random(5, 1, 1, 256, 256) if mask_input else None
    image, sparse = image_tokens(reference, 2, masks), prompt_tokens(reference, KINDS[kind], prompts=1)
    wanted = exact(image[None].double(), reference.prompt_encoder.positions().double(), sparse.double())
    ours = by_fast(PromptDecoder(reference, torch.float32), image, sparse)
    plain = by_plain(reference, image, sparse)
    for of_ours, of_plain, of_wanted in zip(ours, plain, wanted, strict=True):
        plain_error = rms(of_plain - of_wanted) + 1e-6 * rms(of_wanted)
        assert plain_error < 0.01 * rms(of_wanted)
        assert rms(of_ours - of_wanted) <= 3 * plain_error


def test_a_mask_input_counts(reference):
    """What the test above compares behind a mask input is not what it compares without one."""
    sparse = prompt_tokens(reference, KINDS["1 point"], prompts=1)
    decoder = PromptDecoder(reference, torch.float32)
    without, _ = by_fast(decoder, image_tokens(reference, 2), sparse)
    behind, _ = by_fast(decoder, image_tokens(reference, 2, 8 * random(5, 1, 1, 256, 256)), sparse)
    assert rms(behind - without) > 0.1 * rms(without)


def test_the_size_of_a_block_changes_nothing(droplet, fast):
    terms = fast.prepare(image_tokens(droplet, 1))
    sparse = prompt_tokens(droplet, KINDS["2 points"], prompts=4)
    whole = fast.decode(terms, sparse)
    logits = fast.draw(whole, torch.arange(4), slice(0, 1))
    for start, end in itertools.pairwise([0, 1, 4]):
        block = fast.decode(terms, sparse[start:end])
        part = fast.draw(block, torch.arange(end - start), slice(0, 1))
        check_equal((part, block.iou_predictions), (logits[start:end], whole.iou_predictions[start:end]))


def test_only_the_masks_asked_for_are_drawn(droplet, fast):
    image, sparse = image_tokens(droplet, 1), prompt_tokens(droplet, KINDS["1 point"], prompts=3)
    decoded = fast.decode(fast.prepare(image), sparse)
    everything = fast.draw(decoded, torch.arange(3), ALL)
    wishes = [([0], slice(0, 1)), ([2, 0], slice(1, 4)), ([1, 1, 2], slice(2, 3)), ([1], ALL)]
    for prompts, masks in wishes:
        drawn = fast.draw(decoded, torch.tensor(prompts), masks)
        wanted = everything[prompts, masks]
        assert drawn.shape == wanted.shape
        assert (drawn - wanted).abs().max() < TIGHT * everything.abs().max()


def test_terms_and_blocks_survive_their_use(droplet, fast):
    """They are shared by threads, so nothing may be updated in place."""
    terms = fast.prepare(image_tokens(droplet, 1))
    sparse = prompt_tokens(droplet, KINDS["1 point"])
    first = fast.decode(terms, sparse)
    assert terms.detail is None  # HQ-SAM's
    kept = [t.clone() for t in (*terms, *first) if t is not None]
    fast.draw(first, torch.arange(PROMPTS), ALL)
    second = fast.decode(terms, sparse)
    shared = [[t for t in (*terms, *decoded) if t is not None] for decoded in (first, second)]
    for before, after, again in zip(kept, *shared, strict=True):
        assert torch.equal(before, after)
        assert torch.equal(before, again)


def test_bfloat16_draws_the_same_masks(droplet, fast, embedding, discs: list[Disc]):
    image = embedding.features[0].flatten(1).T + droplet.prompt_encoder.dense(None)[0]
    scale = 1024 / max(embedding.original_size)
    places = torch.tensor([[[d.x * scale, d.y * scale], [0.0, 0.0]] for d in discs])
    sparse = droplet.prompt_encoder.sparse(places, torch.tensor([KINDS["1 point"]] * len(discs)))
    exact, exact_scores = by_fast(fast, image, sparse)
    rough, rough_scores = by_fast(PromptDecoder(droplet, torch.bfloat16), image, sparse)

    assert rough.dtype == torch.float32
    rows = embedding.input_size[0] // 4  # below lies padding
    inside, rough_inside = exact[:, :, :rows] > 0, rough[:, :, :rows] > 0
    assert inside.float().mean() > 0.02
    agreeing = (inside == rough_inside).float().mean(dim=(2, 3))
    assert agreeing.min() >= 0.99
    shared = (inside & rough_inside).sum(dim=(2, 3)) / (inside | rough_inside).sum(dim=(2, 3))
    assert shared.mean() >= 0.99
    assert shared.min() >= 0.97
    assert (exact_scores - rough_scores).abs().max() < 0.01
    assert not torch.equal(exact, rough)
