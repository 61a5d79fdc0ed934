"""What a stage is, and what every stage may read.

A stage writes its result into its own folder, and nothing else. A folder of a model stage holds the model
as `classifier.save` writes it; a folder of a build stage holds one file and its `build.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from app.artifact import Head, TokenizerSettings
from compression.batches import Rows
from compression.corpus import Corpus
from compression.data import Dataset, fingerprint
from compression.settings import Settings
from compression.tracking import LOCAL, Tracking
from compression.training import Report

if TYPE_CHECKING:
    from compression.recipe import Recipe


@dataclass(frozen=True)
class Corpora:
    """One data set as token ids."""

    name: str
    train: Corpus
    validation: Corpus
    test: Corpus | None
    unlabelled: Corpus | None


@dataclass(frozen=True)
class Input:
    """What an earlier stage left: its folder, and a key that identifies what is in it."""

    folder: Path
    key: str


@dataclass(frozen=True)
class Context:
    """What every stage of a run may read."""

    recipe: Recipe
    datasets: tuple[Dataset, ...]
    all_corpora: tuple[Corpora, ...]
    text: TokenizerSettings
    teacher: Input
    teacher_source: str
    repository: Path
    work: Path
    report: Callable[[str], Report]
    tracking: Tracking = LOCAL

    @property
    def data_name(self) -> str:
        """What the data of the run are called."""
        return "+".join(dataset.name for dataset in self.datasets)

    @property
    def data_fingerprint(self) -> str:
        """Identity of all data of the run."""
        return fingerprint(self.datasets)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Tasks the data have labels for."""
        return self.datasets[0].heads

    def training_rows(self, unlabelled_rows: int = 0) -> Rows:
        """Labelled rows of every data set, then so many unlabelled ones (-1: all there are)."""
        corpora = [part.train for part in self.all_corpora]
        wanted = unlabelled_rows
        for part in self.all_corpora:
            if wanted and part.unlabelled is not None:
                count = len(part.unlabelled) if wanted < 0 else min(wanted, len(part.unlabelled))
                corpora.append(part.unlabelled.first(count))
                wanted = wanted - count if wanted > 0 else wanted
        return Rows(*corpora)

    def validation_rows(self) -> Rows:
        """Rows to choose and to stop on, of every data set."""
        return Rows(*(part.validation for part in self.all_corpora))


class Stage(Settings):
    """A named step of a recipe. Its fields, name and inputs aside, decide its result.

    `takes` says what each input must be (the last one stands for all further; `a|b` is either), `gives`
    what comes out, `input_count` how few and how many inputs there may be. After `changes_tokenizer` the
    same text is other ids. With `trains_any_family` the first input may be of an architecture that nothing
    else here can look into.
    """

    takes: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[str] = "model"
    input_count: ClassVar[tuple[int, int]] = (1, 1)
    changes_tokenizer: ClassVar[bool] = False
    trains_any_family: ClassVar[bool] = False

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    inputs: tuple[str, ...] = Field(min_length=1)

    def described(self) -> dict[str, Any]:
        """What decides the result, inputs and data aside, in JSON's types: a stage's key is made of it."""
        return self.model_dump(mode="json", exclude={"name", "inputs"})

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> Path | None:
        """Do the work; returns the folder of the version if one was published."""
        raise NotImplementedError

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs to what the stage takes; `given` maps the names there are so far to their types.

        Raises:
            ValueError: an input that is not there, of another type, or one too few or too many.
        """
        kind = getattr(self, "kind", type(self).__name__)
        for number, source in enumerate(self.inputs):
            wanted = self.takes[min(number, len(self.takes) - 1)]
            if source not in given:
                raise ValueError(f"stage {self.name!r} takes {source!r}, which no earlier stage gives")
            if given[source] not in wanted.split("|"):
                raise ValueError(
                    f"stage {self.name!r} ({kind}) takes a {wanted.replace('|', ' or ')}; "
                    f"{source!r} is a {given[source]}"
                )
        low, high = self.input_count
        if not low <= len(self.inputs) <= high:
            count = f"{low}" if low == high else f"{low} to {high}"
            raise ValueError(f"stage {self.name!r} ({kind}) takes {count} inputs, not {len(self.inputs)}")
