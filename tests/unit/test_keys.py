"""Keys: what may be written in API_KEYS, who is found, and that no secret ever shows."""

import hashlib
import re
import secrets
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import keys
from service.keys import Client, HashedKey, KeyEntry, KeyRing, generate_key, hash_key, parse_api_keys

LAB = "lab-secret-1"
OPS = "ops-secret-2"
ADMIN = "admin-secret-3"
HEALTH = "health-secret-4"


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing.from_entries([KeyEntry(LAB, "lab", 100), KeyEntry(OPS, "ops")], ADMIN, HEALTH)


def message_of(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ValueError) as error:
        call(*arguments)
    assert error.value.__cause__ is None
    assert error.value.__context__ is None
    return str(error.value)


# Reading the setting


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n, ,\n", []),
        (f"{LAB}:lab:100", [(LAB, "lab", 100)]),
        (f"{LAB}:lab:100,{OPS}:ops:7", [(LAB, "lab", 100), (OPS, "ops", 7)]),
        (f" {LAB} : lab : 100 , {OPS} : ops : 7 ,", [(LAB, "lab", 100), (OPS, "ops", 7)]),
        (f"\n{LAB}:lab:100,\r\n{OPS}:ops:7\n", [(LAB, "lab", 100), (OPS, "ops", 7)]),
        (f"{LAB}:lab:100\n{OPS}:ops:7", [(LAB, "lab", 100), (OPS, "ops", 7)]),
        (f'"{LAB}:lab:100"', [(LAB, "lab", 100)]),
        (f"'{LAB}:lab:100'\n", [(LAB, "lab", 100)]),
        (f"{LAB}:lab", [(LAB, "lab", 50)]),
        (f"{LAB}:lab:", [(LAB, "lab", 50)]),
        (f"{LAB}::100", [(LAB, "key-1", 100)]),
        (f"{LAB}:lab,,{OPS}", [(LAB, "lab", 50), (OPS, "key-2", 50)]),
        (f"{LAB}:Лаборатория 2:1", [(LAB, "Лаборатория 2", 1)]),
        (f"{LAB}:lab:1000000", [(LAB, "lab", 1_000_000)]),
        (f"{LAB}:lab:0050", [(LAB, "lab", 50)]),
        ("!\"#$%&'()*+-./;<=>?@[]^_`{|}~:odd:1", [("!\"#$%&'()*+-./;<=>?@[]^_`{|}~", "odd", 1)]),
        ("12345678:eight:1", [("12345678", "eight", 1)]),
        (f"{LAB}:{'n' * 64}", [(LAB, "n" * 64, 50)]),
    ],
)
def test_reads_what_people_write(text: str, expected: list[tuple[str, str, int]]) -> None:
    assert parse_api_keys(text) == tuple(KeyEntry(*fields) for fields in expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("short-1:lab:5", "API key 1: key must have at least 8 characters"),
        (":lab:5", "API key 1: key must have at least 8 characters"),
        (f"{LAB}:lab:5,:ops:5", "API key 2: key must have at least 8 characters"),
        (f",,{LAB}:lab:5,\n,x:ops:5", "API key 2: key must have at least 8 characters"),
        ("lab secret 1:lab:5", "API key 1: key must be printable ASCII without spaces"),
        ("lab-sécret-1:lab:5", "API key 1: key must be printable ASCII without spaces"),
        ("lab-secret\x7f:lab:5", "API key 1: key must be printable ASCII without spaces"),
        ("lab\tsecret-1:lab:5", "API key 1: key must be printable ASCII without spaces"),
        (f"{LAB}:lab\x07:5", "API key 1: name must be printable, at most 64 characters"),
        (f"{LAB}:{'n' * 65}:5", "API key 1: name must be printable, at most 64 characters"),
        (f"{LAB}:100", "API key 1: name must not be a number; a limit without a name is key::limit"),
        (f"{LAB}:lab:5:x", "API key 1: has 4 fields, at most 3 are known: key:name:limit"),
        (f"{LAB}:lab:5,{LAB}:ops:5", "API key 2: key is the same as of API key 1"),
        (f"{LAB}:lab:5,{OPS}:lab:5", "API key 2: name is the same as of API key 1"),
        (f"{LAB}:key-2:5,{OPS}", "API key 2: name is the same as of API key 1"),
    ],
)
def test_refuses_and_says_where(text: str, message: str) -> None:
    assert message_of(parse_api_keys, text) == message


@pytest.mark.parametrize(
    "limit",
    [
        "0",
        "-1",
        "+5",
        "1000001",
        "99999999999",
        "5.0",
        "1e3",
        "1_000",
        "5 0",
        "٥",
        "²",
        "many",
        "50/h",
        "9" * 5000,
    ],
)
def test_limit_is_a_whole_number_in_bounds(limit: str) -> None:
    message = message_of(parse_api_keys, f"{OPS}:ops:5,{LAB}:lab:{limit}")
    assert message == "API key 2: limit must be a whole number from 1 to 1000000"


SECRET = st.from_regex(r"[A-Za-z0-9_-]{8,40}", fullmatch=True).filter(lambda text: not text.isalpha())


@settings(deadline=None)
@given(secret=SECRET, other=SECRET)
def test_no_error_shows_a_secret_wherever_it_was_put(secret: str, other: str) -> None:
    broken = [
        f"{secret}:lab:0",
        f"{secret}:lab:x",
        f"{secret}:lab:5:6",
        f"{secret}:1",
        f"{secret}é:lab:5",
        f"lab:{secret}:5",
        f"{other}:lab:{secret}x",
        f"{secret}:lab:5,{secret}:ops:5",
        f"{secret}:lab,{secret}x:lab",
        f"lab:5:{secret}",
        f"{secret} {other}",
    ]
    for text in broken:
        message = message_of(parse_api_keys, text)
        assert secret not in message
        assert other not in message


# The ring


@pytest.mark.parametrize(
    ("key", "name", "role", "limit"),
    [
        (LAB, "lab", "user", 100),
        (OPS, "ops", "user", 50),
        (ADMIN, "admin", "admin", None),
        (HEALTH, "health", "health", None),
    ],
)
def test_finds_each_client(ring: KeyRing, key: str, name: str, role: keys.Role, limit: int | None) -> None:
    assert ring.find(key) == Client(name, role, limit, hashlib.sha256(key.encode()).hexdigest()[:12])


@pytest.mark.parametrize(
    "presented",
    [
        "",
        " ",
        "unknown-key",
        LAB[:-1],
        LAB + "x",
        LAB + "\0",
        " " + LAB,
        LAB.upper(),
        "lab-sécret-1",
        "ключ",
        "\udc80\ud800",
        "x" * 2**20,
        LAB * 2**16,
        hash_key(LAB).hex(),
        hash_key(LAB).hex()[:12],
    ],
    ids=range(15),
)
def test_anything_else_is_nobody(ring: KeyRing, presented: str) -> None:
    assert ring.find(presented) is None


def test_empty_ring_knows_nobody() -> None:
    assert KeyRing.from_entries([]).find("") is None


@pytest.mark.parametrize("presented", [LAB, OPS, HEALTH, "", "x", "ключ", "x" * 2**20])
def test_compares_every_entry_in_constant_time(
    ring: KeyRing, presented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []
    compare = keys.hmac.compare_digest

    def recording_compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(keys.hmac, "compare_digest", recording_compare)
    ring.find(presented)
    assert compared == [(32, 32)] * 4


def test_key_id_is_stable_and_tells_clients_apart(ring: KeyRing) -> None:
    again = KeyRing.from_entries([KeyEntry(OPS, "renamed", 7)])
    assert again.find(OPS).key_id == ring.find(OPS).key_id
    assert len({ring.find(key).key_id for key in (LAB, OPS, ADMIN, HEALTH)}) == 4


def test_takes_keys_that_were_hashed_elsewhere() -> None:
    client = Client("stored", "user", 5, "0123456789ab")
    assert KeyRing([HashedKey(hash_key(LAB), client)]).find(LAB) is client


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([KeyEntry(LAB, "lab")], LAB), "admin key: key is the same as of API key 1"),
        (([], ADMIN, ADMIN), "health key: key is the same as of admin key"),
        (([KeyEntry(LAB, "lab"), KeyEntry(LAB, "ops")],), "API key 2: key is the same as of API key 1"),
        (([KeyEntry(LAB, "lab"), KeyEntry(OPS, "lab")],), "API key 2: name is the same as of API key 1"),
        (([KeyEntry(LAB, "admin")], ADMIN), "admin key: name is the same as of API key 1"),
        (([KeyEntry("", "lab")],), "API key 1: key must have at least 8 characters"),
        (([], "1234567"), "admin key: key must have at least 8 characters"),
        (([], None, ""), "health key: key must have at least 8 characters"),
        (([], "admin sécret"), "admin key: key must be printable ASCII without spaces"),
    ],
)
def test_ring_refuses_weak_and_shared_keys(arguments: tuple[object, ...], message: str) -> None:
    assert message_of(KeyRing.from_entries, *arguments) == message


def test_repr_and_str_show_no_secret(ring: KeyRing) -> None:
    entry = KeyEntry(LAB, "lab", 100)
    hashed = HashedKey(hash_key(LAB), ring.find(LAB))
    for record in (entry, hashed, ring, ring.find(LAB), [entry], {"ring": ring}):
        for shown in (repr(record), str(record), f"{record}"):
            assert LAB not in shown
            assert hash_key(LAB).hex() not in shown
            assert repr(hash_key(LAB)) not in shown
    assert repr(ring) == "KeyRing(4 keys)"


def test_ring_keeps_no_key(ring: KeyRing) -> None:
    kept = repr([(key.digest, key.client) for key in ring._keys])
    assert not any(key in kept for key in (LAB, OPS, ADMIN, HEALTH))
    assert vars(ring).keys() == {"_keys"}


# New keys


def test_generated_key_is_recognisable_and_accepted() -> None:
    key = generate_key()
    assert re.fullmatch(r"sam_[A-Za-z0-9_-]{43}", key)
    assert parse_api_keys(f"{key}:lab:5") == (KeyEntry(key, "lab", 5),)
    assert generate_key("demo").startswith("demo_")
    assert len({generate_key() for _ in range(100)}) == 100


def test_generated_key_has_256_random_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(secrets, "token_urlsafe", lambda count: asked.append(count) or "token")
    assert generate_key() == "sam_token"
    assert asked == [32]


@pytest.mark.parametrize("prefix", ["", "a:b", "a,b", "a b", "é"])
def test_prefix_must_not_break_the_setting(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        generate_key(prefix)
