"""The first API key."""

from pathlib import Path

from services.cli.api_key import first_key


def test_without_a_variable_a_key_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    key = first_key(tmp_path, {})
    assert key.startswith("wm_")
    assert len(key) > 30
    assert first_key(tmp_path, {}) == key
    assert (tmp_path / "api_key").stat().st_mode & 0o777 == 0o600


def test_a_key_of_the_environment_wins_and_is_not_written(tmp_path: Path) -> None:
    assert first_key(tmp_path, {"FASTAPI_API_KEY": "mine"}) == "mine"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    (tmp_path / "api_key").touch(0o600)
    assert first_key(tmp_path, {}) == first_key(tmp_path, {}) != ""
