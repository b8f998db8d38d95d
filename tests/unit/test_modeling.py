"""Building the networks from weights, and sizes other than the trained one."""

import json
import math

import pytest
import torch

from sam_engine.errors import CheckpointError
from sam_engine.modeling.build import Sam, build_instance_head, build_sam
from sam_engine.modeling.instance_head import CHANNELS, CHANNELS_WITHOUT_INCLUSIONS, InstanceHead
from sam_engine.modeling.layers import LayerNorm2d
from sam_engine.modeling.prompt_encoder import NOT_A_POINT
from sam_engine.modeling.tiny_vit import TinyViT
from tests.golden.reference import DATA, reference_weights

SHAPES_FILE = DATA / "mobile_sam_vit_t" / "state_dict_shapes.json"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return reference_weights(SHAPES_FILE)


@pytest.fixture(scope="module")
def sam(weights) -> Sam:
    return build_sam("vit_t", weights)


@pytest.fixture(scope="module", autouse=True)
def inference():
    with torch.inference_mode():
        yield


def test_keys_and_shapes_are_the_published_ones(sam):
    ours = {key: list(value.shape) for key, value in sam.state_dict().items()}
    assert ours == json.loads(SHAPES_FILE.read_text())


def test_every_weight_arrives(sam, weights):
    assert all(torch.equal(value, weights[key]) for key, value in sam.state_dict().items())


def test_a_built_network_is_for_evaluation_only(sam):
    assert not any(module.training for module in sam.modules())
    assert not any(parameter.requires_grad for parameter in sam.parameters())


def refusal(build, *arguments) -> str:
    with pytest.raises(CheckpointError) as caught:
        build(*arguments)
    return str(caught.value)


def test_missing_and_surplus_keys_are_named(weights):
    gone, new = "prompt_encoder.no_mask_embed.weight", "mask_decoder.hf_token.weight"
    changed = {key: value for key, value in weights.items() if key != gone}
    message = refusal(build_sam, "vit_t", {**changed, new: torch.zeros(1)})
    assert f"missing {gone}" in message
    assert f"surplus {new}" in message


def test_of_many_missing_keys_three_are_named_and_the_others_counted(weights):
    kept = {key: value for key, value in weights.items() if not key.startswith("mask_decoder.")}
    gone = sorted(set(weights) - set(kept))
    message = refusal(build_sam, "vit_t", kept)
    assert f"missing {', '.join(gone[:3])} and {len(gone) - 3} more" in message
    assert gone[3] not in message
    assert "surplus" not in message


def test_a_wrong_shape_is_named_with_both_shapes(weights):
    key = "mask_decoder.iou_token.weight"
    message = refusal(build_sam, "vit_t", {**weights, key: torch.zeros(2, 256)})
    assert f"{key} has shape (2, 256), expected (1, 256)" in message


def test_an_unknown_model_type_is_refused(weights):
    message = refusal(build_sam, "vit_z", weights)
    assert "'vit_z'" in message
    assert "vit_t" in message


def test_the_instance_head_loads_strictly():
    state = InstanceHead().state_dict()
    built = build_instance_head(state)
    assert not built.training
    assert all(torch.equal(value, state[key]) for key, value in built.state_dict().items())
    state.pop("out.bias")
    assert "missing out.bias" in refusal(build_instance_head, state)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 160), (224, 96), (448, 256)])
def test_the_encoder_takes_other_sizes(height, width, sam):
    torch.manual_seed(0)
    pictures = torch.randn(2, 3, height, width)
    features = sam.image_encoder(pictures)
    for stride, channels, maps in zip((4, 8, 16, 16), (64, 128, 256, 160), features, strict=True):
        assert maps.shape == (2, channels, height // stride, width // stride)
        assert torch.isfinite(maps).all()
    alone = sam.image_encoder(pictures[1:])
    for maps, of_one in zip(features, alone, strict=True):
        assert (maps[1:] - of_one).abs().max() < 1e-3 * of_one.abs().max()
    assert (features.stride16[0] - features.stride16[1]).abs().max() > 0.1


@pytest.mark.parametrize("channels", [CHANNELS, CHANNELS_WITHOUT_INCLUSIONS])
def test_the_instance_head_takes_other_sizes(sam, channels):
    head = build_instance_head(InstanceHead(channels).state_dict())
    picture = torch.randn(1, 3, 96, 64)
    assert head(picture, sam.image_encoder(picture)).shape == (1, channels, 48, 32)


def test_windows_do_not_see_each_other():
    """The first attention stage of a picture of 4 x 4 windows: a change stays in its window."""
    torch.manual_seed(0)
    block = TinyViT().eval().layers[1].blocks[0]
    x = torch.randn(1, 28, 28, 128)
    changed = x.clone()
    changed[0, 8, 15] += 1
    moved = (block._attend_in_windows(x) != block._attend_in_windows(changed)).any(dim=-1)[0]
    assert moved[7:14, 14:21].all()
    moved[7:14, 14:21] = False
    assert not moved.any()


def test_layer_norm_of_images_is_over_the_channels():
    torch.manual_seed(0)
    norm = LayerNorm2d(7)
    norm.weight.copy_(torch.randn(7))
    norm.bias.copy_(torch.randn(7))
    x = 3 + 2 * torch.randn(2, 7, 4, 5)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    wanted = (x - mean) / (variance + 1e-6).sqrt() * norm.weight.view(7, 1, 1) + norm.bias.view(7, 1, 1)
    torch.testing.assert_close(norm(x), wanted, atol=1e-5, rtol=1e-5)


def test_prompt_tokens_are_the_places_encoding_plus_what_they_are(sam):
    encoder = sam.prompt_encoder
    coords = torch.tensor([[[10.0, 20.0], [1000.0, 3.5], [0.0, 0.0]]])
    labels = torch.tensor([[1, 0, NOT_A_POINT]])
    tokens = encoder.sparse(coords, labels)[0]
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    for token, (x, y), kind in zip(tokens[:2], coords[0], (1, 0), strict=False):
        along = (
            2 * math.pi * ((2 * (x + 0.5) / 1024 - 1) * matrix[0] + (2 * (y + 0.5) / 1024 - 1) * matrix[1])
        )
        wanted = torch.cat([along.sin(), along.cos()]) + encoder.point_embeddings[kind].weight[0]
        torch.testing.assert_close(token, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(tokens[2], encoder.not_a_point_embed.weight[0])


def test_image_positions_run_row_by_row(sam):
    positions = sam.prompt_encoder.positions()
    cell = torch.tensor([(5 + 0.5) / 64, (3 + 0.5) / 64])  # column 5 of row 3
    torch.testing.assert_close(positions[3 * 64 + 5], sam.prompt_encoder.pe_layer(cell))


def test_a_dense_prompt_is_laid_out_row_by_row(sam):
    mask = torch.zeros(1, 1, 256, 256)
    changed = mask.clone()
    changed[0, 0, 3 * 4 : 4 * 4, 5 * 4 : 6 * 4] = 9.0
    difference = (sam.prompt_encoder.dense(changed) - sam.prompt_encoder.dense(mask))[0].abs().sum(1)
    assert difference.nonzero().flatten().tolist() == [3 * 64 + 5]
