"""TinyViT, the image encoder of MobileSAM.

Wu et al. 2022, arXiv:2207.10666; Zhang et al. 2023, arXiv:2306.14289.

Any input whose sides are multiples of 32 is taken; 1024 x 1024 is what the checkpoints are trained for.
Feature maps travel as (B, H, W, C), whose permuted view is a channels-last image: convolutions and window
attention read the same memory.
"""

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_engine.modeling.layers import LayerNorm2d

EMBED_DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
NUM_HEADS = (2, 4, 5, 10)
WINDOW_SIZES = (7, 7, 14, 7)
EXPANSION = 4
OUT_CHANNELS = 256
EARLY_CHANNELS = EMBED_DIMS[2]


class EncoderFeatures(NamedTuple):
    """(B, C, H/stride, W/stride) at strides 4 (64 channels), 8 (128) and 16 (256: the image embedding).

    `early` (160 channels, stride 16) is what HQ-SAM draws finer edges with.
    """

    stride4: Tensor
    stride8: Tensor
    stride16: Tensor
    early: Tensor


class ConvBN(nn.Sequential):
    """Convolution without bias, then batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(outputs))


class PatchEmbed(nn.Module):
    """Two strided convolutions: a picture to feature maps at stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvBN(3, channels // 2, 3, 2), nn.GELU(), ConvBN(channels // 2, channels, 3, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.seq(x)
        return out


class MBConv(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * EXPANSION
        self.conv1 = ConvBN(channels, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """Between two stages: change width and, but for the last stage, halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(inputs, outputs)
        self.conv2 = ConvBN(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = ConvBN(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        out: Tensor = self.conv3(y)
        return out


class ConvStage(nn.Module):
    """The first stage: convolutions only."""

    def __init__(self, channels: int, depth: int, downsample: PatchMerging) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MBConv(channels) for _ in range(depth))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.downsample(x)
        return out


class Attention(nn.Module):
    """Self-attention within windows, with a learnt bias for each absolute offset between two places."""

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        places = list(product(range(window), range(window)))
        offsets: dict[tuple[int, int], int] = {}
        index = [
            offsets.setdefault((abs(y1 - y2), abs(x1 - x2)), len(offsets))
            for (y1, x1), (y2, x2) in product(places, places)
        ]
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, len(offsets)))
        table = torch.tensor(index).view(len(places), len(places))
        self.register_buffer("attention_bias_idxs", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, places, dim) to the same."""
        windows, places, dim = x.shape
        qkv = self.qkv(self.norm(x)).view(windows, places, self.num_heads, -1).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        bias = self.attention_biases[:, self.attention_bias_idxs].to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(windows, places, dim))
        return projected


class Mlp(nn.Module):
    """Normalise, widen, narrow."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim * EXPANSION)
        self.fc2 = nn.Linear(dim * EXPANSION, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class TinyViTBlock(nn.Module):
    """Window attention, a depthwise convolution across the windows' borders, and an MLP."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(dim, num_heads, window)
        self.mlp = Mlp(dim)
        self.local_conv = ConvBN(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        x = x + self._attend_in_windows(x)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = x + self.mlp(x)
        return out

    def _attend_in_windows(self, x: Tensor) -> Tensor:
        """The zero padding that fills the last windows takes part in the attention, as it did in training."""
        size = self.window
        batch, height, width, dim = x.shape
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        x = x.view(batch, rows, size, columns, size, dim).transpose(2, 3)
        x = self.attn(x.reshape(-1, size * size, dim))
        x = x.view(batch, rows, columns, size, size, dim).transpose(2, 3)
        return x.reshape(batch, rows * size, columns * size, dim)[:, :height, :width]


class AttentionStage(nn.Module):
    """A stage of attention blocks over images (B, C, H, W)."""

    def __init__(
        self, dim: int, depth: int, num_heads: int, window: int, downsample: PatchMerging | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TinyViTBlock(dim, num_heads, window) for _ in range(depth))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 3, 1, 2)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """`norm_head` and `head` classify images in the published checkpoints; they are kept to load strictly."""

    def __init__(self) -> None:
        super().__init__()
        merges: list[PatchMerging | None] = [
            PatchMerging(EMBED_DIMS[i], EMBED_DIMS[i + 1], stride) for i, stride in enumerate((2, 2, 1))
        ]
        self.patch_embed = PatchEmbed(EMBED_DIMS[0])
        first = merges[0]
        assert first is not None  # noqa: S101 (for the type checker)
        self.layers = nn.ModuleList([ConvStage(EMBED_DIMS[0], DEPTHS[0], first)])
        stages = zip(EMBED_DIMS, DEPTHS, NUM_HEADS, WINDOW_SIZES, [*merges, None], strict=True)
        self.layers.extend(AttentionStage(*stage) for stage in list(stages)[1:])
        self.norm_head = nn.LayerNorm(EMBED_DIMS[-1])
        self.head = nn.Linear(EMBED_DIMS[-1], 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(EMBED_DIMS[-1], OUT_CHANNELS, 1, bias=False),
            LayerNorm2d(OUT_CHANNELS),
            nn.Conv2d(OUT_CHANNELS, OUT_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(OUT_CHANNELS),
        )

    def forward(self, x: Tensor) -> EncoderFeatures:
        """(B, 3, H, W), normalised, sides multiples of 32, to feature maps at strides 4, 8 and 16."""
        stride4 = self.patch_embed(x)
        stride8 = self.layers[0](stride4)
        early = y = self.layers[1](stride8)
        for stage in list(self.layers)[2:]:
            y = stage(y)
        return EncoderFeatures(stride4, stride8, self.neck(y), early)
