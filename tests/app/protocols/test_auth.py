from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import SettingsError
from app.protocols.auth import Keys, bearer, read_keys, same
from app.settings import Settings

ONE, TWO = "key-one-0123456789", "key-two-0123456789"


def test_a_key_has_a_name() -> None:
    keys = Keys({"shop": ONE, "blog": TWO})
    assert (len(keys), keys.name_of(ONE.encode()), keys.name_of(TWO.encode())) == (2, "shop", "blog")


@pytest.mark.parametrize("wrong", ["", "shop", ONE[:-1], ONE + "x", ONE.upper()])
def test_what_is_no_key_has_none(wrong: str) -> None:
    assert Keys({"shop": ONE}).name_of(wrong.encode()) is None
    assert Keys({"shop": ONE}).name_of(b"\xff\xfe") is None
    assert Keys({}).name_of(wrong.encode()) is None


def test_no_key_can_be_found_in_memory_by_its_plain_digest() -> None:
    keys, again = Keys({"shop": ONE}), Keys({"shop": ONE})
    assert ONE not in str(vars(keys))
    assert keys._names.keys() != again._names.keys()


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (b"Bearer abc", b"abc"),
        (b"bearer  abc ", b"abc"),
        (b"Bearer", b""),
        (b"Basic abc", b""),
        (b"abc", b""),
        (b"", b""),
        (b"Bearer \xff", b"\xff"),
    ],
)
def test_the_token_of_a_header(header: bytes, token: bytes) -> None:
    assert bearer(header) == token


def test_secrets_are_the_same_or_not() -> None:
    assert same(b"a", b"a")
    assert not same(b"a", b"ab") and not same(b"", b"a")


def test_keys_come_from_the_setting_and_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# the shop's\nshop:{ONE}\n\n  \nblog: {TWO}\n")
    assert read_keys(Settings(api_keys_file=path)) == {"shop": ONE, "blog": TWO}
    assert read_keys(Settings(api_keys=f" shop:{ONE} ,")) == {"shop": ONE}
    assert read_keys(Settings(api_keys=f"third:{ONE}x", api_keys_file=path)).keys() == {
        "shop",
        "blog",
        "third",
    }
    assert read_keys(Settings()) == {}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (ONE, "entry 1 of BERTPRESS_API_KEYS is not name:key"),
        (f"shop:{ONE},10.0.0.1:{TWO}", "entry 2"),
        (f"a b:{ONE}", "letters"),
        (f"shop:{ONE[:15]}", "15 characters and needs 16"),
        (f"shop:{ONE},shop:{TWO}", "twice"),
        (f"shop:{ONE},blog:{ONE}", "twice"),
    ],
)
def test_bad_entries_are_named_and_never_shown(entries: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_keys(Settings(api_keys=entries))
    assert ONE[:12] not in str(caught.value) and TWO[:12] not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="cannot read the API keys"):
        read_keys(Settings(api_keys_file=path))
