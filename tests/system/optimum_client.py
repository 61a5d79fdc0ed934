"""Published versions opened with Optimum's own class; run by test_optimum.py in an environment that has it.

usage: python optimum_client.py VERSION_FOLDER TEXT...
"""

from __future__ import annotations

import json
import sys

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, __version__


def logits(folder: str, texts: list[str]) -> list[list[float]]:
    """What it answers, one text at a time."""
    model = ORTModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in texts]


if __name__ == "__main__":
    found = {"transformers": __version__, "logits": logits(sys.argv[1], sys.argv[2:])}
    sys.stdout.write(json.dumps(found))
