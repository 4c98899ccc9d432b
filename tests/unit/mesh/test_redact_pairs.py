"""Values by secret names are masked in running text, everyday text stays, and nothing takes long."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.mesh.redact import MASK, is_clean_text, redact_text
from tests.examples import examples


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
        ("(b'authorization', b'x y') (b'a', b'b')", f"(b'authorization', b'{MASK}') (b'a', b'b')"),
        # addresses
        ("https://h/p?q=password%3Dx%26a&b=1", f"https://h/p?q=password%3D{MASK}&b=1"),
        ("p=%22password%22%3A%22x%22&b=1", f"p=%22password%22%3A{MASK}&b=1"),
        ("https://h/p?sv=1&sig=x%3D&se=2", f"https://h/p?sv=1&sig={MASK}&se=2"),
        ("//user:x@host/p", f"//user:{MASK}@host/p"),
        ("pin[]=x&api_key[0]=x&a[pin][][a]=x", f"pin[]={MASK}&api_key[0]={MASK}&a[pin][][a]={MASK}"),
        # files of settings
        ("- name: DB_PASSWORD\n  value: x\n", f"- name: DB_PASSWORD\n  value: {MASK}\n"),
        ("password: |\n  x\n  y\na: b", f"password: {MASK}\na: b"),
        ("password: >-\n    x y", f"password: {MASK}"),
        ("tokens:\n  - x\n  - y\na: b", f"tokens:\n  {MASK}\na: b"),
        ("passwords:\n- x y\na: b", f"passwords:\n{MASK}\na: b"),
        ("<password>x y</password><a>b</a>", f"<password>{MASK}</password><a>b</a>"),
        ('<c:Password type="a">x</c:Password>', f'<c:Password type="a">{MASK}</c:Password>'),
        ("<add key=\"password\" value=\"x\"/>", f"<add key=\"password\" value=\"{MASK}\"/>"),
        ("<input name='pin' value='x'>", f"<input name='pin' value='{MASK}'>"),
        # messages printed
        ('labels {\n  key: "pin"\n  value: "x"\n}', f'labels {{\n  key: "pin"\n  value: "{MASK}"\n}}'),
        (
            'fields {\n  key: "pin"\n  value {\n    string_value: "x"\n  }\n}\na: 1',
            f'fields {{\n  key: "pin"\n  value {MASK}\n}}\na: 1',
        ),
        # statements and messages
        ("ALTER USER u WITH PASSWORD 'x y' CREATEDB", f"ALTER USER u WITH PASSWORD '{MASK}' CREATEDB"),
        ("the api_key \"x\" is wrong", f"the api_key \"{MASK}\" is wrong"),
        ("export PASSWORD=$'x y' A=b", f"export PASSWORD={MASK} A=b"),
        ("curl -u user:x https://h", f"curl -u user:{MASK} https://h"),
        ("curl -u admin:123456 https://h", f"curl -u admin:{MASK} https://h"),
        ("curl --user 'user:x y' https://h", f"curl --user 'user:{MASK}' https://h"),
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
        "tokens=150", "total tokens: 150, cost 3", "cached_tokens: 12", "pass_rate=0.98 auth_ms: 12.5",
        "secretary: Ann", "discard_number=3", "compass_code: 7", "cookiecutter=1",
        "https://cdn.host:8443/npm/vue@3.2", "http://localhost:8000/a@b", "2025-10-09T12:34:56@noon",
        "basic understanding", "Basic authentication failed", "basic user-friendly design",
        "Bearer authentication required", "invalid bearer tokens", "docker run -u 1000:1000 x",
        "Unexpected token '<', \"<!DOCTYPE \"... is not JSON", "x < y", "<order>7</order>", "list[int]=3",
        "- name: colour\n  value: red", "a: |\n  b", "a%3Db", "items[0]=x",
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
@settings(max_examples=examples(1_000))
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
        "password: |\n ", "password:\n- ", "pin[", "pin[]", "%22pin%22%3A", "<pin>", "<pin ", "name: pin\n",
        "-u a:b", "b'pin', ", "password '", "//a:b@", "basic a-", "name='pin' value",
        "pin='\n\\'", 'pin=["\\', "x:" + "!" * 250, "u://a:" + "b" * 1000, "aA1", "1-",
    ],
)  # fmt: skip
def test_hostile_text_takes_no_longer_than_its_length_says(unit: str, end: str) -> None:
    text = (unit * (131_072 // len(unit) + 1))[:131_072] + end
    started = time.process_time()
    once = redact_text(text)
    # Generous: two tenths of a second are usual, what grows with the square takes minutes.
    assert time.process_time() - started < 10
    assert redact_text(once) == once
