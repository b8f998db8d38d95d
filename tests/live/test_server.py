"""What only a real server can show: processes, restarts, parallel clients, refusals at start."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from PIL import Image

from service.settings import DEMO_KEY, PROJECT
from tests.live.conftest import Server, environment, free_port, serving

START = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
TOLD = ("num_masks", "status", "ready", "defaults", "analysis", "tracks")
CHECK = [sys.executable, "-m", "service.startup"]


def run(command: list[str], tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=PROJECT, env=environment(tmp_path, **settings),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def curl_blocks() -> list[str]:
    text = (PROJECT / "README.md").read_text()
    return [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "curl" in block]


def png_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_the_curl_lines_of_the_readme(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    (tmp_path / "examples").symlink_to(PROJECT / "examples")
    blocks = curl_blocks()
    assert len(blocks) >= 6
    told: list[str] = []
    for block in blocks:
        script = block.replace("http://127.0.0.1:9487", server.address).replace(
            "curl -s", "curl -sS --fail-with-body"
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert answers or " -o " in block
        told += [key for answer in answers for key in TOLD if key in answer]
    assert png_size(tmp_path / "overlay.png") == png_size(PROJECT / "examples" / "droplets.png")
    assert set(told) == set(TOLD)
    assert told.count("num_masks") == 3
    assert len((tmp_path / "droplets.csv").read_text().splitlines()) > 10
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        assert b"\xc2\xb5m" in archive.read("report.html")  # calibrated by the bar


def test_the_printed_line_works_when_pasted(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    printed = [
        line.strip() for line in server.log.read_text().splitlines() if line.strip().startswith("curl")
    ]
    assert len(printed) == 2
    answer = subprocess.run(["bash", "-c", printed[0]], capture_output=True, timeout=120, check=True)
    assert json.loads(answer.stdout)["num_masks"] > 80
    subprocess.run(["bash", "-c", printed[1]], cwd=tmp_path, timeout=120, check=True)
    assert png_size(tmp_path / "overlay.png") == png_size(PROJECT / "examples" / "droplets.png")
    admin = re.search(r"admin key of this run: (\S+)", server.log.read_text())
    assert admin
    assert requests.get(f"{server.address}/defaults", headers={"X-API-Key": admin[1]}, timeout=60).ok


def test_a_limit_holds_across_processes_and_restarts(tmp_path: Path) -> None:
    settings = {"API_KEYS": "a-long-enough-key:lab:5", "WORKERS": "2"}

    def knock(address: str) -> int:
        headers = {"X-API-Key": "a-long-enough-key"}
        return requests.post(f"{address}/analyze_image", headers=headers, timeout=60).status_code

    with serving(tmp_path, **settings) as server, ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(knock, [server.address] * 32))
    assert statuses == {415: 5, 429: 27}
    with serving(tmp_path, **settings) as server:
        assert knock(server.address) == 429


def test_twenty_parallel_clients_get_the_serial_answers(
    start: Callable[..., Server], sample: bytes, tmp_path: Path
) -> None:
    server = start(API_KEYS="a-long-enough-key:lab:1000")
    picture = Image.open(io.BytesIO(sample)).convert("RGB")
    variants = []
    for i in range(4):
        buffer = io.BytesIO()
        picture.crop((0, 0, 640 - 40 * i, 480)).save(buffer, "PNG")
        variants.append(base64.b64encode(buffer.getvalue()).decode())

    def ask(i: int) -> list[dict]:
        prompts = None if i % 2 else [{"points": [{"x": 200, "y": 200}]}]
        body = {"image": variants[i % 4], "prompts": prompts, "output": {"masks": "rle"}}
        headers = {"X-API-Key": "a-long-enough-key"}
        answer = requests.post(f"{server.address}/segment", json=body, headers=headers, timeout=300)
        assert answer.status_code == 200, answer.text
        return [
            {"rle": m["rle"], "score": m["predicted_iou"], "d": m["equivalent_diameter"]}
            for m in answer.json()["masks"]
        ]

    serial = [ask(i) for i in range(4)]
    assert all(serial)
    with ThreadPoolExecutor(20) as pool:
        parallel = list(pool.map(ask, range(20)))
    for i, answer in enumerate(parallel):
        assert answer == serial[i % 4]


@pytest.mark.parametrize("path", ["/segment", "/segment_file"])
def test_a_body_of_unknown_length_is_cut_off(start: Callable[..., Server], path: str) -> None:
    server = start(MAX_FILE_SIZE_MB="1")

    def body() -> Iterator[bytes]:
        if path == "/segment_file":
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(40):
            yield b" " * 2**18

    headers = {"X-API-Key": DEMO_KEY, "Content-Type": "multipart/form-data; boundary=x"}
    if path == "/segment":
        headers["Content-Type"] = "application/json"
    answer = requests.post(server.address + path, data=body(), headers=headers, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"


def test_answers_in_flight_survive_sigterm(start: Callable[..., Server], sample: bytes) -> None:
    server = start(API_KEYS="a-long-enough-key:lab:1000")

    def ask(_: int) -> int:
        answer = requests.post(
            f"{server.address}/segment_file",
            headers={"X-API-Key": "a-long-enough-key"},
            files={"file": ("droplets.png", sample)},
            timeout=300,
        )
        if server.process.poll() is None:
            os.kill(server.process.pid, signal.SIGTERM)
        return answer.status_code if answer.json()["num_masks"] > 80 else 0

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [200] * 4
    assert server.process.wait(30) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"APP_ENV": "production"}, "needs API_KEYS"),
        ({"APP_ENV": "production", "API_KEYS": "a-long-enough-key:lab:5"}, "needs ADMIN_API_KEY"),
        ({"APP_ENV": "production", "API_KEYS": f"{DEMO_KEY}:lab:5", "ADMIN_API_KEY": "9f8a7b6c5d4e"}, "default or placeholder"),
        ({"FLASK_HOST": "0.0.0.0"}, "set API_KEYS"),
        ({"FLASK_PORT": "99999"}, "FLASK_PORT=99999"),
        ({"SAM_MODELPATH": "x"}, "did you mean SAM_MODEL_PATH"),
        ({"API_KEYS": "short:lab:5"}, "API key 1"),
    ],
)  # fmt: skip
def test_a_service_that_refuses_to_start_says_why(
    settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    for command in (START, CHECK):
        done = run(command, tmp_path, **{"FLASK_PORT": str(free_port()), **settings})
        assert done.returncode != 0
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert "short" not in done.stderr


def test_the_check_before_start(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    port = server.address.rpartition(":")[2]
    taken = run(CHECK, tmp_path, FLASK_PORT=port)
    assert taken.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in taken.stderr
    missing = run(CHECK, tmp_path, FLASK_PORT=str(free_port()), SAM_MODEL_PATH=str(tmp_path / "none.pt"))
    assert missing.returncode == 1
    assert "none.pt" in missing.stderr
    assert run(CHECK, tmp_path, FLASK_PORT=str(free_port())).returncode == 0
