"""How targets are written for grpc."""

import pytest

from services.mesh import transport


@pytest.mark.parametrize(
    ("target", "resolved"),
    [
        ("eta:50051", "dns:///eta:50051"),
        ("eta.waymesh.svc.cluster.local:50051", "dns:///eta.waymesh.svc.cluster.local:50051"),
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("[::1]:50051", "[::1]:50051"),
        ("dns:///eta:50051", "dns:///eta:50051"),
        ("unix:/run/eta.sock", "unix:/run/eta.sock"),
    ],
)
def test_a_name_stands_for_all_its_addresses(target: str, resolved: str):
    assert transport.resolvable(target) == resolved
