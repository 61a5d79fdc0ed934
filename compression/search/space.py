"""What a search may choose: how much stays of the teacher, in which numbers, and how it is taught.

A space is TOML of lists; every list is ordered from mild to strong where there is an order, and one with a
single entry is not searched:

    layers = [6, 4, 3]
    ffn = [0.0, 0.25, 0.5]
    scheme = ["static", "per-token"]
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from app.errors import SearchError
from compression.quantization.scheme import Quantization
from compression.settings import Settings

Scheme = Literal["static", "static-8bit", "per-token", "per-token-8bit", "dynamic", "weight-only", "blocks-4"]

# What a scheme is in the words of `quantization.scheme.Quantization`; "-8bit" needs VNNI.
SCHEMES: dict[str, dict[str, Any]] = {
    "static": {"method": "static"},
    "static-8bit": {"method": "static", "reduced_range": False},
    "per-token": {"method": "per-token"},
    "per-token-8bit": {"method": "per-token", "reduced_range": False},
    "dynamic": {"method": "dynamic"},
    "weight-only": {"method": "weight-only"},
    "blocks-4": {"method": "blocks", "weight_bits": 4},
}
NEED_VNNI = tuple(name for name, settings in SCHEMES.items() if settings.get("reduced_range") is False)


def build_of(scheme: str) -> str:
    """What a build of a scheme is called."""
    return f"onnx-{Quantization(**SCHEMES[scheme]).label}"


Share = Annotated[float, Field(ge=0, lt=1)]


class Rates(Settings):
    """One point of the space. `vocabulary` is the share of all tokens that must stay covered; 1 keeps all."""

    layers: int
    heads: float = 0.0
    ffn: float = 0.0
    vocabulary: float = 1.0
    embeddings: Literal[4, 8, 32] = 8
    scheme: Scheme = "static"
    temperature: float = 2.0
    hard_weight: float = 0.3
    hidden_weight: float = 0.0

    def is_trained(self, teacher_layers: int) -> bool:
        """Whether anything is taken away that training gives back."""
        return self.layers < teacher_layers or bool(self.heads or self.ffn)

    @property
    def text(self) -> str:
        """In few words."""
        parts = ["1 layer" if self.layers == 1 else f"{self.layers} layers"]
        parts += [f"heads -{self.heads:.0%}"] if self.heads else []
        parts += [f"FFN -{self.ffn:.0%}"] if self.ffn else []
        parts += [f"vocabulary {self.vocabulary:.2%}"] if self.vocabulary < 1 else []
        return ", ".join([*parts, self.scheme, f"embeddings {self.embeddings} bit"])


class Space(Settings):
    """The choices for each of the rates. No layers named: every number of them the teacher has."""

    layers: tuple[Annotated[int, Field(ge=1)], ...] = ()
    heads: tuple[Share, ...] = (0.0, 0.125, 0.25, 0.375, 0.5)
    ffn: tuple[Share, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)
    vocabulary: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0, 0.9995, 0.998, 0.99)
    embeddings: tuple[Literal[4, 8, 32], ...] = (8, 4)
    scheme: tuple[Scheme, ...] = ("static", "per-token", "weight-only")
    temperature: tuple[Annotated[float, Field(gt=0)], ...] = (2.0,)
    hard_weight: tuple[Annotated[float, Field(ge=0)], ...] = (0.3,)
    hidden_weight: tuple[Annotated[float, Field(ge=0)], ...] = (0.0,)

    @model_validator(mode="after")
    def _has_choices(self) -> Space:
        for name in type(self).model_fields:
            choices = getattr(self, name)
            if not choices and name != "layers":
                raise ValueError(f"{name} has no choice; leave it out, or name one")
            if len(set(choices)) < len(choices):
                raise ValueError(f"{name} names a choice twice: {list(choices)}")
        return self

    def of_teacher(self, layers: int) -> Space:
        """The same space with its layers spelled out.

        Raises:
            SearchError: more layers than the teacher has.
        """
        most = max(self.layers, default=layers)
        if most > layers:
            raise SearchError(f"the space has {most} layers; the teacher has {layers}")
        return self.model_copy(update={"layers": self.layers or tuple(range(layers, 0, -1))})

    def without_vnni(self) -> Space:
        """The same space with the schemes that are right on a CPU without VNNI.

        Raises:
            SearchError: none is left.
        """
        left = tuple(name for name in self.scheme if name not in NEED_VNNI)
        if not left:
            raise SearchError(f"every scheme of the space needs VNNI: {', '.join(self.scheme)}")
        return self.model_copy(update={"scheme": left})

    def measured_as(self, builds: Collection[str]) -> Space:
        """The same space with the schemes whose builds are among these.

        Raises:
            SearchError: none is left.
        """
        left = tuple(name for name in self.scheme if build_of(name) in builds)
        if not left:
            raise SearchError(
                f"no scheme of the space ({', '.join(self.scheme)}) was measured on that CPU, only "
                f"{', '.join(sorted(builds))}; measure them there with `bertpress cost-table`"
            )
        return self.model_copy(update={"scheme": left})

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Every list by its name."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    @property
    def points(self) -> int:
        """How many different trials there can be."""
        return math.prod(len(choices) for choices in self.choices.values())

    def all_rates(self) -> Iterator[Rates]:
        """Every point, the mildest first."""
        for chosen in itertools.product(*self.choices.values()):
            yield Rates(**dict(zip(self.choices, chosen, strict=True)))

    def mildest(self) -> Rates:
        """The first choice of every list."""
        return Rates(**{name: choices[0] for name, choices in self.choices.items()})

    def strongest(self) -> Rates:
        """The last choice of what takes something away, the first of how it is taught."""
        taken = ("layers", "heads", "ffn", "vocabulary", "embeddings")
        return Rates(**{n: choices[-1 if n in taken else 0] for n, choices in self.choices.items()})

    def middle(self) -> Rates:
        """Half way between the two."""
        taken = ("layers", "heads", "ffn", "vocabulary")
        return Rates(**{n: c[len(c) // 2 if n in taken else 0] for n, c in self.choices.items()})


def load(path: Path | None) -> Space:
    """Read a space file; without one the default space.

    Raises:
        SearchError: no such file, not TOML, an unknown key, or a value that cannot be.
    """
    if path is None:
        return Space()
    try:
        return Space.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SearchError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SearchError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "space"
        known = ", ".join(Space.model_fields)
        told = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            told = f"unknown key; expected one of {known}"
        raise SearchError(f"{path}: {where}: {told}") from error
