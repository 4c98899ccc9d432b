"""What `waymesh doctor` prints holds no secret of its environment, and of an address everything else."""

import pytest

from services.cli.doctor.veil import Veil
from services.mesh.redact import MASK


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("DATABASE_URL", "postgresql://w@db:5432/w", "postgresql://w@db:5432/w"),
        ("DATABASE_URL", "postgresql:///w?host=/tmp/x", "postgresql:///w?host=/tmp/x"),
        ("DATABASE_URL", "postgresql://w:pw@db/w", f"postgresql://w:{MASK}@db/w"),
        ("DATABASE_URL", "postgresql://w:a/b#c d:e@f@db/w", f"postgresql://w:{MASK}@db/w"),
        (
            "DATABASE_URL",
            "postgresql://w@db/w?password=a,b;c}d#e&application_name=x",
            f"postgresql://w@db/w?password={MASK}&application_name=x",
        ),
        ("DATABASE_URL", "postgresql:///w?p%61ssword=pw", f"postgresql:///w?p%61ssword={MASK}"),
        (
            "OPENAI_BASE_URL",
            "http://u:p1@models/v1?api_key=p2",
            f"http://u:{MASK}@models/v1?api_key={MASK}",
        ),
        ("DATABASE_URL", "no-address", MASK),
        ("OPENAI_API_KEY", "https://a-key", MASK),
    ],
)
def test_an_address_is_shown_but_for_its_password(name: str, value: str, shown: str) -> None:
    assert Veil({name: value})(f"{name} is {value}, which") == f"{name} is {shown}, which"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://w:{}@db/w",
        "postgresql://w@db/w?password={}",
        "postgresql://w@db/w?sslmode=require&password={}&user=w",
    ],
)
def test_a_password_of_an_address_is_hidden_wherever_it_stands(address: str) -> None:
    veil = Veil({"DATABASE_URL": address.format("p%40ss")})
    assert veil("tried p%40ss, then p@ss") == f"tried {MASK}, then {MASK}"
