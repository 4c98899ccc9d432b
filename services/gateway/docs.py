"""The page of /docs."""

PAGE = b""
PAGE_POLICY = b""
