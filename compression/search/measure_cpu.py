"""What builds cost on this CPU, as a table that a search for it can take to another machine.

A handful of random models of one hidden size, from one layer of half the width to the whole teacher, is
exported and quantized in every scheme; all of them and BERT-base take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from app.artifact import TokenizerSettings
from app.engines import load_engine
from app.hardware import cpu_features, cpu_model, usable_cores
from compression import baseline, export
from compression.architecture import LayerShape, reshape
from compression.batches import Rows
from compression.corpus import Corpus
from compression.measurement import interleaved
from compression.quantization.scheme import Quantization, quantize
from compression.search.cost_table import CostTable, MeasuredCost
from compression.search.space import NEED_VNNI, SCHEMES, Scheme, build_of
from compression.search.work import TOKENS, Shape, shape_of

_ROUNDS = 15
_VOCABULARY, _ROWS = 1000, 8


def shapes(hidden_size: int, heads: int, ffn: int, layers: int) -> list[tuple[LayerShape, ...]]:
    """Per-layer shapes that tell the terms of the prediction apart: depth, width of the FFN, heads."""
    whole, narrow = LayerShape(heads, ffn), LayerShape(heads, max(1, ffn // 2))
    few_heads, small = LayerShape(max(1, heads // 2), ffn), LayerShape(max(1, heads // 2), max(1, ffn // 4))
    half = max(1, layers // 2)
    chosen = [
        (whole,) * layers,
        (whole,) * half,
        (whole,),
        (narrow,) * layers,
        (few_heads,) * layers,
        (small,) * half,
        (small,),
    ]
    assert hidden_size % heads == 0  # noqa: S101 - transformers refuses such a model before
    return list(dict.fromkeys(chosen))


def measure(
    hidden_size: int,
    heads: int,
    ffn: int,
    layers: int,
    schemes: Sequence[Scheme],
    scratch: Path,
    tell: Callable[[str], None],
) -> CostTable:
    """Measure the schemes this CPU can run; `scratch` keeps the builds meanwhile."""
    threads = usable_cores()
    usable = [each for each in schemes if each not in NEED_VNNI or "vnni" in cpu_features()]
    base = baseline.predictor(baseline.bert_base(), threads)
    ids = np.full((1, TOKENS), 7, dtype=np.int64)
    costs, baselines = [], []
    for number, layer_shapes in enumerate(shapes(hidden_size, heads, ffn, layers)):
        shape, source = _exported(layer_shapes, hidden_size, heads, ffn, scratch / f"{number}.onnx")
        calls: dict[str, Callable[[], object]] = {baseline.NAME: lambda: base(ids, np.ones_like(ids))}
        for scheme in usable:
            settings = Quantization(**SCHEMES[scheme], calibration_rows=_ROWS)
            path = scratch / f"{number}-{scheme}.onnx"
            quantize(settings, source, path, _random_rows(), range(_ROWS))
            calls[build_of(scheme)] = _call(path, threads, ids)
        seconds = interleaved(calls, _ROUNDS)
        baselines += seconds[baseline.NAME]
        for build, taken in seconds.items():
            if build != baseline.NAME:
                costs.append(_cost(build, shape, taken, seconds[baseline.NAME]))
        tell(f"{len(layer_shapes)} layers, FFN {layer_shapes[0].ffn_width}: {len(usable)} builds measured")
    return CostTable(
        cpu=cpu_model(),
        features=tuple(sorted(cpu_features())),
        threads=threads,
        runtime=f"onnxruntime {version('onnxruntime')}",
        measured_on=datetime.now(UTC).date().isoformat(),
        baseline_ms=round(statistics.median(baselines) * 1e3, 3),
        costs=tuple(costs),
    )


def _exported(
    layer_shapes: tuple[LayerShape, ...], hidden_size: int, heads: int, ffn: int, path: Path
) -> tuple[Shape, Path]:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=hidden_size,
        num_hidden_layers=len(layer_shapes),
        num_attention_heads=heads,
        intermediate_size=ffn,
    )
    model = BertForSequenceClassification(config)
    model.train(False)
    reshape(model, layer_shapes)
    export.to_onnx(model, path, opset=17)
    return shape_of(model), path


def _call(
    path: Path, threads: int, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> Callable[[], object]:
    engine = load_engine("onnx", path, threads, "int8")
    return lambda: engine.logits(ids, np.ones_like(ids))


def _cost(build: str, shape: Shape, ours: Sequence[float], theirs: Sequence[float]) -> MeasuredCost:
    share = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return MeasuredCost(
        build=build,
        hidden_size=shape.hidden_size,
        attention=shape.attention,
        ffn=shape.ffn,
        tokens=TOKENS,
        share=share,
    )


def _random_rows() -> Rows:
    """Ids to calibrate on: the ranges they give do not change what a build costs."""
    ids = np.random.default_rng(0).integers(5, _VOCABULARY, _ROWS * TOKENS).astype(np.int32)
    settings = TokenizerSettings(max_tokens=TOKENS, truncation="head", head_tokens=TOKENS - 1, pad_token_id=0)
    offsets = np.arange(_ROWS + 1, dtype=np.int64) * TOKENS
    labels, further = np.zeros(_ROWS, dtype=np.int64), np.zeros((_ROWS, 0), dtype=np.int64)
    return Rows(Corpus(ids, offsets, labels, settings, "random", further, ("",) * _ROWS))
