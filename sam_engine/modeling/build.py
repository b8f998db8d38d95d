"""From a model type and weights to networks."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from sam_engine.errors import CheckpointError
from sam_engine.modeling.instance_head import CHANNELS, CHANNELS_WITHOUT_INCLUSIONS, InstanceHead
from sam_engine.modeling.mask_decoder import HighQualityMaskDecoder, MaskDecoder
from sam_engine.modeling.prompt_encoder import PromptEncoder
from sam_engine.modeling.tiny_vit import EARLY_CHANNELS, TinyViT
from sam_engine.modeling.vit import SIZES, Vit

ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "vit_t": TinyViT,
    "vit_tiny": TinyViT,
    **{name: partial(Vit, size) for name, size in SIZES.items()},
}
HIGH_QUALITY = "vit_tiny"
KEYS_SHOWN = 3


class Sam(nn.Module):
    """The three parts whose parameters a checkpoint holds."""

    def __init__(self, image_encoder: nn.Module, mask_decoder: MaskDecoder | None = None) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder() if mask_decoder is None else mask_decoder


def build_sam(model_type: str, state_dict: Mapping[str, Tensor]) -> Sam:
    """A network in evaluation mode.

    Raises:
        CheckpointError: no network of this type, or weights that do not fit it exactly.
    """
    if model_type not in ENCODERS:
        raise CheckpointError(f"model type {model_type!r} is not supported; choose one of {sorted(ENCODERS)}")
    decoder = HighQualityMaskDecoder(EARLY_CHANNELS) if model_type == HIGH_QUALITY else MaskDecoder()
    sam = Sam(ENCODERS[model_type](), decoder)
    _load_strictly(sam, state_dict, model_type)
    return sam


def build_instance_head(state_dict: Mapping[str, Tensor]) -> InstanceHead:
    """The dense instance head in evaluation mode.

    Raises:
        CheckpointError: weights that do not fit it exactly.
    """
    bias = state_dict.get("out.bias")
    old = bias is not None and bias.shape == (CHANNELS_WITHOUT_INCLUSIONS,)
    head = InstanceHead(CHANNELS_WITHOUT_INCLUSIONS if old else CHANNELS)
    _load_strictly(head, state_dict, "instance-head")
    return head


def _load_strictly(module: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    expected = module.state_dict()
    missing = sorted(expected.keys() - state_dict.keys())
    surplus = sorted(state_dict.keys() - expected.keys())
    if missing or surplus:
        differences = ", ".join(filter(None, [_named("missing", missing), _named("surplus", surplus)]))
        raise CheckpointError(f"the weights do not fit {name}: {differences}")
    for key, value in expected.items():
        if state_dict[key].shape != value.shape:
            found, wanted = tuple(state_dict[key].shape), tuple(value.shape)
            raise CheckpointError(
                f"the weights do not fit {name}: {key} has shape {found}, expected {wanted}"
            )
    module.load_state_dict(dict(state_dict), strict=True)
    module.eval().requires_grad_(False)


def _named(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    return f"{what} {', '.join(keys[:KEYS_SHOWN])}{more}"
