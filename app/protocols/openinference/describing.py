"""What the protocol tells of the server and its models, whichever way it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from app import routing
from app.cascade import Served
from app.errors import UnknownModelError
from app.protocols.openinference.tensors import INPUT, OUTPUTS
from app.protocols.texts import LARGEST_VERSION
from app.registry import Registry

SERVER = "bertpress"
EXTENSIONS = ("binary_tensor_data", "model_repository", "schedule_policy")


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """A tensor of a model; -1 stands for a size that each request chooses."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model reads and gives. `versions` are those that can be asked by number now."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


def find(registry: Registry, name: str, version: int | None) -> Served:
    """The version that answers for a name, with or without a version.

    Raises:
        UnknownModelError: no such model or version.
        NotLoadedError: it exists but is not in memory.
    """
    return registry.find(routing.resolve(registry.catalog, name, version))


def read_version(version: str) -> int | None:
    """A version as it stands in a path or a message, where "" leaves it to the service.

    Raises:
        UnknownModelError: not the number of a version.
    """
    if not version:
        return None
    if not (version.isdecimal() and version.isascii() and len(version) <= len(str(LARGEST_VERSION))):
        raise UnknownModelError("versions are whole numbers; GET /v1/models lists them")
    return int(version)


def describe(registry: Registry, name: str, version: int | None) -> ModelMetadata:
    """A loaded model's metadata.

    Raises:
        UnknownModelError: no such model or version.
        NotLoadedError: it exists but is not in memory.
    """
    served = find(registry, name, version)
    labels = len(served.labels)
    versions = sorted(each.key.version for each in registry.served if each.key.name == name)
    return ModelMetadata(
        name=name,
        versions=[str(number) for number in versions],
        platform=f"{SERVER}_{served.platform}",
        inputs=[TensorMetadata(INPUT, "BYTES", [-1])],
        outputs=[
            TensorMetadata(name, output.datatype, [-1, labels] if output.wide else [-1])
            for name, output in OUTPUTS.items()
        ],
    )
