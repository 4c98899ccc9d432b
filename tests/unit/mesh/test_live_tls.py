"""The files of TLS while a process runs: followed as they change, and survived when they are no good."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.mesh.tls.files import Files, FilesError
from services.mesh.tls.live import LiveTls
from tests.certificates import Authority, Certificate, Paths

EXPIRY = "waymesh_tls_certificate_expiry_timestamp_seconds"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def first(authority: Authority) -> Certificate:
    return authority.issue("eta")


@pytest.fixture
def paths(first: Certificate, tmp_path: Path) -> Paths:
    return first.mount(tmp_path / "tls")


def live(paths: Paths, registry: CollectorRegistry | None = None) -> LiveTls:
    return LiveTls(Files(paths.certificate, paths.key, paths.authorities), registry=registry)


def test_what_has_not_changed_is_not_told(paths: Paths) -> None:
    tls, told = live(paths), []
    tls.on_change(told.append)
    assert not tls.look()
    assert told == []


def test_a_swapped_link_is_followed_and_told_once(paths: Paths, authority: Authority) -> None:
    tls, told = live(paths), []
    tls.on_change(told.append)
    second = authority.issue("eta")
    second.mount(paths.folder)

    assert tls.look()
    assert not tls.look()

    assert [each.certificate for each in told] == [second.certificate]
    assert tls.current is told[0]


def test_who_has_left_is_not_told(paths: Paths, authority: Authority) -> None:
    tls, told = live(paths), []
    tls.on_change(told.append)
    tls.forget(told.append)
    authority.issue("eta").mount(paths.folder)
    assert tls.look()
    assert told == []


def test_authorities_alone_may_change(paths: Paths, first: Certificate, authority: Authority) -> None:
    tls = live(paths)
    other = Authority("other")
    Certificate(first.certificate, first.key, authority.trusted + other.trusted).mount(paths.folder)
    assert tls.look()
    assert tls.current.authorities.endswith(other.trusted)


def test_files_written_in_place_are_followed_too(
    first: Certificate, authority: Authority, tmp_path: Path
) -> None:
    paths = first.write(tmp_path / "plain")
    tls = live(paths)
    second = authority.issue("eta")
    paths.key.write_bytes(second.key)
    assert not tls.look()
    assert tls.current.key == first.key
    paths.certificate.write_bytes(second.certificate)
    assert tls.look()
    assert (tls.current.key, tls.current.certificate) == (second.key, second.certificate)


def remove(paths: Paths) -> None:
    for path in (paths.certificate, paths.key, paths.authorities):
        path.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        remove,
        lambda paths: paths.key.write_bytes(Authority().issue("eta").key),
        lambda paths: paths.certificate.write_bytes(paths.certificate.read_bytes()[:200]),
        lambda paths: paths.authorities.write_bytes(b""),
        lambda paths: Authority().issue("eta", ends=-HOUR / 2, begins=-HOUR).write(paths.folder),
        lambda paths: Authority().issue("route").write(paths.folder),
    ],
    ids=["deleted", "key-of-another", "half-written", "no-authorities", "expired", "of-another-service"],
)
def test_what_is_no_good_changes_nothing_and_is_told_once(
    spoil: Callable[[Paths], object],
    first: Certificate,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = first.write(tmp_path / "plain")
    tls = live(paths)
    good = tls.current
    with caplog.at_level(logging.INFO):
        spoil(paths)
        for _ in range(5):
            assert not tls.look()
        assert tls.current is good
        [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert line.getMessage().startswith("WAYMESH_TLS_")
        assert "stays, until 2" in line.getMessage()
        caplog.clear()

        authority.issue("eta").write(paths.folder)
        assert tls.look()
        assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_a_look_between_two_writes_is_no_trouble(
    first: Certificate, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = first.write(tmp_path / "plain")
    tls = live(paths)
    second = authority.issue("eta")
    with caplog.at_level(logging.WARNING):
        paths.certificate.write_bytes(second.certificate)
        assert not tls.look()
        paths.key.write_bytes(second.key)
        assert tls.look()
    assert caplog.records == []


def test_no_key_is_in_the_log(paths: Paths, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        tls = live(paths)
        authority.issue("eta").mount(paths.folder)
        tls.look()
        Authority().issue("route").mount(paths.folder)
        tls.look()
        tls.look()
    assert "PRIVATE" not in caplog.text
    assert "PRIVATE" not in repr(tls.current)


def test_the_metric_tells_when_the_certificate_ends(paths: Paths, authority: Authority) -> None:
    registry = CollectorRegistry()
    tls = live(paths, registry)
    before = registry.get_sample_value(EXPIRY)
    authority.issue("eta", ends=timedelta(days=3)).mount(paths.folder)
    tls.look()
    after = registry.get_sample_value(EXPIRY)
    assert before is not None
    assert after is not None
    assert 1.9 * 86400 < after - before < 2.1 * 86400


def test_a_start_with_wrong_files_fails(paths: Paths) -> None:
    paths.key.unlink()
    with pytest.raises(FilesError, match="WAYMESH_TLS_KEY_FILE"):
        live(paths)


def test_the_end_of_a_certificate_in_use_is_told_once(
    paths: Paths, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    tls = LiveTls(Files(paths.certificate, paths.key, paths.authorities), clock=lambda: now[0])
    tls.look()
    assert caplog.records == []
    now[0] = tls.current.expires + 1
    tls.look()
    tls.look()
    [line] = caplog.records
    assert line.levelno == logging.ERROR
    assert line.getMessage().endswith("has ended: peers refuse it until there is another")
