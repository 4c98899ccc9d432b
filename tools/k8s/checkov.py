"""checkov over every overlay at once, without network: what fails, and what is left out without a reason."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tools.k8s.render import DeployError, make
from tools.k8s.schemas import BIN


class Verdict(NamedTuple):
    """Checks that passed, lines of those that failed, and (object and check, reason) of those left out."""

    passed: int
    failed: list[str]
    skipped: list[tuple[str, str]]


def judge(texts: Mapping[str, str]) -> Verdict:
    """Of YAML by the name of its overlay. Raises DeployError."""
    make(".tools/deploy/.installed")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / f"{name}.yaml").write_text(text)
        done = subprocess.run(
            [
                BIN / "checkov",
                "-d",
                folder,
                "--framework",
                "kubernetes",
                "--skip-download",
                "-o",
                "json",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        told: dict[str, Any] = json.loads(done.stdout)
        results = told["results"]
    except (ValueError, KeyError):
        raise DeployError(f"checkov: {(done.stderr or done.stdout).strip()[-300:]}") from None
    if told["summary"]["parsing_errors"]:
        raise DeployError(f"checkov cannot read {told['summary']['parsing_errors']} of the files")
    return Verdict(
        told["summary"]["passed"],
        [f"{_where(each)}: {each['check_name']}" for each in results["failed_checks"]],
        [
            (_where(each), str(each["check_result"].get("suppress_comment", "")))
            for each in results["skipped_checks"]
        ],
    )


def _where(check: Mapping[str, Any]) -> str:
    return f"{Path(str(check['file_path'])).stem}: {check['resource']}: {check['check_id']}"
