"""Values by secret names are masked in running text, everyday text stays, and nothing takes long."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.mesh.redact import MASK, is_clean_text, redact_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # printed objects and stack traces
        ("failed: {'secret_key': 'x', 'a': 1}", f"failed: {{'secret_key': '{MASK}', 'a': 1}}"),
        ("{'password': 'it\\'s x', 'a': 1}", f"{{'password': '{MASK}', 'a': 1}}"),
        ("Login(user='u', password='x')", f"Login(user='u', password='{MASK}')"),
        ("password=b'two x' a", f"password={MASK} a"),
        ("auth=('u', 'x') timeout=3", f"auth={MASK} timeout=3"),
        ("auth=Basic('u', 'x') timeout=3", f"auth={MASK} timeout=3"),
        ("credentials={'u': ['x', (1, 2)]} a", f"credentials={MASK} a"),
        ("os.environ['DB_PASSWORD'] = 'x'", f"os.environ['DB_PASSWORD'] = '{MASK}'"),
        ("{:password=>\"x\", :a=>1}", f'{{:password=>"{MASK}", :a=>1}}'),
        ("[('Authorization', 'x y'), ('a', 'b')]", f"[('Authorization', '{MASK}'), ('a', 'b')]"),
        ('{"name": "password", "value": "x"}', f'{{"name": "password", "value": "{MASK}"}}'),
        # escaped once and twice
        (r"{\"password\":\"x y\",\"a\":1}", rf"{{\"password\":\"{MASK}\",\"a\":1}}"),
        (r"{\\\"pin\\\":\\\"x\\\",\\\"a\\\":1}", rf"{{\\\"pin\\\":\\\"{MASK}\\\",\\\"a\\\":1}}"),
        (r"{\"pin\":\"x\\\"y\",\"a\":1}", rf"{{\"pin\":\"{MASK}\",\"a\":1}}"),
        # settings and log lines
        ("dbPassword=x accessToken=y", f"dbPassword={MASK} accessToken={MASK}"),
        ("private_key: x passphrase=y", f"private_key: {MASK} passphrase={MASK}"),
        ("client credential=x", f"client credential={MASK}"),
        ("password='two x' a", f"password='{MASK}' a"),
        ("password='a'b'c' d", f"password='{MASK}' d"),
        ("password='unclosed x\nnext", f"password={MASK}\nnext"),
        ("card=4111111111111111 cvv: 123", f"card={MASK} cvv: {MASK}"),
        ("api key: x", f"api key: {MASK}"),
        ("passwords:\n  x", f"passwords:\n  {MASK}"),
        ("password == x", f"password == {MASK}"),
        ("\uff50assword=x pa\u017fsword\uff1dx", f"\uff50assword={MASK} pa\u017fsword\uff1d{MASK}"),
        ("user[password]=x&a=1", f"user[password]={MASK}&a=1"),
        ("token_count: x", f"token_count: {MASK}"),
        ("tokens_used=4111111111111111", f"tokens_used={MASK}"),
        ("password=Bearer x", f"password={MASK}"),
        ("password=[redacted]x", f"password={MASK}"),
        ("connect(password=x)", f"connect(password={MASK})"),
        # commands
        ("pip --password x install", f"pip --password {MASK} install"),
        ("java -token x", f"java -token {MASK}"),
        ("Command '['pip', '--password', 'x']' died", f"Command '['pip', '--password', '{MASK}']' died"),
        # headers
        ("Set-Cookie: sid=x; Path=/\nHost: a", f"Set-Cookie: {MASK}\nHost: a"),
        ("Cookie: a=x; b=y", f"Cookie: {MASK}"),
        ("Authorization: Bearer x, y", f"Authorization: Bearer {MASK}"),
        ("curl -H 'Cookie: a=x; b=y' https://h/p", f"curl -H 'Cookie: {MASK}' https://h/p"),
        # by their form
        ("cannot reach user:x@host", f"cannot reach user:{MASK}@host"),
        ("https://token:x@h/p", f"https://token:{MASK}@h/p"),
        ("hf_abcdefghijklmnopqrst glpat-abcdefghij0123456789", f"{MASK} {MASK}"),
    ],
)  # fmt: skip
def test_the_value_by_a_secret_name_is_masked(text: str, shown: str) -> None:
    assert redact_text(text) == shown
    assert redact_text(shown) == shown
    assert not is_clean_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "tokens_used=150", "max_tokens: 2000", '{"max_tokens": 2000, "prompt_tokens": "12"}',
        "max_tokens=None",
        "key: value", "author=Ann", "pinned: 3 of 4", "mapping: x", "discard=1 company: Acme",
        "monkey=patched",
        "12:34:56", "2025-10-09T12:34:56.789Z", "at 12:34:56@noon", "password=''", 'token: ""', "token=None",
        "https://host:8000/execute?order_id=7", "http://[::1]:80/x", "mail@example.org",
        "mailto:ann@example.org",
        "image:1.2@sha256:abcd", "git@github.com:owner/repo.git", "pkg:tool@1.2.3", "a,b,c", "['a', 'b']",
        "['user', 'password', 'order']", "--verbose --max-tokens 200", "order - token - x", "x -> token",
        'File "/app/auth.py", line 12, in f', "at run (/app/token.js:12:5)", "/app/cookie.go:33 +0x1d",
        'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    x = y["a"]\nValueError: 3 != 4',
        "tuple[str, int] | None", "f(key=1, value='x')", '{"name": "colour", "value": "red"}',
        "the password is wrong", "bad credentials", "no token", "error: no such key 'a': gone",
    ],
)  # fmt: skip
def test_everyday_text_stays(text: str) -> None:
    assert redact_text(text) == text


PIECES = (
    "password", "pin", "token", "max_tokens", "key", "api", "cookie", "Authorization", "-", "--", "=", ":",
    "=>",
    " ", "\n", "'", '"', "`", "\\", "\\\\", ",", ";", "&", "(", ")", "[", "]", "{", "}", MASK, "basic ",
    "Bearer ",
    "abcdefgh12", "x", "7", "None", "name", "value", "@", "://", "u", "/", "auth.py", "123-45-6789", ".",
    "\uff1d",
    "sk-abcdefghijklmnop1", "eyJabcdefgh.abcd.x", "hf_abcdefghijklmnopqrst", "a:!", "\uff50in",
)  # fmt: skip
pieced = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(pieced)
@settings(max_examples=1_000)
def test_redacting_twice_is_redacting_once_and_clean_text_is_left_as_it_is(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once
    if is_clean_text(text):
        assert once == text


VALUES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=0, max_size=8).map(
    "S3CRET".__add__
)


@given(
    before=pieced.filter(lambda text: "'" not in text and '"' not in text and "`" not in text),
    name=st.sampled_from(["password", "dbPassword", "secret_key", "x.pin", "X-API-Key"]),
    form=st.sampled_from(
        ["{}={}", "{}: {}", "'{}': '{}'", '"{}": "{}"', "{}=>'{}'", "{}='two {}'", "--{} {}", "('{}', '{}')"]
    ),
    value=VALUES,
    after=pieced,
)
def test_no_value_by_a_secret_name_is_left(before: str, name: str, form: str, value: str, after: str) -> None:
    assert "S3CRET" not in redact_text(f"{before}\n{form.format(name, value)} {after}")


@pytest.mark.parametrize("end", ["", "@", "'", ")"])
@pytest.mark.parametrize(
    "unit",
    [
        "password='", "password=\\'", "password=(", "pin=(\n", 'pin=("', "a:", "a=", "a.", "-", "--pin ",
        "\\", '"',
        "password:\n ", "a:!", "a://b:c", "Bearer a", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", " ",
        "pin = ",
        "pin=''", "pin='a'", "['pin','x", '"name":"pin",', "'cookie: a", "cookie:", "a:b@", "key: key", "_",
        "A",
        "pin='\n\\'", 'pin=["\\', "x:" + "!" * 250, "u://a:" + "b" * 1000, "aA1", "1-",
    ],
)  # fmt: skip
def test_hostile_text_takes_no_longer_than_its_length_says(unit: str, end: str) -> None:
    text = (unit * (65_536 // len(unit) + 1))[:65_536] + end
    started = time.process_time()
    once = redact_text(text)
    # Generous: a tenth of a second is usual, what grows with the square takes minutes.
    assert time.process_time() - started < 5
    assert redact_text(once) == once
