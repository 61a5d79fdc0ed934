"""One encoder with two heads: trained, distilled, pruned, quantized, published and served together."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from app import artifact
from app.artifact import Head
from app.engines import load_engine
from app.errors import RecipeError
from app.main import create_app
from app.settings import Settings
from app.tokenizer import Tokenizer
from compression import classifier, data
from compression.batches import Rows
from compression.cli import main, parser
from compression.data import DataSettings
from compression.evaluation import by_labels, mean_over_heads, probabilities, true_label_loss
from compression.heads import slices, weights_of
from compression.model_card import text as card
from compression.parity import GateSettings
from compression.recipe import parse
from compression.stages.reading import corpora_of
from tests.compression.finished import Finished, backbone, cheap_baseline, request, run
from tests.compression.tiny import BAD, GOOD, made_up_reviews, text_settings

RATING = Head(name="rating", labels=("1", "4", "7", "10"))
RECIPE = """
name = "two"
head_weights = { rating = 2.0 }

[text]
max_tokens = 16

[teacher]
epochs = 3
learning_rate = 2e-3
rows_per_step = 16
precision = "fp32"

[[stages]]
name = "student"
kind = "student"
inputs = ["teacher"]
layers = 2

[[stages]]
name = "distilled"
kind = "distil"
inputs = ["student", "teacher"]

[stages.distillation]
unlabelled_rows = -1

[stages.training]
epochs = 1
learning_rate = 2e-3
precision = "fp32"

[[stages]]
name = "pruned"
kind = "prune"
inputs = ["distilled", "teacher"]
heads = 0.25
ffn = 0.25
importance_rows = 64

[stages.training]
epochs = 0.5
learning_rate = 1e-3
precision = "fp32"

[[stages]]
name = "onnx"
kind = "export"
inputs = ["pruned"]

[[stages]]
name = "int8"
kind = "quantize"
inputs = ["onnx"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["int8", "onnx"]
model = "two"

[stages.gate]
max_label_flip_rate = 0.2
max_accuracy_loss = 0.2
reason = "the texts are made up and few"
"""


def rating(text: str, label: int) -> str:
    """Strong and weak words of each side, so that the rating is more than the label."""
    strong = any(word in text for word in (*GOOD[:2], *BAD[:2]))
    return ("10" if strong else "7") if label else ("1" if strong else "4")


def write_rated(folder: Path) -> Path:
    """Made-up reviews with a rating beside the label; every tenth training row has none."""
    folder.mkdir()
    reviews = made_up_reviews()
    for name, rows in {"train": reviews[:480], "test": reviews[480:640]}.items():
        lines = []
        for number, (text, label) in enumerate(rows):
            rated = None if name == "train" and number % 10 == 0 else rating(text, label)
            lines.append(json.dumps({"text": text, "label": label, "rating": rated}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    texts = [json.dumps({"text": text}) for text, _ in reviews[640:800]]
    (folder / "unsupervised.jsonl").write_text("\n".join(texts), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("two")
    backbone(root / "backbone")
    write_rated(root / "reviews")
    settings = DataSettings(further_columns=("rating",))
    asked = request(root, recipe=parse(RECIPE, "two"), data_settings=settings)
    with cheap_baseline():
        return Finished(asked, run(asked))


def test_both_heads_are_published_with_figures_of_their_own(published: Finished) -> None:
    assert published.outcome.refused == ()
    manifest = published.manifest("two")
    assert manifest.heads == (Head(name="label", labels=("negative", "positive")), RATING)
    assert [(quality.head, quality.split, quality.n) for quality in manifest.quality] == [
        ("label", "test", 160),
        ("rating", "test", 160),
    ] * len(manifest.builds)
    for quality in manifest.quality:
        assert quality.teacher_accuracy is not None
        assert quality.retention == pytest.approx(quality.accuracy / quality.teacher_accuracy)
    label, rated = manifest.quality[:2]
    assert label.accuracy > 0.8
    # Four ratings are told apart far better than by chance, and better than the label alone would do it.
    assert rated.accuracy > 0.6
    shown = card(manifest)
    assert "Labels of rating: 1, 4, 7, 10." in shown
    assert f"test, rating | 160 | {rated.build} | {rated.accuracy:.2%}" in shown


def test_evaluate_judges_every_head_the_data_have(
    published: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(published.request.data[0])
    teacher = next((published.request.work / "stages").glob("teacher-*"))
    asked = ["evaluate", "--model", str(published.folder("two")), "--teacher", str(teacher)]
    asked += ["--max-tokens", "16", "--work", str(tmp_path / "work")]
    assert main([*asked, "--data", str(source), "--json"]) == 0
    label, rated = json.loads(capsys.readouterr().out)
    stated = published.manifest("two").quality
    assert [label["head"], rated["head"]] == ["label", "rating"]
    assert rated["labels"] == list(RATING.labels)
    for found, quality in zip((label, rated), stated, strict=False):
        assert found["accuracy"]["value"] == pytest.approx(quality.accuracy, abs=0.02)
        assert found["agreement"]["teacher_accuracy"] == pytest.approx(quality.teacher_accuracy, abs=0.02)
    assert label["slices"]
    assert not rated["slices"]

    assert main([*asked, "--data", str(source)]) == 0
    assert "reviews, rating" in capsys.readouterr().out
    plain = tmp_path / "plain"
    plain.mkdir()
    for part in ("train", "test"):
        rows = map(json.loads, (source / f"{part}.jsonl").read_text(encoding="utf-8").splitlines())
        lines = [json.dumps({"text": row["text"], "label": row["label"]}) for row in rows]
        (plain / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert main([*asked, "--data", str(plain), "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert only["head"] == "label"


def test_the_label_is_judged_apart_for_every_rating(published: Finished) -> None:
    (file,) = published.request.work.rglob("assessment-reviews.json")
    told = {each["name"]: each for each in json.loads(file.read_text())["slices"]}
    rated = [rating(*review) for review in made_up_reviews()[480:640]]
    assert {name: told[f"rating {name}"]["n"] for name in RATING.labels} == Counter(rated)


def test_the_figures_are_those_of_the_graph(published: Finished) -> None:
    manifest, folder = published.manifest("two"), published.folder("two")
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer)
    build = manifest.builds[0]
    engine = load_engine(build.engine, folder / build.file, 1)
    reviews = made_up_reviews()[480:640]
    logits = []
    for text, _ in reviews:
        ids = tokenizer.encode(text).input_ids[None, :]
        logits.append(engine.logits(ids, np.ones_like(ids))[0])
    assert np.stack(logits).shape == (160, 6)
    found = np.stack(logits)[:, 2:].argmax(-1)
    right = np.mean(
        [RATING.labels[index] == rating(*review) for index, review in zip(found, reviews, strict=True)]
    )
    # In company an int8 answer may move a little.
    assert manifest.quality[1].accuracy == pytest.approx(right, abs=0.02)


def test_the_stages_between_keep_both_heads(published: Finished) -> None:
    for folder in (published.request.work / "stages").glob("*"):
        if (folder / "config.json").is_file():
            assert [head.name for head in classifier.load(str(folder)).heads] == ["label", "rating"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_both_heads_are_served(published: Finished, tmp_path: Path) -> None:
    settings = Settings(models=published.request.repository, state=tmp_path / "state.json", build="onnx-fp32")
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http,
    ):
        await app.state.start
        text = made_up_reviews()[500][0]
        (row,) = (await http.post("/v1/predict", json={"inputs": text})).json()["predictions"]
    pruned = next((published.request.work / "stages").glob("pruned-*"))
    model = classifier.load(str(pruned))
    ids = torch.from_numpy(
        Tokenizer(published.folder("two") / artifact.TOKENIZER_FILE, published.manifest("two").tokenizer)
        .encode(text)
        .input_ids[None, :]
    )
    with torch.inference_mode():
        logits = model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()
    # scores of the first head are calibrated, those of the others are as they come
    temperatures = (published.manifest("two").calibration_temperature, 1.0)
    for name, part, temperature in zip(("label", "rating"), slices(model.heads), temperatures, strict=True):
        expected = probabilities(logits[:, part] / temperature)[0]
        assert list(row["heads"][name]["probabilities"].values()) == pytest.approx(expected, abs=1e-3)
    assert row["label"] == row["heads"]["label"]["label"]


def test_a_model_is_judged_by_its_first_head_and_the_loss_of_all(published: Finished, tmp_path: Path) -> None:
    model = classifier.load(str(next((published.request.work / "stages").glob("pruned-*"))))
    dataset = data.load(published.request.data[0], published.request.data_settings)
    rows = Rows(corpora_of(dataset, model, text_settings(), tmp_path).train)
    chosen = range(40)
    batch = rows.batch(list(chosen))
    with torch.inference_mode():
        found = by_labels(model.model, rows, chosen)
        logits = model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert found.accuracy == float((logits[:, :2].argmax(-1) == batch.labels).float().mean())
    label = torch.nn.functional.cross_entropy(logits[:, :2], batch.labels, reduction="none")
    rated = torch.nn.functional.cross_entropy(
        logits[:, 2:], batch.further[:, 0], reduction="none", ignore_index=-1
    )
    assert found.loss == pytest.approx(float(((label + rated) / 2).mean()), rel=1e-4)
    weighted = true_label_loss(logits, batch, model.heads, weights=(1.0, 3.0))
    assert torch.allclose(weighted, (label + 3 * rated) / 4, atol=1e-5)


def test_weights_are_those_of_the_heads_by_name() -> None:
    heads = (Head(name="label", labels=("no", "yes")), RATING)
    assert weights_of(heads, {}) == ()
    assert weights_of(heads, {"rating": 0.5}) == (1.0, 0.5)
    losses = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])]
    assert mean_over_heads(losses).tolist() == [2.0, 4.0]
    assert mean_over_heads(losses, (1.0, 3.0)).tolist() == [2.5, 5.0]


def test_a_weight_of_no_head_is_refused_before_anything_is_trained(
    published: Finished, tmp_path: Path
) -> None:
    asked = request(
        published.request.repository.parent,
        recipe=parse(RECIPE.replace("rating = 2.0", "stars = 2.0"), "two"),
        data_settings=published.request.data_settings,
        work=tmp_path / "work",
    )
    with pytest.raises(RecipeError, match="no head 'stars'; the data have label, rating"):
        run(asked)
    assert not (tmp_path / "work" / "stages").exists()


def test_early_exits_with_several_heads_are_refused_before_anything_is_trained(
    published: Finished, tmp_path: Path
) -> None:
    exits = '[[stages]]\nname = "early"\nkind = "exits"\ninputs = ["pruned"]\nafter = [1]\n\n'
    asked = request(
        published.request.repository.parent,
        recipe=parse(RECIPE.replace('[[stages]]\nname = "onnx"', f'{exits}[[stages]]\nname = "onnx"'), "two"),
        data_settings=published.request.data_settings,
        work=tmp_path / "work",
    )
    with pytest.raises(RecipeError, match="stage 'early': exits decide by one head, and there are 2"):
        run(asked)
    assert not (tmp_path / "work" / "stages").exists()


def test_a_weight_is_positive() -> None:
    with pytest.raises(RecipeError, match="greater than 0"):
        parse(RECIPE.replace("rating = 2.0", "rating = 0"), "two")


def test_further_heads_are_held_to_their_accuracy_alone() -> None:
    gate = GateSettings(max_label_flip_rate=0.001)
    assert (gate.further.max_label_flip_rate, gate.further.max_accuracy_loss) == (1.0, gate.max_accuracy_loss)


def test_the_command_takes_heads() -> None:
    options = parser().parse_args(
        ["compress", "--backbone", "b", "--data", "d", "--output", "o", "--head", "rating", "--head", "topic"]
    )
    assert options.head == ["rating", "topic"]
