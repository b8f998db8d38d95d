import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sam_engine import checkpoints, download
from sam_engine.checkpoints import MODEL_DIR, Checkpoint, Defaults, detect_model_type, load, select
from sam_engine.errors import CheckpointError
from sam_engine.quality import Evidence

DATA = Path(__file__).resolve().parents[1] / "data"
TINY_VIT = "image_encoder.layers.0.blocks.0.conv1.c.weight"
VIT = "image_encoder.blocks.0.norm1.weight"
HQ = "mask_decoder.hf_token.weight"
COUNTER = "image_encoder.layers.0.blocks.0.conv1.bn.num_batches_tracked"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tiny_state(**extra: torch.Tensor) -> dict[str, torch.Tensor]:
    """The least that counts as a vit_t checkpoint, in float16 as the shipped one."""
    weight = torch.linspace(-2, 2, 64, dtype=torch.float16).reshape(8, 8)
    return {TINY_VIT: weight, COUNTER: torch.tensor(7), **extra}


def save_pt(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def save_st(path: Path, metadata: object = None, state: dict[str, torch.Tensor] | None = None) -> Path:
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    about = None if metadata is None else {"sam_droplet": text}
    save_file(tiny_state() if state is None else state, path, metadata=about)
    return path


def refusal(path: Path, **options: object) -> str:
    """The message with which `load` refuses: one line that names the file and advises nothing unsafe."""
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert "\n" not in message
    assert "weights_only" not in message
    return message


# --- select ---


def test_select_prefers_configured_then_official_then_shipped(tmp_path):
    shipped, official, own = (tmp_path / n for n in ("droplet_vit_t.safetensors", "mobile_sam.pt", "own.pt"))
    shipped.touch()
    assert select(tmp_path, None) == shipped
    official.touch()
    assert select(tmp_path, None) == official
    own.touch()
    assert select(tmp_path, own) == own


def test_select_names_what_is_missing_and_how_to_mend_it(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        select(tmp_path, None)
    assert all(
        part in str(caught.value)
        for part in (str(tmp_path / "droplet_vit_t.safetensors"), "make model", "SAM_MODEL_PATH")
    )


def test_select_never_replaces_a_missing_configured_file(tmp_path):
    (tmp_path / "mobile_sam.pt").touch()
    with pytest.raises(CheckpointError, match=r"nowhere\.pt.*SAM_MODEL_PATH"):
        select(tmp_path, tmp_path / "nowhere.pt")


def test_select_of_a_path_below_a_file_finds_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        select(tmp_path, tmp_path / "file" / "mobile_sam.pt")


# --- what loads ---


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nest", [None, "model", "state_dict"])
def test_a_pickle_of_tensors_loads_as_float32_with_integers_kept(tmp_path, legacy, nest):
    content = tiny_state() if nest is None else {"epoch": 3, nest: tiny_state()}
    path = save_pt(tmp_path / "own.pt", content, legacy=legacy)
    checkpoint = load(path)
    assert checkpoint.state_dict[TINY_VIT].dtype == torch.float32
    assert torch.equal(checkpoint.state_dict[TINY_VIT], tiny_state()[TINY_VIT].float())
    assert checkpoint.state_dict[COUNTER].dtype == torch.int64
    assert checkpoint.state_dict[COUNTER] == 7
    assert (checkpoint.path, checkpoint.name, checkpoint.model_type) == (path, "own", "vit_t")
    assert checkpoint.sha256 == sha256(path)
    assert checkpoint.instance_head is None


def test_parameters_lose_their_gradient(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    checkpoint = load(save_pt(tmp_path / "own.pt", {TINY_VIT: weight}))
    assert not checkpoint.state_dict[TINY_VIT].requires_grad


def test_stock_defaults_without_metadata(tmp_path):
    stock = Defaults(pred_iou_thresh=0.88, stability_score_thresh=0.95)
    assert load(save_pt(tmp_path / "own.pt", tiny_state())).defaults == stock
    assert load(save_st(tmp_path / "own.safetensors")).defaults == stock
    assert load(save_st(tmp_path / "own.safetensors", {"name": "own"})).defaults == stock


def test_metadata_defaults_are_active_and_unknown_keys_are_left_alone(tmp_path):
    about = {"name": "emulsions", "defaults": {"pred_iou_thresh": 0.6, "points_per_side": 64}, "later": [1]}
    checkpoint = load(save_st(tmp_path / "own.SafeTensors", about))
    assert checkpoint.name == "emulsions"
    assert checkpoint.defaults == Defaults(pred_iou_thresh=0.6, stability_score_thresh=0.95)


# --- architectures ---


def test_the_published_vit_t_keys_are_vit_t_and_with_a_high_quality_token_vit_tiny():
    shapes = json.loads((DATA / "mobile_sam_vit_t" / "state_dict_shapes.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert len(state) == 439
    assert detect_model_type(state) == "vit_t"
    assert detect_model_type(state | {HQ: torch.empty(1, 256, device="meta")}) == "vit_tiny"


@pytest.mark.parametrize(("width", "expected"), [(768, "vit_b"), (1024, "vit_l"), (1280, "vit_h")])
def test_a_plain_vit_is_told_by_its_width(width, expected):
    assert detect_model_type({VIT: torch.zeros(width)}) == expected


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.zeros(3)},
        {VIT: torch.zeros(769)},
        {VIT: torch.tensor(768.0)},
        {VIT: torch.zeros(768), HQ: torch.zeros(1, 256)},
    ],
)
def test_unknown_architectures_are_refused(tmp_path, state):
    assert "vit_t, vit_tiny, vit_b, vit_l, vit_h" in refusal(save_pt(tmp_path / "own.pt", state))


def test_a_contradicting_model_type_is_refused_with_both_names(tmp_path):
    path = save_pt(tmp_path / "own.pt", tiny_state())
    assert load(path, model_type="vit_t").model_type == "vit_t"
    message = refusal(path, model_type="vit_b")
    assert "vit_t" in message
    assert "vit_b" in message
    assert re.search("vit_t.*vit_h", refusal(save_st(tmp_path / "a.safetensors", {"model_type": "vit_h"})))


# --- nothing in a file is ever run ---


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def test_the_canary_would_sing(tmp_path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "sung")))  # noqa: S301 - our own bytes
    assert (tmp_path / "sung").exists()


@pytest.mark.filterwarnings("ignore")  # as in service: a warning alone must not be what stops it
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle2"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_checkpoint_is_never_run(tmp_path, form, suffix, nested):
    canary = Canary(tmp_path / "sung")
    content = {**tiny_state(), "extra": canary} if nested else canary
    path = tmp_path / f"own{suffix}"
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=2 if form == "pickle2" else 4))
    else:
        save_pt(path, content, legacy=form == "legacy")
    message = refusal(path)
    assert not canary.path.exists()
    if form in ("zip", "legacy") and suffix != ".safetensors":
        assert "names posix.system" in message


@pytest.mark.filterwarnings("ignore")
def test_the_environment_cannot_switch_unsafe_loading_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = Canary(tmp_path / "sung")
    refusal(save_pt(tmp_path / "own.pt", {**tiny_state(), "extra": canary}))
    assert not canary.path.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_script_archive_is_refused(tmp_path):
    path = save_pt(tmp_path / "own.pt", tiny_state())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].split('/')[0]}/constants.pkl", pickle.dumps(()))
    refusal(path)


# --- damage ---


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("keep", [1, 7, 8, 9, 64, 0.3, 0.6, 0.9, -1])
def test_a_truncated_file_is_refused(tmp_path, form, keep):
    if form == "safetensors":
        path = save_st(tmp_path / "own.safetensors")
    else:
        path = save_pt(tmp_path / "own.pt", tiny_state(), legacy=form == "legacy")
    whole = path.read_bytes()
    load(path)
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("name", ["own.pt", "own.safetensors"])
def test_files_that_are_no_checkpoints_are_refused(tmp_path, name):
    path = tmp_path / name
    assert "no such file" in refusal(path)
    path.write_bytes(b"")
    assert "empty" in refusal(path)
    path.write_text("<!DOCTYPE html><title>Sign in</title>" * 100)
    assert "not a checkpoint" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "folder" in refusal(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "own.pt")
    assert "regular file" in refusal(tmp_path / "own.pt")


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = save_pt(tmp_path / "own.pt", tiny_state())

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "permission denied" in refusal(path)


def test_a_file_beyond_the_size_limit_is_not_read(tmp_path):
    path = tmp_path / "own.pt"
    with path.open("wb") as file:
        file.truncate(checkpoints.MAX_FILE_BYTES + 1)
    assert str(checkpoints.MAX_FILE_BYTES) in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        {},
        {"model": {}},
        {TINY_VIT: 3.0},
        {TINY_VIT: torch.zeros(3), "optimizer": {"lr": torch.zeros(1)}},
        {TINY_VIT: torch.zeros(3), 4: torch.zeros(3)},
        {TINY_VIT: torch.zeros(3, dtype=torch.complex64)},
        {TINY_VIT: torch.eye(3).to_sparse()},
        {TINY_VIT: torch.empty(3, device="meta")},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_anything_but_a_dictionary_of_plain_tensors_is_refused(tmp_path, content):
    assert re.search("tensor", refusal(save_pt(tmp_path / "own.pt", content)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, bad, dtype):
    state = tiny_state(spoilt=torch.tensor([1.0, bad], dtype=dtype))
    for path in (save_pt(tmp_path / "a.pt", state), save_st(tmp_path / "a.safetensors", state=state)):
        message = refusal(path)
        assert "'spoilt'" in message
        assert "not finite" in message


def test_float64_beyond_float32_is_not_finite(tmp_path):
    assert "not finite" in refusal(save_pt(tmp_path / "a.pt", tiny_state(big=torch.tensor([1e300]).double())))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    plain = io.BytesIO()
    torch.save(tiny_state(zeros=torch.zeros(2**20)), plain)
    path = tmp_path / "own.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    assert "unpacks to" in refusal(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_view_that_claims_more_numbers_than_the_file_has_is_refused(tmp_path, legacy):
    huge = torch.zeros(1, dtype=torch.float16).expand(10**12)
    path = save_pt(tmp_path / "own.pt", tiny_state(huge=huge), legacy=legacy)
    assert "more bytes than the file has" in refusal(path)


# --- metadata ---

HEAD = {"file": "head.safetensors", "sha256": "0" * 64}
QUALITY = {"intercept": -1.5, "weights": dict.fromkeys(Evidence._fields, 0.5)}


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ([1], "object"),
        ({"name": 1}, "name"),
        ({"name": None}, "name"),
        ({"model_type": ["vit_t"]}, "model_type"),
        ({"licence": 2}, "licence"),
        ({"version": 1.0}, "version"),
        ({"defaults": [0.5]}, "defaults"),
        ({"defaults": {"pred_iou_thresh": "0.5"}}, "defaults.pred_iou_thresh"),
        ({"defaults": {"pred_iou_thresh": True}}, "defaults.pred_iou_thresh"),
        ({"defaults": {"stability_score_thresh": 1.5}}, "defaults.stability_score_thresh"),
        ({"defaults": {"stability_score_thresh": float("nan")}}, "defaults.stability_score_thresh"),
        ({"instance_head": "head.safetensors"}, "instance_head"),
        ({"instance_head": {"file": "head.safetensors"}}, "instance_head.sha256"),
        ({"instance_head": HEAD | {"sha256": "abc"}}, "instance_head.sha256"),
        ({"instance_head": HEAD | {"file": "../head.safetensors"}}, "instance_head.file"),
        ({"instance_head": HEAD | {"file": "/head.safetensors"}}, "instance_head.file"),
        ({"instance_head": HEAD | {"file": "head.pt"}}, "instance_head.file"),
        ({"instance_head": HEAD | {"file": 5}}, "file"),
        ({"instance_head": HEAD | {"quality": 1}}, "quality"),
        ({"instance_head": HEAD | {"quality": {}}}, "instance_head.quality.intercept"),
        ({"instance_head": HEAD | {"quality": {"intercept": 1}}}, "instance_head.quality.weights.foreground"),
        (
            {"instance_head": HEAD | {"quality": {"intercept": float("inf")}}},
            "instance_head.quality.intercept",
        ),
        ({"instance_head": HEAD | {"quality": QUALITY | {"least": 2}}}, "instance_head.quality.least"),
    ],
)
def test_metadata_of_the_wrong_type_is_refused(tmp_path, metadata, named):
    assert named in refusal(save_st(tmp_path / "own.safetensors", metadata))


@pytest.fixture
def with_head(tmp_path):
    """A checkpoint that names a head, and the head beside it."""
    head = save_st(tmp_path / "head.safetensors", state={"out.weight": torch.full((2, 3), 0.5).half()})
    about = {"instance_head": {"file": head.name, "sha256": sha256(head)}}
    return save_st(tmp_path / "own.safetensors", about), head


def test_the_named_head_is_loaded_from_the_same_folder(with_head):
    head = load(with_head[0]).instance_head
    assert list(head) == ["out.weight"]
    assert torch.equal(head["out.weight"], torch.full((2, 3), 0.5))


def test_a_missing_or_changed_head_is_refused_by_its_own_name(with_head):
    path, head = with_head
    expected = sha256(head)
    head.write_bytes(head.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match=rf"head\.safetensors .*{expected}.*{sha256(head)}"):
        load(path)
    head.unlink()
    with pytest.raises(CheckpointError, match=r"head\.safetensors cannot be used: no such file"):
        load(path)


def test_a_head_with_the_right_hash_but_bad_weights_is_refused(tmp_path):
    head = save_st(tmp_path / "head.safetensors", state={"w": torch.tensor([float("nan")])})
    about = {"instance_head": {"file": head.name, "sha256": sha256(head)}}
    with pytest.raises(CheckpointError, match=r"head\.safetensors .*not finite"):
        load(save_st(tmp_path / "own.safetensors", about))


# --- the manifest ---


def manifest_for(path: Path, digest: str, mark: str = " ") -> Path:
    manifest = path.parent / "SHA256SUMS"
    manifest.write_text(f"{'1' * 64}  other.pt\n\n{digest} {mark}{path.name}\n")
    return manifest


@pytest.mark.parametrize("mark", [" ", "*"])
def test_a_file_in_the_manifest_must_have_its_hash(tmp_path, mark):
    path = save_pt(tmp_path / "own.pt", tiny_state())
    assert load(path, manifest=manifest_for(path, sha256(path).upper(), mark)).sha256 == sha256(path)
    wrong = manifest_for(path, "0" * 64, mark)
    message = refusal(path, manifest=wrong)
    assert "0" * 64 in message
    assert sha256(path) in message
    assert load(path, manifest=None).sha256 == sha256(path)


def test_a_link_does_not_lead_around_the_manifest(tmp_path):
    path = save_pt(tmp_path / "own.pt", tiny_state())
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "another_name.pt"
    link.symlink_to(path)
    assert "0" * 64 in refusal(link, manifest=manifest_for(path, "0" * 64))


def test_a_file_of_that_name_in_another_folder_is_not_the_manifests(tmp_path):
    manifest = manifest_for(tmp_path / "own.pt", "0" * 64)
    (tmp_path / "elsewhere").mkdir()
    load(save_pt(tmp_path / "elsewhere" / "own.pt", tiny_state()), manifest=manifest)


def test_a_spoilt_manifest_is_refused_and_a_missing_one_expects_nothing(tmp_path):
    path = save_pt(tmp_path / "own.pt", tiny_state())
    (tmp_path / "SHA256SUMS").write_text("abc  own.pt\n")
    assert "abc  own.pt" in refusal(path, manifest=tmp_path / "SHA256SUMS")
    load(path, manifest=tmp_path / "nowhere")


def test_the_order_is_hash_first_then_content(tmp_path, monkeypatch):
    path = save_pt(tmp_path / "own.pt", tiny_state())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was parsed before it was verified"))
    refusal(path, manifest=manifest_for(path, "0" * 64))


# --- what is shipped ---


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return load(MODEL_DIR / "droplet_vit_t.safetensors")


def split(path: Path) -> tuple[dict[str, dict[str, object]], bytes]:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return {key: entry for key, entry in header.items() if key != "__metadata__"}, data[end:]


def test_the_shipped_checkpoint_is_complete_and_brings_its_defaults_and_its_head(shipped):
    shapes = json.loads((DATA / "mobile_sam_vit_t" / "state_dict_shapes.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in shipped.state_dict.items()} == shapes
    assert len(shipped.state_dict) == 439
    assert len(shipped.instance_head) == 107
    assert (shipped.name, shipped.model_type) == ("droplet_vit_t", "vit_t")
    assert shipped.defaults == Defaults(pred_iou_thresh=0.55, stability_score_thresh=0.95)
    assert shipped.instance_quality.least == 0.46


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("droplet_vit_t", "dd5464ccadb784447efa6fc697c0e19a32c1dd9958fcbc940d168f4e1404ca85"),
        ("droplet_head", "548b5cade833835bdd757b6e4d75c1d94a39b0c17283f7b4e7b78c8ba1c69bca"),
    ],
)
def test_the_shipped_tensors_are_those_that_were_trained(shipped, name, digest):
    header, data = split(MODEL_DIR / f"{name}.safetensors")
    assert hashlib.sha256(data).hexdigest() == digest
    loaded = shipped.state_dict if name == "droplet_vit_t" else shipped.instance_head
    assert loaded.keys() == header.keys()
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        stored = np.frombuffer(data[begin:end], {"F16": np.float16, "I64": np.int64}[entry["dtype"]])
        expected = np.float32 if entry["dtype"] == "F16" else np.int64
        assert loaded[key].numpy().dtype == expected
        np.testing.assert_array_equal(loaded[key].numpy().ravel(), stored.astype(expected))


def test_the_manifest_lists_the_shipped_files_and_the_official_one():
    listed = dict(reversed(line.split("  ")) for line in checkpoints.MANIFEST.read_text().splitlines())
    assert listed.pop("mobile_sam.pt") == download.OFFICIAL_SHA256
    assert download.OUTPUT == MODEL_DIR / checkpoints.OFFICIAL_FILE
    assert listed == {path.name: sha256(path) for path in MODEL_DIR.glob("*.safetensors")}
    assert len(listed) == 2


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_itself_accepts_the_manifest():
    command = ["sha256sum", "--check", "--strict", "--ignore-missing", "SHA256SUMS"]
    done = subprocess.run(command, cwd=MODEL_DIR, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "droplet_vit_t.safetensors: OK" in done.stdout


def test_the_model_card_states_the_files_as_they_are():
    card = (MODEL_DIR / "README.md").read_text(encoding="utf-8")
    for path in MODEL_DIR.glob("*.safetensors"):
        assert sha256(path) in card
        assert f"{path.stat().st_size:,}" in card
