"""Which library runs the encoder: the quickest on this machine that is as exact as torch."""

import logging
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_engine.encoder import Encoder, EncoderAndHead, Seen, TorchEncoder
from sam_engine.errors import ModelUnavailable
from sam_engine.masks import FRAME
from sam_engine.store import Record, TensorStore

try:
    from sam_engine import openvino_encoder
except ImportError:  # it is optional
    openvino_encoder = None  # type: ignore[assignment]

RUNS = 3
EXACT = 1e-4  # relative error that float32 may have
SLACK = 1.5  # times torch's own error at half precision

Backend = Literal["auto", "torch", "openvino"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Median milliseconds of a 1024-pixel frame, and errors relative to torch in float32."""

    torch_ms: float
    openvino_ms: float
    torch_error: float
    openvino_error: float

    @property
    def winner(self) -> Literal["torch", "openvino"]:
        """The quicker one, if it is as exact as torch."""
        exact = self.openvino_error <= max(EXACT, SLACK * self.torch_error)
        return "openvino" if exact and self.openvino_ms < self.torch_ms else "torch"


def make_encoder(
    backend: Backend,
    network: EncoderAndHead,
    device: torch.device,
    dtype: torch.dtype,
    checkpoint: str,
    store: TensorStore | None,
) -> Encoder:
    """The encoder of a backend; `auto` compares once, and remembers in the store.

    Of a network whose graph the store cannot keep, `auto` is torch: it would be converted at every start.

    Args:
        network: on its device.
        checkpoint: digest of its weights.
        store: of graphs and comparisons, or None.

    Raises:
        ModelUnavailable: OpenVINO is asked for by name and cannot serve.
    """
    ours = TorchEncoder(network, dtype)
    obstacle = _obstacle(device, dtype)
    kept = store is None or _bytes(network) <= store.budget_bytes
    if backend == "torch" or (backend == "auto" and (obstacle or not kept)):
        return ours
    if obstacle:
        raise ModelUnavailable(f"the backend openvino {obstacle}")
    theirs = openvino_encoder.OpenVinoEncoder(network, dtype, checkpoint, store)
    if backend == "openvino":
        return theirs
    key = _key(dtype, checkpoint)
    compared = _recall(key, store)
    if compared is None:
        try:
            compared = compare(ours, theirs, network)
        except RuntimeError as error:
            log.warning("OpenVINO cannot run this network, torch will: %s", error)
            return ours
        if store is not None:
            store.save(key, Record({}, asdict(compared)))
        log.info("encoders compared: %s; %s it is", compared, compared.winner)
    return theirs if compared.winner == "openvino" else ours


def compare(ours: Encoder, theirs: Encoder, network: EncoderAndHead) -> Comparison:
    """Both measured by turns on one picture."""
    picture = _picture()
    exact = TorchEncoder(network, torch.float32)(picture)
    encoders = (ours, theirs)
    errors = [_error(encoder(picture), exact) for encoder in encoders]
    times: tuple[list[float], ...] = ([], [])
    for _ in range(RUNS):
        for encoder, measured in zip(encoders, times, strict=True):
            start = time.perf_counter()
            encoder(picture)
            measured.append(1000 * (time.perf_counter() - start))
    return Comparison(*(statistics.median(measured) for measured in times), *errors)


def _obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why OpenVINO cannot serve."""
    if openvino_encoder is None:
        return "is not installed"
    if device.type != "cpu":
        return f"computes on the CPU, not on {device}"
    if dtype not in openvino_encoder.PRECISIONS:
        return f"computes in float32 or bfloat16, not in {str(dtype).removeprefix('torch.')}"
    return None


def _recall(key: str, store: TensorStore | None) -> Comparison | None:
    """What was measured on this machine before, if anything."""
    kept = None if store is None else store.load(key)
    return None if kept is None else Comparison(**kept.about)


def _bytes(network: EncoderAndHead) -> int:
    return sum(weight.nbytes for weight in network.parameters())


def _key(dtype: torch.dtype, checkpoint: str) -> str:
    return openvino_encoder.key_of(
        checkpoint, str(dtype), torch.get_num_threads(), openvino_encoder.processor()
    )


def _picture() -> Tensor:
    """Blots of all sizes, the same every time."""
    random = torch.Generator().manual_seed(0)
    layers = [
        F.interpolate(torch.randn(1, 3, side, side, generator=random), FRAME, mode="bilinear")
        for side in (8, 32, 128, FRAME)
    ]
    return torch.stack(layers).sum(0)


def _error(seen: Seen, exact: Seen) -> float:
    """The larger one of the relative errors of embedding and field."""
    pairs = [(a, b) for a, b in zip(seen, exact, strict=True) if a is not None and b is not None]
    return max(float((a.float() - b).norm() / b.norm()) for a, b in pairs)
