"""Send the drawn sample to the running service, print what it found and keep the overlay: `make demo`."""

import json
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from service.settings import DEMO_KEY, load_settings

SAMPLE = Path(__file__).with_name("droplets.png")


def post(address: str, key: str, output: dict[str, str]) -> bytes:
    """Multipart by hand: the standard library is all that it takes."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{SAMPLE.name}"\r\n\r\n'
    tail = (
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="output"\r\n\r\n{json.dumps(output)}\r\n'
    )
    body = head.encode() + SAMPLE.read_bytes() + tail.encode() + f"--{boundary}--\r\n".encode()
    headers = {"X-API-Key": key, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=120) as answer:
        content: bytes = answer.read()
    return content


def main() -> int:
    """Exit status 0 if the service answered."""
    settings = load_settings()
    key = DEMO_KEY if settings.uses_demo_key else settings.key_entries[0].key
    address = f"http://127.0.0.1:{settings.flask_port}/segment_file"
    try:
        found = json.loads(post(address, key, {"masks": "none"}))
        overlay = post(address, key, {"format": "overlay"})
    except urllib.error.HTTPError as error:
        print(f"{address} answered {error.code}: {error.read().decode()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{address} does not answer ({error}); start it with `make run`", file=sys.stderr)
        return 1
    Path("overlay.png").write_bytes(overlay)
    sizes = found["summary_statistics"]["diameter_stats"]
    print(f"{found['num_masks']} droplets in {found['timings_ms']['total']:.0f} ms", end=", ")
    print(f"mean diameter {sizes['mean']:.1f} px, CV {100 * sizes['cv']:.1f} %, D[3,2] {sizes['d32']:.1f} px")
    print("the overlay is in overlay.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
