"""Reading label maps and dividing them, on small files written for the purpose."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_engine.errors import InvalidInput
from training.datasets import POLICIES, Sample, find_samples, split

SIZE = (20, 30)


def two_objects() -> np.ndarray:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[2:8, 2:8], labels[10:18, 12:20] = 1, 7
    return labels


def grey_picture() -> np.ndarray:
    return np.tile(np.arange(SIZE[1], dtype=np.uint8) * 8, (SIZE[0], 1))


def write(
    data: Path, stem: str, labels: Image.Image | np.ndarray, picture: Image.Image | np.ndarray | None = None,
    dataset: str = "drops", suffix: str = ".png",
) -> Sample:  # fmt: skip
    for folder, content, name in (
        ("images", grey_picture() if picture is None else picture, stem + suffix),
        ("masks", labels, f"{stem}.png"),
    ):
        path = data / dataset / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)
    return next(s for s in find_samples(data) if (s.name, s.dataset) == (stem, dataset))


def test_a_sample_is_a_colour_picture_and_its_labels(tmp_path):
    sample = write(tmp_path, "a", two_objects())
    picture, labels = sample.load()
    assert (picture.shape, picture.dtype, labels.dtype) == ((*SIZE, 3), np.uint8, np.int32)
    assert np.array_equal(labels, two_objects())
    assert np.array_equal(picture, np.repeat(grey_picture()[:, :, None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".PNG"])
def test_pictures_of_every_kind_are_found(tmp_path, suffix):
    assert write(tmp_path, "a", two_objects(), suffix=suffix).load()[0].shape == (*SIZE, 3)


def test_labels_of_16_bits_keep_their_numbers(tmp_path):
    labels = two_objects().astype(np.uint16) * 9000
    assert np.unique(write(tmp_path, "a", labels).load()[1]).tolist() == [0, 9000, 63000]


def test_labels_of_a_palette_are_its_indices(tmp_path):
    mask = Image.fromarray(two_objects()).convert("P")
    mask.putpalette([255, 0, 0] * 256)
    assert np.array_equal(write(tmp_path, "a", mask).load()[1], two_objects())


def test_a_picture_of_16_bits_is_stretched_to_its_own_range(tmp_path):
    deep = np.linspace(1000, 1400, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    picture, _ = write(tmp_path, "a", two_objects(), deep).load()
    assert (picture.min(), picture.max()) == (0, 255)
    assert np.all(np.diff(picture[:, :, 0].ravel().astype(int)) >= 0)


def test_an_even_picture_of_16_bits_is_black(tmp_path):
    picture, _ = write(tmp_path, "a", two_objects(), np.full(SIZE, 700, np.uint16)).load()
    assert picture.max() == 0


def test_transparency_is_dropped(tmp_path):
    picture = np.full((*SIZE, 4), (10, 20, 30, 0), dtype=np.uint8)
    assert write(tmp_path, "a", two_objects(), picture).load()[0][0, 0].tolist() == [10, 20, 30]


def test_an_object_may_be_parted_by_another(tmp_path):
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[5:15, 2:25], labels[2:18, 10:14] = 1, 2
    assert np.array_equal(write(tmp_path, "a", labels).load()[1], labels)


def classes() -> np.ndarray:
    """Objects all drawn as 255: a map of classes."""
    return np.where(two_objects() > 0, 255, 0).astype(np.uint8)


def many_pieces() -> np.ndarray:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[0:2, 0:2] = 1
    for x in range(0, 28, 3):
        for y in (5, 9):
            labels[y : y + 2, x : x + 2] = 2
    return labels


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros((*SIZE, 3), np.uint8), "is RGB, must be a label map"),
        (np.zeros((*SIZE, 4), np.uint8), "is RGBA, must be a label map"),
        (two_objects().astype(np.float32), "cannot be read|is F"),
        (two_objects()[:, :-2], "is 28x20, its picture is 30x20"),
        (classes(), "label 255 in 2 separate pieces"),
        (many_pieces(), "label 2 in 20 separate pieces, at most 16"),
    ],
    ids=["rgb", "rgba", "float", "size", "classes", "pieces"],
)
def test_a_mask_that_is_no_label_map_is_refused_by_name(tmp_path, labels, said):
    if labels.dtype == np.float32:
        sample = write(tmp_path, "bad", two_objects())
        Image.fromarray(labels).save(sample.mask_path, format="TIFF")
    else:
        sample = write(tmp_path, "bad", labels)
    with pytest.raises(InvalidInput, match=said) as error:
        sample.load()
    assert error.value.field == str(sample.mask_path)


@pytest.mark.parametrize("which", ["picture_path", "mask_path"])
@pytest.mark.parametrize("damage", [b"", b"no picture", None], ids=["empty", "text", "cut"])
def test_a_damaged_file_is_refused_by_name(tmp_path, which, damage):
    rng = np.random.default_rng(0)
    sample = write(tmp_path, "a", two_objects(), rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    path = getattr(sample, which)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(InvalidInput, match="cannot be read") as error:
        sample.load()
    assert error.value.field == str(path)


def test_a_stack_of_frames_is_refused(tmp_path):
    sample = write(tmp_path, "a", two_objects(), suffix=".tif")
    frame = Image.fromarray(grey_picture())
    frame.save(sample.picture_path, save_all=True, append_images=[frame])
    with pytest.raises(InvalidInput, match="has 2 frames"):
        sample.load()


def test_what_is_missing_is_named(tmp_path):
    write(tmp_path, "a", two_objects())
    (tmp_path / "drops" / "masks" / "a.png").rename(tmp_path / "drops" / "masks" / "b.png")
    with pytest.raises(InvalidInput, match=r"a\.png has no mask"):
        find_samples(tmp_path)
    (tmp_path / "drops" / "images" / "a.png").rename(tmp_path / "drops" / "images" / "b.png")
    Image.fromarray(two_objects()).save(tmp_path / "drops" / "masks" / "c.png")
    with pytest.raises(InvalidInput, match=r"c\.png has no picture"):
        find_samples(tmp_path)


def test_two_pictures_of_one_stem_are_refused(tmp_path):
    write(tmp_path, "a", two_objects())
    Image.fromarray(grey_picture()).save(tmp_path / "drops" / "images" / "a.tif")
    with pytest.raises(InvalidInput, match=r"same stem as a\.png"):
        find_samples(tmp_path)


def test_a_folder_without_data_sets_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="has no data set"):
        find_samples(tmp_path)
    write(tmp_path, "a", two_objects())
    with pytest.raises(InvalidInput, match="has no data set rain; it has drops"):
        find_samples(tmp_path, ["rain"])


def test_only_the_sets_asked_for_are_read(tmp_path):
    for dataset in ("drops", "foam"):
        write(tmp_path, "a", two_objects(), dataset=dataset)
    assert [s.dataset for s in find_samples(tmp_path, ["foam"])] == ["foam"]
    assert [s.dataset for s in find_samples(tmp_path)] == ["drops", "foam"]


def sample(dataset: str, stem: str) -> Sample:
    return Sample(stem, dataset, Path("unread"), Path("unread"))


def test_every_picture_lies_in_one_part():
    samples = [sample(d, f"picture {i}") for d in (*POLICIES, "other") for i in range(200)]
    parts = [split(samples, part) for part in ("train", "validation", "test")]
    assert sum(len(part) for part in parts) == len(samples)
    assert {s for part in parts for s in part} == set(samples)


def test_shares_are_as_the_policy_says():
    samples = [sample("nuclei_dsb2018", f"{i:x}") for i in range(4000)]
    for part, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert len(split(samples, part)) / len(samples) == pytest.approx(share, abs=0.02)


def test_particles_from_papers_and_unknown_sets_never_train():
    samples = [sample(d, str(i)) for d in ("emps_particles", "other") for i in range(500)]
    assert split(samples, "train") == []
    assert split([s for s in samples if s.dataset == "other"], "validation") == []


def test_no_sample_of_powder_is_in_two_parts():
    """Tiles are named after the sample that they were cut from."""
    stems = [
        "training_Sc1Tile_001-001", "training_Sc1Tile_001-002", "training_Sc2Tile_001-001",
        "training_Sc3Tile_008-007", "validation_Sc2Tile_010-0",
    ]  # fmt: skip
    powder = [sample("powder_spheres", stem) for stem in stems]
    train, test = ({s.name.split("_")[1][:3] for s in split(powder, part)} for part in ("train", "test"))
    assert (len(split(powder, "train")), len(split(powder, "test"))) == (3, 2)
    assert not train & test


def test_a_part_does_not_move():
    """Fixed by value: another hash would move test pictures into training."""
    parts = [
        sample("nuclei_dsb2018", stem).part
        for stem in ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11")
    ]
    assert parts == [
        "train",
        "train",
        "validation",
        "train",
        "train",
        "test",
        "test",
        "train",
        "train",
        "train",
        "train",
        "train",
    ]
