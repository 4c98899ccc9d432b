"""What is told of the locks: what is in them, and whether something is known against it."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.images.trees import ROOT, lock_names
from tools.ports import free_ports

CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2


@pytest.fixture
def service() -> Iterator[tuple[str, dict[str, object]]]:
    """A vulnerability service of OSV's protocol, and what it answers for a package's name."""
    known: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(known.get(asked["package"]["name"], {})).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query", known
    server.shutdown()
    server.server_close()


def audit(tools: Path, address: str) -> subprocess.CompletedProcess[str]:
    lock = ROOT / "requirements/uv.txt"
    return subprocess.run(
        [tools / "python", ROOT / "tools/audit.py", "--osv-url", address, lock],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_lock_is_clean_once_the_service_was_asked_about_all_of_it(
    audit_tools: Path, service: tuple[str, dict[str, object]]
) -> None:
    said = audit(audit_tools, service[0])
    assert (said.returncode, said.stderr) == (CLEAN, "")
    assert "1 packages, none with a known vulnerability (asked: osv)" in said.stdout


def test_a_known_vulnerability_is_told_with_what_mends_it(
    audit_tools: Path, service: tuple[str, dict[str, object]]
) -> None:
    address, known = service
    affected = {
        "package": {"name": "uv", "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999.1"}]}],
    }
    known["uv"] = {
        "vulns": [
            {"id": "PYSEC-0000-1", "summary": "s", "modified": "2026-01-01T00:00:00Z", "affected": [affected]}
        ]
    }
    said = audit(audit_tools, address)
    assert said.returncode == VULNERABLE
    assert "PYSEC-0000-1, mended in 999.1" in said.stdout


def test_a_service_that_cannot_be_asked_makes_no_lock_clean(audit_tools: Path) -> None:
    said = audit(audit_tools, f"http://127.0.0.1:{free_ports(1)[0]}/v1/query")
    assert said.returncode == UNKNOWN
    assert "NOT KNOWN" in said.stdout
    assert "none with a known vulnerability" not in said.stdout


def test_the_bill_of_materials_names_every_package_of_the_lock_with_its_hashes(audit_tools: Path) -> None:
    subprocess.run(["make", "--quiet", "sbom"], cwd=ROOT, check=True, capture_output=True)

    told = json.loads((ROOT / ".build/sbom/waymesh.cdx.json").read_text())

    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["component"]["name"] == "waymesh"
    components = told["components"]
    named = {(one["name"].replace("_", "-").lower(), one["version"]) for one in components}
    assert {pair for pair in lock_names().items() if pair not in named} == set()
    assert [one["name"] for one in components if not one["externalReferences"][0]["hashes"]] == []
