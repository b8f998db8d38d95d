"""Every environment variable: name, type, default, bounds and help. Nothing else reads the environment."""

import difflib
import logging
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from service.errors import SettingsError
from service.keys import DEFAULT_LIMIT_PER_HOUR, KeyEntry, generate_key, parse_api_keys

PROJECT = Path(__file__).resolve().parent.parent
DEMO_KEY = "sam-demo-key-123"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
GUARDED_PREFIXES = ("SAM_", "API_", "MAX_", "DATASET_")
PLACEHOLDER = re.compile(r"change|example|your|secret|demo", re.IGNORECASE)
DOCUMENT_HEAD = """\
# Settings

Environment variables, or lines of a `.env` file in the project's folder; the environment wins. Empty means
not set. An alias is accepted and logged; both set and different is an error at start. So is a name that
begins with `SAM_`, `API_`, `MAX_` or `DATASET_` and is not in the table. `OMP_NUM_THREADS`,
`MKL_NUM_THREADS` and `CUDA_VISIBLE_DEVICES` reach the libraries they belong to.

This page is printed by `python -m service.settings`; a test compares.

| setting | aliases | default | allowed | meaning |
|---|---|---|---|---|"""

log = logging.getLogger(__name__)


def _setting(default: Any, help_text: str, *aliases: str, **bounds: Any) -> Any:
    """A row of the table; aliases are names in use elsewhere."""
    return Field(default, description=help_text, json_schema_extra={"aliases": list(aliases)}, **bounds)


class Settings(BaseModel):
    """The table. A field's environment variable is its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    app_env: Literal["development", "production"] = _setting(
        "development", "`production` refuses default or missing keys.", "ENVIRONMENT"
    )
    flask_host: str = _setting("127.0.0.1", "Address to listen on.", "HOST")
    flask_port: int = _setting(9487, "Port to listen on.", "PORT", ge=1, le=65535)
    workers: int = _setting(1, "Gunicorn processes; each loads a model of its own.", ge=1, le=64)
    threads: int = _setting(8, "Threads of each process.", ge=1, le=256)
    api_keys: SecretStr | None = _setting(
        None, "`key:name:limit,...`, limit per hour. In development without it the demo key is accepted."
    )
    admin_api_key: SecretStr | None = _setting(
        None, "Key of the administrator. In development without it a random one is made.", "ADMIN_TOKEN"
    )
    sam_model_path: Path | None = _setting(
        None,
        "Checkpoint file. Without it `model/mobile_sam.pt` if present, else the shipped droplet checkpoint.",
        "SAM_CHECKPOINT",
    )
    sam_model_type: Literal["vit_t", "vit_tiny", "vit_b", "vit_l", "vit_h"] | None = _setting(
        None, "Architecture (`vit_tiny` is HQ-SAM's light one); told from the file without it."
    )
    sam_device: str = _setting(
        "auto", "`auto`, `cpu`, `cuda` or `cuda:N`.", pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$"
    )
    sam_precision: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto",
        "Of the network. `auto` is bfloat16 where the processor computes it natively, else float32. "
        "`SAM_FP16=1` is another name for float16.",
    )
    sam_backend: Literal["auto", "torch", "openvino"] = _setting(
        "auto",
        "What the encoder runs on. `auto` compares OpenVINO with torch once a machine and keeps the quicker "
        "one that is as exact; on GPUs it is torch.",
    )
    warm_model: bool = _setting(False, "Load the model at start instead of at the first request.")
    embed_cache_mb: int = _setting(512, "Memory for image embeddings (about 5 MB each).", ge=0, le=1_000_000)
    embed_cache_disk_mb: int = _setting(
        1024, "Disk for image embeddings under `DATA_DIR`, across restarts; 0 for none.", ge=0, le=10_000_000
    )
    max_file_size_mb: int = _setting(50, "Largest upload of one picture.", "MAX_FILE_MB", ge=1, le=2000)
    max_image_pixels: int = _setting(
        100_000_000, "Largest picture, judged from its header.", ge=1, le=1_000_000_000
    )
    max_sequence_frames: int = _setting(
        200, "Most frames of one sequence; each counts as a request.", ge=1, le=10_000
    )
    max_sequence_mb: int = _setting(
        500, "Largest upload of a sequence, all files together.", ge=1, le=100_000
    )
    data_dir: Path = _setting(PROJECT / "data", "Databases, caches, blobs.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _setting("INFO", "Least level logged.")
    log_format: Literal["text", "json"] | None = _setting(
        None, "`text` in development and `json` in production without it."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _keys_fit_the_environment(self) -> "Settings":
        if self.app_env == "production":
            _refuse_weak_keys(self.api_keys, self.admin_api_key)
        elif self.api_keys is None and self.flask_host not in LOOPBACK:
            raise ValueError(
                f"FLASK_HOST={self.flask_host} is reachable from other machines, and without API_KEYS "
                f"everybody knows the demo key: set API_KEYS=key:name:limit, or FLASK_HOST=127.0.0.1"
            )
        return self

    @property
    def uses_demo_key(self) -> bool:
        """Whether requests are accepted with the demo key, for want of others."""
        return self.api_keys is None

    @cached_property
    def admin_key(self) -> str:
        """The administrator's key; without one in the settings, a random one of this process."""
        return self.admin_api_key.get_secret_value() if self.admin_api_key else generate_key("samadmin")

    @property
    def key_entries(self) -> tuple[KeyEntry, ...]:
        """Keys of users."""
        text = (
            self.api_keys.get_secret_value() if self.api_keys else f"{DEMO_KEY}:demo:{DEFAULT_LIMIT_PER_HOUR}"
        )
        return parse_api_keys(text)

    @property
    def log_format_in_use(self) -> str:
        """`text` or `json`."""
        return self.log_format or ("json" if self.app_env == "production" else "text")

    @property
    def max_file_bytes(self) -> int:
        """Largest upload of one picture."""
        return self.max_file_size_mb * 2**20


def load_settings(environ: Mapping[str, str] | None = None, env_file: Path | None = None) -> Settings:
    """Settings of a `.env` file and, before it, of the environment; empty values count as not set.

    Raises:
        SettingsError: a wrong value, an unknown name that looks like one of ours, an alias that contradicts
            its canonical name, or keys that do not fit `APP_ENV`. Secrets are never part of the message.
    """
    if environ is None:
        file_values = dotenv_values(env_file or PROJECT / ".env")
        environ = {**{k: v for k, v in file_values.items() if v is not None}, **os.environ}
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    _refuse_unknown(given)
    try:
        settings = Settings.model_validate(_canonical(given))
        _ = settings.key_entries
    except ValidationError as error:
        raise SettingsError(_explain(error, given)) from None
    except ValueError as error:
        raise SettingsError(f"API_KEYS: {error}") from None
    return settings


def setting_names() -> dict[str, list[str]]:
    """Canonical environment variables and their aliases."""
    return {
        field.upper(): list(info.json_schema_extra["aliases"])  # type: ignore[index,arg-type]
        for field, info in Settings.model_fields.items()
    }


def _canonical(given: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, aliases in setting_names().items():
        values = {n: given[n] for n in (name, *aliases) if n in given}
        if name == "SAM_PRECISION" and given.get("SAM_FP16", "0").lower() in ("1", "true", "yes"):
            values["SAM_FP16"] = "float16"
        if len(set(values.values())) > 1:
            raise SettingsError(f"{' and '.join(values)} name the same setting and differ; keep {name}")
        for alias in values.keys() - {name}:
            log.info("%s is another name of %s; please use %s", alias, name, name)
        if values:
            found[name.lower()] = next(iter(values.values()))
    return found


def _refuse_unknown(given: Mapping[str, str]) -> None:
    names = setting_names()
    known = {*names, *(alias for aliases in names.values() for alias in aliases), "SAM_FP16"}
    for name in given:
        if name.startswith(GUARDED_PREFIXES) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise SettingsError(f"{name} is not a setting; did you mean {nearest}?")


def _refuse_weak_keys(api_keys: SecretStr | None, admin_key: SecretStr | None) -> None:
    for name, secret in (("API_KEYS", api_keys), ("ADMIN_API_KEY", admin_key)):
        if secret is None:
            raise ValueError(f"APP_ENV=production needs {name}")
        if (
            PLACEHOLDER.search(secret.get_secret_value().split(":")[0])
            or DEMO_KEY in secret.get_secret_value()
        ):
            raise ValueError(f"APP_ENV=production refuses a default or placeholder in {name}")


def _explain(error: ValidationError, given: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            lines.append(message)
            continue
        name = str(problem["loc"][0]).upper()
        secret = "key" in name.lower()
        shown = (
            ""
            if secret
            else f"={given.get(name, next((given[a] for a in setting_names()[name] if a in given), ''))}"
        )
        lines.append(f"{name}{shown}: {message}")
    return "; ".join(lines)


def as_markdown() -> str:
    """The table as `docs/settings.md`."""
    rows = [
        " | ".join([f"| `{name}`", _code(aliases), _default(name), _allowed(name), f"{_help(name)} |"])
        for name, aliases in setting_names().items()
    ]
    return "\n".join([DOCUMENT_HEAD, *rows, ""])


def _code(words: list[str]) -> str:
    return " ".join(f"`{word}`" for word in words)


def _default(name: str) -> str:
    default = Settings.model_fields[name.lower()].default
    if isinstance(default, Path):
        default = f"./{default.relative_to(PROJECT)}"
    return "" if default is None else f"`{int(default) if isinstance(default, bool) else default}`"


def _allowed(name: str) -> str:
    schema = Settings.model_json_schema()["properties"][name.lower()]
    kind = schema.get("anyOf", [schema])[0]
    if "enum" in kind:
        return _code(kind["enum"])
    if "const" in kind:
        return f"`{kind['const']}`"
    if "minimum" in kind:
        return f"{kind['minimum']:,} to {kind['maximum']:,}"
    return {"boolean": "`0` `1`", "string": "text"}[kind["type"]]


def _help(name: str) -> str:
    return (Settings.model_fields[name.lower()].description or "").replace("|", r"\|")


if __name__ == "__main__":
    print(as_markdown(), end="")
