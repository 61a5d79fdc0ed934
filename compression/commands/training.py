"""A plain training loop and ours, on the same texts to the same validation loss.

Then what each ingredient is worth: precision, bucketing, accumulation, activation checkpointing, compilation,
early stopping, schedule. Every arm runs in a fresh process. `bertpress benchmark training`.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--backbone", required=True, metavar="DIR_OR_HUB_ID", help="the model to fine-tune")
    parser.add_argument("--data", required=True, metavar="PATH", help="labelled texts of two classes")
    parser.add_argument(
        "--reviews", type=int, default=800, metavar="N", help="texts to train on (default: 800)"
    )
    parser.add_argument(
        "--validation", type=int, default=200, metavar="N", help="texts to validate on (default: 200)"
    )
    parser.add_argument(
        "--epochs", type=float, default=1.0, metavar="N", help="at most so many epochs (default: 1)"
    )
    parser.add_argument(
        "--rows", type=int, default=16, metavar="N", help="texts in a training step (default: 16)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=512, metavar="N", help="tokens read of a text (default: 512)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=20,
        metavar="N",
        help="steps of an arm that shows its speed (default: 20)",
    )
    parser.add_argument("--no-ingredients", action="store_true", help="only the plain loop and ours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from rich.console import Console

    from compression import console, training_benchmark, training_table

    console.quiet()
    output = Console(width=170)
    found = training_benchmark.measure(
        training_benchmark.Request(
            backbone=options.backbone,
            data=options.data,
            reviews=options.reviews,
            validation_reviews=options.validation,
            epochs=options.epochs,
            rows_per_step=options.rows,
            max_tokens=options.max_tokens,
            steps=options.steps,
            ingredients=not options.no_ingredients,
        ),
        lambda arm: output.print(f"running: {arm}", highlight=False),
    )
    output.print(training_table.comparison_table(found))
    if found.ingredients or found.failed:
        output.print(training_table.ingredients_table(found))
    output.print(training_table.footnote(found), highlight=False)
    if options.json is not None:
        found.write(options.json)
    return 0
