"""How many examples of a property are tried.

`WAYMESH_EXAMPLES` is the share in percent of what each test asks for. A quarter is what a run of all tests
has time for; 100 is the long version, and more than that a search.
"""

import os
from typing import Final

_SHARE: Final = int(os.environ.get("WAYMESH_EXAMPLES", "25"))
ALL: Final = _SHARE >= 100
# Fewer show little more than that the test runs.
_LEAST: Final = 10


def examples(asked: int) -> int:
    """Of these so many."""
    return max(asked * _SHARE // 100, min(asked, _LEAST))
