"""The encoder compiled by OpenVINO for the processor at hand; its graphs are kept on disk."""

import hashlib
import json
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_engine.encoder import EncoderAndHead, Seen
from sam_engine.store import Record, TensorStore

# OpenVINO reports to its maker whenever it is imported, unless this package of its is missing
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino  # noqa: E402

FORMAT = 1
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def key_of(*parts: object) -> str:
    """The key in a store of what is made of these parts by these versions of both libraries."""
    made_from = [FORMAT, openvino.__version__, torch.__version__, *parts]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


class OpenVinoEncoder:
    """See `Encoder`; a size is compiled when first met.

    Args:
        network: on the CPU.
        dtype: float32 or bfloat16.
        checkpoint: digest of the network's weights.
        store: where converted graphs are kept; None converts them anew.
    """

    backend = "openvino"

    def __init__(
        self, network: EncoderAndHead, dtype: torch.dtype, checkpoint: str, store: TensorStore | None
    ) -> None:
        self.network, self.checkpoint, self.store = network, checkpoint, store
        self.core = openvino.Core()
        self.options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # other processes compute on these cores too
        }
        self._requests: dict[int, openvino.InferRequest] = {}

    def __call__(self, picture: Tensor) -> Seen:
        """See `Encoder`."""
        side = picture.shape[-1]
        if side not in self._requests:
            self._requests[side] = self._compile(side)
        outputs = self._requests[side].infer([picture.contiguous().numpy()], share_inputs=True)
        return self.network.named([torch.from_numpy(values.copy()) for values in outputs.values()])

    def _compile(self, side: int) -> openvino.InferRequest:
        key = key_of(self.checkpoint, side)
        kept = None if self.store is None else self.store.load(key)
        if kept is None:
            kept = convert(self.network, side)
            if self.store is not None:
                self.store.save(key, kept)
        weights = openvino.Tensor(kept.tensors["weights"].numpy())
        graph = self.core.read_model(kept.about["graph"].encode(), weights)
        return self.core.compile_model(graph, "CPU", self.options).create_infer_request()


def convert(network: EncoderAndHead, side: int) -> Record:
    """The network's graph for pictures (1, 3, side, side), in float32, as it is kept."""
    example = torch.zeros(1, 3, side, side)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every size that becomes a constant, as it should
        graph = openvino.convert_model(network, example_input=example, input=[1, 3, side, side])
    with TemporaryDirectory() as folder:
        file = Path(folder, "graph.xml")
        openvino.save_model(graph, file, compress_to_fp16=False)
        weights = torch.from_numpy(np.fromfile(file.with_suffix(".bin"), dtype=np.uint8))
        return Record({"weights": weights}, {"graph": file.read_text()})


def processor() -> str:
    """The processor's name."""
    return str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"))
