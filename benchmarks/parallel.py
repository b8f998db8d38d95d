"""Parallel clients against a running service: errors, answers that differ from the serial ones, memory.

make run                                   # in another terminal, with API_KEYS=...:...:100000
python -m benchmarks.parallel --key ... --picture a.png --picture b.png
"""

import argparse
import hashlib
import json
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

OUTPUT = json.dumps({"masks": "rle"})


def ask(url: str, key: str, picture: Path, data: bytes) -> tuple[int, str, float]:
    """Status, digest of all masks, and seconds."""
    start = time.perf_counter()
    files = {"file": (picture.name, data)}
    answer = requests.post(
        f"{url}/segment_file", headers={"X-API-Key": key}, files=files, data={"output": OUTPUT}, timeout=600
    )
    seconds = time.perf_counter() - start
    masks = json.dumps([m["rle"] for m in answer.json().get("masks", [])])
    return answer.status_code, hashlib.sha256(masks.encode()).hexdigest(), seconds


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its children, from /proc."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if pid in (int(fields["Pid"]), int(fields["PPid"])) and "VmRSS" in fields:
            total += int(fields["VmRSS"].split()[0]) / 1024
    return total


def main() -> None:
    """Print one line for each round of requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:9487")
    parser.add_argument("--key", default="sam-demo-key-123")
    parser.add_argument("--picture", type=Path, action="append", required=True)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pid", type=int, help="of the server, to print its memory")
    options = parser.parse_args()

    pictures = [(path, path.read_bytes()) for path in options.picture]
    serial = [ask(options.url, options.key, *picture) for picture in pictures]
    print(
        "serial:",
        ", ".join(f"{p.name} {s[0]} {s[2]:.2f} s" for (p, _), s in zip(pictures, serial, strict=True)),
    )
    for number in range(1, options.rounds + 1):
        start = time.perf_counter()
        with ThreadPoolExecutor(options.clients) as pool:
            jobs = [i % len(pictures) for i in range(options.requests)]
            answers = list(pool.map(lambda i: ask(options.url, options.key, *pictures[i]), jobs))
        wall = time.perf_counter() - start
        wrong = sum(answer[1] != serial[i][1] for i, answer in zip(jobs, answers, strict=True))
        slowest = max(answer[2] for answer in answers)
        median = statistics.median(answer[2] for answer in answers)
        line = f"round {number}: {options.requests} requests of {options.clients} clients in {wall:.1f} s"
        line += f", median {median:.2f} s, slowest {slowest:.2f} s"
        line += f", statuses {dict(Counter(a[0] for a in answers))}, answers that differ: {wrong}"
        print(line + (f", resident {resident_mb(options.pid):.0f} MB" if options.pid else ""))


if __name__ == "__main__":
    main()
