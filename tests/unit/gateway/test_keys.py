"""Which keys a process knows, from the environment, the snapshot and the store."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.gateway.keys import ApiKey, KeyRing, Snapshot, digest_of, new_key
from services.gateway.limits import Rate
from services.mesh.principal import Principal

DEFAULT = Rate(200, 400)
NOW = datetime(2024, 8, 28, tzinfo=UTC)


def api_key(text: str, *, revoked: bool = False, rate: Rate | None = None) -> ApiKey:
    return ApiKey(digest_of(text.encode()), text, rate, NOW, NOW if revoked else None)


def ring(*keys: ApiKey) -> KeyRing:
    made = KeyRing(DEFAULT, lambda: 0.0)
    made.replace(keys)
    return made


def test_a_new_key_is_random_and_fits_a_header() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("wm_") and len(key) == 35 and key.isascii() for key in keys)


def test_a_key_is_found_by_its_text_and_nothing_else() -> None:
    known = ring(api_key("wm_a"))
    found = known.find(b"wm_a")
    assert found is not None
    assert found.key.name == "wm_a"
    for other in (b"", b"wm_b", b"wm_a ", b"WM_A", digest_of(b"wm_a"), digest_of(b"wm_a").hex().encode()):
        assert known.find(other) is None


def test_a_revoked_key_is_not_found() -> None:
    assert ring(api_key("wm_a", revoked=True)).find(b"wm_a") is None


def test_the_given_key_counts_until_a_store_says_that_it_was_revoked() -> None:
    known = ring()
    known.give(api_key("first"))
    assert known.find(b"first") is not None
    known.replace([api_key("other")])
    assert known.find(b"first") is not None
    known.replace([api_key("first", revoked=True)])
    assert known.find(b"first") is None


def test_the_given_key_that_a_snapshot_has_as_revoked_is_not_valid() -> None:
    known = ring(api_key("first", revoked=True))
    known.give(api_key("first"))
    assert known.find(b"first") is None


def test_a_key_that_stays_keeps_what_it_has_used_up() -> None:
    known = ring(api_key("wm_a", rate=Rate(1, 2)))
    client = known.find(b"wm_a")
    assert client is not None
    client.bucket.take()
    known.replace([api_key("wm_a", rate=Rate(1, 2)), api_key("wm_b")])
    same = known.find(b"wm_a")
    assert same is not None
    assert same.bucket.tokens == 1
    known.replace([api_key("wm_a", rate=Rate(1, 5))])
    changed = known.find(b"wm_a")
    assert changed is not None
    assert changed.bucket.tokens == 5


def test_a_key_without_a_rate_has_the_gateways() -> None:
    found = ring(api_key("wm_a")).find(b"wm_a")
    assert found is not None
    assert found.bucket.rate == DEFAULT


def test_a_snapshot_comes_back_as_it_went(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "gateway" / "keys.json")
    assert snapshot.load() == []
    keys = [api_key("wm_a", rate=Rate(1.5, 2)), api_key("wm_b", revoked=True)]
    snapshot.save(keys)
    loaded = snapshot.load()
    assert [(k.digest, k.name, k.rate, k.revoked_at) for k in loaded] == [
        (k.digest, k.name, k.rate, k.revoked_at) for k in keys
    ]
    assert (tmp_path / "gateway" / "keys.json").stat().st_mode & 0o777 == 0o600


def test_a_snapshot_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for broken in ("", "{", "[1]", '[{"digest":"zz"}]', "null"):
        path.write_text(broken)
        assert Snapshot(path).load() == []


def test_who_holds_a_key_acts_for_its_tenant() -> None:
    key = ApiKey(digest_of(b"wm_a"), "night shift", tenant="acme")
    found = ring(key, api_key("wm_b")).find(b"wm_a")
    assert found is not None
    assert found.principal == Principal("acme", key.key_id, "night shift")


def test_a_snapshot_keeps_tenants(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "keys.json")
    snapshot.save([ApiKey(digest_of(b"a"), "a", tenant="acme"), api_key("b")])
    assert [key.tenant for key in snapshot.load()] == ["acme", "default"]


def test_a_snapshot_of_before_keys_had_tenants_is_the_default_ones(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    snapshot = Snapshot(path)
    snapshot.save([api_key("a")])
    path.write_text(path.read_text().replace('"tenant": "default", ', ""))
    assert "tenant" not in path.read_text()
    assert [key.tenant for key in snapshot.load()] == ["default"]


def test_a_snapshot_with_what_names_no_tenant_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    snapshot = Snapshot(path)
    snapshot.save([ApiKey(digest_of(b"a"), "a", tenant="acme")])
    path.write_text(path.read_text().replace('"acme"', '"a b"'))
    assert snapshot.load() == []


def test_a_key_that_has_ended_is_not_found() -> None:
    now = NOW.timestamp()
    known = KeyRing(DEFAULT, lambda: 0.0, lambda: now)
    known.replace([ApiKey(digest_of(b"a"), "a", expires_at=NOW + timedelta(seconds=1))])
    assert known.find(b"a") is not None
    now += 1
    assert known.find(b"a") is None


def test_a_snapshot_keeps_scopes_ends_and_limits(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "keys.json")
    key = ApiKey(digest_of(b"a"), "a", scopes=("get_*", "admin"), expires_at=NOW, under_way=3)
    snapshot.save([key])
    assert snapshot.load() == [key]


def test_a_snapshot_of_before_keys_had_scopes_opens_all_that_is_not_for_operators(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    Snapshot(path).save([api_key("a")])
    (saved,) = json.loads(path.read_text())
    path.write_text(
        json.dumps([{name: saved[name] for name in ("digest", "name", "rate", "tenant", "revoked_at")}])
    )
    (loaded,) = Snapshot(path).load()
    assert (loaded.scopes, loaded.expires_at, loaded.under_way) == (("*",), None, None)


def test_a_snapshot_with_what_is_no_scope_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    Snapshot(path).save([api_key("a")])
    path.write_text(path.read_text().replace('["*"]', '["no scope"]'))
    assert Snapshot(path).load() == []


def test_a_key_that_stays_keeps_what_it_has_under_way() -> None:
    known = ring(api_key("a"))
    before = known.find(b"a")
    known.replace([api_key("a"), api_key("b")])
    after = known.find(b"a")
    assert before is not None
    assert after is not None
    assert after.usage is before.usage


def test_only_what_is_for_operators_is_done_with_that_right() -> None:
    found = ring(ApiKey(digest_of(b"a"), "a", scopes=("*", "admin"))).find(b"a")
    assert found is not None
    assert not found.principal.admin
    assert found.operator.admin
