"""Nothing about a key can be learned from how it is compared: the same steps, whatever was sent."""

import ast
import hmac
from pathlib import Path
from unittest import mock

import pytest

from services.gateway import keys
from services.gateway.keys import ApiKey, KeyRing, digest_of
from services.gateway.limits import Rate

GATEWAY = Path(keys.__file__).parent
RIGHT = b"wm_right"


def ring() -> KeyRing:
    made = KeyRing(Rate(1, 1), lambda: 0.0)
    made.replace([ApiKey(digest_of(RIGHT), "right"), ApiKey(digest_of(b"wm_other"), "other")])
    return made


def steps(
    known: KeyRing, sent: bytes, digest: bytes | None = None
) -> tuple[list[tuple[int, int]], int, bool]:
    """Lengths of what is compared in constant time, how often a place is hashed, and whether it was found."""
    compared: list[tuple[int, int]] = []
    places = 0
    real, place = hmac.compare_digest, KeyRing._place

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    def counted(self: KeyRing, digest: bytes) -> bytes:
        nonlocal places
        places += 1
        return place(self, digest)

    with (
        mock.patch.object(keys.hmac, "compare_digest", compare),
        mock.patch.object(KeyRing, "_place", counted),
        mock.patch.object(keys, "digest_of", (lambda _: digest) if digest is not None else digest_of),
    ):
        found = known.find(sent)
    return compared, places, found is not None


@pytest.mark.parametrize("shared", [0, 1, 16, 31])
def test_a_key_whose_digest_begins_like_a_right_one_takes_the_steps_of_any_other(shared: int) -> None:
    right = digest_of(RIGHT)
    near = right[:shared] + bytes(byte ^ 0xFF for byte in right[shared:])
    known = ring()
    assert steps(known, b"x", near) == ([(32, 32)], 1, False)
    assert steps(known, RIGHT) == ([(32, 32)], 1, True)
    assert steps(known, b"") == ([(32, 32)], 1, False)


def test_a_place_in_the_table_cannot_be_foretold() -> None:
    digest = digest_of(RIGHT)
    assert ring()._place(digest) != ring()._place(digest)


def test_a_stranger_at_a_taken_place_is_still_a_stranger() -> None:
    known = ring()
    with mock.patch.object(KeyRing, "_place", return_value=b"same"):
        known.replace([ApiKey(digest_of(RIGHT), "right")])
        assert known.find(RIGHT) is not None
        assert known.find(b"wm_wrong") is None


def test_no_code_of_the_gateway_compares_keys_or_digests_by_itself() -> None:
    """`==` stops at the first byte that differs."""
    suspicious = {"digest", "given", "secret", "api_key"}
    for path in sorted(GATEWAY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Compare) or not any(
                isinstance(o, ast.Eq | ast.NotEq) for o in node.ops
            ):
                continue
            sides = [node.left, *node.comparators]
            named = {
                each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in sides
            }
            assert not named & suspicious, f"{path.name}:{node.lineno}"
