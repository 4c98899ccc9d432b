"""Second best in two ways is told as one."""

from waymesh.mesh.v1.degradation_pb2 import Degradation

from services.agents.ladder import worse

ENGINE = Degradation(source="eta.prior", reason="no model yet")
WORDS = Degradation(source="agents.engine", reason="no model is configured")


def test_the_first_names_the_source_and_both_their_reasons() -> None:
    both = worse(ENGINE, WORDS)

    assert both is not None
    assert both.source == "eta.prior"
    assert both.reason == "no model yet; agents.engine: no model is configured"


def test_one_alone_stays_as_it_is() -> None:
    assert worse(None, WORDS) is WORDS
    assert worse(ENGINE, None) is ENGINE
    assert worse(Degradation(), WORDS) is WORDS
    assert worse(None, None) is None
