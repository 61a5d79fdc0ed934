from __future__ import annotations

import pytest

from app.protocols.rate_limit import RateLimit, bucket_of


def test_a_burst_then_the_rate() -> None:
    limit = RateLimit(per_second=2, burst=4)
    assert [limit.take("a", 1, 0.0) for _ in range(4)] == [0.0] * 4
    assert limit.take("a", 1, 0.0) == pytest.approx(0.5)
    assert limit.take("a", 1, 0.4) == pytest.approx(0.1)
    assert limit.take("a", 1, 0.5) == 0.0
    assert limit.take("a", 1, 0.5) == pytest.approx(0.5)


def test_over_a_long_time_the_rate_is_kept() -> None:
    limit = RateLimit(per_second=5, burst=5)
    passed = sum(limit.take("a", 1, tick / 100) == 0.0 for tick in range(10_000))
    assert passed == 5 + 5 * 100 - 1  # the burst, and one more each fifth of a second


def test_who_comes_when_told_is_let_in() -> None:
    limit, now = RateLimit(per_second=3, burst=7), 0.0
    for _ in range(50):
        while (wait_seconds := limit.take("a", 5, now)) > 0:
            now += wait_seconds
    assert now == pytest.approx((50 * 5 - 7) / 3)


def test_what_is_refused_costs_nothing() -> None:
    limit = RateLimit(per_second=1, burst=10)
    assert limit.take("a", 9, 0.0) == 0.0
    assert limit.take("a", 5, 0.0) == pytest.approx(4.0)
    assert limit.take("a", 1, 0.0) == 0.0


def test_clients_do_not_pay_for_each_other() -> None:
    limit = RateLimit(per_second=1, burst=1)
    assert limit.take("a", 1, 0.0) == limit.take("b", 1, 0.0) == 0.0
    assert limit.take("a", 1, 0.0) > 0


def test_memory_is_bounded_and_the_busiest_are_remembered() -> None:
    limit = RateLimit(per_second=1, burst=1, most_clients=3)
    for number in range(100):
        limit.take("busy", 0.001, number)
        limit.take(f"client {number}", 1, number)
    assert len(limit) == 3
    assert limit.take("client 99", 1, 99.0) > 0
    assert limit.take("client 1", 1, 99.0) == 0.0


def test_a_refused_client_cannot_be_pushed_out_by_its_own_tries() -> None:
    limit = RateLimit(per_second=1, burst=1, most_clients=2)
    limit.take("a", 1, 0.0)
    for _ in range(10):
        assert limit.take("a", 1, 0.0) > 0
    assert len(limit) == 1


@pytest.mark.parametrize(
    ("client", "bucket"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("shop-key", "shop-key"),
        ("", ""),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("no:address", "no:address"),
    ],
)
def test_whose_bucket(client: str, bucket: str) -> None:
    assert bucket_of(client) == bucket
