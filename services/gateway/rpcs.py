"""Every RPC of the installed contracts, and the scope that a key needs to call it."""

import re
from dataclasses import dataclass
from typing import Final

from waymesh.task.v1 import task_pb2

from services.gateway import tasks

_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Rpc:
    """`path` is `/package.Service/Name`, `scope` the name of its task, or of what is no task its own."""

    path: str
    owner: str
    scope: str
    admin: bool = False
    streams: bool = False


def scope_of(name: str) -> str:
    """The scope of an RPC that is no task: `stream_gps` of StreamGps."""
    return _WORD.sub("_", name).lower()


def load() -> dict[str, Rpc]:
    """All of them, by path. Nothing of gRPC's own, such as health and reflection, is among them."""
    found: dict[str, Rpc] = {}
    for file in tasks.service_files():
        for service in file.services_by_name.values():
            for method in service.methods:
                said = method.GetOptions().Extensions[task_pb2.task]
                path = f"/{service.full_name}/{method.name}"
                found[path] = Rpc(
                    path,
                    tasks.owner_of(file),
                    said.name or scope_of(method.name),
                    said.admin,
                    method.client_streaming or method.server_streaming,
                )
    return found
