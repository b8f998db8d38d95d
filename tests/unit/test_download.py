import hashlib
import http.server
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sam_engine import download
from sam_engine.download import DownloadError, Progress, fetch, main

BODY = bytes(i * i % 251 for i in range(300_000))
SHA256 = hashlib.sha256(BODY).hexdigest()
REPOSITORY = Path(__file__).resolve().parents[2]


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves BODY by ranges; the first part of the path asks for a misbehaviour."""

    def do_GET(self) -> None:
        start = self._requested_start()
        self.server.starts.append(start)
        self.server.release.wait(timeout=30 if "/stalled" in self.path else 0)
        if "/missing" in self.path:
            self.send_error(404)
        elif "/to-file" in self.path:
            self._redirect("file:///etc/hostname")
        elif "/to-ftp" in self.path:
            self._redirect("ftp://127.0.0.1/file")
        elif "/redirect" in self.path:
            self._redirect("/file")
        elif start is None or "/no-range" in self.path:
            self._answer(200, 0)
        elif start >= len(BODY):
            self.send_error(416)
        else:
            self._answer(206, start)

    def _requested_start(self) -> int | None:
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(span[1]) if span else None

    def _redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, status: int, start: int) -> None:
        start = 0 if "/earlier" in self.path else start
        self.send_response(status)
        if status == 206 and "/unnamed" not in self.path:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        if "/unsized" not in self.path:
            self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        if "/cut" in self.path:
            self.wfile.write(BODY[start : start + 100_000])
            return
        if "/hanging" in self.path:
            self.wfile.write(BODY[start : start + 200_000])
            self.server.release.wait(timeout=30)
            return
        self.wfile.write(BODY[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.starts = []
    served.release = threading.Event()
    served.url = f"http://127.0.0.1:{served.server_port}"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.release.set()
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def output(tmp_path):
    return tmp_path / "model" / "mobile_sam.pt"


@pytest.fixture
def part(output):
    output.parent.mkdir()
    return output.with_name("mobile_sam.pt.part")


def bring(url: str, output: Path, sha256: str = SHA256, **options: object) -> str:
    """Fetch and return what was reported."""
    stream = io.StringIO()
    assert fetch(url, output, sha256, stream=stream, **options)
    return stream.getvalue()


def percentages(report: str) -> list[int]:
    return [int(line.split(" %")[0]) for line in report.splitlines()]


# --- what arrives ---


def test_a_whole_download_makes_the_folder_and_leaves_no_part(server, output):
    report = bring(f"{server.url}/file", output)
    assert output.read_bytes() == BODY
    assert list(output.parent.iterdir()) == [output]
    assert percentages(report)[-1] == 100


def test_a_download_of_unknown_size(server, output):
    bring(f"{server.url}/unsized", output)
    assert output.read_bytes() == BODY


def test_a_redirect_is_followed_with_its_range(server, output, part):
    part.write_bytes(BODY[:7])
    bring(f"{server.url}/redirect", output)
    assert output.read_bytes() == BODY
    assert server.starts == [7, 7]


def test_resuming_from_half_asks_for_the_other_half_only(server, output, part):
    part.write_bytes(BODY[:150_000])
    report = bring(f"{server.url}/file", output)
    assert output.read_bytes() == BODY
    assert server.starts == [150_000]
    assert min(percentages(report)) > 50
    assert percentages(report)[-1] == 100
    assert not part.exists()


@pytest.mark.parametrize("way", ["no-range", "earlier"])
def test_a_server_that_answers_from_the_start_starts_over(server, output, part, way):
    part.write_bytes(b"x" * 150_000)
    bring(f"{server.url}/{way}", output)
    assert output.read_bytes() == BODY


def test_a_complete_part_is_verified_and_put_in_place(server, output, part):
    part.write_bytes(BODY)
    bring(f"{server.url}/file", output)
    assert server.starts == [len(BODY)]
    assert output.read_bytes() == BODY
    assert not part.exists()


@pytest.mark.parametrize("stale", [b"x" * 300_001, b"x" * 1000])
def test_a_stale_part_is_removed_so_that_the_next_run_succeeds(server, output, part, stale):
    part.write_bytes(stale)
    with pytest.raises(DownloadError, match="run it again"):
        bring(f"{server.url}/file", output)
    assert not part.exists()
    assert not output.exists()
    bring(f"{server.url}/file", output)
    assert output.read_bytes() == BODY


def test_a_cut_connection_keeps_the_part_and_the_next_run_continues(server, output):
    with pytest.raises(DownloadError, match=r"100000 of 300000 bytes.*run it again"):
        bring(f"{server.url}/cut", output)
    assert output.with_name("mobile_sam.pt.part").read_bytes() == BODY[:100_000]
    assert not output.exists()
    bring(f"{server.url}/file", output)
    assert server.starts == [None, 100_000]
    assert output.read_bytes() == BODY


# --- what is refused ---


def test_a_wrong_hash_is_not_put_in_place_and_its_part_is_removed(server, output):
    with pytest.raises(DownloadError) as caught:
        bring(f"{server.url}/file", output, sha256="0" * 64)
    assert SHA256 in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert list(output.parent.iterdir()) == []


def test_a_wrong_hash_leaves_the_old_file_even_when_forced(server, output, part):
    output.write_bytes(b"old")
    with pytest.raises(DownloadError):
        bring(f"{server.url}/file", output, sha256="0" * 64, force=True)
    assert output.read_bytes() == b"old"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/f", "data:,x", "mobile_sam.pt", ""])
def test_only_http_addresses_are_accepted(output, url):
    with pytest.raises(DownloadError, match="not an http or https address"):
        bring(url, output)
    assert not output.parent.exists()


@pytest.mark.parametrize("url", ["http://", "http://[", "http://a b/", "http://127.0.0.1:port/"])
def test_a_malformed_address_is_one_plain_sentence(output, url):
    with pytest.raises(DownloadError, match="cannot be fetched"):
        bring(url, output)


@pytest.mark.parametrize(("way", "why"), [("to-file", "not allowed"), ("to-ftp", "unknown url type: ftp")])
def test_a_redirect_to_anything_but_http_is_not_followed(server, output, way, why):
    with pytest.raises(DownloadError, match=why):
        bring(f"{server.url}/{way}", output)
    assert list(output.parent.iterdir()) == []


def test_a_part_that_is_not_named_is_refused(server, output, part):
    part.write_bytes(BODY[:10])
    with pytest.raises(DownloadError, match="does not say which"):
        bring(f"{server.url}/unnamed", output)
    assert not output.exists()


def test_a_missing_file_on_the_server(server, output):
    with pytest.raises(DownloadError, match=r"answered 404 .*SAM Droplet works without"):
        bring(f"{server.url}/missing", output)


def test_a_silent_server_times_out(server, output):
    with pytest.raises(DownloadError, match="timed out"):
        bring(f"{server.url}/stalled", output, timeout_s=0.2)


def test_a_server_that_falls_silent_midway_times_out_and_the_part_stays(server, output):
    with pytest.raises(DownloadError, match="timed out"):
        bring(f"{server.url}/hanging", output, timeout_s=0.5)
    assert output.with_name("mobile_sam.pt.part").read_bytes() == BODY[:200_000]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_plain_sentence(server, output, part):
    part.symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="The disk is full"):
        bring(f"{server.url}/file", output)
    assert not output.exists()


def test_a_folder_that_cannot_be_made_is_one_plain_sentence(server, tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(DownloadError, match=re.escape(str(tmp_path))):
        bring(f"{server.url}/file", tmp_path / "model" / "mobile_sam.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DownloadError, match="directory"):
        bring(f"{server.url}/file", tmp_path / "folder")


# --- the command ---


def command(url: str, output: Path, *more: str) -> list[str]:
    return ["--url", url, "--sha256", SHA256.upper(), "--output", str(output), *more]


def test_already_there_and_right_says_so_without_the_network(server, output, part, capsys):
    output.write_bytes(BODY)
    assert main(command(f"{server.url}/file", output)) == 0
    assert "there already" in capsys.readouterr().out
    assert server.starts == []


def test_there_but_another_is_replaced_only_by_force(server, output, part, capsys):
    output.write_bytes(b"mine")
    assert main(command(f"{server.url}/file", output)) == 1
    assert "--force" in capsys.readouterr().err
    assert output.read_bytes() == b"mine"
    assert server.starts == []
    assert main(command(f"{server.url}/file", output, "--force")) == 0
    assert output.read_bytes() == BODY
    assert "fetched" in capsys.readouterr().out


def test_a_refused_connection_is_one_sentence_that_says_what_works_without(monkeypatch, output, capsys):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert main(command(f"http://127.0.0.1:{port}/file", output)) == 1
    error = capsys.readouterr().err
    assert "refused" in error
    assert "SAM Droplet works without this file, with the droplet checkpoint that it ships" in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_hash_that_is_none_is_a_usage_error(output, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--sha256", "abc", "--output", str(output)])
    assert caught.value.code == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err


def test_by_default_it_fetches_the_official_file(monkeypatch):
    asked = []
    monkeypatch.setattr(download, "fetch", lambda *args, **options: asked.append((args, options)) or True)
    assert main([]) == 0
    assert asked == [
        (
            (
                "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
                REPOSITORY / "model" / "mobile_sam.pt",
                "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            ),
            {"force": False},
        )
    ]


def test_control_c_keeps_the_part(server, output):
    arguments = command(f"{server.url}/hanging", output)
    process = subprocess.Popen(
        [sys.executable, "-m", "sam_engine.download", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    )
    part = output.with_name("mobile_sam.pt.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 0):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"Stopped; {part} keeps what has arrived" in error
    assert "Traceback" not in error
    kept = part.read_bytes()
    assert kept
    assert kept == BODY[: len(kept)]
    assert not output.exists()


# --- progress ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_updates():
    stream = Terminal()
    progress = Progress(stream, done=0, total=1000)
    for _ in range(500):
        progress.advance(2)
    progress.finish()
    written = stream.getvalue()
    assert written.count("\r") == 100
    assert written.count("\n") == 1
    assert written.endswith("\r100 % of 0.0 MiB\n")


def test_elsewhere_there_is_a_line_for_every_tenth():
    stream = io.StringIO()
    progress = Progress(stream, done=0, total=1000)
    for _ in range(1000):
        progress.advance(1)
    progress.finish()
    assert percentages(stream.getvalue()) == list(range(10, 101, 10))


def test_an_unknown_total_is_reported_every_ten_mebibytes():
    stream = io.StringIO()
    progress = Progress(stream, done=0, total=None)
    for _ in range(25):
        progress.advance(2**20)
    assert stream.getvalue() == "10.0 MiB\n20.0 MiB\n"
