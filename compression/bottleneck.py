"""MobileBERT's student: as many layers as its teacher and states as wide, and narrow blocks between them.

Each block squeezes the states to a narrow width, computes attention and several feed-forward parts there, and
widens the result again; so states and attention can be compared with the teacher's layer by layer, while most
multiplications are in the narrow width. Word vectors are narrow too, and each token sees those beside it.
Source: Sun et al. 2020, MobileBERT, sections 3.1 to 3.3. LayerNorm stays, where the paper replaces it when
all is trained; the embeddings start from the best approximation of the teacher's of their width.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, MobileBertConfig, PreTrainedModel

from app.errors import RecipeError
from compression.architecture import family_of, layer_shapes, linear
from compression.classifier import Classifier
from compression.heads import describe


def student_of(teacher: Classifier, width: int | float, feed_forward_parts: int) -> Classifier:
    """A student with blocks `width` wide (below 1: a share of the teacher's width), weights fresh but for
    embeddings and classifier.

    Raises:
        RecipeError: the teacher's layers are uneven, or the width is no multiple of its heads.
    """
    model = teacher.model
    heads = {shape.heads for shape in layer_shapes(model)}
    hidden = int(model.config.hidden_size)
    if len(heads) > 1:
        raise RecipeError(
            "a bottleneck student has as many heads as its teacher in every layer, and the teacher's layers "
            f"have {sorted(heads)}; take one that is not pruned"
        )
    (count,) = heads
    narrow = max(1, round(width * hidden / count)) * count if isinstance(width, float) else width
    if narrow % count or narrow > hidden:
        raise RecipeError(
            f"blocks of width {narrow} asked for; it must be a multiple of the {count} heads up to {hidden}"
        )
    config = _config(teacher, count, narrow, feed_forward_parts)
    describe(config, teacher.heads)
    student: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    )
    _start_from(student, model)
    student.train(False)
    return Classifier(student, teacher.tokenizer)


def approximated(table: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two factors whose product is nearest to a table. Shapes: (V, H) to (V, rank) and (rank, H).

    Source: Eckart, Young 1936, The approximation of one matrix by another of lower rank.
    """
    values, vectors = torch.linalg.eigh(table.double().T @ table.double())
    largest = vectors[:, values.argsort(descending=True)[:rank]]
    return (table.double() @ largest).to(table), largest.T.to(table)


def _config(teacher: Classifier, heads: int, width: int, feed_forward_parts: int) -> MobileBertConfig:
    source = teacher.model.config
    return MobileBertConfig(
        vocab_size=int(source.vocab_size),
        hidden_size=int(source.hidden_size),
        num_hidden_layers=len(layer_shapes(teacher.model)),
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=teacher.longest_input,
        type_vocab_size=1,
        pad_token_id=teacher.pad_token_id,
        embedding_size=width,
        trigram_input=True,
        use_bottleneck=True,
        intra_bottleneck_size=width,
        use_bottleneck_attention=False,
        key_query_shared_bottleneck=True,
        num_feedforward_networks=feed_forward_parts,
        normalization_type="layer_norm",
        classifier_activation=True,
    )


@torch.no_grad()
def _start_from(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Embeddings of the rank there is room for, and the classifier as far as it has the same shape."""
    ours, theirs = family_of(student.config), family_of(teacher.config)
    source, target = teacher.get_submodule(theirs.embeddings), student.get_submodule(ours.embeddings)
    words = source.get_submodule("word_embeddings").get_parameter("weight")
    width = int(student.config.embedding_size)
    table, wider = approximated(words, width)
    # Past its ends a text is as its padding: nothing.
    table[int(student.config.pad_token_id)] = 0.0
    target.get_parameter("word_embeddings.weight").copy_(table)
    transformation = linear(target, "embedding_transformation")
    transformation.weight.zero_()
    transformation.weight[:, width : 2 * width] = wider.T
    transformation.bias.zero_()
    positions = target.get_parameter("position_embeddings.weight")
    positions.copy_(source.get_parameter("position_embeddings.weight")[-len(positions) :])
    if theirs.uses_token_types:
        types = source.get_parameter("token_type_embeddings.weight")
        target.get_parameter("token_type_embeddings.weight").copy_(types[:1])
    else:
        target.get_parameter("token_type_embeddings.weight").zero_()
    target.get_submodule("LayerNorm").load_state_dict(source.get_submodule("LayerNorm").state_dict())
    _copy_where_equal(linear(teacher, theirs.classifier_dense), linear(student, ours.classifier_dense))
    _copy_where_equal(linear(teacher, theirs.classifier_output), linear(student, ours.classifier_output))


def _copy_where_equal(source: nn.Linear, target: nn.Linear) -> None:
    if source.weight.shape == target.weight.shape:
        target.load_state_dict(source.state_dict())
