from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
)

from app.artifact import Head
from app.errors import CompressionError, UnsupportedModelError
from compression import classifier
from compression.architecture import layer_shapes
from compression.classifier import Classifier, load, save
from tests.compression.tiny import (
    FAMILIES,
    logits,
    random_batch,
    tiny_classifier,
    tiny_model,
    tiny_tokenizer,
    uneven_classifier,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [tiny_classifier, uneven_classifier])
def test_saved_and_loaded_it_answers_the_same(
    make: Callable[[str], Classifier], family: str, tmp_path: Path
) -> None:
    original = make(family)
    save(original, tmp_path / "model")
    loaded = load(str(tmp_path / "model"))
    assert layer_shapes(loaded.model) == layer_shapes(original.model)
    assert torch.equal(logits(loaded.model, random_batch()), logits(original.model, random_batch()))
    assert loaded.labels == ("negative", "positive")
    text = "i found the film dull"
    assert loaded.tokenizer(text)["input_ids"] == original.tokenizer(text)["input_ids"]
    assert not list((tmp_path / "model").glob("*.partial"))


def test_a_loaded_model_answers_at_once_without_dropout(teacher_folder: Path) -> None:
    model = load(str(teacher_folder)).model
    assert not model.training
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers_own_is_loaded(family: str, tmp_path: Path) -> None:
    model = tiny_model(family, labels=("bad", "fair", "good"))
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.labels == ("bad", "fair", "good")
    assert torch.allclose(logits(loaded.model, random_batch()), logits(model, random_batch()), atol=1e-5)
    assert not loaded.model.training


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_stored_in_half_precision_are_computed_in_fp32(stored: torch.dtype, tmp_path: Path) -> None:
    """Many models of the hub are: what is trained and what builds are held to is fp32 all the same."""
    original = tiny_classifier()
    nn.Module.to(original.model, stored)
    save(original, tmp_path / "half")
    assert load_file(tmp_path / "half" / "model.safetensors")["classifier.weight"].dtype == stored
    assert {weights.dtype for weights in load(str(tmp_path / "half")).model.parameters()} == {torch.float32}


def test_what_it_saved_opens_with_transformers(teacher_folder: Path) -> None:
    assert AutoConfig.from_pretrained(teacher_folder).model_type == "bert"
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    assert tokenizer.tokenize("the film") == ["the", "film"]


def test_the_weights_appear_last(tiny: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any moment, a folder either has no weights or loads."""

    class Killed(BaseException):
        pass

    real, left = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    whole = 0
    for moves in range(10):
        left = moves
        folder = tmp_path / str(moves)
        try:
            save(tiny, folder)
        except Killed:
            assert not (folder / classifier.WEIGHTS_FILE).exists()
        else:
            whole += 1
        left = 99
        save(tiny, folder)
        load(str(folder))
        if whole:
            break
    assert moves >= 3
    assert whole


def backbone(folder: Path) -> Path:
    """An encoder without a classification layer."""
    config = BertConfig(
        vocab_size=160,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_backbone_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        load(str(backbone(tmp_path)))
    assert "is a backbone (['BertModel']), not a sequence classifier" in str(raised.value)
    assert "pass it as --backbone" in str(raised.value)


def test_a_backbone_gets_a_layer_for_its_labels(tmp_path: Path) -> None:
    loaded = load(str(backbone(tmp_path)), heads=(Head(name="label", labels=("a", "b", "c")),))
    assert loaded.labels == ("a", "b", "c")
    assert logits(loaded.model, random_batch()).shape == (4, 3)
    original = BertModel.from_pretrained(tmp_path)
    found = loaded.model.get_submodule("bert.encoder")
    for name, value in original.encoder.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_a_classifier_may_be_the_backbone_for_other_labels(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load(str(tmp_path), heads=(Head(name="label", labels=("a", "b", "c")),))
    assert logits(loaded.model, random_batch()).shape == (4, 3)


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    config = ElectraConfig(
        vocab_size=160,
        embedding_size=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    ElectraForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="type 'electra' cannot be compressed; supported: bert"):
        load(str(tmp_path))
    tiny_tokenizer().save_pretrained(tmp_path)
    teaching = load(str(tmp_path), any_family=True)
    save(teaching, tmp_path / "again")
    again = load(str(tmp_path / "again"), any_family=True)
    assert torch.equal(logits(again.model, random_batch()), logits(teaching.model, random_batch()))


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_what_is_no_model_at_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for source in (str(tmp_path), str(tmp_path / "absent")):
        with pytest.raises(UnsupportedModelError) as raised:
            load(source)
        assert "is neither a model folder nor a hub id" in one_line(raised.value)


def test_a_model_without_weights(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="has no weights to load") as raised:
        load(str(tmp_path))
    one_line(raised.value)


def test_a_model_with_broken_weights(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UnsupportedModelError, match="has no weights to load") as raised:
        load(str(tmp_path))
    one_line(raised.value)


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="has no tokenizer to load") as raised:
        load(str(tmp_path))
    one_line(raised.value)


@pytest.mark.parametrize("damage", ["missing", "cut", "other shapes"])
def test_a_pruned_model_whose_weights_are_not_its_own(damage: str, tmp_path: Path) -> None:
    save(uneven_classifier(), tmp_path)
    weights = tmp_path / classifier.WEIGHTS_FILE
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        config = json.loads((tmp_path / "config.json").read_text())
        config[classifier.SHAPES_KEY][0] = [2, 32]
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CompressionError, match=r"does not hold the model its config\.json") as raised:
        load(str(tmp_path))
    one_line(raised.value)


def test_the_tokenizers_own_length_is_forgotten(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    save(Classifier(tiny_model(), tokenizer), tmp_path)
    loaded = load(str(tmp_path)).tokenizer
    assert len(loaded("the film the film the film")["input_ids"]) == 8
    described = json.loads(loaded.backend_tokenizer.to_str())
    assert (described["truncation"], described["padding"]) == (None, None)


def test_labels_stand_in_logit_order() -> None:
    model = tiny_model()
    model.config.id2label = {1: "second", 0: "first", 2: "third"}
    assert Classifier(model, tiny_tokenizer()).labels == ("first", "second", "third")


@pytest.mark.parametrize(("family", "longest"), [("bert", 64), ("distilbert", 64), ("roberta", 63)])
def test_the_longest_input_is_what_the_model_can_read(family: str, longest: int) -> None:
    made = tiny_classifier(family)
    assert made.longest_input == longest
    readable = random_batch(rows=1, longest=longest)
    assert logits(made.model, readable).shape == (1, 2)
    with pytest.raises((IndexError, RuntimeError)):
        logits(made.model, random_batch(rows=1, longest=longest + 1))


def test_roberta_counts_its_positions_behind_the_padding_id() -> None:
    model: PreTrainedModel = tiny_model("roberta")
    model.config = RobertaConfig(max_position_embeddings=514, pad_token_id=1)
    made = Classifier(model, tiny_tokenizer())
    assert (made.longest_input, made.pad_token_id) == (512, 1)


def test_a_folder_can_be_saved_over(tiny: Classifier, tmp_path: Path) -> None:
    save(tiny, tmp_path / "model")
    (tmp_path / "model" / "classifier.partial").mkdir()
    (tmp_path / "model" / "classifier.partial" / "left").write_text("over")
    save(uneven_classifier(), tmp_path / "model")
    assert layer_shapes(load(str(tmp_path / "model")).model)[0].heads == 1
    assert not (tmp_path / "model" / "left").exists()
    shutil.rmtree(tmp_path / "model")
