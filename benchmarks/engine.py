"""Time the engine's stages, and its decoder against the plain one, on the drawn sample: `make bench`.

Machines are noisy: the ratios count. Each figure is the median of several runs.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sam_engine.automatic import AutomaticParameters, Mode, segment_everything
from sam_engine.backend import compare
from sam_engine.encoder import EncoderAndHead, TorchEncoder
from sam_engine.engine import LoadedModel, SamEngine
from sam_engine.openvino_encoder import OpenVinoEncoder
from sam_engine.types import Prompt

PROJECT = Path(__file__).resolve().parent.parent
POINTS = 16
REPEATS = 5


def median_ms(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall time of a few runs after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Print a table."""
    image = np.asarray(Image.open(PROJECT / "examples" / "droplets.png").convert("RGB"))
    size = f"{image.shape[1]}x{image.shape[0]}"
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, picture {size}")
    for precision in ("float32", "auto"):
        engine = SamEngine(PROJECT / "model", precision=precision, cache_bytes=0)
        report(engine, image)


def report_backends(model: LoadedModel) -> None:
    """The encoder with the head on OpenVINO beside torch; errors are relative to torch in float32."""
    network = EncoderAndHead(model.sam.image_encoder, model.head)
    theirs = OpenVinoEncoder(network, model.dtype, model.sha256, None)
    found = compare(TorchEncoder(network, model.dtype), theirs, network)
    print(f"  encoder, torch           {found.torch_ms:8.1f} ms, error {found.torch_error:.1e}")
    print(f"  encoder, OpenVINO        {found.openvino_ms:8.1f} ms, error {found.openvino_error:.1e}")


def report(engine: SamEngine, image: np.ndarray) -> None:
    """One precision: embedding, instances, a click, and the decoder against its plain form."""
    model = engine.load()
    embedding = engine.embed(image)
    click = [Prompt(points=((image.shape[1] / 2, image.shape[0] / 2, 1),))]
    print(f"\n{model.name}, {model.precision}")
    report_backends(model)
    print(f"  embed                    {median_ms(lambda: engine.embed(image)):8.1f} ms")

    def everything(mode: Mode) -> Callable[[], object]:
        return lambda: segment_everything(engine, image, embedding, AutomaticParameters(mode=mode))

    instances = median_ms(everything("instances"))
    print(f"  instances, embedded      {instances:8.1f} ms, the coarse views included")
    grids: tuple[Mode, ...] = ("fast", "exact")
    for mode in grids:
        grid = median_ms(everything(mode), repeats=1)
        print(f"  grid 32x32, {mode:12} {grid:8.1f} ms, {grid / instances:.0f} times instances")
    print(f"  click, embedded          {median_ms(lambda: engine.predict(embedding, click)):8.1f} ms")

    encoder, plain = model.sam.prompt_encoder, model.sam.mask_decoder
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(0, 1024, (POINTS, 1, 2)).astype(np.float32))
    padded = torch.cat([points, torch.zeros_like(points)], dim=1)
    with torch.inference_mode():
        sparse = encoder.sparse(padded, torch.tensor([[1, -1]] * POINTS))
        tokens = embedding.features[0].float().flatten(1).T + encoder.dense(None)[0]
        slow = median_ms(lambda: plain(tokens[None], encoder.positions(), sparse), 3)

        def rearranged() -> None:
            terms = model.decoder.prepare(tokens)
            for start in range(0, POINTS, 4):
                decoded = model.decoder.decode(terms, sparse[start : start + 4])
                model.decoder.draw(decoded, torch.arange(4), slice(0, 4))

        fast = median_ms(rearranged)
    print(f"  {POINTS} points, plain float32 {slow:8.1f} ms")
    print(f"  {POINTS} points, rearranged    {fast:8.1f} ms   {slow / fast:.1f}x")


if __name__ == "__main__":
    main()
