"""A contract made at run time, whose RPCs show all that an annotation can ask of the gateway."""

import functools
import tempfile
from pathlib import Path

import google.api
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_tools import protoc

PROBE = """
syntax = "proto3";
package waymesh.probe.v1;
import "google/api/annotations.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";

enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; COLOUR_DARK_BLUE = 2; }
message Inner { string name = 1; Inner inner = 2; int32 n = 3; repeated string tags = 4; }
message Probe {
  string id = 1; int32 place = 2; bool flag = 3; Colour colour = 4; double weight = 5;
  repeated Colour colours = 6; repeated uint32 numbers = 7; Inner inner = 8;
  google.protobuf.Timestamp at = 9; google.protobuf.Duration wait_s = 10;
  map<string, string> labels = 11; repeated Inner inners = 12; optional string note = 13; bytes data = 14;
  oneof choice { string left = 15; string right = 16; }
  google.protobuf.Struct plain = 17;
}
message ProbeResponse { Probe probe = 1; repeated uint32 numbers = 2; }
service ProbeService {
  rpc ReadProbe(Probe) returns (ProbeResponse) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {
      get: "/probe/things/{id}"
      additional_bindings: {get: "/probe/things/{id}/places/{place}"}
      additional_bindings: {get: "/probe/colours/{colour=*}/{flag}"}
      additional_bindings: {get: "/probe/inner/{inner.name}"}
    };
  }
  rpc ReadSpecial(Probe) returns (ProbeResponse) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {get: "/probe/things/special"};
  }
  rpc WriteProbe(Probe) returns (ProbeResponse) {
    option (google.api.http) = {
      put: "/probe/things/{id}" body: "*" response_body: "probe"
      additional_bindings: {patch: "/probe/things/{id}" body: "inner"}
      additional_bindings: {post: "/probe/inner/{inner.name}" body: "*"}
      additional_bindings: {post: "/probe/things/{id}/numbers" body: "numbers" response_body: "numbers"}
      additional_bindings: {delete: "/probe/things/{id}"}
    };
  }
}
"""


@functools.cache
def installed() -> Path:
    """A folder for the path of `waymesh` with the generated modules, as another distribution has them."""
    folder = Path(tempfile.mkdtemp(prefix="probe-contract-"))
    _compile(
        folder,
        "waymesh/probe/v1/probe_service.proto",
        PROBE,
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
    )
    return folder / "waymesh"


@functools.cache
def contract(text: str) -> FileDescriptor:
    """The descriptor of a contract of one file; its package must be its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = folder / "set"
        _compile(
            folder,
            f"waymesh/odd/v1/odd_{abs(hash(text))}_service.proto",
            text,
            f"--descriptor_set_out={made}",
        )
        [file] = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindFileByName(file.name)


def _compile(folder: Path, path: str, text: str, *options: str) -> None:
    source = folder / path
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    [packages] = {Path(each).parents[1] for each in google.api.__path__}
    known = (folder, packages, Path(protoc.__file__).parent / "_proto", Path(__file__).parents[1] / "protos")
    assert protoc.main(["", *(f"--proto_path={each}" for each in known), *options, path]) == 0
