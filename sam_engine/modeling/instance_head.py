"""The dense instance head: every droplet of a field in one pass over the encoder's features.

It predicts, at stride 2, foreground, edge, and the distance to the object's edge divided by that object's
largest distance. The normalised distance makes one blob an object at any size: the seeds of a watershed.
Two further channels, foreground and distance of inclusions, find what lies inside objects.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_engine.modeling.tiny_vit import EncoderFeatures

WIDTHS = {16: 96, 8: 64, 4: 48, 2: 24}
CHANNELS = 5
CHANNELS_WITHOUT_INCLUSIONS = 3


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, the first dilated, around a shortcut."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.a = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU())
        self.b = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.b(self.a(x)))


class InstanceHead(nn.Module):
    """A light U-shaped decoder with its own stem at the picture's resolution to keep edges sharp.

    Args:
        channels: of the output; CHANNELS, or CHANNELS_WITHOUT_INCLUSIONS for heads that find no inclusions.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        w16, w8, w4, w2 = WIDTHS[16], WIDTHS[8], WIDTHS[4], WIDTHS[2]
        self.n4, self.n8, self.n16 = nn.BatchNorm2d(64), nn.BatchNorm2d(128), nn.BatchNorm2d(256)
        self.p16 = conv_bn_relu(256, w16)
        self.r16 = nn.Sequential(ResidualBlock(w16, 1), ResidualBlock(w16, 3))
        self.p8 = conv_bn_relu(128, w8)
        self.u8 = conv_bn_relu(w16 + w8, w8)
        self.r8 = ResidualBlock(w8, 2)
        self.stem2 = conv_bn_relu(3, 16, 3, 2)
        self.stem4 = conv_bn_relu(16, 32, 3, 2)
        self.u4 = conv_bn_relu(64 + 32 + w8, w4)
        self.r4 = ResidualBlock(w4)
        self.u2 = conv_bn_relu(w4 + 16, w2, 3)
        self.out = nn.Conv2d(w2, channels, 3, padding=1)

    def forward(self, picture: Tensor, features: EncoderFeatures) -> Tensor:
        """(B, 3, H, W) normalised and its encoder features to (B, channels, H/2, W/2).

        The channels are foreground logit, edge logit and normalised distance of objects, then foreground
        logit and normalised distance of inclusions.
        """
        half = self.stem2(picture)
        quarter = self.stem4(half)
        y = self.r16(self.p16(self.n16(features.stride16)))
        y = self.r8(self.u8(torch.cat([_double(y), self.p8(self.n8(features.stride8))], dim=1)))
        y = self.r4(self.u4(torch.cat([_double(y), self.n4(features.stride4), quarter], dim=1)))
        out: Tensor = self.out(self.u2(torch.cat([_double(y), half], dim=1)))
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
