"""Who calls: API keys as they are configured, and the ring that knows them again.

The ring holds SHA-256 hashes only. A fast hash is enough: keys are not chosen by people for memory but
generated (256 random bits), and each request pays for one look-up.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["user", "admin", "health"]

DEFAULT_LIMIT_PER_HOUR = 50
MAX_LIMIT_PER_HOUR = 1_000_000
MIN_KEY_LENGTH = 8
MAX_NAME_LENGTH = 64
KEY_ID_LENGTH = 12


@dataclass(frozen=True, slots=True)
class Client:
    """The caller behind a key.

    Attributes:
        name: as configured, for people.
        role: `user`; `admin`, who may everything; `health`, who may read health and metrics.
        limit_per_hour: requests in any sixty minutes; None is without limit.
        key_id: start of the key's hash in hex; the same after a restart, safe in logs.
    """

    name: str
    role: Role
    limit_per_hour: int | None
    key_id: str


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One configured key, still in the clear: hand it to `KeyRing.from_entries` and let it go."""

    key: str = field(repr=False)
    name: str
    limit_per_hour: int = DEFAULT_LIMIT_PER_HOUR


@dataclass(frozen=True, slots=True)
class HashedKey:
    """What a ring, or a table of keys, keeps of one key: `digest` is `hash_key(key)`."""

    digest: bytes = field(repr=False)
    client: Client


class KeyRing:
    """Knows the client of a key without knowing any key."""

    def __init__(self, keys: Iterable[HashedKey]) -> None:
        """Takes keys hashed before, from wherever they are kept."""
        self._keys = tuple(keys)

    @classmethod
    def from_entries(
        cls, users: Iterable[KeyEntry], admin_key: str | None = None, health_key: str | None = None
    ) -> "KeyRing":
        """The ring of configured keys; the admin and the health key have no limit.

        Raises:
            ValueError: a key is too short or not printable ASCII, or two share key or name. Shows no key.
        """
        keys: dict[str, HashedKey] = {}
        for position, entry in enumerate(users, start=1):
            where = f"API key {position}"
            keys[where] = _hashed(where, entry.key, entry.name, "user", entry.limit_per_hour)
        if admin_key is not None:
            keys["admin key"] = _hashed("admin key", admin_key, "admin", "admin", None)
        if health_key is not None:
            keys["health key"] = _hashed("health key", health_key, "health", "health", None)
        _refuse_shared("key", {where: key.digest for where, key in keys.items()})
        _refuse_shared("name", {where: key.client.name for where, key in keys.items()})
        return cls(keys.values())

    def find(self, presented: str) -> Client | None:
        """The client of a presented key, whatever its length or characters; None if it is unknown.

        Takes the same time for every key and every miss: digests have one length, and all are compared.
        """
        digest = hash_key(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.client
        return found

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"KeyRing({len(self)} keys)"


def parse_api_keys(text: str) -> tuple[KeyEntry, ...]:
    """Read `key:name:limit,key:name:limit`, as in `API_KEYS`.

    Entries end at a comma or a line break, and empty ones are skipped. Spaces around fields, and quotes
    around the whole text (as `docker --env-file` leaves them), are dropped. `name` may be left out or
    empty (`key-2` for the second entry), and so may `limit` (50 per hour).

    Raises:
        ValueError: names entry and field, counted from 1, but no value: misplaced, any may be the key.
    """
    lines = _unquoted(text.strip()).replace(",", "\n").splitlines()
    filled = (line for line in lines if line.strip())
    entries = {f"API key {n}": _parse_entry(n, line) for n, line in enumerate(filled, start=1)}
    _refuse_shared("key", {where: entry.key for where, entry in entries.items()})
    _refuse_shared("name", {where: entry.name for where, entry in entries.items()})
    return tuple(entries.values())


def generate_key(prefix: str = "sam") -> str:
    """A new key of 256 random bits; the prefix lets people and secret scanners tell what it opens."""
    if not (prefix.isascii() and prefix.isalnum()):
        raise ValueError("prefix must be ASCII letters and digits")
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> bytes:
    """SHA-256 of any text, also of broken Unicode as a hostile header may hold it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _unquoted(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


def _parse_entry(position: int, line: str) -> KeyEntry:
    where = f"API key {position}"
    fields = [part.strip() for part in line.split(":")]
    if len(fields) > 3:
        raise ValueError(f"{where}: has {len(fields)} fields, at most 3 are known: key:name:limit")
    key, name, limit = (*fields, "", "")[:3]
    _check_key(where, key)
    return KeyEntry(key, _parse_name(where, name) or f"key-{position}", _parse_limit(where, limit))


def _check_key(where: str, key: str) -> None:
    if len(key) < MIN_KEY_LENGTH:
        raise ValueError(f"{where}: key must have at least {MIN_KEY_LENGTH} characters")
    if not all("!" <= character <= "~" for character in key):
        raise ValueError(f"{where}: key must be printable ASCII without spaces")


def _parse_name(where: str, name: str) -> str:
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise ValueError(f"{where}: name must be printable, at most {MAX_NAME_LENGTH} characters")
    if name.isdigit():
        raise ValueError(f"{where}: name must not be a number; a limit without a name is key::limit")
    return name


def _parse_limit(where: str, limit: str) -> int:
    if not limit:
        return DEFAULT_LIMIT_PER_HOUR
    # The length comes first, for int() itself fails on thousands of digits.
    plain = limit.isascii() and limit.isdigit() and len(limit) <= len(str(MAX_LIMIT_PER_HOUR))
    if not plain or not 1 <= int(limit) <= MAX_LIMIT_PER_HOUR:
        raise ValueError(f"{where}: limit must be a whole number from 1 to {MAX_LIMIT_PER_HOUR}")
    return int(limit)


def _hashed(where: str, key: str, name: str, role: Role, limit_per_hour: int | None) -> HashedKey:
    _check_key(where, key)
    digest = hash_key(key)
    return HashedKey(digest, Client(name, role, limit_per_hour, digest.hex()[:KEY_ID_LENGTH]))


def _refuse_shared(what: str, values: Mapping[str, str | bytes]) -> None:
    owners: dict[str | bytes, str] = {}
    for where, value in values.items():
        if value in owners:
            raise ValueError(f"{where}: {what} is the same as of {owners[value]}")
        owners[value] = where
