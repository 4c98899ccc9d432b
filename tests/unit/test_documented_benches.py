"""docs/benchmarks.md tells of every bench, and of none that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_bench_has_its_row_and_its_command() -> None:
    text = (ROOT / "docs/benchmarks.md").read_text()
    benches = {path.stem for path in (ROOT / "bench").glob("*.py") if not path.stem.startswith("_")}

    assert set(re.findall(r"^\| \[(\w+)\]\(#", text, re.M)) == benches
    assert set(re.findall(r"python -m bench\.(\w+)", text)) - {"NAME"} == benches


def test_every_section_that_is_linked_is_there() -> None:
    text = (ROOT / "docs/benchmarks.md").read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^## (.+)$", text, re.M)
    }

    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= headings
