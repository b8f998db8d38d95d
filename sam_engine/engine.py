"""The engine: picture to embedding, embedding and prompts to masks. Safe for any number of threads."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, RLock
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sam_engine import backend, checkpoints
from sam_engine.backend import Backend
from sam_engine.cache import ByteCache, CacheStatistics
from sam_engine.decoder import BLOCK, Decoded, ImageTerms, PromptDecoder
from sam_engine.decoder_hq import HighQualityDecoder
from sam_engine.embedding_store import EmbeddingStore
from sam_engine.encoder import Encoder, EncoderAndHead, Seen
from sam_engine.errors import CheckpointError, EngineError, InvalidPrompt, ModelUnavailable
from sam_engine.masks import FRAME, Upscaler, threshold_logits
from sam_engine.modeling.build import Sam, build_instance_head, build_sam
from sam_engine.modeling.instance_head import InstanceHead
from sam_engine.modeling.mask_decoder import HighQualityMaskDecoder
from sam_engine.modeling.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NOT_A_POINT
from sam_engine.quality import Quality
from sam_engine.store import TensorStore
from sam_engine.types import (
    ByteArray,
    FloatArray,
    ImageEmbedding,
    InstanceField,
    InstanceFields,
    Mask,
    Prompt,
)

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
LOW_RES_SHAPE = (256, 256)
INSTANCE_STRIDE = 2
COARSE_SHRINKS = (2, 4)  # the head cuts objects apart that are much larger than what it has seen whole
TILE = "tile"
FIELDS_SHARE = 4  # of the cache's bytes: views and tiles that only instances need
RETRY_S = 5.0
PREPROCESSING = 1  # to be raised when a picture becomes another frame than before

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, eq=False, slots=True)
class Prediction:
    """The answer to one prompt.

    Attributes:
        masks: candidates that have a pixel, in the order of the mask tokens.
        low_res_masks: (candidates, 256, 256) float32 logits; row `mask.mask_index` belongs to a mask.
    """

    masks: tuple[Mask, ...]
    low_res_masks: FloatArray


@dataclass(frozen=True, eq=False, slots=True)
class LoadedModel:
    """Networks on their device, ready to run."""

    name: str
    path: Path
    sha256: str
    model_type: str
    defaults: checkpoints.Defaults
    device: torch.device
    dtype: torch.dtype
    sam: Sam
    head: InstanceHead | None
    instance_quality: Quality | None
    encoder: Encoder
    decoder: PromptDecoder

    @property
    def backend(self) -> str:
        """What the encoder runs on: `torch` or `openvino`."""
        return self.encoder.backend

    @property
    def precision(self) -> str:
        """`float32`, `bfloat16` or `float16`."""
        return str(self.dtype).removeprefix("torch.")


class _Failure(NamedTuple):
    """A load that failed. The text only: the error's traceback would hold the bytes of the checkpoint."""

    message: str
    file: tuple[Path, int, int] | None
    at_s: float


class SamEngine:
    """Loads a checkpoint when first needed, once; keeps embeddings; owns its device.

    Args:
        model_dir: where checkpoints and their SHA256SUMS lie.
        model_path: the checkpoint; None picks one of `model_dir` (see `checkpoints.select`).
        model_type: None tells it from the file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: of the network; `auto` is bfloat16 where the processor computes it natively, else float32.
        cache_bytes: budget of the embeddings and instance fields kept in memory.
        clock: seconds that never go back.
        proposer: an engine whose checkpoint has an instance head, for when this one's has none.
        store: embeddings on disk, for after a restart and for other processes; None keeps none.
        backend: of the encoder; `auto` compares those that are installed, once a machine.
        graphs: where what `auto` and `openvino` prepare is kept; None prepares it at every start.
    """

    def __init__(
        self,
        model_dir: Path,
        model_path: Path | None = None,
        *,
        model_type: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        cache_bytes: int = 512 * 2**20,
        clock: Callable[[], float] = time.monotonic,
        proposer: "SamEngine | None" = None,
        store: EmbeddingStore | None = None,
        backend: Backend = "torch",
        graphs: TensorStore | None = None,
    ) -> None:
        self.proposer = proposer
        self.store = store
        self.backend: Backend = backend
        self.graphs = graphs
        self.model_dir = model_dir
        self.model_path = model_path
        self.model_type = model_type
        self.device_name = device
        self.precision: Precision = precision
        self.embeddings: ByteCache[ImageEmbedding] = ByteCache(cache_bytes - cache_bytes // FIELDS_SHARE)
        self.fields: ByteCache[InstanceFields] = ByteCache(cache_bytes // FIELDS_SHARE)
        self._model: LoadedModel | None = None
        self._failure: _Failure | None = None
        self._clock = clock
        self._load_lock = RLock()
        self._device_lock = Lock()

    @property
    def loaded(self) -> bool:
        """Whether the networks are in memory."""
        return self._model is not None

    def load(self) -> LoadedModel:
        """The networks, loaded by the first caller while the others wait.

        Raises:
            ModelUnavailable: the checkpoint cannot be used, or the device does not exist. A later call tries
                again, so that a mended file needs no restart; within RETRY_S and with the same file it says
                the same again, so that a polled probe does not read gigabytes.
        """
        if self._model is None:
            with self._load_lock:
                if self._model is None:
                    self._model = self._load_or_recall()
        return self._model

    def warm(self) -> None:
        """Load and run all sizes once: the first request then meets compiled kernels and touched memory."""
        model = self.load()
        blank = np.zeros((64, 64, 3), dtype=np.uint8)
        self.predict(self._encode(model, blank, "warm"), [Prompt(points=((32, 32, 1),))])
        if model.head is not None:
            self._see(model, blank, COARSE_SHRINKS)

    def embed(self, image: ByteArray) -> ImageEmbedding:
        """The embedding of an upright RGB picture, (H, W, 3) of uint8; kept by the digest of its pixels.

        Raises:
            ModelUnavailable: see `load`.
        """
        model = self.load()
        digest = hashlib.sha256(np.ascontiguousarray(image).data)
        digest.update(
            f"{PREPROCESSING} {image.shape} {model.sha256} {model.backend} {model.precision}".encode()
        )
        key = digest.hexdigest()
        return self.embeddings.get_or_compute(key, lambda: self._recall_or_encode(model, image, key))

    def predict(self, embedding: ImageEmbedding, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Masks for any number of prompts, answers in the order of the prompts.

        Raises:
            InvalidPrompt: an empty prompt, a label other than 0 or 1, a coordinate outside the picture, an
                inverted box, or a mask input of another shape or type, or with NaN or infinity. Its `field`
                is `prompts[i]...`.
        """
        for i, prompt in enumerate(prompts):
            validate_prompt(prompt, f"prompts[{i}]", embedding.original_size)
        model = self.load()
        upscaler = Upscaler(embedding.original_size, embedding.input_size)
        answers: dict[int, Prediction] = {}
        for indices in _groups(prompts):
            tokens = self._prompt_tokens(model, embedding, [prompts[i] for i in indices])
            terms = self._image_terms(model, embedding, prompts[indices[0]].mask_input)
            for index, decoded, row in _each(self._decode_blocks(model, terms, tokens), indices):
                answers[index] = self._answer(model, upscaler, decoded, row, index, prompts[index])
        return [answers[i] for i in range(len(prompts))]

    def decode_points(self, embedding: ImageEmbedding, points: FloatArray) -> Iterator[tuple[slice, Decoded]]:
        """Each of (N, 2) points as a prompt of its own, in blocks: which points, and their decoding."""
        if not len(points):
            return iter(())
        model = self.load()
        tokens = self._prompt_tokens(model, embedding, [Prompt(points=((x, y, 1),)) for x, y in points])
        return self._decode_blocks(model, self._image_terms(model, embedding, None), tokens)

    def answering(self, iou_predictions: Tensor) -> Tensor:
        """Which candidates (P, 3) of ambiguous prompts are answers; see `PromptDecoder.wanted`."""
        return self.load().decoder.wanted(iou_predictions)

    def draw(self, decoded: Decoded, prompts: Tensor, masks: slice) -> FloatArray:
        """Low-resolution logits (prompts, masks, 256, 256) of a decoded block; see `PromptDecoder.draw`."""
        with torch.inference_mode(), self._device_lock:
            logits: FloatArray = self.load().decoder.draw(decoded, prompts, masks).cpu().numpy()
        return logits

    def cache_statistics(self) -> CacheStatistics:
        """Counters of the embedding cache."""
        return self.embeddings.statistics()

    def _load_or_recall(self) -> LoadedModel:
        file = self._file()
        known = self._failure
        if known is not None and known.file == file and self._clock() - known.at_s < RETRY_S:
            raise ModelUnavailable(known.message)
        try:
            return self._load()
        except ModelUnavailable as error:
            self._failure = _Failure(str(error), file, self._clock())
            raise

    def _file(self) -> tuple[Path, int, int] | None:
        """Path, size and time of change of the checkpoint as it lies there; None if there is none."""
        try:
            path = checkpoints.select(self.model_dir, self.model_path)
            status = path.stat()
        except (CheckpointError, OSError):
            return None
        return path, status.st_size, status.st_mtime_ns

    def _load(self) -> LoadedModel:
        device = _device(self.device_name)
        dtype = _dtype(self.precision, device)
        try:
            path = checkpoints.select(self.model_dir, self.model_path)
            manifest = self.model_dir / "SHA256SUMS"
            checkpoint = checkpoints.load(path, model_type=self.model_type, manifest=manifest)
            sam = build_sam(checkpoint.model_type, checkpoint.state_dict).to(device)
            weights = checkpoint.instance_head
            head = None if weights is None else build_instance_head(weights).to(device)
        except CheckpointError as error:
            raise ModelUnavailable(str(error)) from error
        high_quality = isinstance(sam.mask_decoder, HighQualityMaskDecoder)
        network = EncoderAndHead(sam.image_encoder, head, early=high_quality)
        encoder = backend.make_encoder(self.backend, network, device, dtype, checkpoint.sha256, self.graphs)
        with torch.inference_mode():
            decoder = HighQualityDecoder(sam, dtype) if high_quality else PromptDecoder(sam, dtype)
        return LoadedModel(
            name=checkpoint.name,
            path=checkpoint.path,
            sha256=checkpoint.sha256,
            model_type=checkpoint.model_type,
            defaults=checkpoint.defaults,
            device=device,
            dtype=dtype,
            sam=sam,
            head=head,
            instance_quality=checkpoint.instance_quality,
            encoder=encoder,
            decoder=decoder,
        )

    def instance_fields(self, image: ByteArray, embedding: ImageEmbedding) -> tuple[InstanceField, ...]:
        """The dense head's fields of a picture and its embedding, finest first; kept by the embedding's key.

        Raises:
            EngineError: the active checkpoint has no instance head.
        """
        if embedding.instance_field is None:
            raise EngineError("the embedding is of a checkpoint without an instance head")
        model = self.load()
        key = embedding.key
        coarse = self.fields.get_or_compute(
            key, lambda: self._recall_or_see(model, image, COARSE_SHRINKS, key)
        )
        return (embedding.instance_field, *coarse.fields)

    def instance_field_of_tile(self, image: ByteArray) -> InstanceField:
        """What the dense head says of a tile of an upright RGB picture, (H, W, 3) of uint8.

        Raises:
            EngineError: the active checkpoint has no instance head.
        """
        model = self.load()
        key = _key(model, image, TILE)
        return self.fields.get_or_compute(key, lambda: self._recall_or_see(model, image, (1,), key)).fields[0]

    def _recall_or_encode(self, model: LoadedModel, image: ByteArray, key: str) -> ImageEmbedding:
        kept = None if self.store is None else self.store.embedding(key, model.device)
        if kept is not None:
            return kept
        embedding = self._encode(model, image, key)
        if self.store is not None:
            self.store.keep_embedding(embedding)
        return embedding

    def _recall_or_see(
        self, model: LoadedModel, image: ByteArray, shrinks: Sequence[int], key: str
    ) -> InstanceFields:
        kept = None if self.store is None else self.store.fields(key)
        if kept is not None:
            return kept
        seen = [field for _, field in self._see(model, image, shrinks) if field is not None]
        if not seen:
            raise EngineError("the active checkpoint has no instance head")
        fields = InstanceFields(tuple(seen))
        if self.store is not None:
            self.store.keep_fields(key, fields)
        return fields

    def _encode(self, model: LoadedModel, image: ByteArray, key: str) -> ImageEmbedding:
        ((seen, field),) = self._see(model, image, (1,))
        # half the memory where the network has computed in half precision anyway
        kept_as = torch.float32 if model.dtype == torch.float32 else torch.float16
        return ImageEmbedding(
            features=seen.embedding.to(kept_as).contiguous(),
            instance_field=field,
            original_size=image.shape[:2],
            input_size=input_size_of(*image.shape[:2]),
            key=key,
            early=None if seen.early is None else seen.early.to(kept_as).contiguous(),
        )

    @torch.inference_mode()
    def _see(
        self, model: LoadedModel, image: ByteArray, shrinks: Sequence[int]
    ) -> list[tuple[Seen, InstanceField | None]]:
        """What the encoder sees of the picture at each size, and its field without the frame's padding."""
        pixels, input_size = _frame(image)
        seen = []
        with self._device_lock:
            frame = _normalise(pixels.to(model.device))
            for shrink in shrinks:
                found = model.encoder(frame if shrink == 1 else F.avg_pool2d(frame, shrink))
                field = None
                if found.field is not None:
                    rows, columns = (-(-side // (shrink * INSTANCE_STRIDE)) for side in input_size)
                    values = found.field[0, :, :rows, :columns].to("cpu", torch.float16).contiguous()
                    field = InstanceField(values, (0, 0), _pitch(image.shape[:2], input_size, shrink))
                seen.append((found, field))
        return seen

    @torch.inference_mode()
    def _image_terms(
        self, model: LoadedModel, embedding: ImageEmbedding, mask_input: FloatArray | None
    ) -> ImageTerms:
        with self._device_lock:
            mask = None
            if mask_input is not None:  # copied: it may be read-only or run backwards
                mask = torch.tensor(np.ascontiguousarray(mask_input), device=model.device)[None, None]
            image = embedding.features[0].float().flatten(1).T
            terms = model.decoder.prepare(image + model.sam.prompt_encoder.dense(mask)[0])
            if isinstance(model.decoder, HighQualityDecoder) and embedding.early is not None:
                terms = terms._replace(detail=model.decoder.detail(embedding.features, embedding.early))
            return terms

    @torch.inference_mode()
    def _prompt_tokens(
        self, model: LoadedModel, embedding: ImageEmbedding, prompts: Sequence[Prompt]
    ) -> Tensor:
        """Tokens (P, T, 256) of prompts with equally many."""
        height, width = embedding.original_size
        scale = np.array([embedding.input_size[1] / width, embedding.input_size[0] / height])
        corners = [_corners(prompt) for prompt in prompts]
        places = np.array([[(x, y) for x, y, _ in c] for c in corners], dtype=np.float64)
        # a mask input alone makes no token at all
        coords = torch.from_numpy(places.reshape(len(prompts), len(corners[0]), 2) * scale)
        labels = torch.tensor([[label for _, _, label in c] for c in corners], dtype=torch.int64)
        return model.sam.prompt_encoder.sparse(coords.float().to(model.device), labels.to(model.device))

    def _decode_blocks(
        self, model: LoadedModel, terms: ImageTerms, tokens: Tensor
    ) -> Iterator[tuple[slice, Decoded]]:
        """The device is free between blocks, so that a click need not wait for a whole grid."""
        for start in range(0, len(tokens), BLOCK):
            part = slice(start, min(start + BLOCK, len(tokens)))
            with torch.inference_mode(), self._device_lock:
                decoded = model.decoder.decode(terms, tokens[part])
            yield part, decoded

    def _answer(
        self, model: LoadedModel, upscaler: Upscaler, decoded: Decoded, row: int, index: int, prompt: Prompt
    ) -> Prediction:
        candidates = [0]
        if prompt.multimask:
            (wanted,) = model.decoder.wanted(decoded.iou_predictions[[row], 1:])
            candidates = [1 + i for i in range(len(wanted)) if wanted[i]]
        drawn = slice(candidates[0], candidates[-1] + 1)
        logits = self.draw(decoded, torch.tensor([row], device=model.device), drawn)[0]
        scores = decoded.iou_predictions[row, drawn].tolist()
        masks = []
        for mask_index, (low_res, score) in enumerate(zip(logits, scores, strict=True)):
            found = threshold_logits(upscaler, low_res)
            if found is not None:
                pixels, origin, stability = found
                positive = tuple((x, y) for x, y, label in prompt.points if label)
                size = upscaler.original_size
                masks.append(Mask(pixels, origin, size, score, stability, positive, index, mask_index))
        return Prediction(tuple(masks), logits)


def _key(model: LoadedModel, image: ByteArray, kind: str = "") -> str:
    digest = hashlib.sha256(np.ascontiguousarray(image).data)
    seen_by = (PREPROCESSING, image.shape, model.sha256, model.backend, model.precision, kind)
    digest.update(repr(seen_by).encode())
    return digest.hexdigest()


def validate_prompt(prompt: Prompt, field: str, image_size: tuple[int, int]) -> None:
    """Raise InvalidPrompt if the prompt cannot belong to a picture of (H, W)."""
    height, width = image_size
    if not prompt.points and prompt.box is None and prompt.mask_input is None:
        raise InvalidPrompt(field, "has neither points nor a box nor a mask_input")
    for i, (x, y, label) in enumerate(prompt.points):
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            raise InvalidPrompt(f"{field}.points[{i}]", f"=({x:g}, {y:g}) lies outside {width}x{height}")
        if label not in (0, 1):
            raise InvalidPrompt(f"{field}.points[{i}].label", f"={label} is neither 0 nor 1")
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        shown = f"=({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not (0 <= x1 and 0 <= y1 and x2 <= width and y2 <= height):
            raise InvalidPrompt(f"{field}.box", f"{shown} lies outside {width}x{height}")
        if not (x1 < x2 and y1 < y2):
            raise InvalidPrompt(
                f"{field}.box", f"{shown} is empty or inverted: x1 < x2 and y1 < y2 are needed"
            )
    if prompt.mask_input is not None:
        _validate_mask_input(prompt.mask_input, f"{field}.mask_input")


def _validate_mask_input(logits: FloatArray, field: str) -> None:
    if logits.shape != LOW_RES_SHAPE:
        raise InvalidPrompt(field, f"has shape {logits.shape}, not {LOW_RES_SHAPE}")
    if logits.dtype != np.float32:
        raise InvalidPrompt(field, f"is of {logits.dtype}, not float32")
    if not np.isfinite(logits).all():
        raise InvalidPrompt(field, "has logits that are not finite (NaN or infinity)")


def input_size_of(height: int, width: int) -> tuple[int, int]:
    """(H, W) with the longest side at 1024, rounded half up as SAM does."""
    scale = FRAME / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _frame(image: ByteArray) -> tuple[Tensor, tuple[int, int]]:
    """(3, h, w) of uint8 with the longest side at 1024."""
    height, width = input_size_of(*image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1), (height, width)


def _normalise(pixels: Tensor) -> Tensor:
    """(1, 3, 1024, 1024), channels last, zero (the mean colour) to the right and below."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD, device=pixels.device).view(3, 1, 1)
    picture = torch.zeros(1, 3, FRAME, FRAME, device=pixels.device)
    picture = picture.contiguous(memory_format=torch.channels_last)
    picture[0, :, : pixels.shape[1], : pixels.shape[2]] = (pixels.float() - mean) / std
    return picture


def _pitch(size: tuple[int, int], input_size: tuple[int, int], shrink: int) -> tuple[float, float]:
    """Height and width of a cell of the head in pixels of the picture."""
    height, width = (
        shrink * INSTANCE_STRIDE * own / seen for own, seen in zip(size, input_size, strict=True)
    )
    return height, width


def _corners(prompt: Prompt) -> list[tuple[float, float, int]]:
    """Points, then box corners; without a box SAM expects one point that is none."""
    if prompt.box is None:
        padding = [(0.0, 0.0, NOT_A_POINT)] if prompt.points else []
        return [*prompt.points, *padding]
    x1, y1, x2, y2 = prompt.box
    return [*prompt.points, (x1, y1, BOX_TOP_LEFT), (x2, y2, BOX_BOTTOM_RIGHT)]


def _groups(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of prompts that can be decoded together: equally many tokens, no mask input of their own."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, prompt in enumerate(prompts):
        alone = -1 if prompt.mask_input is None else i
        groups.setdefault((len(_corners(prompt)), alone), []).append(i)
    return list(groups.values())


def _each(blocks: Iterator[tuple[slice, Decoded]], indices: list[int]) -> Iterator[tuple[int, Decoded, int]]:
    """The prompts of decoded blocks one by one: index, block, row in the block."""
    for part, decoded in blocks:
        for row, index in enumerate(indices[part]):
            yield index, decoded, row


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[1-9]?\d)?", name):
        raise ModelUnavailable(f"device {name!r} is none of auto, cpu, cuda and cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(
            f"device {name} does not exist: {torch.cuda.device_count()} CUDA devices are visible"
        )
    return device


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
