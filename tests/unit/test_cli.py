"""The command line: what it writes, what it says, and how it ends."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from sam_engine.engine import SamEngine
from service import cli
from service.settings import PROJECT, setting_names

SAMPLE = PROJECT / "examples" / "droplets.png"
QUICK = '{"analysis": {"resamples": 0}}'


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch, engine: SamEngine) -> None:
    """The engine of the tests, and no settings of this machine."""
    for name, aliases in setting_names().items():
        for variable in (name, *aliases):
            monkeypatch.setenv(variable, "")
    monkeypatch.setattr(cli, "build_engine", lambda _settings: engine)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with two small pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    with Image.open(SAMPLE) as sample:
        for name, box in (("b10.png", (0, 0, 200, 160)), ("b2.png", (200, 60, 400, 220))):
            sample.crop(box).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_a_folder_of_pictures(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("analyze", small, "--out", out, "--um-per-px", 1.6, "--options", QUICK) == 0
    assert sorted(p.name for p in out.iterdir()) == ["b10", "b2"]
    for name in ("b2", "b10"):
        summary = json.loads((out / name / "summary.json").read_text())
        assert summary["calibration"]["um_per_px"] == 1.6
        assert summary["analysis"]["size_distribution"]["resamples"] == 0
        assert (out / name / "report.html").stat().st_size > 10_000
        with (out / name / "measurements.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == summary["analysis"]["objects"]["kept"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"[1/2] {small / 'b2.png'}",
        f"[2/2] {small / 'b10.png'}",
    ]
    assert all("objects" in line for line in lines)


def test_one_bad_file_does_not_stop_the_rest(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "a.png").write_bytes(b"no picture")
    missing = tmp_path / "missing.png"
    out = tmp_path / "out"
    assert run("analyze", small, missing, "--out", out, "--format", "csv", "--options", QUICK) == 1
    assert sorted(p.name for p in out.iterdir()) == ["b10.csv", "b2.csv"]
    said = capsys.readouterr().err
    assert f"failed: {small / 'a.png'}: the file is not a JPEG" in said
    assert f"failed: {missing}: [Errno 2]" in said


def test_several_formats_and_pictures_of_one_name(small: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin" / "b2.png"
    twin.parent.mkdir()
    twin.write_bytes((small / "b2.png").read_bytes())
    out = tmp_path / "out"
    formats = ("--format", "json", "--format", "overlay")
    assert run("analyze", small / "b2.png", twin, "--out", out, *formats, "--options", QUICK) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "b2-2.json", "b2-2.overlay.png", "b2.json", "b2.overlay.png"
    ]  # fmt: skip
    first, second = (json.loads((out / f"{name}.json").read_text()) for name in ("b2", "b2-2"))
    assert first["masks"] == second["masks"]
    assert "analysis" in first


def test_segment_to_standard_output(small: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("segment", small / "b2.png", "--format", "coco") == 0
    written = json.loads(capfdbinary.readouterr().out)
    assert written["images"][0]["file_name"] == "b2.png"
    assert written["annotations"]


def test_options_of_a_file(small: Path, tmp_path: Path) -> None:
    options = tmp_path / "options.json"
    options.write_text('{"filters": {"area_min": 1e9}, "um_per_px": 3}')
    out = tmp_path / "out"
    assert run("segment", small / "b2.png", "--options", options, "--out", out, "--um-per-px", 2) == 0
    answer = json.loads((out / "b2.json").read_text())
    assert answer["num_masks"] == 0
    assert answer["calibration"]["um_per_px"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--options", "{"], "--options is not valid JSON"),
        (["--options", "[1]"], "[1]"),
        (["--options", '{"filter": {}}'], "filter: Extra inputs are not permitted"),
        (["--options", '{"filters": {"area_min": 9, "area_max": 3}}'], "area_min=9 is above area_max=3"),
        (["--um-per-px", "-1"], "um_per_px"),
        (["--um-per-px", "nan"], "um_per_px"),
        (["--options", '{"um_per_px": 2}', "--scale-bar-um", "5"], "scale_bar_um: um_per_px is given too"),
    ],
)  # fmt: skip
def test_wrong_options(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("analyze", SAMPLE, "--out", tmp_path / "out", *arguments) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["analyse", "x"], ["analyze", "x"], ["analyze", "x", "--out", "y", "--format", "gif"],
     ["analyze", "x", "--out", "y", "--um-per-px", "1", "--scale-bar-um", "5"], ["segment"]],
)  # fmt: skip
def test_command_lines_that_are_not_understood(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    assert end.value.code == 2
    assert "usage: sam-droplet" in capsys.readouterr().err


def test_an_empty_folder_and_too_many_for_standard_output(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("analyze", empty, "--out", tmp_path / "out") == 2
    assert f"{empty} has no picture" in capsys.readouterr().err
    assert run("segment", small) == 2
    assert "say --out" in capsys.readouterr().err


def test_no_model_ends_at_once(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "build_engine", lambda _settings: SamEngine(tmp_path, tmp_path / "none.pt"))
    assert run("analyze", small, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.count("none.pt") == 1


def test_an_output_folder_that_cannot_be_written(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "out"
    taken.write_text("a file")
    assert run("analyze", small / "b2.png", "--out", taken, "--options", QUICK) == 1
    assert f"failed: {small / 'b2.png'}" in capsys.readouterr().err


def test_interruption(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "decode", interrupted)
    assert run("analyze", small, "--out", tmp_path / "out") == 130
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_frames_of_a_folder_are_followed_in_natural_order(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("track", small, "--out", out, "--frame-interval-s", 2, "--um-per-px", 1.5) == 0
    document = json.loads((out / "b2" / "sequence.json").read_text())
    assert [frame["name"] for frame in document["frames"]] == ["b2.png", "b10.png"]
    assert document["units"] == {"length": "um", "time": "s"}
    assert sorted(p.name for p in (out / "b2").iterdir()) == [
        "appearances.csv", "events.csv", "frames.csv", "sequence.json", "tracks.csv"
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert said.splitlines()[0].startswith("[1/2] b2.png: ")
