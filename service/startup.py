"""Before and after the service starts, for the person at the terminal: `python -m service.startup` checks."""

import shutil
import socket
import sys
from pathlib import Path

from sam_engine.checkpoints import SHIPPED_FILE
from sam_engine.embedding_store import EmbeddingStore
from sam_engine.engine import SamEngine
from sam_engine.errors import ModelUnavailable
from sam_engine.store import TensorStore
from service.errors import SettingsError
from service.settings import DEMO_KEY, PROJECT, Settings, load_settings

SAMPLE = PROJECT / "examples" / "droplets.png"
MIN_FREE_BYTES = 200 * 2**20
GRAPHS_BYTES = 1024 * 2**20  # of converted encoders


def build_engine(settings: Settings) -> SamEngine:
    """The engine that the settings describe; nothing is loaded yet.

    The shipped checkpoint stands beside it, to find instances for a checkpoint without a dense head.
    """

    on_disk = settings.embed_cache_disk_mb * 2**20
    store = EmbeddingStore(settings.data_dir / "cache" / "embeddings", on_disk) if on_disk else None
    graphs = TensorStore(settings.data_dir / "cache" / "graphs", GRAPHS_BYTES)

    def engine(path: Path | None, proposer: SamEngine | None = None) -> SamEngine:
        return SamEngine(
            PROJECT / "model",
            path,
            model_type=settings.sam_model_type if proposer else None,
            device=settings.sam_device,
            precision=settings.sam_precision,
            cache_bytes=settings.embed_cache_mb * 2**20,
            proposer=proposer,
            store=store,
            backend=settings.sam_backend,
            graphs=graphs,
        )

    return engine(settings.sam_model_path, engine(PROJECT / "model" / SHIPPED_FILE))


def problems_at_start(settings: Settings) -> list[str]:
    """What would keep the service from working, each with its remedy."""
    found = (_port_taken(settings), _no_space(settings.data_dir))
    problems = [problem for problem in found if problem]
    unusable = None if problems else _unusable_checkpoint(settings)  # it takes a while, and writes
    return [*problems, unusable] if unusable else problems


def welcome(settings: Settings, admin_key_made: bool) -> str:
    """Address, key and a line to paste; keys are shown only where they are not secret or just made."""
    host = "127.0.0.1" if settings.flask_host in ("0.0.0.0", "::") else settings.flask_host  # noqa: S104
    address = f"http://{host}:{settings.flask_port}"
    key = DEMO_KEY if settings.uses_demo_key else "YOUR-KEY"
    call = f"curl -s -H 'X-API-Key: {key}' -F 'file=@{SAMPLE}'"
    lines = [
        f"SAM Droplet listens on {address}  (API: {address}/docs)",
        f"  key: {f'{DEMO_KEY} (demo, this machine only)' if settings.uses_demo_key else 'one of API_KEYS'}",
    ]
    if admin_key_made:
        lines.append(f"  admin key of this run: {settings.admin_key}")
    lines += [
        "Try it from another terminal:",
        f'  {call} -F \'output={{"masks":"none"}}\' {address}/segment_file',
        f'  {call} -F \'output={{"format":"overlay"}}\' -o overlay.png {address}/segment_file',
    ]
    return "\n".join(["", *lines, ""])


def _port_taken(settings: Settings) -> str | None:
    family = socket.AF_INET6 if ":" in settings.flask_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.flask_host, settings.flask_port))
        except OSError as error:
            where = f"{settings.flask_host}:{settings.flask_port}"
            return f"cannot listen on {where}: {error.strerror}. Stop what uses it, or set FLASK_PORT."
    return None


def _no_space(data_dir: Path) -> str | None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(data_dir).free
    except OSError as error:
        return f"cannot write to {data_dir}: {error.strerror}. Set DATA_DIR to a folder that can be written."
    if free < MIN_FREE_BYTES:
        return f"only {free / 2**20:.0f} MB are free on the disk of {data_dir}; at least 200 MB are needed."
    return None


def _unusable_checkpoint(settings: Settings) -> str | None:
    engine = build_engine(settings)
    new = engine.graphs is not None and not engine.graphs.statistics().entries
    try:
        if new and settings.sam_backend != "torch":
            print("Preparing the network for this machine (once; some 30 seconds) ...", flush=True)
            engine.warm()
        else:
            engine.load()
    except ModelUnavailable as error:
        return str(error)
    return None


def main() -> int:
    """Exit status 0 if the service can start."""
    try:
        problems = problems_at_start(load_settings())
    except SettingsError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"sam-droplet: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
