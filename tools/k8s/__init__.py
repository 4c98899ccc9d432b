"""Checks of deploy/k8s by the field's own tools; `python -m tools.k8s` runs all of them.

render.py     what `kustomize build` makes of each overlay
schemas.py    Kubernetes' own kinds: kubernetes-validate, strict
crds.py       the definitions of custom resources, fetched from those who publish them, pinned by hash
custom.py     custom resources against those definitions, strict
checkov.py    checkov, without network: nothing fails, and nothing is left out without a reason beside it
"""
