from __future__ import annotations

from typing import Any

import pytest

from compression import recipe
from compression.recipe import Recipe
from compression.search.recipes import BUILT, PUBLISHED, Effort, recipe_of, template
from compression.search.space import Rates

FULL = Effort(name="full", rows=0, epochs=1.0, recovery=1.0, judged_rows=2000)
CHEAP = Effort(name="cheap", rows=500, epochs=0.5, recovery=0.0, judged_rows=100)
COMMON = template(recipe.load("default"), teacher_layers=6, model="found")
STRONG = Rates(layers=2, heads=0.25, ffn=0.4, vocabulary=0.99, embeddings=4, scheme="per-token")


def _stages(rates: Rates, effort: Effort = FULL) -> dict[str, Any]:
    return {stage.name: stage for stage in recipe_of(rates, effort, COMMON).stages}


def test_what_is_left_as_it_is_has_no_stage() -> None:
    assert list(_stages(Rates(layers=6))) == ["exported", BUILT, PUBLISHED]
    assert list(_stages(Rates(layers=5))) == ["student", "distilled", "exported", BUILT, PUBLISHED]
    assert list(_stages(Rates(layers=6, ffn=0.2))) == ["pruned", "exported", BUILT, PUBLISHED]
    assert list(_stages(Rates(layers=6, vocabulary=0.99))) == ["read", "exported", BUILT, PUBLISHED]
    every = ["student", "distilled", "pruned", "read", "exported", BUILT, PUBLISHED]
    assert list(_stages(STRONG)) == every


def test_the_rates_are_in_their_stages() -> None:
    stages = _stages(STRONG)
    assert stages["student"].layers == 2
    assert (stages["pruned"].heads, stages["pruned"].ffn) == (0.25, 0.4)
    assert stages["read"].rows == 0.99
    assert (stages[BUILT].method, stages[BUILT].embeddings) == ("per-token", 4)
    assert stages[PUBLISHED].model == "found"
    taught = _stages(STRONG.model_copy(update={"temperature": 4.0, "hard_weight": 1.0}))["distilled"]
    assert (taught.distillation.temperature, taught.distillation.hard_weight) == (4.0, 1.0)


def test_everything_else_is_the_recipes() -> None:
    default: dict[str, Any] = {stage.name: stage for stage in recipe.load("default").stages}
    stages = _stages(STRONG)
    assert stages["distilled"].training == default["distilled"].training
    assert stages["distilled"].distillation.unlabelled_rows == 4000
    assert stages["pruned"].training == default["pruned"].training
    assert stages["pruned"].steps == default["pruned"].steps
    assert stages[PUBLISHED].gate == default["fast"].gate
    assert recipe_of(STRONG, FULL, COMMON).text == recipe.load("default").text


def test_a_cheap_trial_is_shorter_and_need_not_recover() -> None:
    full, cheap = _stages(STRONG), _stages(STRONG, CHEAP)
    assert cheap["distilled"].training.epochs == full["distilled"].training.epochs / 2
    assert cheap["distilled"].distillation.unlabelled_rows == 0
    assert cheap["distilled"].training.validation_rows == 100
    assert (cheap["pruned"].recover, cheap["pruned"].steps) == (False, 1)
    assert full["pruned"].recover is True
    quarter = CHEAP.model_copy(update={"recovery": 0.25})
    assert _stages(STRONG, quarter)["pruned"].training.epochs == full["pruned"].training.epochs / 4


def test_trials_share_what_comes_before_they_differ() -> None:
    """A stage's key is what it says: equal stages are carried out once."""
    one, other = _stages(STRONG), _stages(STRONG.model_copy(update={"scheme": "static", "embeddings": 8}))
    for name in ("student", "distilled", "pruned", "read", "exported"):
        assert one[name] == other[name]
    assert one[BUILT] != other[BUILT]


@pytest.mark.parametrize("shipped", ["default", "imdb", "distilbert", "tinybert"])
def test_any_recipe_gives_its_settings(shipped: str) -> None:
    common = template(recipe.load(shipped), teacher_layers=12, model="found")
    made = recipe_of(Rates(layers=3, ffn=0.5), FULL, common)
    assert Recipe.model_validate(made.model_dump()) == made
