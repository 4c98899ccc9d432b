"""The files of deploy/observability that are made from others: manifests, dashboards."""

from functools import cache
from pathlib import Path
from typing import Final

from tools.observability import dashboards, manifests

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "deploy" / "observability"


@cache
def files() -> dict[Path, str]:
    """Path to content."""
    return {
        **{FOLDER / "kubernetes" / name: text for name, text in manifests.all_of(FOLDER).items()},
        **{FOLDER / "grafana" / "dashboards" / name: text for name, text in dashboards.all_of().items()},
    }


def present() -> list[Path]:
    """The files that lie where only derived ones may."""
    return sorted(
        path for folder in ("kubernetes", "grafana/dashboards") for path in (FOLDER / folder).glob("*")
    )
