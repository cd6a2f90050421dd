from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offshelf.digests import canonical_json, digest_of, digest_of_bytes, is_digest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
).filter(lambda value: "\\ud" not in json.dumps(value))


def test_canonical_json_is_fixed() -> None:
    """A user's results are found again after years, since the bytes that name them stay what they are."""
    value = {"b": [1, 2.5, True, None], "a": "ä\n", "c": (1e-7, -0.0)}
    assert canonical_json(value) == '{"a":"ä\\n","b":[1,2.5,true,null],"c":[1e-07,-0.0]}'.encode()
    assert digest_of({"x": 1}) == "5041bf1f713df204784353e82f6a4a535931cb64f1f4b4a5aeaffcb720918b22"


@settings(deadline=None)
@given(VALUES)
def test_canonical_json_keeps_the_value(value: object) -> None:
    """A user's settings are what is hashed, not something near them."""
    assert json.loads(canonical_json(value)) == value  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.dictionaries(st.text(alphabet="abcdef"), st.integers()), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, int], random: object) -> None:
    """A user who writes the same settings in another order gets the same results back."""
    items = list(value.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert digest_of(dict(items)) == digest_of(dict(value))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_lacks_is_refused(number: float) -> None:
    """A user's work is never named by something that another program could not read."""
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": number})


def test_bytes_are_named_by_sha256() -> None:
    """A user can check an image's name with any tool."""
    assert digest_of_bytes(b"abc") == hashlib.sha256(b"abc").hexdigest() == digest_of_bytes(memoryview(b"abc"))


@pytest.mark.parametrize(
    "text", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "../" + "a" * 61, "\u0661" * 64]
)
def test_what_has_another_form_is_no_digest(text: str) -> None:
    """A user cannot reach another object of the store by a name that only looks like a digest."""
    assert not is_digest(text)
    assert is_digest(digest_of(text))
