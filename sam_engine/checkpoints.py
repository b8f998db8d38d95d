"""Find a checkpoint, verify it and load it without ever running anything that is inside it."""

import dataclasses
import hashlib
import io
import json
import pickle
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from sam_engine.errors import CheckpointError
from sam_engine.quality import Evidence, Quality

MODEL_DIR = Path(__file__).resolve().parents[1] / "model"
MANIFEST = MODEL_DIR / "SHA256SUMS"
OFFICIAL_FILE = "mobile_sam.pt"
SHIPPED_FILE = "droplet_vit_t.safetensors"
METADATA_KEY = "sam_droplet"
MOST_WEIGHT = 1000
MAX_FILE_BYTES = 4 * 2**30  # SAM's largest, vit_h in float32, is 2.4 GiB

_VIT_BY_WIDTH = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_TINY_VIT_KEY = "image_encoder.layers.0.blocks.0.conv1.c.weight"
_VIT_KEY = "image_encoder.blocks.0.norm1.weight"
_HQ_KEY = "mask_decoder.hf_token.weight"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANIFEST_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Defaults:
    """Parameters that belong to a checkpoint. Unless it carries its own they are SAM's stock values."""

    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """A verified checkpoint in memory.

    Attributes:
        name: as its metadata calls it, else the stem of its file name.
        sha256: of the file's bytes, in lower-case hexadecimal.
        model_type: `vit_t`, `vit_tiny` (HQ-SAM light), `vit_b`, `vit_l` or `vit_h`.
        state_dict: the published keys; floating point as float32, integer buffers as they are.
        instance_head: weights of the dense instance head that the checkpoint names, in the same types.
        instance_quality: how the IoU of its instances is told; None if nobody measured it.
    """

    path: Path
    name: str
    sha256: str
    model_type: str
    state_dict: dict[str, Tensor] = field(repr=False)
    defaults: Defaults
    instance_head: dict[str, Tensor] | None = field(repr=False)
    instance_quality: Quality | None = None


@dataclass(frozen=True, slots=True)
class _HeadReference:
    file: str
    sha256: str
    quality: Quality | None


@dataclass(frozen=True, slots=True)
class _Metadata:
    name: str | None = None
    model_type: str | None = None
    defaults: Defaults = Defaults()
    instance_head: _HeadReference | None = None


class _Unfit(Exception):
    """Why a file cannot be used; `_naming` adds which file."""


def select(model_dir: Path, configured: Path | None) -> Path:
    """The checkpoint to load: the configured one, else the official one if fetched, else the shipped one.

    Raises:
        CheckpointError: there is no such file. A damaged one is chosen all the same, so that `load` reports
            it and nobody measures with another model than they think.
    """
    if configured is not None:
        if _is_there(configured):
            return configured
        raise CheckpointError(
            f"There is no checkpoint at {configured}; set SAM_MODEL_PATH to one that exists."
        )
    for path in (model_dir / OFFICIAL_FILE, model_dir / SHIPPED_FILE):
        if _is_there(path):
            return path
    raise CheckpointError(
        f"There is no checkpoint at {model_dir / SHIPPED_FILE} nor at {model_dir / OFFICIAL_FILE}; "
        "fetch the official one with `make model`, or set SAM_MODEL_PATH to a checkpoint of your own."
    )


def load(path: Path, *, model_type: str | None = None, manifest: Path | None = MANIFEST) -> Checkpoint:
    """Read a checkpoint once, verify exactly the bytes that were read, and load it.

    Args:
        path: safetensors by its suffix `.safetensors`; any other file is a PyTorch pickle of tensors, which
            may be nested under `model` or `state_dict`.
        model_type: what the architecture must be; None takes it from the keys.
        manifest: `sha256sum` list; a file that it names, in its own folder, must have that hash.

    Raises:
        CheckpointError: one sentence with the file and the reason.
    """
    with _naming(path):
        data = _read(path)
        sha256 = hashlib.sha256(data).hexdigest()
        _check_manifest(path, sha256, manifest)
        state_dict, metadata = _parse(path, data)
        found = detect_model_type(state_dict)
        _check_model_type(found, metadata.model_type, "its metadata says")
        _check_model_type(found, model_type, "the requested model type is")
    return Checkpoint(
        path=path,
        name=metadata.name or path.stem,
        sha256=sha256,
        model_type=found,
        state_dict=state_dict,
        defaults=metadata.defaults,
        instance_head=_load_head(path.parent, metadata.instance_head),
        instance_quality=None if metadata.instance_head is None else metadata.instance_head.quality,
    )


def detect_model_type(state_dict: Mapping[str, Tensor]) -> str:
    """Tell the architecture from keys and the encoder's width.

    Raises:
        CheckpointError: the keys belong to none of the known architectures.
    """
    high_quality = _HQ_KEY in state_dict
    if _TINY_VIT_KEY in state_dict:
        return "vit_tiny" if high_quality else "vit_t"
    norm = state_dict.get(_VIT_KEY)
    width = norm.shape[0] if norm is not None and norm.ndim == 1 else None
    if width in _VIT_BY_WIDTH and not high_quality:
        return _VIT_BY_WIDTH[width]
    known = ", ".join(["vit_t", "vit_tiny", *_VIT_BY_WIDTH.values()])
    raise CheckpointError(f"the keys belong to none of the known architectures ({known})")


# --- reading and verifying ---


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:  # there, but out of reach: `load` says why
        return True
    return True


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one sentence that names it."""
    try:
        yield
    except Exception as error:
        # What torch says is long and recommends weights_only=False; the chained error keeps it for the log.
        raise CheckpointError(f"{path} cannot be used: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, _Unfit | CheckpointError):
        return str(error).rstrip(".")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, pickle.UnpicklingError) and (code := re.search(r"GLOBAL ([\w.]+)", str(error))):
        return f"it is damaged or holds more than tensors: it names {code[1]}, and code is never run"
    return "it is damaged, truncated or not a checkpoint at all"


def _read(path: Path) -> bytes:
    status = path.stat()
    # A pipe or a device would block, or never end.
    if not stat.S_ISREG(status.st_mode):
        raise _Unfit("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file")
    if status.st_size == 0:
        raise _Unfit("it is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise _Unfit(f"it has {status.st_size} bytes, more than the {MAX_FILE_BYTES} that are accepted")
    return path.read_bytes()


def _check_manifest(path: Path, sha256: str, manifest: Path | None) -> None:
    if manifest is None or not _is_there(manifest):
        return
    with _naming(manifest):
        expected = _manifest_hash(path, manifest)
    if expected not in (None, sha256):
        raise _Unfit(
            f"{manifest.name} expects SHA-256 {expected} but the file has {sha256}; restore it "
            f"(`make model` for {OFFICIAL_FILE}), or give a checkpoint of your own another name"
        )


def _manifest_hash(path: Path, manifest: Path) -> str | None:
    """The hash that a `sha256sum` list has for this very file, reached by whatever link."""
    expected = None
    for line in filter(None, manifest.read_text(encoding="utf-8").splitlines()):
        entry = _MANIFEST_LINE.fullmatch(line)
        if entry is None:
            raise _Unfit(f"the line {line[:80]!r} is not in the form that sha256sum writes")
        if (manifest.parent / entry[2]).resolve() == path.resolve():
            expected = entry[1].lower()
    return expected


def _check_model_type(found: str, claimed: str | None, claim: str) -> None:
    if claimed not in (None, found):
        raise _Unfit(f"its keys are those of {found}, but {claim} {claimed}")


def _load_head(folder: Path, reference: _HeadReference | None) -> dict[str, Tensor] | None:
    if reference is None:
        return None
    path = folder / reference.file
    with _naming(path):
        data = _read(path)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != reference.sha256:
            raise _Unfit(f"its checkpoint expects SHA-256 {reference.sha256} but the file has {sha256}")
        return _parse(path, data)[0]


# --- parsing: from here on the bytes are known, but not trusted ---


def _parse(path: Path, data: bytes) -> tuple[dict[str, Tensor], _Metadata]:
    if path.suffix.lower() == ".safetensors":
        tensors = safetensors.torch.load(data)
        return _clean(tensors, len(data)), _parse_metadata(_safetensors_metadata(data))
    return _clean(_unpickle(data), len(data)), _Metadata()


def _unpickle(data: bytes) -> object:
    if data.startswith(b"PK"):
        _refuse_zip_bomb(data)
    loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False)
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            return loaded[key]
    return loaded


def _refuse_zip_bomb(data: bytes) -> None:
    """PyTorch stores its records uncompressed, so that they can never add up to more than the file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > len(data):
        raise _Unfit(f"it has {len(data)} bytes but unpacks to {unpacked}")


def _clean(tensors: object, file_bytes: int) -> dict[str, Tensor]:
    """A plain dictionary of dense, finite tensors: floats as float32, integers as they are."""
    if not isinstance(tensors, dict) or not tensors:
        raise _Unfit("it does not hold a dictionary of tensors")
    for key, value in tensors.items():
        _check_tensor(key, value)
    # A view can claim a million times the numbers that it has; converting it would write them all.
    if sum(t.nelement() * t.element_size() for t in tensors.values()) > file_bytes:
        raise _Unfit("its tensors claim more bytes than the file has")
    return {key: _to_float32(key, value) for key, value in tensors.items()}


def _check_tensor(key: object, value: object) -> None:
    if not isinstance(key, str) or type(value) not in (Tensor, torch.nn.Parameter):
        raise _Unfit(f"its entry {str(key)[:80]!r} is not a tensor")
    tensor: Any = value
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not dense or tensor.is_complex():
        raise _Unfit(f"its tensor {key[:80]!r} is not a plain array of numbers")


def _to_float32(key: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().contiguous()
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.to(torch.float32)
    if not torch.isfinite(tensor).all():
        raise _Unfit(f"its tensor {key!r} has numbers that are not finite (NaN or infinity)")
    return tensor


# --- metadata ---


def _safetensors_metadata(data: bytes) -> str | None:
    """What the header says under our key; the library has validated the header before."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return metadata.get(METADATA_KEY)


def _parse_metadata(text: str | None) -> _Metadata:
    """Unknown keys are left alone, so that files of later versions load."""
    if text is None:
        return _Metadata()
    raw = _metadata_json(text)
    for key in ("licence", "version"):
        _typed(raw, key, str)
    return _Metadata(
        name=_typed(raw, "name", str),
        model_type=_typed(raw, "model_type", str),
        defaults=_parse_defaults(_typed(raw, "defaults", dict) or {}),
        instance_head=_parse_head(_typed(raw, "instance_head", dict)),
    )


def _metadata_json(text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Unfit(f"its metadata {METADATA_KEY!r} is not JSON") from error
    if not isinstance(raw, dict):
        raise _Unfit(f"its metadata {METADATA_KEY!r} is not a JSON object")
    return raw


def _parse_defaults(raw: Mapping[str, Any]) -> Defaults:
    names = [f.name for f in dataclasses.fields(Defaults)]
    return Defaults(**{name: _fraction(raw[name], f"defaults.{name}") for name in names if name in raw})


def _parse_head(raw: Mapping[str, Any] | None) -> _HeadReference | None:
    if raw is None:
        return None
    file, sha256 = _typed(raw, "file", str), _typed(raw, "sha256", str)
    if file is None or not re.fullmatch(r"\w[\w.-]*\.safetensors", file):
        raise _Unfit(
            f"its metadata instance_head.file={file!r} is not the name of a .safetensors file beside it"
        )
    if sha256 is None or not _SHA256.fullmatch(sha256):
        raise _Unfit(f"its metadata instance_head.sha256={sha256!r} is not 64 lower-case hexadecimal digits")
    return _HeadReference(file, sha256, _parse_quality(_typed(raw, "quality", dict)))


def _parse_quality(raw: Mapping[str, Any] | None) -> Quality | None:
    if raw is None:
        return None
    weights = _typed(raw, "weights", dict) or {}
    where = "instance_head.quality"
    return Quality(
        _number(raw.get("intercept"), f"{where}.intercept"),
        Evidence(*(_number(weights.get(name), f"{where}.weights.{name}") for name in Evidence._fields)),
        _fraction(raw.get("least", 0.0), f"{where}.least"),
    )


def _typed(raw: Mapping[str, Any], key: str, kind: type[_T]) -> _T | None:
    """The value of that type, or None where the key is missing."""
    if key in raw and not isinstance(raw[key], kind):
        wanted = "an object" if kind is dict else "a text"
        raise _Unfit(f"its metadata {key}={str(raw[key])[:80]!r} is not {wanted}")
    return raw.get(key)


def _number(value: object, field_path: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_WEIGHT:
        return float(value)
    raise _Unfit(
        f"its metadata {field_path}={str(value)[:80]!r} is not a number from -{MOST_WEIGHT} to {MOST_WEIGHT}"
    )


def _fraction(value: object, field_path: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise _Unfit(f"its metadata {field_path}={str(value)[:80]!r} is not a number from 0 to 1")
