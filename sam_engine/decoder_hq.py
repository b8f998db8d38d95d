"""HQ-SAM's mask decoder: the rearranged one, and a finer mask that is added to what it draws.

Ke et al. 2023, arXiv:2306.01567. An ambiguous prompt has one answer, the best candidate, as published.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_engine.decoder import Decoded, PromptDecoder
from sam_engine.modeling.build import Sam
from sam_engine.modeling.layers import LayerNorm2d
from sam_engine.modeling.mask_decoder import HighQualityMaskDecoder

HIGH_QUALITY_TOKEN = 5


class HighQualityDecoder(PromptDecoder):
    """See `PromptDecoder`; the terms of a picture must have their `detail`."""

    decoder: HighQualityMaskDecoder

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        super().__init__(sam, dtype)
        first, self.norm, _, second = self.decoder.embedding_maskfeature
        self.filters = [_in(dtype, conv) for conv in (first, second)]

    def detail(self, embedding: Tensor, early: Tensor) -> Tensor:
        """(1, 32, 256, 256) of an image embedding (1, 256, 64, 64) and early features (1, 160, 64, 64)."""
        fine: Tensor = self.decoder.embedding_encoder(embedding.float())
        fine = fine + self.decoder.compress_vit_feat(early.float())
        return fine.to(self.dtype)

    def wanted(self, iou_predictions: Tensor) -> Tensor:
        """The best one of (P, 3)."""
        best = iou_predictions.argmax(dim=1, keepdim=True)
        return torch.zeros_like(iou_predictions, dtype=torch.bool).scatter_(1, best, value=True)

    def draw(self, decoded: Decoded, prompts: Tensor, masks: slice) -> Tensor:
        """See `PromptDecoder.draw`."""
        assert decoded.detail is not None  # noqa: S101 (for the type checker)
        tokens, upscaled = decoded.tokens[prompts], self._upscaled(decoded.image[prompts])
        x = F.conv2d(self._as_pictures(upscaled.transpose(1, 2)), *self.filters[0], padding=1)
        x = F.conv2d(F.gelu(self._normed(x)), *self.filters[1], padding=1) + decoded.detail
        weights = self.decoder.hf_mlp(tokens[:, HIGH_QUALITY_TOKEN]).to(self.dtype)
        finer = torch.einsum("pc,pchw->phw", weights, x).float()
        return self._drawn(tokens, upscaled, masks) + finer[:, None]

    def _normed(self, x: Tensor) -> Tensor:
        norm: LayerNorm2d = self.norm  # type: ignore[assignment]
        weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
        return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, norm.eps).permute(0, 3, 1, 2)


def _in(dtype: torch.dtype, conv: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = conv.weight, conv.bias
    return weight.to(dtype), bias.to(dtype)  # type: ignore[return-value]
