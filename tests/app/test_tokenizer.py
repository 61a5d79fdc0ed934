from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from app.artifact import TokenizerSettings
from app.errors import ArtifactError
from app.tokenizer import Tokenizer, pad, truncate
from tests.app.tiny import write_tokenizer


def settings(
    max_tokens: int, head_tokens: int, truncation: Literal["head", "head+tail"] = "head"
) -> TokenizerSettings:
    return TokenizerSettings(
        max_tokens=max_tokens, truncation=truncation, head_tokens=head_tokens, pad_token_id=0
    )


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path / "tokenizer.json")
    return Tokenizer(tmp_path / "tokenizer.json", settings(8, 7))


def test_a_batch_is_its_texts(tokenizer: Tokenizer) -> None:
    texts = ["a great film", "bad " * 20, "zyx!"]
    for text, encoded in zip(texts, tokenizer.encode_batch(texts), strict=True):
        alone = tokenizer.encode(text)
        assert list(encoded.input_ids) == list(alone.input_ids)
        assert encoded.truncated == alone.truncated
        assert encoded.input_ids.dtype == np.int64


def test_truncation_keeps_the_closing_token(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode("bad " * 20)
    short = tokenizer.encode("bad")
    assert (len(encoded.input_ids), encoded.truncated) == (8, True)
    assert encoded.input_ids[0] == short.input_ids[0]
    assert encoded.input_ids[-1] == short.input_ids[-1]
    assert not short.truncated


def test_head_and_tail() -> None:
    ids = list(range(20))
    assert truncate(ids, settings(6, 4, "head+tail")) == [0, 1, 2, 3, 18, 19]
    assert truncate(ids, settings(6, 5)) == [0, 1, 2, 3, 4, 19]
    assert truncate(ids[:6], settings(6, 5)) == ids[:6]


def test_padding() -> None:
    input_ids, attention_mask = pad([np.array([5, 6, 7]), np.array([8])], pad_token_id=9)
    assert input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("body", ["", "{}", "not json"])
def test_what_is_no_tokenizer(tmp_path: Path, body: str) -> None:
    (tmp_path / "tokenizer.json").write_text(body)
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json", settings(8, 7))
