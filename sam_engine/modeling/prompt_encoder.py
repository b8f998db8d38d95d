"""Points, boxes and masks to tokens (Kirillov et al. 2023, arXiv:2304.02643, appendix A)."""

import math

import torch
from torch import Tensor, nn

from sam_engine.modeling.layers import LayerNorm2d

EMBED_DIM = 256
GRID = 64
FRAME = 1024
MASK_CHANNELS = 16
NOT_A_POINT, NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of a place (Tancik et al. 2020, arXiv:2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_features))

    def forward(self, places: Tensor) -> Tensor:
        """(..., 2) of XY in [0, 1] to (..., 2 * num_features)."""
        angles = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, rows: int, columns: int) -> Tensor:
        """Encoding of the centres of a grid of cells, (rows * columns, 2 * num_features)."""
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(rows, device=device) + 0.5) / rows
        x = (torch.arange(columns, device=device) + 0.5) / columns
        places = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1)
        encoded: Tensor = self(places)
        return encoded.flatten(0, 1)


class PromptEncoder(nn.Module):
    """Coordinates are pixels of the 1024-pixel frame; masks are (256, 256) logits of that frame."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = PositionEmbeddingRandom(EMBED_DIM // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, EMBED_DIM) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, EMBED_DIM)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, MASK_CHANNELS // 4, 2, 2),
            LayerNorm2d(MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS // 4, MASK_CHANNELS, 2, 2),
            LayerNorm2d(MASK_CHANNELS),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS, EMBED_DIM, 1),
        )
        self.no_mask_embed = nn.Embedding(1, EMBED_DIM)

    def sparse(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Points and box corners to tokens.

        Args:
            coords: (..., T, 2) of XY.
            labels: (..., T) of the constants above.

        Returns:
            (..., T, 256).
        """
        table = torch.cat([e.weight for e in (self.not_a_point_embed, *self.point_embeddings)])
        places = self.pe_layer((coords + 0.5) / FRAME)
        known = (labels != NOT_A_POINT).unsqueeze(-1)
        return torch.where(known, places, torch.zeros_like(places)) + table[labels + 1]

    def dense(self, mask_logits: Tensor | None) -> Tensor:
        """(B, 1, 256, 256) to (B, 4096, 256); without masks (1, 1, 256), which broadcasts."""
        if mask_logits is None:
            return self.no_mask_embed.weight[None]
        embedded: Tensor = self.mask_downscaling(mask_logits)
        return embedded.flatten(2).transpose(1, 2)

    def positions(self) -> Tensor:
        """Encoding of the image tokens' places, (4096, 256)."""
        return self.pe_layer.grid(GRID, GRID)
