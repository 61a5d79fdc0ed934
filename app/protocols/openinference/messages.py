"""The protocol's gRPC messages, described to protobuf when the server starts.

No generated code: that would tie the service to the protobuf that generated it. On the wire a message is its
fields' numbers and types, and those are the table below; only the service's full name counts besides.

Source: open_inference_grpc.proto of github.com/kserve/open-inference-protocol, Triton's grpc_service.proto
for the repository extension, and gRPC's health checking protocol (grpc.health.v1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its number, and its type, which is a scalar's name or a message's."""

    number: int
    type: str
    repeated: bool = False
    keyed: bool = False
    """A map from strings to the type."""
    choice: bool = False
    """One of the message's alternatives."""


def _many(number: int, kind: str) -> Field:
    return Field(number, kind, repeated=True)


def _map(number: int, kind: str) -> Field:
    return Field(number, kind, keyed=True)


def _either(number: int, kind: str) -> Field:
    return Field(number, kind, choice=True)


INFERENCE: Mapping[str, Mapping[str, Field]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": Field(1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": Field(1, "bool")},
    "ModelReadyRequest": {"name": Field(1, "string"), "version": Field(2, "string")},
    "ModelReadyResponse": {"ready": Field(1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": Field(1, "string"),
        "version": Field(2, "string"),
        "extensions": _many(3, "string"),
    },
    "ModelMetadataRequest": {"name": Field(1, "string"), "version": Field(2, "string")},
    "TensorMetadata": {
        "name": Field(1, "string"),
        "datatype": Field(2, "string"),
        "shape": _many(3, "int64"),
    },
    "ModelMetadataResponse": {
        "name": Field(1, "string"),
        "versions": _many(2, "string"),
        "platform": Field(3, "string"),
        "inputs": _many(4, "TensorMetadata"),
        "outputs": _many(5, "TensorMetadata"),
    },
    "InferParameter": {
        "bool_param": _either(1, "bool"),
        "int64_param": _either(2, "int64"),
        "string_param": _either(3, "string"),
        "double_param": _either(4, "double"),
        "uint64_param": _either(5, "uint64"),
    },
    "InferTensorContents": {
        "bool_contents": _many(1, "bool"),
        "int_contents": _many(2, "int32"),
        "int64_contents": _many(3, "int64"),
        "uint_contents": _many(4, "uint32"),
        "uint64_contents": _many(5, "uint64"),
        "fp32_contents": _many(6, "float"),
        "fp64_contents": _many(7, "double"),
        "bytes_contents": _many(8, "bytes"),
    },
    "InferInputTensor": {
        "name": Field(1, "string"),
        "datatype": Field(2, "string"),
        "shape": _many(3, "int64"),
        "parameters": _map(4, "InferParameter"),
        "contents": Field(5, "InferTensorContents"),
    },
    "InferRequestedOutputTensor": {"name": Field(1, "string"), "parameters": _map(2, "InferParameter")},
    "ModelInferRequest": {
        "model_name": Field(1, "string"),
        "model_version": Field(2, "string"),
        "id": Field(3, "string"),
        "parameters": _map(4, "InferParameter"),
        "inputs": _many(5, "InferInputTensor"),
        "outputs": _many(6, "InferRequestedOutputTensor"),
        "raw_input_contents": _many(7, "bytes"),
    },
    "InferOutputTensor": {
        "name": Field(1, "string"),
        "datatype": Field(2, "string"),
        "shape": _many(3, "int64"),
        "parameters": _map(4, "InferParameter"),
        "contents": Field(5, "InferTensorContents"),
    },
    "ModelInferResponse": {
        "model_name": Field(1, "string"),
        "model_version": Field(2, "string"),
        "id": Field(3, "string"),
        "parameters": _map(4, "InferParameter"),
        "outputs": _many(5, "InferOutputTensor"),
        "raw_output_contents": _many(6, "bytes"),
    },
    "ModelRepositoryParameter": {
        "bool_param": _either(1, "bool"),
        "int64_param": _either(2, "int64"),
        "string_param": _either(3, "string"),
        "bytes_param": _either(4, "bytes"),
    },
    "RepositoryIndexRequest": {"repository_name": Field(1, "string"), "ready": Field(2, "bool")},
    "ModelIndex": {
        "name": Field(1, "string"),
        "version": Field(2, "string"),
        "state": Field(3, "string"),
        "reason": Field(4, "string"),
    },
    "RepositoryIndexResponse": {"models": _many(1, "ModelIndex")},
    "RepositoryModelLoadRequest": {
        "repository_name": Field(1, "string"),
        "model_name": Field(2, "string"),
        "parameters": _map(3, "ModelRepositoryParameter"),
    },
    "RepositoryModelLoadResponse": {},
    "RepositoryModelUnloadRequest": {
        "repository_name": Field(1, "string"),
        "model_name": Field(2, "string"),
        "parameters": _map(3, "ModelRepositoryParameter"),
    },
    "RepositoryModelUnloadResponse": {},
}
# `status` is an enum there, which on the wire is an int32: 1 serving, 2 not serving
HEALTH: Mapping[str, Mapping[str, Field]] = {
    "HealthCheckRequest": {"service": Field(1, "string")},
    "HealthCheckResponse": {"status": Field(1, "int32")},
}


def build(package: str, messages: Mapping[str, Mapping[str, Field]]) -> dict[str, Any]:
    """protobuf's classes for these messages, in a pool of their own: clients in this process bring theirs."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, field in fields.items():
            _add(message, f".{package}.", field_name, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


def _add(message: Any, prefix: str, name: str, field: Field) -> None:
    label = _Field.LABEL_REPEATED if field.repeated or field.keyed else _Field.LABEL_OPTIONAL
    added = message.field.add(name=name, number=field.number, label=label)
    if field.keyed:
        # a map is a repeated message of key and value
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(entry, prefix, "key", Field(1, "string"))
        _add(entry, prefix, "value", Field(2, field.type))
        added.type, added.type_name = _Field.TYPE_MESSAGE, f"{prefix}{message.name}.{entry.name}"
    elif field.type in _TYPES:
        added.type = _TYPES[field.type]
    else:
        added.type, added.type_name = _Field.TYPE_MESSAGE, prefix + field.type
    if field.choice:
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        added.oneof_index = 0
