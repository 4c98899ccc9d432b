"""The page of /docs: everything in one file, so that it works without any other server."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

PAGE: Final = (Path(__file__).parent / "docs.html").read_bytes()


def _source(tag: bytes) -> str:
    """The one inline element of this kind, as a Content-Security-Policy names it."""
    [text] = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


# Nothing runs but what stands in the page, and it talks to nobody but us.
PAGE_POLICY: Final = (
    f"default-src 'none'; script-src {_source(b'script')}; style-src {_source(b'style')}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
).encode()
