"""What schemathesis must know beyond OpenAPI. `schemathesis.toml` names this file."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out bodies of bytes: a schema cannot say what must be in them. The clients' tests send them."""
    return bool(case.media_type != "application/octet-stream")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make a valid tensor's shape tell how many texts it holds, which a schema cannot ask for."""
    if not case.path.endswith("/infer") or not case.meta.generation.mode.is_positive:
        return
    for tensor in case.body["inputs"]:
        tensor["shape"] = [len(tensor["data"]), *([1] if len(tensor["shape"]) == 2 else [])]
    # the elements may differ and name the same output all the same
    named = {each["name"]: each for each in case.body.get("outputs") or ()}
    if named:
        case.body["outputs"] = list(named.values())
