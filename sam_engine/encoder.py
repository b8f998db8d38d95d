"""What sees a picture: the image encoder and, where the checkpoint has one, the dense head."""

from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sam_engine.modeling.instance_head import InstanceHead


class Seen(NamedTuple):
    """Image embedding (1, 256, s/16, s/16) and what the dense head says (1, channels, s/2, s/2), or None."""

    embedding: Tensor
    field: Tensor | None


class Encoder(Protocol):
    """Sees a normalised picture (1, 3, s, s) on its own device. Not for two threads at once.

    Attributes:
        backend: the library that computes, as answers name it.
    """

    backend: str

    def __call__(self, picture: Tensor) -> Seen: ...


class EncoderAndHead(nn.Module):
    """Both networks as one."""

    def __init__(self, encoder: nn.Module, head: InstanceHead | None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, s, s) to the embedding and, with a head, its field."""
        features = self.encoder(picture)
        if self.head is None:
            return (features.stride16,)
        return features.stride16, self.head(picture, features)


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
            embedding, *field = self.network(picture.contiguous(memory_format=torch.channels_last))
        return Seen(embedding, field[0] if field else None)
