"""What the page holds twice is in it once, and comes back as it was."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgejoule.report.page.packed import packed
from tests.support_page import unpacked

_ITEM = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(0, 1), st.text("ab$"))
_LIST = st.lists(st.sampled_from([0, 1.5, "a", None]), max_size=3).map(lambda one: one * 8)
_PLAIN = st.recursive(
    st.one_of(_ITEM, _LIST, _LIST.map(lambda one: [*one, *one[::-1]])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from("xyz"), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["figures", "layers"]), _PLAIN))
def test_packed_values_come_back(value: dict[str, Any]) -> None:
    made = json.loads(json.dumps(packed(value)))
    assert repr(unpacked(made, made.pop("lists"))) == repr(value)


def test_what_stands_twice_is_in_the_page_once() -> None:
    times = [0.5 * place for place in range(20)]
    made = packed({"figures": [{"x": times}, {"x": times}, {"x": times + times[::-1]}, {"x": [1]}]})
    held = {"$": 0}
    assert made == {
        "figures": [{"x": held}, {"x": held}, {"x": {**held, "back": True}}, {"x": [1]}],
        "lists": [times],
    }
