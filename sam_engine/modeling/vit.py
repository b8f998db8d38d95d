"""SAM's plain vision transformers: the image encoders of `vit_b`, `vit_l` and `vit_h`.

Kirillov et al. 2023, arXiv:2304.02643; Li et al. 2022, arXiv:2203.16527 (windows, relative positions).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_engine.modeling.layers import LayerNorm2d

PATCH = 16
GRID = 64
WINDOW = 14
EXPANSION = 4
OUT_CHANNELS = 256
ROWS_TOGETHER = 4  # of queries in global attention: their biases fit the cache


class VitSize(NamedTuple):
    """Width, number of blocks, heads, and which blocks see the whole picture instead of windows."""

    width: int
    depth: int
    heads: int
    whole: tuple[int, ...]


SIZES = {
    "vit_b": VitSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": VitSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": VitSize(1280, 32, 16, (7, 15, 23, 31)),
}


class VitFeatures(NamedTuple):
    """(B, 256, H/16, W/16): the image embedding."""

    stride16: Tensor


class PatchEmbed(nn.Module):
    """Patches of 16 x 16 pixels to tokens (B, H/16, W/16, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x)
        return tokens.permute(0, 2, 3, 1)


class Attention(nn.Module):
    """Self-attention over a square of tokens, with learnt biases for offsets along rows and columns.

    Args:
        side: of the square.
    """

    offsets: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        places = torch.arange(side)
        self.register_buffer("offsets", places[:, None] - places + side - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, side, side, width) to the same.

        The biases of all pairs would be the largest thing in the network (global attention: 64**4 a head), so
        they are made for a few rows of queries at a time.
        """
        batch, side, _, width = x.shape
        qkv = self.qkv(x).view(batch, side * side, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        q = q.unflatten(2, (side, side))
        to_rows, to_columns = (table[self.offsets].to(q.dtype) for table in (self.rel_pos_h, self.rel_pos_w))
        step = side if side <= WINDOW else ROWS_TOGETHER
        parts = []
        for start in range(0, side, step):
            rows = q[:, :, start : start + step]
            by_row = torch.einsum("bnywd,ykd->bnywk", rows, to_rows[start : start + step])
            by_column = torch.einsum("bnywd,wkd->bnywk", rows, to_columns)
            bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(4).flatten(2, 3)
            parts.append(F.scaled_dot_product_attention(rows.flatten(2, 3), k, v, attn_mask=bias))
        out = torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, side, side, width)
        projected: Tensor = self.proj(out)
        return projected


class Mlp(nn.Module):
    """Widen, GELU, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, EXPANSION * width)
        self.lin2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.gelu(self.lin1(x)))
        return out


class Block(nn.Module):
    """Attention, in windows or over the whole picture, and an MLP."""

    def __init__(self, width: int, heads: int, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, GRID if whole else WINDOW)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, width) to the same."""
        normed = self.norm1(x)
        x = x + (self.attn(normed) if self.whole else self._attend_in_windows(normed))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _attend_in_windows(self, x: Tensor) -> Tensor:
        """The zero padding that fills the last windows takes part in the attention, as it did in training."""
        batch, height, width, channels = x.shape
        x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        rows, columns = x.shape[1] // WINDOW, x.shape[2] // WINDOW
        x = x.view(batch, rows, WINDOW, columns, WINDOW, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, WINDOW, WINDOW, channels))
        x = x.view(batch, rows, columns, WINDOW, WINDOW, channels).transpose(2, 3)
        return x.reshape(batch, rows * WINDOW, columns * WINDOW, channels)[:, :height, :width]


class Vit(nn.Module):
    """Pictures of 1024 x 1024 only: positions are absolute."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(size.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID, GRID, size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.heads, i in size.whole) for i in range(size.depth))
        self.neck = nn.Sequential(
            nn.Conv2d(size.width, OUT_CHANNELS, 1, bias=False),
            LayerNorm2d(OUT_CHANNELS),
            nn.Conv2d(OUT_CHANNELS, OUT_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(OUT_CHANNELS),
        )

    def forward(self, x: Tensor) -> VitFeatures:
        """(B, 3, 1024, 1024), normalised, to the image embedding."""
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return VitFeatures(self.neck(x.permute(0, 3, 1, 2)))
