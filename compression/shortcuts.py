"""What token pruning and early exit save, on a model of random weights: their cost does not depend on them.

`python -m compression.shortcuts` exports a model of MiniLM-L6's shape whole, with fewer tokens, and with an
exit in its middle at which every text leaves, or none; and prints how many times faster than the whole one
each is, one text at a time on one thread, in processor time. It says nothing about accuracy.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from app.engines import load_engine
from compression import early_exit, export, measurement
from compression.architecture import encoder_layers
from compression.exit_graph import to_branches
from compression.pruning import tokens

WHOLE = "whole"
KEPT = (0.5, 0.25, 0.1)


def minilm() -> PreTrainedModel:
    """Six layers, hidden size 384, 12 heads; a small vocabulary, which changes no latency."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=3000,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    )
    model.eval()
    return model


def write(model: PreTrainedModel, folder: Path) -> dict[str, Path]:
    """The model as graphs, by what is left out in them."""
    layers = len(encoder_layers(model))
    graphs = {WHOLE: folder / "whole.onnx"}
    export.to_onnx(model, graphs[WHOLE], opset=17)
    for keep in KEPT:
        fewer = copy.deepcopy(model)
        tokens.attach(fewer, tokens.even_schedule(keep, layers))
        path = graphs[f"{keep:.0%} of the tokens at the end"] = folder / f"tokens-{keep}.onnx"
        export.to_onnx(fewer, path, opset=17)
    for name, confidence in (("leaves half way", 0.0), ("could have left", early_exit.NEVER)):
        leaving = copy.deepcopy(model)
        early_exit.attach(leaving, (layers // 2,))
        early_exit.set_confidence(leaving, confidence)
        path = graphs[name] = folder / f"exit-{confidence}.onnx"
        export.to_onnx(leaving, path, opset=17)
        onnx.save(to_branches(onnx.load(path)), path)
    return graphs


def factors(graphs: Mapping[str, Path], lengths: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """How many times faster than the whole model each graph is, at every length."""
    engines = {name: load_engine("onnx", path, 1) for name, path in graphs.items()}
    points = measurement.latency(
        {name: engine.logits for name, engine in engines.items()}, lengths, rounds, processor_time=True
    )
    whole = [point.median_ms for point in points[WHOLE]]
    return {
        name: [first / point.median_ms for first, point in zip(whole, own, strict=True)]
        for name, own in points.items()
    }


def main() -> None:
    """Measure and print."""
    lengths = (64, 128, 256, 512)
    with tempfile.TemporaryDirectory() as folder:
        found = factors(write(minilm(), Path(folder)), lengths, rounds=15)
    table = Table(title="Times as fast as the whole model, ONNX Runtime fp32, one text, one thread")
    for heading in ("", *(f"{length} tokens" for length in lengths)):
        table.add_column(heading, justify="right" if heading else "left")
    for name, own in found.items():
        table.add_row(name, *(f"{factor:.2f}" for factor in own))
    Console().print(table)


if __name__ == "__main__":
    main()
