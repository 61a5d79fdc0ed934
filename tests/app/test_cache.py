from __future__ import annotations

import tracemalloc

from app.answer import Prediction
from app.cache import AnswerCache


def prediction(number: int = 0, classes: int = 2) -> Prediction:
    values = tuple(number + index / 7 for index in range(classes))
    return Prediction("positive", values, tuple(value / 3 for value in values), number, False)


def test_what_was_put_comes_back() -> None:
    cache = AnswerCache(100_000)
    cache.put(1, "a film", prediction(5))
    assert cache.get(1, "a film") == prediction(5)
    assert cache.get(1, "a film ") is None
    assert cache.get(2, "a film") is None
    assert len(cache) == 1


def test_nothing_is_kept_without_room() -> None:
    cache = AnswerCache(0)
    assert not cache.enabled
    cache.put(1, "a film", prediction())
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_least_recently_used_makes_room() -> None:
    cache = AnswerCache(1)
    cache.put(1, "size", prediction())
    assert cache.bytes == 0
    one = AnswerCache(10**6)
    one.put(1, "size", prediction())
    cache = AnswerCache(3 * one.bytes)
    for text in ("a", "b", "c"):
        cache.put(1, text, prediction())
    assert cache.get(1, "a") is not None
    cache.put(1, "d", prediction())
    assert [cache.get(1, text) is not None for text in ("a", "b", "c", "d")] == [True, False, True, True]
    assert cache.bytes == 3 * one.bytes


def test_putting_twice_counts_once() -> None:
    cache = AnswerCache(10**6)
    cache.put(1, "a", prediction())
    before = cache.bytes
    cache.put(1, "a", prediction(1))
    assert (len(cache), cache.bytes) == (1, before)


def test_a_lone_surrogate_is_a_text_like_others() -> None:
    cache = AnswerCache(10**6)
    cache.put(1, "\ud800", prediction())
    assert cache.get(1, "\ud800") is not None


def test_the_bytes_are_about_what_the_interpreter_takes() -> None:
    for classes in (2, 12):
        cache = AnswerCache(10**9)
        tracemalloc.start()
        for number in range(20_000):
            cache.put(7, f"text {number}", prediction(10_000 + number, classes))
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert 0.8 < cache.bytes / taken < 1.25
