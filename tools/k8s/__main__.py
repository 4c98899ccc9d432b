"""`python -m tools.k8s`: every overlay rendered and checked. Exit code 1 if something is wrong.

With `fetch` it only has what it needs for that fetched and built.
"""

import sys

from tools.k8s import checkov, custom, schemas
from tools.k8s.crds import definitions
from tools.k8s.render import OVERLAYS, DeployError, distinct, kustomize, make, rendered


def fetch() -> int:
    """Everything that takes a network."""
    try:
        kustomize()
        make(".tools/deploy/.installed")
        definitions()
    except DeployError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Runs it; a line for each fault, one for each overlay and one of checkov."""
    try:
        objects = distinct(OVERLAYS)
        faults = [*schemas.faults(objects), *custom.faults(objects)]
        for fault in faults:
            print(fault)
        builtin = sum(map(schemas.is_builtin, objects))
        print(
            f"{', '.join(OVERLAYS)}: {builtin} objects of Kubernetes and {len(objects) - builtin} custom "
            f"resources looked at, {len(faults)} faults"
        )
        verdict = checkov.judge({overlay: rendered(overlay) for overlay in OVERLAYS})
    except DeployError as error:
        print(error, file=sys.stderr)
        return 1
    bare = [where for where, reason in verdict.skipped if not reason.strip()]
    for line in (*verdict.failed, *(f"{where} is left out without a reason" for where in bare)):
        print(line)
    print(
        f"checkov: {verdict.passed} passed, {len(verdict.failed)} failed, "
        f"{len(verdict.skipped)} left out with a reason"
    )
    return 1 if faults or verdict.failed or bare else 0


if __name__ == "__main__":
    sys.exit(fetch() if sys.argv[1:] == ["fetch"] else main())
