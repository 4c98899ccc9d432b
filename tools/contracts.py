"""Generate, lint and check the contracts: `python tools/contracts.py gen|lint|format|check|release`.

No remote registry takes part. Google's .proto files come from googleapis-common-protos; protovalidate's
rules are in its wheel only as a descriptor, so they go to protoc as a descriptor set. buf lints the image
that protoc builds.
"""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GEN = ROOT / "gen" / "python"
RELEASED = PROTOS / "released.binpb"
SITE = Path(sysconfig.get_paths()["purelib"])
COMMENTS = "waymesh/comments.json"
BUF_VALIDATE = "buf/validate/validate.proto"
PACKAGES = ("waymesh", "buf")
BUF = [str(Path(sys.executable).with_name("buf"))]


def sources() -> list[str]:
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))


def run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, check=False)
    if done.returncode:
        sys.exit(f"{Path(command[0]).name} found faults (exit {done.returncode})")


def validate_descriptor(target: Path) -> None:
    """Write protovalidate's own descriptor, and what it imports, as a FileDescriptorSet."""
    from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2
    from protovalidate._gen.buf.validate import validate_pb

    files = descriptor_pb2.FileDescriptorSet()
    for known in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        known.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    target.write_bytes(files.SerializeToString())


def protoc(*arguments: str, build: Path) -> None:
    descriptors = build / "validate.binpb"
    validate_descriptor(descriptors)
    run(
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--descriptor_set_in={descriptors}",
        f"--proto_path={PROTOS}",
        f"--proto_path={SITE}",
        f"--proto_path={SITE / 'grpc_tools' / '_proto'}",
        *arguments,
    )


def image(build: Path) -> Path:
    """Everything of ours and what it imports, with comments, as one descriptor set."""
    target = build / "image.binpb"
    protoc(
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={target}",
        *sources(),
        build=build,
    )
    return target


def comments(built: Path) -> dict[str, str]:
    """What our .proto files say of each message and field, by full name; descriptors at run time lack it."""
    found: dict[str, str] = {}

    def walk(message: descriptor_pb2.DescriptorProto, name: str, path: tuple[int, ...]) -> None:
        names[path] = name
        for place, field in enumerate(message.field):
            names[(*path, message.FIELD_FIELD_NUMBER, place)] = f"{name}.{field.name}"
        for place, inner in enumerate(message.nested_type):
            walk(inner, f"{name}.{inner.name}", (*path, message.NESTED_TYPE_FIELD_NUMBER, place))

    for file in descriptor_pb2.FileDescriptorSet.FromString(built.read_bytes()).file:
        if not file.package.startswith("waymesh."):
            continue
        names: dict[tuple[int, ...], str] = {}
        for place, message in enumerate(file.message_type):
            walk(message, f"{file.package}.{message.name}", (file.MESSAGE_TYPE_FIELD_NUMBER, place))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name and location.leading_comments:
                found[name] = " ".join(location.leading_comments.split())
    return dict(sorted(found.items()))


def generate(out: Path, build: Path) -> None:
    plugins = Path(sys.executable).parent
    protoc(
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--mypy_out=quiet:{out}",
        *sources(),
        BUF_VALIDATE,
        build=build,
    )
    services = [name for name in sources() if name.endswith("_service.proto")]
    protoc(
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet:{out}",
        *services,
        build=build,
    )
    (out / COMMENTS).write_text(json.dumps(comments(image(build)), indent=0, ensure_ascii=False) + "\n")
    for package in PACKAGES:
        for folder in [out / package, *(path for path in (out / package).rglob("*") if path.is_dir())]:
            # No __init__.py: other distributions add to the same namespaces.
            (folder / "py.typed").touch()


def differences(left: Path, right: Path) -> list[str]:
    names = {
        str(p.relative_to(base))
        for base in (left, right)
        if base.exists()
        for p in base.rglob("*")
        if p.is_file()
    }
    names = {name for name in names if "__pycache__" not in name}
    return sorted(
        name
        for name in names
        if not (
            (left / name).exists()
            and (right / name).exists()
            and filecmp.cmp(left / name, right / name, False)
        )
    )


def main(argv: list[str]) -> None:
    match argv:
        case ["gen"]:
            with tempfile.TemporaryDirectory() as work:
                for package in PACKAGES:
                    shutil.rmtree(GEN / package, ignore_errors=True)
                generate(GEN, Path(work))
        case ["check"]:
            with tempfile.TemporaryDirectory() as work:
                fresh = Path(work) / "gen"
                fresh.mkdir()
                generate(fresh, Path(work))
                changed = [
                    f"{package}/{name}"
                    for package in PACKAGES
                    for name in differences(fresh / package, GEN / package)
                ]
                if changed:
                    sys.exit(
                        "gen/python is not what protos/ says; run `make gen`:\n  " + "\n  ".join(changed)
                    )
        case ["lint"]:
            with tempfile.TemporaryDirectory() as work:
                built = image(Path(work))
                config = ["--config", str(ROOT / "buf.yaml"), "--path", "waymesh"]
                run(*BUF, "lint", str(built), *config, cwd=Path(work))
                run(*BUF, "format", "--diff", "--exit-code", str(PROTOS))
                run(*BUF, "breaking", str(built), "--against", str(RELEASED), *config, cwd=Path(work))
        case ["format"]:
            run(*BUF, "format", "--write", str(PROTOS))
        case ["release"]:
            with tempfile.TemporaryDirectory() as work:
                protoc("--include_imports", f"--descriptor_set_out={RELEASED}", *sources(), build=Path(work))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
