"""What deploy/docker/images.toml says of the images is what their programs import."""

import tomllib

import pytest

from tests.images.imports import ROOT, distributions_of, reached

TABLE = tomllib.loads((ROOT / "deploy/docker/images.toml").read_text())
IMAGES = TABLE["images"]
# What an image holds although no module of ours names it.
UNNAMED = {
    "waymesh",  # ours
    "protobuf",  # `google` belongs to several distributions; generated code takes its runtime from this one
    "googleapis-common-protos",  # and google.rpc and google.api from this one
    "opentelemetry-proto",
}
# What they import and have by another that needs it anyway.
BROUGHT_ALONG = {
    "annotated-types": "pydantic",
    "opentelemetry-exporter-otlp-proto-common": "opentelemetry-exporter-otlp-proto-http",
    "referencing": "jsonschema",
}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_all_that_its_programs_import(image: str) -> None:
    _, others = reached(IMAGES[image]["programs"])

    named = {*TABLE["base"]["needs"], *IMAGES[image]["needs"], *BROUGHT_ALONG}
    assert distributions_of(others) - named == set()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_nothing_else(image: str) -> None:
    _, others = reached(IMAGES[image]["programs"])

    # What is common to all is so for the services: the command line asks them and serves nothing.
    common = set(TABLE["base"]["needs"]) if image != "tools" else set()
    assert {*common, *IMAGES[image]["needs"]} - distributions_of(others) - UNNAMED == set()
