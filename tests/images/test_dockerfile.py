"""The Dockerfile says what the code does."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli import environment
from services.gateway.settings import GatewaySettings
from tests.images import dockerfile, trees

STAGES = dockerfile.stages()
IMAGES = list(tomllib.loads((trees.ROOT / "deploy/docker/images.toml").read_text())["images"])
HEALTH_PORT = 8086


def test_there_is_a_target_for_every_service_and_the_tools() -> None:
    assert sorted(IMAGES, key=list(STAGES).index) == IMAGES
    assert set(IMAGES) == {*environment.SERVICE_NAMES, "tools"}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_special_and_ends_with_sigterm(image: str) -> None:
    stage = STAGES[image]

    assert stage.last("USER").text == f"{trees.USER}:{trees.USER}"
    assert stage.last("STOPSIGNAL").text == "SIGTERM"
    assert not [one for one in stage.instructions[-5:] if one.word == "RUN"]


@pytest.mark.parametrize("image", IMAGES)
def test_no_shell_stands_before_the_program(image: str) -> None:
    for word in ("ENTRYPOINT", "CMD"):
        assert json.loads(STAGES[image].last(word).text)
    assert STAGES[image].last("ENTRYPOINT").words == ["/opt/waymesh/bin/waymesh"]


@pytest.mark.parametrize("service", environment.SERVICE_NAMES)
def test_an_image_serves_what_its_name_says(service: str) -> None:
    assert STAGES[service].last("CMD").words == ["serve", service]
    assert dockerfile.health_command(STAGES[service]) == ["waymesh", "health", service]


@pytest.mark.parametrize("service", environment.SERVICE_NAMES)
def test_an_image_names_the_ports_that_its_service_listens_on(service: str) -> None:
    spec = environment.service(service)
    # Those of the runtimes are on loopback, for who shares the pod.
    assert dockerfile.ports(STAGES[service]) == {spec.port.default, spec.admin.default, HEALTH_PORT}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_the_tree_of_its_name(image: str) -> None:
    copied = STAGES[image].all("COPY")
    assert [one.text for one in copied] == [f"--from={image}-tree /opt/waymesh /opt/waymesh"]
    assert STAGES[f"{image}-tree"].last("RUN").words[-1] == image


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_is(image: str) -> None:
    told = " ".join(one.text for one in STAGES[image].all("LABEL"))
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', told))
    assert labels["title"] == f"waymesh-{image}"
    assert set(labels) == {"title", "description", "vendor", "licenses", "version", "revision"}


def test_the_version_is_that_of_the_package() -> None:
    version = tomllib.loads((trees.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"VERSION={version}" in [one.text for one in STAGES["eta"].all("ARG")]


def test_the_data_folder_is_that_of_the_settings_and_belongs_to_the_user() -> None:
    folder = dockerfile.environment(STAGES["eta"])["WAYMESH_DATA_DIR"]
    assert GatewaySettings.model_fields["data_dir"].validation_alias == "WAYMESH_DATA_DIR"
    made = STAGES["eta"].all("RUN")[-1].text
    assert f"install -d -o {trees.USER} -g {trees.USER} -m 0700 {folder}" in made


def test_the_base_image_has_one_version_and_a_place_for_its_digest() -> None:
    text = dockerfile.DOCKERFILE.read_text()
    tag = re.search(r"^ARG PYTHON_TAG=(3\.\d+\.\d+-slim-\w+)$", text, re.M)
    assert tag is not None
    assert STAGES["python"].base == "docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST}"
    assert not [name for name, stage in STAGES.items() if name != "python" and stage.base not in STAGES]


def test_everything_that_is_copied_passes_the_ignore_file_and_nothing_else_does(tmp_path: Path) -> None:
    passed = trees.context(tmp_path)

    named = [word for one in STAGES["full"].all("COPY") for word in one.words[:-1]]
    assert [name for name in named if not (passed / name).exists()] == []
    files = [path.relative_to(passed) for path in passed.rglob("*") if path.is_file()]
    assert [str(path) for path in files if not any(path.is_relative_to(name) for name in named)] == []
    assert [path for path in files if path.suffix == ".pyc"] == []


def containers_in_kubernetes() -> Iterator[dict[str, Any]]:
    """Those of our images, as the base has them."""

    def within(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if str(value.get("image", "")).startswith("waymesh-"):
                yield value
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from within(each)

    for path in (trees.ROOT / "deploy/k8s").rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            yield from within(document)


def test_kubernetes_starts_what_the_images_have_and_looks_where_they_listen() -> None:
    there = list(containers_in_kubernetes())
    seen = set()
    for container in there:
        image = container["image"].removeprefix("waymesh-").partition(":")[0]
        seen.add(image)
        assert "command" not in container, "the entry point is the image's"
        if image != "tools":
            assert container["args"] == STAGES[image].last("CMD").words
        opened = {port["containerPort"] for port in container.get("ports", ())}
        assert opened <= dockerfile.ports(STAGES[image])
    assert seen == set(IMAGES)


def test_kubernetes_runs_them_as_the_user_of_the_images() -> None:
    text = "\n".join(path.read_text() for path in (trees.ROOT / "deploy/k8s").rglob("*.yaml"))
    assert str(trees.USER) in re.findall(r"runAsUser: (\d+)", text)


def test_nothing_is_installed_without_a_hash() -> None:
    text = dockerfile.DOCKERFILE.read_text()
    assert "--require-hashes" in STAGES["full"].all("RUN")[0].text
    # pip only fetches uv; all else is install.py, which asks for hashes itself.
    assert len(re.findall(r'"pip", "install"|pip install', text)) == 1
    for tool in ("apt-get", "curl", "wget", "ADD "):
        assert tool not in text


def test_hadolint_finds_nothing(audit_tools: Path) -> None:
    said = subprocess.run(
        [audit_tools / "hadolint", "--no-color", dockerfile.DOCKERFILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.stdout, said.returncode) == ("", 0)
