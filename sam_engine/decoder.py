"""SAM's mask decoder rearranged: the same function, several times less work.

All prompts of a picture start from the same image tokens, and a prompt has few tokens (7 for one point) of
8 heads against 4096 image tokens. Three rewritings follow, all exact but for rounding:

1. What the first block computes from the image alone is computed once a picture (`ImageTerms`); the
   positional part of every later projection is computed once a model.
2. A projection of 4096 image tokens that meets few token rows is applied to the rows instead:
   `q (K W)^T = (q W^T) K^T`, `A (V W) = (A V) W`, and likewise for the output projection.
3. Prompts go through in blocks that fit the processor's cache, and masks are drawn only for the prompts
   that the caller still wants after seeing their scores.

`modeling.mask_decoder` is the plain form that tests compare with.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_engine.modeling.build import Sam
from sam_engine.modeling.layers import LayerNorm2d
from sam_engine.modeling.mask_decoder import NUM_HEADS, Attention, TwoWayAttentionBlock, split_heads

BLOCK = 4
GRID = 64
WHOLE_GRID = (slice(None), slice(None))
UPSCALED_CHANNELS = 32


class ImageTerms(NamedTuple):
    """What every prompt of one picture shares; H heads of C = 16 channels, N = 4096 image tokens.

    Attributes:
        residual: (N, 256) image tokens plus the bias of the first image-to-token output projection.
        keys: (H, C, N) and values: (H, N, C) of the first token-to-image attention.
        queries: (H, C, N) of the first image-to-token attention.
        detail: what only `decoder_hq` uses.
    """

    residual: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    detail: Tensor | None = None


class Decoded(NamedTuple):
    """Tokens of a block of prompts after the transformer: (P, T, 256), image (P, N, 256), IoU (P, 4)."""

    tokens: Tensor
    image: Tensor
    iou_predictions: Tensor
    detail: Tensor | None = None


class _ImageSide(NamedTuple):
    """A projection of image tokens, per head, and what it makes of their positions."""

    weight: Tensor  # (H, C, 256)
    positional: Tensor  # (H, C, N)


class PromptDecoder:
    """Decodes prompts of prepared pictures. Holds no state of a picture and may be shared by threads.

    Args:
        sam: the network whose prompt encoder and mask decoder are used.
        dtype: of the work on image tokens; the few prompt tokens are always float32.
        window: the rows and columns of the 64 x 64 image tokens that there are; training sees crops.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype, window: tuple[slice, slice] = WHOLE_GRID) -> None:
        self.dtype = dtype
        self.decoder = sam.mask_decoder
        positions = sam.prompt_encoder.positions().view(GRID, GRID, -1)[window]
        self.grid = positions.shape[:2]
        self.positions = positions.flatten(0, 1)
        transformer = self.decoder.transformer
        self.first: TwoWayAttentionBlock = transformer.layers[0]  # type: ignore[assignment]
        self.second: TwoWayAttentionBlock = transformer.layers[1]  # type: ignore[assignment]
        self.final = transformer.final_attn_token_to_image
        self.second_keys = self._image_side(self.second.cross_attn_token_to_image.k_proj)
        self.second_queries = self._image_side(self.second.cross_attn_image_to_token.q_proj)
        self.final_keys = self._image_side(self.final.k_proj)
        self.upscaling = self._upscaling_weights()

    def prepare(self, image: Tensor) -> ImageTerms:
        """Image tokens with the dense prompt added, (N, 256) float32, to the terms its prompts share."""
        to_image, to_tokens = self.first.cross_attn_token_to_image, self.first.cross_attn_image_to_token
        placed = image + self.positions
        return ImageTerms(
            residual=(image + to_tokens.out_proj.bias).to(self.dtype),
            keys=_heads_first(to_image.k_proj(placed)).transpose(1, 2).to(self.dtype).contiguous(),
            values=_heads_first(to_image.v_proj(image)).to(self.dtype).contiguous(),
            queries=_heads_first(to_tokens.q_proj(placed)).transpose(1, 2).to(self.dtype).contiguous(),
        )

    def decode(self, terms: ImageTerms, sparse: Tensor) -> Decoded:
        """A block of prompts, (P, T, 256) of prompt tokens, through the transformer."""
        output = self.decoder.output_tokens().expand(len(sparse), -1, -1)
        tokens = torch.cat([output, sparse], dim=1)
        block = self.first
        queries = block.attend_to_self(tokens, tokens)
        queries = block.norm2(queries + self._look_at_shared_image(queries + tokens, terms))
        queries = block.norm3(queries + block.mlp(queries))
        image = self._update_shared_image(queries + tokens, queries, terms)

        block = self.second
        queries = block.attend_to_self(queries, tokens)
        attention = block.cross_attn_token_to_image
        queries = block.norm2(
            queries + self._look_at_image(attention, self.second_keys, queries + tokens, image)
        )
        queries = block.norm3(queries + block.mlp(queries))
        image = self._update_image(queries + tokens, queries, image)

        seen = self._look_at_image(self.final, self.final_keys, queries + tokens, image)
        queries = self.decoder.transformer.norm_final_attn(queries + seen)
        return Decoded(queries, image, self.decoder.iou_prediction_head(queries[:, 0]), terms.detail)

    def draw(self, decoded: Decoded, prompts: Tensor, masks: slice) -> Tensor:
        """Low-resolution logits of some prompts of a block.

        Args:
            prompts: indices into the block.
            masks: which of the four mask tokens: slice(0, 1) for a clear prompt, slice(1, 4) for candidates.

        Returns:
            (len(prompts), masks, 256, 256) float32; of a window of the grid, four times its rows and columns.
        """
        return self._drawn(decoded.tokens[prompts], self._upscaled(decoded.image[prompts]), masks)

    def wanted(self, iou_predictions: Tensor) -> Tensor:
        """Which of three neighbouring candidates (P, 3), by predicted IoU, answer an ambiguous prompt."""
        return torch.ones_like(iou_predictions, dtype=torch.bool)

    def _drawn(self, tokens: Tensor, upscaled: Tensor, masks: slice) -> Tensor:
        mlps = list(self.decoder.output_hypernetworks_mlps)[masks]
        start = 1 + (masks.start or 0)
        weights = torch.stack([mlp(tokens[:, start + i]) for i, mlp in enumerate(mlps)], dim=1)
        return self._as_pictures((weights.to(self.dtype) @ upscaled.transpose(1, 2)).float())

    def _upscaled(self, image: Tensor) -> Tensor:
        """Image tokens (P, N, 256) to (P, 16 N, 32): each becomes 2 x 2 cells of 2 x 2 pixels."""
        w1, b1, norm, w2, b2 = self.upscaling
        x = torch.addmm(b1, image.flatten(0, 1), w1).view(-1, norm.weight.shape[0])
        x = F.gelu(_layer_norm(norm, x))
        return F.gelu(torch.addmm(b2, x, w2)).view(len(image), -1, UPSCALED_CHANNELS)

    def _as_pictures(self, values: Tensor) -> Tensor:
        """(P, M, 16 N), cell by cell, to (P, M, rows, columns)."""
        rows, columns = self.grid
        prompts, maps, _ = values.shape
        cells = values.reshape(prompts, maps, rows, columns, 2, 2, 2, 2)
        return cells.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(prompts, maps, 4 * rows, 4 * columns)

    def _look_at_shared_image(self, q: Tensor, terms: ImageTerms) -> Tensor:
        attention = self.first.cross_attn_token_to_image
        rows = _rows_of_all_prompts(_scaled(split_heads(attention.q_proj(q)))).to(self.dtype)
        weights = torch.softmax(rows @ terms.keys, dim=-1)
        gathered = (weights @ terms.values).float()
        return _merge(attention, gathered.unflatten(1, (len(q), -1)).transpose(0, 1))  # type: ignore[no-untyped-call]

    def _update_shared_image(self, k: Tensor, v: Tensor, terms: ImageTerms) -> Tensor:
        attention = self.first.cross_attn_image_to_token
        rows = _rows_of_all_prompts(_scaled(split_heads(attention.k_proj(k)))).to(self.dtype)
        logits = (rows @ terms.queries).view(NUM_HEADS, len(k), k.shape[1], -1)
        weights = torch.softmax(logits, dim=2).transpose(0, 1).flatten(1, 2)
        return self._add_to_image(self.first, weights, v, terms.residual)

    def _look_at_image(self, attention: Attention, keys: _ImageSide, q: Tensor, image: Tensor) -> Tensor:
        logits = self._logits(_scaled(split_heads(attention.q_proj(q))), keys, image)
        gathered = (torch.softmax(logits, dim=-1) @ image).float()
        per_head = gathered.view(len(q), NUM_HEADS, q.shape[1], -1)
        values = _per_head_rows(attention.v_proj.weight)
        projected = torch.einsum("phtd,hcd->phtc", per_head, values)
        return _merge(attention, projected + attention.v_proj.bias.view(NUM_HEADS, 1, -1))

    def _update_image(self, k: Tensor, v: Tensor, image: Tensor) -> Tensor:
        attention = self.second.cross_attn_image_to_token
        logits = self._logits(_scaled(split_heads(attention.k_proj(k))), self.second_queries, image)
        weights = torch.softmax(logits.view(len(k), NUM_HEADS, k.shape[1], -1), dim=2).flatten(1, 2)
        return self._add_to_image(self.second, weights, v, image + attention.out_proj.bias.to(self.dtype))

    def _logits(self, rows: Tensor, side: _ImageSide, image: Tensor) -> Tensor:
        """Rows (P, H, T, C) against projected image tokens: (P, H * T, N)."""
        absorbed = torch.einsum("phtc,hcd->phtd", rows, side.weight).flatten(1, 2).to(self.dtype)
        positional = _rows_of_all_prompts(rows).to(self.dtype) @ side.positional
        prompts, heads, tokens, _ = rows.shape
        by_prompt = positional.view(heads, prompts, tokens, -1).transpose(0, 1).flatten(1, 2)
        return torch.baddbmm(by_prompt, absorbed, image.transpose(1, 2))

    def _add_to_image(
        self, block: TwoWayAttentionBlock, weights: Tensor, v: Tensor, residual: Tensor
    ) -> Tensor:
        """Image tokens (P, N, 256) after attending to the tokens by weights (P, H * T, N)."""
        attention = block.cross_attn_image_to_token
        outputs = attention.out_proj.weight.view(-1, NUM_HEADS, channels_per_head(attention))
        values = torch.einsum("phtc,dhc->phtd", split_heads(attention.v_proj(v)), outputs)
        update = weights.transpose(1, 2) @ values.flatten(1, 2).to(self.dtype)
        return _layer_norm(block.norm4, update.add_(residual))

    def _image_side(self, projection: nn.Linear) -> _ImageSide:
        positional = _heads_first(projection(self.positions)).transpose(1, 2)
        return _ImageSide(_per_head_rows(projection.weight), positional.to(self.dtype).contiguous())

    def _upscaling_weights(self) -> tuple[Tensor, Tensor, LayerNorm2d, Tensor, Tensor]:
        """A transposed convolution of stride 2 and 2 x 2 kernel is a matrix product."""
        first, norm, _, second, _ = self.decoder.output_upscaling
        return (*self._as_matrix(first), norm, *self._as_matrix(second))  # type: ignore[return-value, arg-type]

    def _as_matrix(self, conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
        """Weight (inputs, 4 * outputs) and bias (4 * outputs), cell by cell of the kernel."""
        assert conv.bias is not None  # noqa: S101 (for the type checker)
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        return weight.to(self.dtype).contiguous(), conv.bias.repeat(4).to(self.dtype)


def channels_per_head(attention: Attention) -> int:
    """Channels of a head."""
    return attention.q_proj.out_features // NUM_HEADS


def _scaled(heads: Tensor) -> Tensor:
    return heads / math.sqrt(heads.shape[-1])


def _heads_first(x: Tensor) -> Tensor:
    """(N, H * C) to (H, N, C)."""
    return x.view(len(x), NUM_HEADS, -1).transpose(0, 1)


def _per_head_rows(weight: Tensor) -> Tensor:
    """A projection's (H * C, 256) to (H, C, 256)."""
    return weight.view(NUM_HEADS, -1, weight.shape[1])


def _rows_of_all_prompts(rows: Tensor) -> Tensor:
    """(P, H, T, C) to (H, P * T, C): one matrix product a head for all prompts of a block."""
    return rows.transpose(0, 1).flatten(1, 2)


def _merge(attention: Attention, heads: Tensor) -> Tensor:
    """(P, H, T, C) through the output projection to (P, T, 256)."""
    out: Tensor = attention.out_proj(heads.transpose(1, 2).flatten(2))
    return out


def _layer_norm(norm: nn.LayerNorm | LayerNorm2d, x: Tensor) -> Tensor:
    """Over the last dimension, in the precision of `x`."""
    return F.layer_norm(x, (x.shape[-1],), norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)
