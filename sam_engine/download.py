"""`make model`: fetch the official MobileSAM checkpoint, resumably, and verify it before it takes its place.

Needs the standard library alone, so that it also works before anything else is installed.
"""

import argparse
import errno
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

OFFICIAL_URL = "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt"
OFFICIAL_SHA256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
OUTPUT = Path(__file__).resolve().parents[1] / "model" / "mobile_sam.pt"
TIMEOUT_S = 30.0

_CHUNK_BYTES = 1 << 16
_MIB = 2**20
_WORKS_WITHOUT = "SAM Droplet works without this file, with the droplet checkpoint that it ships"


class DownloadError(Exception):
    """Why there is no download; the message is one plain sentence for the terminal."""


@dataclass
class Progress:
    """Reports bytes: one line that updates on a terminal, a line for every 10 % elsewhere."""

    stream: TextIO
    done: int
    total: int | None

    def advance(self, count: int) -> None:
        """Count bytes that have arrived and report them if that makes a step."""
        steps_before = self._steps()
        self.done += count
        if self._steps() == steps_before:
            return
        terminal = self.stream.isatty()
        self.stream.write(f"\r{self._text()}" if terminal else f"{self._text()}\n")
        self.stream.flush()

    def finish(self) -> None:
        """End the line that updates."""
        if self.stream.isatty():
            self.stream.write("\n")

    def _steps(self) -> int:
        if not self.total:
            return self.done // (10 * _MIB)
        return self.done * (100 if self.stream.isatty() else 10) // self.total

    def _text(self) -> str:
        if not self.total:
            return f"{self.done / _MIB:.1f} MiB"
        return f"{100 * self.done // self.total:3d} % of {self.total / _MIB:.1f} MiB"


def fetch(
    url: str,
    output: Path,
    sha256: str,
    *,
    force: bool = False,
    timeout_s: float = TIMEOUT_S,
    stream: TextIO | None = None,
) -> bool:
    """Download a file to `output` by way of `output.part`, which an interrupted run leaves to be resumed.

    Args:
        sha256: what the whole file must have; a file that has another never takes its place.
        force: replace a file that is there and has another hash.
        timeout_s: how long the server may keep silent.
        stream: where progress goes; standard error if None.

    Returns:
        False if the file was there and right already.

    Raises:
        DownloadError: one plain sentence.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise DownloadError(f"{url} is not an http or https address.")
    if _is_already_there(output, sha256, force):
        return False
    part = output.with_name(output.name + ".part")
    with _writing(part):
        output.parent.mkdir(parents=True, exist_ok=True)
    _receive(url, part, timeout_s, stream or sys.stderr)
    _put_in_place(part, output, sha256)
    return True


def _is_already_there(output: Path, sha256: str, force: bool) -> bool:
    with _writing(output):
        found = _sha256(output) if output.exists() else None
    if found == sha256:
        return True
    if found is not None and not force:
        raise DownloadError(
            f"{output} is there but is not the expected file (SHA-256 {found} instead of {sha256}); "
            "--force replaces it."
        )
    return False


def _put_in_place(part: Path, output: Path, sha256: str) -> None:
    with _writing(part):
        found = _sha256(part)
        if found == sha256:
            part.replace(output)
            return
        part.unlink()
    raise DownloadError(
        f"What arrived is not the expected file (SHA-256 {found} instead of {sha256}) and was removed; "
        f"run it again. {_WORKS_WITHOUT}."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the network ---


def _receive(url: str, part: Path, timeout_s: float, stream: TextIO) -> None:
    """Bring the `.part` file to its full length, from where it stands if the server can do that."""
    with _writing(part):
        offset = part.stat().st_size if part.exists() else 0
    with _network(url):
        response = _open(url, offset, timeout_s)
    if response is not None:
        with response:
            _save(response, url, part, stream)


def _open(url: str, offset: int, timeout_s: float) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `offset` on; None if the server has no more than those that are here."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})  # noqa: S310
    try:
        response: http.client.HTTPResponse = _opener().open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if offset and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise
    return response


def _opener() -> urllib.request.OpenerDirector:
    """Like urllib's own, but no redirect can lead to ftp, file or data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _save(response: http.client.HTTPResponse, url: str, part: Path, stream: TextIO) -> None:
    start = _start(response)
    total = None if response.length is None else start + response.length
    progress = Progress(stream, start, total)
    try:
        with _writing(part), part.open("ab") as file:
            if file.tell() != start:
                file.truncate(start)
            for chunk in _chunks(response, url):
                file.write(chunk)
                progress.advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    finally:
        progress.finish()
    if total is not None and progress.done < total:
        raise DownloadError(
            f"The connection ended after {progress.done} of {total} bytes; run it again to continue. "
            f"{_WORKS_WITHOUT}."
        )


def _start(response: http.client.HTTPResponse) -> int:
    """Which byte of the file the answer begins with; a server may ignore the range that was asked for."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if span is None:
        raise DownloadError("The server answered with a part of the file but does not say which.")
    return int(span[1])


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        with _network(url):
            chunk = response.read1(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


# --- what can go wrong, in plain words ---


@contextmanager
def _network(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        reason = f"the server answered {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = _plain(error)
    else:
        return
    raise DownloadError(f"{url} cannot be fetched ({reason}); {_WORKS_WITHOUT}.")


def _plain(error: BaseException) -> str:
    cause = getattr(error, "reason", error)
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"The disk is full; free some space and run it again, {path} keeps what has arrived."
        else:
            message = f"{path} cannot be written or read ({_plain(error)})."
        raise DownloadError(message) from error


# --- the command ---


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        fetched = fetch(options.url, options.output, options.sha256, force=options.force)
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"Stopped; {options.output}.part keeps what has arrived, run it again to continue.",
            file=sys.stderr,
        )
        return 130
    print(f"{options.output} is {'fetched' if fetched else 'there already'} and has the right SHA-256.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sam_engine.download",
        description="Fetch the official MobileSAM checkpoint (39 MiB, Apache-2.0) and verify it.",
    )
    parser.add_argument("--url", default=OFFICIAL_URL, help="http or https address (default: %(default)s)")
    parser.add_argument("--sha256", type=_digest, default=OFFICIAL_SHA256, help="what the file must have")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where it goes (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace a file that is there and is another")
    return parser


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 64 hexadecimal digits")
    return text.lower()


if __name__ == "__main__":
    sys.exit(main())
