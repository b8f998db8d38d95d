"""What sees a picture: the image encoder and, where the checkpoint has one, the dense head."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sam_engine.modeling.instance_head import InstanceHead


class Seen(NamedTuple):
    """What is known of a picture; None for what the checkpoint has no use for.

    Attributes:
        embedding: (1, 256, s/16, s/16).
        field: of the dense head, (1, channels, s/2, s/2).
        early: features for HQ-SAM's finer masks, (1, channels, s/16, s/16).
    """

    embedding: Tensor
    field: Tensor | None = None
    early: Tensor | None = None


class Encoder(Protocol):
    """Sees a normalised picture (1, 3, s, s) on its own device. Not for two threads at once.

    Attributes:
        backend: the library that computes, as answers name it.
    """

    backend: str

    def __call__(self, picture: Tensor) -> Seen: ...


class EncoderAndHead(nn.Module):
    """Both networks as one.

    Args:
        early: whether the encoder's early features are wanted too.
    """

    def __init__(self, encoder: nn.Module, head: InstanceHead | None, early: bool = False) -> None:
        super().__init__()
        self.encoder, self.head, self.early = encoder, head, early

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, s, s) to what `named` takes."""
        features = self.encoder(picture)
        field = () if self.head is None else (self.head(picture, features),)
        return (features.stride16, *field, *([features.early] if self.early else []))

    def named(self, outputs: Sequence[Tensor]) -> Seen:
        """The outputs by their names."""
        left = list(outputs)
        return Seen(
            embedding=left.pop(0),
            field=None if self.head is None else left.pop(0),
            early=left.pop(0) if self.early else None,
        )


class TorchEncoder:
    """The networks as they are.

    Args:
        network: on its device.
        dtype: float32, or what autocast computes in.
    """

    backend = "torch"

    def __init__(self, network: EncoderAndHead, dtype: torch.dtype) -> None:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self.dtype = network, dtype

    @torch.inference_mode()
    def __call__(self, picture: Tensor) -> Seen:
        """See `Encoder`."""
        computing = (
            nullcontext()
            if self.dtype == torch.float32
            else torch.autocast(picture.device.type, dtype=self.dtype)
        )
        with computing:
            outputs = self.network(picture.contiguous(memory_format=torch.channels_last))
        return self.network.named(outputs)
