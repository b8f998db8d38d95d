"""The encoder's backends: the same answers, the quicker one chosen, nothing told to anybody."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_engine import backend, openvino_encoder
from sam_engine.backend import Comparison, compare, make_encoder
from sam_engine.encoder import Encoder, EncoderAndHead, Seen, TorchEncoder
from sam_engine.engine import SamEngine
from sam_engine.errors import ModelUnavailable
from sam_engine.openvino_encoder import OpenVinoEncoder, convert
from sam_engine.store import Record, TensorStore
from service.settings import PROJECT

SIDE = 128
CPU = torch.device("cpu")
SUM = "0" * 64


@pytest.fixture(scope="module")
def network(engine: SamEngine) -> EncoderAndHead:
    model = engine.load()
    return EncoderAndHead(model.sam.image_encoder, model.head)


@pytest.fixture(scope="module")
def converted(network: EncoderAndHead) -> Record:
    return convert(network, SIDE)


@pytest.fixture
def store(tmp_path: Path) -> TensorStore:
    return TensorStore(tmp_path / "graphs", 10**9)


@pytest.fixture
def kept(store: TensorStore, converted: Record) -> TensorStore:
    store.save(openvino_encoder.key_of(SUM, SIDE), converted)
    return store


@pytest.fixture
def frame() -> torch.Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def relative(a: Seen, b: Seen) -> float:
    pairs = [(x.float(), y) for x, y in zip(a, b, strict=True) if y is not None]
    return max(float((x - y).norm() / y.norm()) for x, y in pairs)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_openvino_sees_what_torch_sees(network, kept, frame, dtype, bound):
    theirs = OpenVinoEncoder(network, dtype, SUM, kept)
    exact = TorchEncoder(network, torch.float32)(frame)
    assert exact.embedding.shape == (1, 256, SIDE // 16, SIDE // 16)
    assert relative(theirs(frame), exact) < bound
    assert relative(theirs(-frame), TorchEncoder(network, torch.float32)(-frame)) < bound


def test_answers_stay_when_the_next_picture_is_seen(network, kept, frame):
    theirs = OpenVinoEncoder(network, torch.float32, SUM, kept)
    first = theirs(frame)
    before = first.embedding.clone()
    theirs(-frame)
    assert torch.equal(first.embedding, before)


def test_a_network_without_a_head_and_with_early_features(network, frame):
    other = EncoderAndHead(network.encoder, None, early=True)
    seen = OpenVinoEncoder(other, torch.float32, SUM, None)(frame)
    exact = TorchEncoder(other, torch.float32)(frame)
    assert seen.field is None
    assert seen.early.shape == (1, 160, SIDE // 16, SIDE // 16)
    assert relative(Seen(seen.embedding, seen.early), Seen(exact.embedding, exact.early)) < 1e-5


def test_a_graph_is_converted_once_and_again_when_damaged(network, store, converted, frame, monkeypatch):
    made = []

    def counted(*args: object) -> Record:
        made.append(args)
        return converted

    monkeypatch.setattr(openvino_encoder, "convert", counted)
    first = OpenVinoEncoder(network, torch.float32, SUM, store)(frame)
    again = OpenVinoEncoder(network, torch.float32, SUM, store)(frame)
    assert len(made) == 1
    assert torch.equal(first.embedding, again.embedding)
    (file,) = store.folder.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    mended = OpenVinoEncoder(network, torch.float32, SUM, store)(frame)
    assert len(made) == 2
    assert torch.equal(first.embedding, mended.embedding)


class Fake:
    """An encoder that takes a while (on a clock of its own) and errs by a factor."""

    def __init__(self, name: str, error: float, clock: list[float], seconds: float) -> None:
        self.backend, self.error, self.clock, self.seconds = name, error, clock, seconds

    def __call__(self, _picture: torch.Tensor) -> Seen:
        self.clock[0] += self.seconds
        return Seen(torch.full((4,), 1 + self.error), torch.ones(4))


def compared(monkeypatch: pytest.MonkeyPatch, errors: tuple[float, float], seconds: tuple[float, float]):
    clock = [0.0]
    monkeypatch.setattr(backend.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(backend, "TorchEncoder", lambda *_: Fake("torch", 0.0, clock, 0.0))
    ours, theirs = (Fake(n, e, clock, s) for n, e, s in zip(("a", "b"), errors, seconds, strict=True))
    return compare(ours, theirs, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("errors", "seconds", "winner"),
    [
        ((0, 1e-6), (0.6, 0.4), "openvino"),
        ((0, 1e-6), (0.4, 0.6), "torch"),
        ((0, 1e-3), (0.6, 0.4), "torch"),  # quicker, but not exact
        ((0.012, 0.017), (0.6, 0.4), "openvino"),
        ((0.012, 0.020), (0.6, 0.4), "torch"),
        ((0, float("nan")), (0.6, 0.4), "torch"),
    ],
)
def test_the_quicker_one_of_those_as_exact_wins(monkeypatch, errors, seconds, winner):
    found = compared(monkeypatch, errors, seconds)
    assert (found.torch_ms, found.openvino_ms) == pytest.approx([1000 * s for s in seconds])
    assert [found.torch_error, found.openvino_error] == pytest.approx(errors, rel=0.1, nan_ok=True)
    assert found.winner == winner


@pytest.mark.parametrize("winner", ["torch", "openvino"])
def test_auto_compares_once_a_machine(network, store, monkeypatch, winner):
    calls = []

    def comparison(ours: Encoder, theirs: Encoder, _network: object) -> Comparison:
        calls.append((ours.backend, theirs.backend))
        return Comparison(1.0, 0.5 if winner == "openvino" else 2.0, 0.0, 0.0)

    monkeypatch.setattr(backend, "compare", comparison)
    for _ in range(2):
        encoder = make_encoder("auto", network, CPU, torch.float32, SUM, store)
        assert encoder.backend == winner
    assert calls == [("torch", "openvino")]
    make_encoder("auto", network, CPU, torch.bfloat16, SUM, store)
    make_encoder("auto", network, CPU, torch.float32, "1" * 64, store)
    monkeypatch.setattr(openvino_encoder, "processor", lambda: "another")
    make_encoder("auto", network, CPU, torch.float32, SUM, store)
    assert len(calls) == 4


def test_auto_falls_back_when_openvino_fails(network, store, monkeypatch, caplog):
    def fail(*_: object) -> Comparison:
        raise RuntimeError("unsupported operation")

    monkeypatch.setattr(backend, "compare", fail)
    assert make_encoder("auto", network, CPU, torch.float32, SUM, store).backend == "torch"
    assert "unsupported operation" in caplog.text
    assert store.statistics().entries == 0


def test_auto_leaves_to_torch_what_would_be_converted_at_every_start(network, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "compare", lambda *_: Comparison(2.0, 1.0, 0.0, 0.0))
    weights = sum(weight.nbytes for weight in network.parameters())
    for budget, chosen in ((weights, "openvino"), (weights - 1, "torch")):
        store = TensorStore(tmp_path / str(budget), budget)
        assert make_encoder("auto", network, CPU, torch.float32, SUM, store).backend == chosen


OBSTACLES: list[tuple[str, torch.device, torch.dtype, Callable[[pytest.MonkeyPatch], None]]] = [
    ("is not installed", CPU, torch.float32, lambda patch: patch.setattr(backend, "openvino_encoder", None)),
    ("not on cuda:1", torch.device("cuda:1"), torch.float32, lambda patch: None),
    ("not in float16", CPU, torch.float16, lambda patch: None),
]


@pytest.mark.parametrize(("reason", "device", "dtype", "arrange"), OBSTACLES)
def test_what_openvino_cannot_do_is_said_or_left_to_torch(
    network, monkeypatch, reason, device, dtype, arrange
):
    arrange(monkeypatch)
    assert make_encoder("auto", network, device, dtype, SUM, None).backend == "torch"
    with pytest.raises(ModelUnavailable, match=reason):
        make_encoder("openvino", network, device, dtype, SUM, None)


def test_the_engine_keeps_backends_apart(engine, embedding, store, monkeypatch):
    """Their embeddings differ in the last bits, so one must not be taken for the other."""
    other = SamEngine(PROJECT / "model", device="cpu", precision="float32", backend="openvino", graphs=store)
    assert (engine.load().backend, other.load().backend) == ("torch", "openvino")
    asked = []
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for each in (engine, other):
        monkeypatch.setattr(each, "_recall_or_encode", lambda _m, _i, key: asked.append(key) or embedding)
        each.embed(picture)
    assert len(set(asked)) == 2


def test_conversion_tells_nobody():
    """OpenVINO sends its reports from a process of their own."""
    program = """
import sys
told = []
SENDING = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn")
sys.addaudithook(lambda event, args: told.append((event, args)) if event in SENDING else None)
from sam_engine.encoder import EncoderAndHead
from sam_engine.modeling.tiny_vit import TinyViT
from sam_engine.openvino_encoder import convert
graph = convert(EncoderAndHead(TinyViT().eval(), None), 64).about["graph"]
print(told, len(graph) > 1000)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[] True"), done.stderr
