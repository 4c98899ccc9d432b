"""The collector rests while a process imports, and no longer."""

import gc

import pytest

from services.mesh.importing import importing


def test_the_collector_rests_until_the_block_ends() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_leaves_it_at_work() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
