from __future__ import annotations

import inspect
import re

from app import errors


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^([│ ├└─]*)(\w+Error)\b", inspect.getdoc(errors) or "", re.MULTILINE)
    parents: list[str] = []
    edges = set()
    for branch, name in drawn:
        depth = len(branch) // 4
        parents[depth:] = [name]
        edges.add((name, parents[depth - 1] if depth else "Exception"))
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert edges == {(kind.__name__, kind.__bases__[0].__name__) for kind in classes}
