"""What a build's cost is compared with: BERT-base in PyTorch fp32, built from its configuration.

Its weights are random, which changes nothing about size, latency or memory; it says nothing about accuracy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import BertConfig, BertForSequenceClassification

from compression.measurement import Predict

Ids = npt.NDArray[np.int64]
NAME = "BERT-base, PyTorch fp32"


def bert_base() -> BertForSequenceClassification:
    """110 M parameters: 12 layers, hidden size 768, 12 heads, vocabulary 30,522."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig())
    model.eval()
    return model


def size_bytes(model: torch.nn.Module) -> int:
    """Bytes of the weights as they would be saved."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def predictor(model: torch.nn.Module, threads: int) -> Predict:
    """The model as a call on NumPy arrays, on `threads` threads."""
    torch.set_num_threads(threads)

    def predict(input_ids: Ids, attention_mask: Ids) -> object:
        with torch.inference_mode():
            return model(
                input_ids=torch.from_numpy(input_ids), attention_mask=torch.from_numpy(attention_mask)
            ).logits

    return predict
