from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import SearchError
from compression.quantization.scheme import Quantization
from compression.search import space
from compression.search.space import NEED_VNNI, SCHEMES, Rates, Space

SMALL = Space(layers=(3, 1), heads=(0.0,), ffn=(0.0, 0.5), vocabulary=(1.0,), embeddings=(8,))


def test_a_file_names_what_may_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text('layers = [6, 3]\nffn = [0.0, 0.5]\nscheme = ["dynamic"]\n')
    found = space.load(path)
    assert (found.layers, found.ffn, found.scheme) == ((6, 3), (0.0, 0.5), ("dynamic",))
    assert found.heads == Space().heads
    assert space.load(None) == Space()


WRONG = {
    "layer = [3]": "layer: unknown key; expected one of layers, heads",
    "heads = [1.5]": "heads.0: Input should be less than 1",
    "ffn = []": "ffn has no choice; leave it out, or name one",
    "ffn = [0.5, 0.5]": "ffn names a choice twice",
    'scheme = ["int3"]': "scheme.0: Input should be 'static'",
    "layers = [": "is not valid TOML",
}


@pytest.mark.parametrize("body", WRONG)
def test_a_file_that_makes_no_sense(body: str, tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(body)
    with pytest.raises(SearchError, match=WRONG[body]):
        space.load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"space\.toml cannot be read: No such file"):
        space.load(tmp_path / "space.toml")


def test_layers_are_those_of_the_teacher() -> None:
    assert Space().of_teacher(4).layers == (4, 3, 2, 1)
    assert SMALL.of_teacher(6).layers == (3, 1)
    with pytest.raises(SearchError, match="the space has 3 layers; the teacher has 2"):
        SMALL.of_teacher(2)


def test_every_point_once_the_mildest_first() -> None:
    every = list(SMALL.all_rates())
    assert len(set(every)) == len(every) == SMALL.points == 12
    assert every[0] == SMALL.mildest() == Rates(layers=3)
    assert SMALL.strongest() == Rates(layers=1, ffn=0.5)
    assert {SMALL.mildest(), SMALL.middle(), SMALL.strongest()} <= set(every)


def test_a_cpu_without_vnni_gets_no_eight_bit_products() -> None:
    both = SMALL.model_copy(update={"scheme": ("static-8bit", "static", "weight-only")})
    assert both.without_vnni().scheme == ("static", "weight-only")
    with pytest.raises(SearchError, match="every scheme of the space needs VNNI: per-token-8bit"):
        SMALL.model_copy(update={"scheme": ("per-token-8bit",)}).without_vnni()


def test_a_scheme_is_what_quantization_understands() -> None:
    needing = tuple(name for name, told in SCHEMES.items() if Quantization(**told).needs_vnni)
    assert needing == NEED_VNNI


def test_only_schemes_that_were_measured_there() -> None:
    space = Space(scheme=("static", "per-token", "weight-only"))
    assert space.measured_as({"onnx-int8-weight-only", "onnx-int8-reduced", "onnx-fp32"}).scheme == (
        "static",
        "weight-only",
    )
    with pytest.raises(SearchError, match="was measured on that CPU, only onnx-fp32"):
        space.measured_as({"onnx-fp32"})
