"""The definitions of custom resources, as their projects publish them, fetched once and pinned by hash.

Go modules for most, whose content `go mod download` checks; Strimzi publishes its classes on Maven Central,
and the generator that makes its definitions of them.
"""

import hashlib
import json
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from tools.k8s.render import ROOT, DeployError, alone, load

POM: Final = Path(__file__).with_name("pom.xml")
_CACHE: Final = ROOT / ".tools" / "crds"
_GOAL: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy-dependencies"
_GENERATOR: Final = "io.strimzi.crdgenerator.CrdGenerator"
_MAVEN: Final = "{http://maven.apache.org/POM/4.0.0}"
_SHA256: Final = "sha256."
_FETCH_S: Final = 600.0

Kind = tuple[str, str]
"""apiVersion and kind."""


class _Module(NamedTuple):
    """A Go module, the hash of its content (go.sum's h1), and the files that define what we use."""

    path: str
    version: str
    sum: str
    files: tuple[str, ...]


_MODULES: Final = (
    _Module(
        "github.com/cert-manager/cert-manager",
        "v1.21.2",
        "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
        ("deploy/crds/cert-manager.io_certificates.yaml", "deploy/crds/cert-manager.io_issuers.yaml"),
    ),
    _Module(
        "github.com/cloudnative-pg/cloudnative-pg",
        "v1.29.0",
        "h1:49Dm8+y4va7RODspJjeaK8uMWP3OGAD0gMsxhjm16Mo=",
        (
            "config/crd/bases/postgresql.cnpg.io_clusters.yaml",
            "config/crd/bases/postgresql.cnpg.io_scheduledbackups.yaml",
        ),
    ),
    _Module(
        "github.com/cloudnative-pg/plugin-barman-cloud",
        "v0.15.0",
        "h1:gNVytrzzYUE08wxLDrjfJqy1FPPSFkMe1OEr4s4pVI0=",
        ("config/crd/bases/barmancloud.cnpg.io_objectstores.yaml",),
    ),
    _Module(
        "github.com/external-secrets/external-secrets",
        "v1.3.2",
        "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
        ("config/crds/bases/external-secrets.io_externalsecrets.yaml",),
    ),
    _Module(
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        (
            "config/crd/bases/keda.sh_scaledobjects.yaml",
            "config/crd/bases/keda.sh_triggerauthentications.yaml",
        ),
    ),
    _Module(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        (
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ),
    ),
    _Module(
        "sigs.k8s.io/gateway-api",
        "v1.5.1",
        "h1:RqVRIlkhLhUO8wOHKTLnTJA6o/1un4po4/6M1nRzdd0=",
        (
            "config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
            "config/crd/standard/gateway.networking.k8s.io_tlsroutes.yaml",
        ),
    ),
)
# Kind to class.
_STRIMZI: Final = {
    "KafkaTopic": "io.strimzi.api.kafka.model.topic.KafkaTopic",
    "KafkaUser": "io.strimzi.api.kafka.model.user.KafkaUser",
}


@cache
def definitions() -> Mapping[Kind, dict[str, Any]]:
    """The OpenAPI schema of every kind and served version. Raises DeployError."""
    return {kind: schema for text in _texts() for kind, schema in _kinds(load(text))}


def _kinds(definition: dict[str, Any]) -> Iterator[tuple[Kind, dict[str, Any]]]:
    spec = definition["spec"]
    for version in spec["versions"]:
        if version["served"]:
            kind = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            yield kind, version["schema"]["openAPIV3Schema"]


def _texts() -> list[str]:
    """The definitions as they came, from the cache if what is pinned has not changed."""
    pinned = hashlib.sha256(repr((_MODULES, _STRIMZI)).encode() + POM.read_bytes()).hexdigest()
    file = _CACHE / f"{pinned[:16]}.json"
    with alone():
        if not file.is_file():
            texts = [text for module in _MODULES for text in _of_module(module)] + _of_strimzi()
            _CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=_CACHE, delete=False) as written:
                json.dump(texts, written)
            Path(written.name).rename(file)
    found: list[str] = json.loads(file.read_text())
    return found


def _of_module(module: _Module) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:  # outside of any module of ours
        got = _run(["go", "mod", "download", "-json", f"{module.path}@{module.version}"], cwd=folder)
    told = json.loads(got)
    if told["Sum"] != module.sum:
        raise DeployError(f"{module.path} {module.version} is {told['Sum']}, not {module.sum}")
    return [(Path(told["Dir"]) / name).read_text() for name in module.files]


def _of_strimzi() -> list[str]:
    wanted = {
        each.tag.removeprefix(f"{_MAVEN}{_SHA256}"): each.text or ""
        for each in ET.parse(POM).getroot().iterfind(f"{_MAVEN}properties/*")
    }
    with tempfile.TemporaryDirectory() as folder:
        _run(["mvn", "-q", "-f", str(POM), _GOAL, f"-DoutputDirectory={folder}"], cwd=folder)
        for name, digest in wanted.items():
            (jar,) = Path(folder).glob(f"{name}-[0-9]*.jar")
            found = hashlib.sha256(jar.read_bytes()).hexdigest()
            if found != digest:
                raise DeployError(f"{jar.name} is {found}, not {digest}")
        files = {kind: Path(folder) / f"{kind}.yaml" for kind in _STRIMZI}
        classes = [f"{_STRIMZI[kind]}={file}" for kind, file in files.items()]
        _run(["java", "-cp", f"{folder}/*", _GENERATOR, "--yaml", *classes], cwd=folder)
        return [file.read_text() for file in files.values()]


def _run(command: list[str], cwd: str) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    except FileNotFoundError:
        raise DeployError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise DeployError(f"{' '.join(command[:3])} took more than {_FETCH_S:g} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise DeployError(f"{' '.join(command[:4])}: {last}")
    return done.stdout
