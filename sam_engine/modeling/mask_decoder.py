"""SAM's mask decoder as published: the reference that `sam_engine.decoder` must equal, and its weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_engine.modeling.layers import MLP, LayerNorm2d

DIM = 256
NUM_HEADS = 8
MLP_DIM = 2048
NUM_MASK_TOKENS = 4


class Attention(nn.Module):
    """Multi-head attention whose heads may be narrower than the tokens."""

    def __init__(self, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = DIM // downsample_rate
        self.q_proj = nn.Linear(DIM, inner)
        self.k_proj = nn.Linear(DIM, inner)
        self.v_proj = nn.Linear(DIM, inner)
        self.out_proj = nn.Linear(inner, DIM)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, 256) each to (B, N of q, 256)."""
        q, k, v = split_heads(self.q_proj(q)), split_heads(self.k_proj(k)), split_heads(self.v_proj(v))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
        out: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return out


def split_heads(x: Tensor) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    return x.view(*x.shape[:2], NUM_HEADS, -1).transpose(1, 2)


class MLPBlock(nn.Module):
    """Widen, ReLU, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1 = nn.Linear(DIM, MLP_DIM)
        self.lin2 = nn.Linear(MLP_DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.relu(self.lin1(x)))
        return out


class TwoWayAttentionBlock(nn.Module):
    """Prompt tokens attend to themselves and to the image; then the image attends to the tokens."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention()
        self.norm1 = nn.LayerNorm(DIM)
        self.cross_attn_token_to_image = Attention(downsample_rate=2)
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp = MLPBlock()
        self.norm3 = nn.LayerNorm(DIM)
        self.norm4 = nn.LayerNorm(DIM)
        self.cross_attn_image_to_token = Attention(downsample_rate=2)

    def attend_to_self(self, queries: Tensor, query_pe: Tensor) -> Tensor:
        """The first block replaces the queries and adds no position; later blocks add to them."""
        if self.first:
            attended: Tensor = self.norm1(self.self_attn(queries, queries, queries))
            return attended
        q = queries + query_pe
        added: Tensor = self.norm1(queries + self.self_attn(q, q, queries))
        return added

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        queries = self.attend_to_self(queries, query_pe)
        k = keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + query_pe, k, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(k, queries + query_pe, queries))
        return queries, keys


class TwoWayTransformer(nn.Module):
    """Two blocks and a last look of the tokens at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TwoWayAttentionBlock(first=True), TwoWayAttentionBlock(first=False)])
        self.final_attn_token_to_image = Attention(downsample_rate=2)
        self.norm_final_attn = nn.LayerNorm(DIM)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, 256), (N, 256), (B, T, 256) to tokens (B, T, 256) and image tokens (B, N, 256)."""
        queries, keys = tokens, image
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, image_pe)
        attended = self.final_attn_token_to_image(queries + tokens, keys + image_pe, keys)
        return self.norm_final_attn(queries + attended), keys


class MaskDecoder(nn.Module):
    """Four masks (one for a clear prompt, three for an ambiguous one) and their predicted IoU."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, DIM)
        self.mask_tokens = nn.Embedding(NUM_MASK_TOKENS, DIM)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(DIM, DIM // 4, 2, 2),
            LayerNorm2d(DIM // 4),
            nn.GELU(),
            nn.ConvTranspose2d(DIM // 4, DIM // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(DIM, DIM, DIM // 8, 3) for _ in range(NUM_MASK_TOKENS)
        )
        self.iou_prediction_head = MLP(DIM, 256, NUM_MASK_TOKENS, 3)

    def output_tokens(self) -> Tensor:
        """The learnt tokens that gather the answer, (5, 256): IoU first, then the masks."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def forward(self, image: Tensor, image_pe: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """One decoding a prompt, nothing shared.

        Args:
            image: (B or 1, 4096, 256) image tokens with the dense prompt added.
            image_pe: (4096, 256).
            sparse: (B, T, 256) prompt tokens.

        Returns:
            low_res_masks (B, 4, 256, 256) of logits, iou_predictions (B, 4).
        """
        batch = len(sparse)
        tokens = torch.cat([self.output_tokens().expand(batch, -1, -1), sparse], dim=1)
        queries, keys = self.transformer(image.expand(batch, -1, -1), image_pe, tokens)
        side = math.isqrt(keys.shape[1])
        upscaled = self.output_upscaling(keys.transpose(1, 2).unflatten(2, (side, side)))
        weights = torch.stack(
            [mlp(queries[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        return masks, self.iou_prediction_head(queries[:, 0])


class HighQualityMaskDecoder(MaskDecoder):
    """HQ-SAM's: one more token, whose mask is drawn from finer features and added to the others.

    Ke et al. 2023, arXiv:2306.01567. Computed by `sam_engine.decoder_hq` only.

    Args:
        early_channels: of the encoder's early features.
    """

    def __init__(self, early_channels: int) -> None:
        super().__init__()
        quarter, eighth = DIM // 4, DIM // 8
        self.hf_token = nn.Embedding(1, DIM)
        self.hf_mlp = MLP(DIM, DIM, eighth, 3)
        self.compress_vit_feat = nn.Sequential(
            nn.ConvTranspose2d(early_channels, DIM, 2, 2),
            LayerNorm2d(DIM),
            nn.GELU(),
            nn.ConvTranspose2d(DIM, eighth, 2, 2),
        )
        self.embedding_encoder = nn.Sequential(
            nn.ConvTranspose2d(DIM, quarter, 2, 2),
            LayerNorm2d(quarter),
            nn.GELU(),
            nn.ConvTranspose2d(quarter, eighth, 2, 2),
        )
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(eighth, quarter, 3, padding=1),
            LayerNorm2d(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, eighth, 3, padding=1),
        )

    def output_tokens(self) -> Tensor:
        """(6, 256): IoU first, then the masks, then the finer one."""
        return torch.cat([super().output_tokens(), self.hf_token.weight])
