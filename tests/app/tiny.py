"""Makes tiny published versions: a random bag-of-embeddings classifier in ONNX, and a WordPiece tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from app import artifact
from app.artifact import (
    Architecture,
    Build,
    CascadeFigures,
    CascadeManifest,
    Floor,
    Head,
    Manifest,
    Probe,
    Provenance,
    Tier,
    TokenizerSettings,
    stored_file,
)
from app.engines import load_engine
from app.tokenizer import Tokenizer, pad

# fmt: off
WORDS = [
    "a", "and", "bad", "boring", "film", "good", "great", "is", "it", "movie", "not", "see", "terrible",
    "the", "this", "was", "watch", "wonderful",
]
# fmt: on
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
VOCABULARY = [*SPECIAL, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
PROBE_TEXTS = ("a great film", "this movie was terrible and boring", "good")
HIDDEN = 16


def write_tokenizer(path: Path) -> None:
    """A BERT-like tokenizer.json over the tiny vocabulary."""
    ids = {word: index for index, word in enumerate(dict.fromkeys(VOCABULARY))}
    tokenizer = FastTokenizer(WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer.save(str(path))


def write_graph(path: Path, seed: int, classes: int = 2, layers: int = 0) -> None:
    """Embedding -> `layers` times (matmul, tanh) -> masked mean -> matmul -> logits."""
    random = np.random.default_rng(seed)
    size = len(VOCABULARY)
    weights = {
        "embeddings": random.normal(size=(size, HIDDEN)).astype(np.float32),
        "mixing": (random.normal(size=(HIDDEN, HIDDEN)) / HIDDEN**0.5).astype(np.float32),
        "classifier": random.normal(size=(HIDDEN, classes)).astype(np.float32),
        "last_axis": np.array([2], dtype=np.int64),
        "token_axis": np.array([1], dtype=np.int64),
    }
    nodes = [helper.make_node("Gather", ["embeddings", "input_ids"], ["hidden_0"])]
    for layer in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"hidden_{layer}", "mixing"], [f"mixed_{layer}"]),
            helper.make_node("Tanh", [f"mixed_{layer}"], [f"hidden_{layer + 1}"]),
        ]
    nodes += [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["wide_mask"]),
        helper.make_node("Mul", [f"hidden_{layers}", "wide_mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "token_axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "token_axis"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "classifier"], ["logits"]),
    ]
    shape = ["rows", "tokens"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def publish(
    repository: Path,
    name: str = "tiny",
    version: int = 1,
    *,
    batch_invariant: bool = True,
    labels: tuple[str, ...] = ("negative", "positive"),
    further_heads: tuple[Head, ...] = (),
    layers: int = 0,
    max_tokens: int = 32,
    builds: Mapping[str, Mapping[str, Any]] | None = None,
    probe_shift: float = 0.0,
) -> Path:
    """Publish a version whose weights follow from its number; `probe_shift` makes its probes wrong.

    `builds` maps build names to fields that differ from an fp32 ONNX build without needs.
    """
    work = repository / f".work-{name}-{version}"
    work.mkdir(parents=True)
    write_tokenizer(work / "tokenizer.json")
    write_graph(
        work / "model.onnx",
        seed=version,
        classes=len(labels) + sum(len(head.labels) for head in further_heads),
        layers=layers,
    )
    settings = TokenizerSettings(
        max_tokens=max_tokens, truncation="head", head_tokens=max_tokens - 1, pad_token_id=0
    )
    build_fields = dict(builds or {"onnx-fp32": {}})
    probes = [
        Probe(text=text, logits=dict.fromkeys(build_fields, logits))
        for text, logits in probe_logits(work, settings, probe_shift).items()
    ]
    draft = Manifest(
        name=name,
        version=version,
        heads=(Head(name="label", labels=labels), *further_heads),
        architecture=Architecture(
            family="tiny",
            layers=layers,
            hidden_size=HIDDEN,
            attention_heads=(),
            ffn_width=(),
            vocabulary=len(VOCABULARY),
            parameters=len(VOCABULARY) * HIDDEN,
        ),
        tokenizer=settings,
        builds=tuple(
            _build(work / "model.onnx", build, batch_invariant, fields)
            for build, fields in build_fields.items()
        ),
        files=(stored_file(work / "tokenizer.json"),),
        probes=tuple(probes),
        provenance=_provenance(version),
    )
    return artifact.write(repository, draft, {path.name: path for path in work.iterdir()})


def publish_cascade(
    repository: Path,
    tiers: Sequence[tuple[str, int, float | None]],
    version: int = 1,
    labels: tuple[str, ...] = ("negative", "positive"),
) -> Path:
    """Publish cascade/`version` over published versions, each with the score from which on it decides."""
    figures = CascadeFigures(
        dataset="none",
        split="validation",
        n=1,
        accuracy=1.0,
        accuracy_interval_95=(0.0, 1.0),
        shares=tuple(1 / len(tiers) for _ in tiers),
        alone=tuple(1.0 for _ in tiers),
        cost_ms=1.0,
    )
    draft = CascadeManifest(
        kind="cascade",
        name="cascade",
        version=version,
        heads=(Head(name="label", labels=labels),),
        tiers=tuple(
            Tier(
                name=name,
                version=number,
                sha256=_identity(repository / name / str(number)),
                threshold=threshold,
                cost_ms=1.0,
            )
            for name, number, threshold in tiers
        ),
        floor=Floor(accuracy=0.9),
        fitted=figures,
        cpu="none",
        provenance=_provenance(version),
    )
    return artifact.write(repository, draft, {})


def probe_logits(work: Path, settings: TokenizerSettings, shift: float) -> dict[str, tuple[float, ...]]:
    """What the graph answers to the probe texts, moved by `shift`."""
    tokenizer = Tokenizer(work / "tokenizer.json", settings)
    engine = load_engine("onnx", work / "model.onnx", 1)
    rows = {text: engine.logits(*pad([tokenizer.encode(text).input_ids], 0))[0] for text in PROBE_TEXTS}
    return {text: tuple(float(value) + shift for value in row) for text, row in rows.items()}


def _identity(folder: Path) -> str:
    manifest = artifact.read_any(folder)
    return manifest.identity if isinstance(manifest, Manifest) else "0" * 64


def _provenance(seed: int) -> Provenance:
    return Provenance(
        teacher="random",
        recipe="tests",
        recipe_sha256="0" * 64,
        data="none",
        data_fingerprint="none",
        seed=seed,
        libraries={},
        created_at="2025-01-01T00:00:00Z",
    )


def _build(path: Path, name: str, batch_invariant: bool, fields: Mapping[str, Any]) -> Build:
    plain: dict[str, Any] = {
        "name": name,
        "engine": "onnx",
        "precision": "fp32",
        "batch_invariant": batch_invariant,
        "probe_tolerance": 1e-3,
    }
    return Build(**{**stored_file(path).model_dump(), **plain, **fields})
