"""API keys: what is stored, who is recognised, and what happens when the file goes wrong."""

from __future__ import annotations

import math
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcpd.errors import ConfigurationError
from mcpd.gateway.keys import KeyStore, expand
from mcpd.secret import Secret

NOW = datetime(2026, 7, 28, 12, 0, 0, 999, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys.toml"


def token(store: KeyStore, name: str, *scopes: str) -> bytes:
    return store.new(name, scopes or ("call",), now=NOW).reveal().encode()


def test_without_a_file_no_key_is_required(path: Path) -> None:
    store = KeyStore(path)
    assert not store.required
    assert store.list() == []
    assert store.lookup(b"") is None
    assert not path.parent.exists()


def test_a_new_key_is_recognised_at_once_and_after_a_reload(path: Path) -> None:
    store = KeyStore(path)
    key = token(store, "laptop", "write")
    assert key.startswith(b"mcpd_")
    for reader in (store, KeyStore(path)):
        caller = reader.lookup(key)
        assert caller is not None
        assert (caller.name, caller.scopes) == ("laptop", frozenset({"read", "call", "write"}))
        assert reader.required
    assert store.lookup(key + b"x") is None
    assert store.lookup(key[:-1]) is None


def test_the_file_is_private_and_holds_no_key(path: Path) -> None:
    """SEC-6: only hashes are stored."""
    key = token(KeyStore(path), "laptop")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key not in path.read_bytes()
    assert key.removeprefix(b"mcpd_") not in path.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.toml"]


def test_listing_shows_name_scopes_as_granted_and_time(path: Path) -> None:
    store = KeyStore(path)
    token(store, "b", "admin", "metrics")
    token(store, "a", "my-tool:run")
    assert [(key.name, key.scopes) for key in KeyStore(path).list()] == [
        ("a", ("my-tool:run",)),
        ("b", ("admin", "metrics")),
    ]
    assert KeyStore(path).list()[0].created == NOW.replace(microsecond=0)


def test_a_revoked_key_is_a_stranger_and_the_others_stay(path: Path) -> None:
    store = KeyStore(path)
    first, second = token(store, "first"), token(store, "second")
    assert store.revoke("first").name == "first"
    assert store.lookup(first) is None
    assert store.lookup(second) is not None
    with pytest.raises(ConfigurationError, match="known: second"):
        store.revoke("first")


def test_revoking_the_last_key_or_losing_the_file_opens_nothing(path: Path) -> None:
    """SEC-3: a guarded server never becomes an open one."""
    store = KeyStore(path)
    key = token(store, "only")
    store.revoke("only")
    assert store.required
    assert KeyStore(path).required
    path.unlink()
    store.reload()
    assert store.required
    assert store.lookup(key) is None


def test_another_process_sees_changes_when_it_reloads(path: Path) -> None:
    running = KeyStore(path)
    key = token(KeyStore(path), "late")
    assert running.lookup(key) is None
    running.reload()
    assert running.required
    assert running.lookup(key) is not None


def test_a_broken_file_changes_nothing(path: Path) -> None:
    store = KeyStore(path)
    key = token(store, "laptop")
    path.write_text("[keys", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="not a TOML file"):
        store.reload()
    assert store.lookup(key) is not None
    with pytest.raises(ConfigurationError):
        store.new("other")
    assert path.read_text(encoding="utf-8") == "[keys"


GOOD = f'sha256 = "{"0" * 64}"\nscopes = ["read"]\ncreated = 2026-01-01T00:00:00Z\n'


@pytest.mark.parametrize(
    "text",
    [
        "[other]\n",
        "keys = 1\n",
        "[keys]\na = 1\n",
        "[keys.a]\n",
        "[keys.a]\n" + GOOD.replace("0" * 64, "0" * 63),
        "[keys.a]\n" + GOOD.replace("0" * 64, "G" * 64),
        "[keys.a]\n" + GOOD.replace('["read"]', "[1]"),
        "[keys.a]\n" + GOOD.replace('["read"]', '["read\\n"]'),
        "[keys.a]\n" + GOOD.replace('["read"]', "[]"),
        '[keys."a b"]\n' + GOOD,
        "\xff",
    ],
)
def test_a_file_that_is_not_understood_is_refused_and_named(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        KeyStore(path)
    assert "keys.toml" in str(caught.value) or "scope" in str(caught.value) or "name" in str(caught.value)


def test_a_handwritten_entry_is_understood(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("[keys.a]\n" + GOOD, encoding="utf-8")
    path.chmod(0o600)
    assert [key.name for key in KeyStore(path).list()] == ["a"]


def test_a_file_that_others_may_write_is_refused(path: Path) -> None:
    token(KeyStore(path), "laptop")
    path.chmod(0o620)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        KeyStore(path)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, 'a"]', "a\n", "(configured)"])
def test_a_name_that_would_not_survive_the_file_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="no name for a key"):
        KeyStore(path).new(name)
    assert not path.exists()


@pytest.mark.parametrize("scopes", [(), ("a b",), ('"',), ("",)])
def test_a_malformed_scope_is_refused(path: Path, scopes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="scope"):
        KeyStore(path).new("a", scopes)


def test_a_taken_name_is_refused(path: Path) -> None:
    store = KeyStore(path)
    key = token(store, "laptop")
    with pytest.raises(ConfigurationError, match="already"):
        store.new("laptop")
    assert store.lookup(key) is not None


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    threads = [threading.Thread(target=lambda n=n: KeyStore(path).new(f"key{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(key.name for key in KeyStore(path).list()) == [f"key{n}" for n in range(8)]


def test_the_configured_key_has_every_scope_and_survives_a_reload(path: Path) -> None:
    store = KeyStore(path, Secret("from the environment"))
    assert store.required
    store.reload()
    caller = store.lookup(b"from the environment")
    assert caller is not None
    assert caller.scopes == {"read", "call", "write", "admin", "metrics"}
    assert store.list() == []


@pytest.mark.parametrize(
    ("granted", "held"),
    [
        (["read"], {"read"}),
        (["call"], {"read", "call"}),
        (["write"], {"read", "call", "write"}),
        (["admin"], {"read", "call", "write", "admin"}),
        (["metrics"], {"metrics"}),
        (["call", "my-tool:run"], {"read", "call", "my-tool:run"}),
        ([], set()),
    ],
)
def test_each_scope_includes_those_below_it(granted: list[str], held: set[str]) -> None:
    """AUT-4."""
    assert expand(granted) == held


def test_an_expired_key_is_an_unknown_one(tmp_path: Path) -> None:
    """AUT-4."""
    now = [1_800_000_000.0]
    store = KeyStore(tmp_path / "keys.toml", clock=lambda: now[0])
    key = store.new("laptop", ["call"], life=timedelta(days=90)).reveal().encode()
    again = KeyStore(tmp_path / "keys.toml", clock=lambda: now[0])
    caller = store.lookup(key)
    assert caller is not None
    for one in (store, again):
        assert one.lookup(key) == caller
        assert one.holds(caller)
        assert one.next_expiry_s() == now[0] + 90 * 86400
        assert not one.locked
    now[0] += 90 * 86400
    for one in (store, again):
        assert one.lookup(key) is None
        assert not one.holds(caller)
        assert one.next_expiry_s() == math.inf
        assert one.locked


def test_an_expiry_without_a_time_zone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys.a]\nsha256 = "{"0" * 64}"\nscopes = ["read"]\ncreated = 2026-01-01T00:00:00Z\n')
    assert KeyStore(path).list()[0].expires is None
    path.write_text(path.read_text() + "expires = 2026-01-01T00:00:00\n")
    with pytest.raises(ConfigurationError, match="time zone"):
        KeyStore(path)


def test_a_file_that_was_emptied_locks_and_does_not_open(tmp_path: Path) -> None:
    """SEC-3."""
    path = tmp_path / "keys.toml"
    path.write_bytes(b"")
    path.chmod(0o600)
    store = KeyStore(path)
    assert store.required
    assert store.locked
    assert not KeyStore(tmp_path / "none.toml").locked
    assert not KeyStore(path, Secret("x")).locked
