"""The command line as people start it."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import PROJECT
from tests.live.conftest import environment


def start(arguments: list[str], tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments], cwd=PROJECT,
        env=environment(tmp_path, **settings), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_the_line_of_the_readme(tmp_path: Path) -> None:
    readme = (PROJECT / "README.md").read_text()
    (line,) = re.findall(r"^\.venv/bin/python -m service\.cli (.*)$", readme, re.MULTILINE)
    out = tmp_path / "reports"
    arguments = [str(out) if word == "reports" else word for word in line.split()]
    done = start(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\[1/1\] examples/droplets\.png: \d+ objects, ", done.stderr, re.MULTILINE)
    summary = json.loads((out / "droplets" / "summary.json").read_text())
    assert summary["calibration"]["source"] == "scale_bar"
    assert summary["calibration"]["um_per_px"] == pytest.approx(125 / 78, rel=0.03)
    with (out / "droplets" / "measurements.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) > 80
    assert (out / "droplets" / "report.html").stat().st_size > 100_000


def test_what_cannot_be_done_ends_with_a_reason_and_no_trace(tmp_path: Path) -> None:
    sample = str(PROJECT / "examples" / "droplets.png")
    wrong = start(["segment", sample], tmp_path, SAM_MODEL_PATH=str(tmp_path / "none.pt"))
    assert wrong.returncode == 1
    setting = start(["segment", sample], tmp_path, SAM_MODELPATH="x")
    assert setting.returncode == 2
    for done, reason in ((wrong, "none.pt"), (setting, "did you mean SAM_MODEL_PATH")):
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_plots_cost_nothing_before_the_first() -> None:
    script = "import sys, app, service.cli; sys.exit('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, timeout=120, check=False)
    assert done.returncode == 0
