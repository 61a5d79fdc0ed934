"""More texts without labels, made of those at hand, for a student to ask its teacher about.

Words give way to others that are near them in a pretrained model, antonyms among them: what such a text says,
the teacher decides. Give the file to `distill --unlabelled`, with `--unlabelled-rows -1`. Texts that the data
hold out are not varied.
"""

from __future__ import annotations

import argparse

from compression.commands import options as common


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_HUB_ID",
        help="a pretrained model or a classifier whose word table says which words are near each other; one "
        "with more words finds more",
    )
    parser.add_argument(
        "--output", type=common.writable, required=True, metavar="FILE", help="new JSON lines file of texts"
    )
    parser.add_argument(
        "--copies",
        type=int,
        default=4,
        metavar="N",
        help="variants of each text; more repeat themselves more often (default: 4)",
    )
    parser.add_argument(
        "--joined",
        type=float,
        default=0.15,
        metavar="SHARE",
        help="of the variants, how many end in another text: teaches what outweighs what (default: 0.15)",
    )
    parser.add_argument(
        "--longest",
        type=int,
        default=40,
        metavar="WORDS",
        help="longer texts are not varied: a few words change little of what they say (default: 40)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another one draws other words (default: 0)"
    )
    common.add_data(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import console
    from compression.augmented_file import write

    console.quiet()
    written = write(
        options.output,
        options.model,
        options.data,
        common.data_settings(options),
        options.unlabelled,
        copies=options.copies,
        joined=options.joined,
        longest=options.longest,
        seed=options.seed,
    )
    print(
        f"{options.output}: {written.variants:,} variants of {written.varied:,} texts, "
        f"and {written.unlabelled:,} texts without labels as they were"
    )
    return 0
