"""Reuse distances, memory that is used again, copies in turn, caches as sysfs tells them."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from edgejoule.inference.replay_rotation import (
    MARGIN,
    copies_needed,
    is_cold,
    last_level_cache_bytes,
    memory_for_copies,
    reuse_distances,
    shared_buffers,
    stays_cold,
)

Steps = list[tuple[dict[str, int], dict[str, int]]]


def test_distances_by_hand() -> None:
    steps: Steps = [
        ({"x": 1, "w1": 10}, {"a": 2}),
        ({"a": 2, "w2": 20}, {"b": 4}),
        ({"a": 2, "b": 4}, {"y": 8}),
    ]
    first, second, third = reuse_distances(steps)
    # Between two uses of x lies everything; of w1 everything but x, which is read with it.
    assert first == {"x": 1 + 10 + 2 + 20 + 4 + 8, "w1": 10 + 2 + 20 + 4 + 8}
    assert second == {"a": 2, "w2": 20 + 4 + 2 + 8 + 1 + 10}
    # a was read by the step before, which then read w2 and wrote b.
    assert third == {"a": 2 + 20 + 4, "b": 4}


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 100), max_size=3),
            st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 100), max_size=2),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_distances_are_what_an_lru_cache_says(raw: Steps) -> None:
    """A tensor is found in a cache of its distance and not in one that is a byte smaller."""
    sizes: dict[str, int] = {}
    for reads, writes in raw:
        for name, nbytes in (*reads.items(), *writes.items()):
            sizes.setdefault(name, nbytes)
    steps: Steps = [
        ({name: sizes[name] for name in reads}, {name: sizes[name] for name in writes})
        for reads, writes in raw
    ]
    uses = [name for _ in range(2) for reads, writes in steps for name in (*reads, *writes)]
    place = len(uses) // 2
    for (reads, writes), found in zip(steps, reuse_distances(steps), strict=True):
        begin = place
        for name, distance in found.items():
            last = max(i for i in range(begin) if uses[i] == name)
            assert distance == sum(sizes[one] for one in {name, *uses[last:begin]})
        place += len(reads) + len(writes)


def test_memory_is_used_again_once_its_last_reader_is_done() -> None:
    steps: Steps = [
        ({"x": 8, "w": 100}, {"a": 8}),
        ({"a": 8}, {"b": 8}),
        ({"b": 8}, {"c": 4}),  # fits where a was
        ({"b": 8, "c": 4}, {"d": 16}),  # fits nowhere
        ({"d": 16}, {"y": 4}),
    ]
    places = shared_buffers(steps, ["x", "w", "y"])
    assert places["c"] == ("a", 4)
    assert places["b"] == ("b", 8)
    assert places["d"][0] == "d"
    assert places["y"] == ("y", 4)
    assert places["x"] == ("x", 8)
    assert len({places[name][0] for name in "abcd"}) == 3


@example(1, 1, 2)  # half a byte of margin is one byte more
@given(st.integers(1, 2**28), st.integers(1, 2**28), st.integers(1, 5000))
def test_copies_leave_the_cache_or_say_so(cache: int, cold: int, cap: int) -> None:
    copies = copies_needed(cache, cold, 2**40, cap)
    assert 1 <= copies <= cap
    if copies < cap:
        assert stays_cold(copies, cold, cache)
        assert copies == 1 or (copies - 1) * cold < MARGIN * cache  # not one more than it takes


def test_nothing_is_rotated_without_a_reason() -> None:
    assert copies_needed(None, 10, 2**30) == 1
    assert copies_needed(2**20, 0, 2**30) == 1
    assert copies_needed(2**20, 2**10, 10 * 2**10) == 10  # no more than memory holds
    assert not stays_cold(10, 2**10, 2**20)
    assert not is_cold(100, 100)
    assert is_cold(101, 100)
    assert not is_cold(10**12, None)


def test_the_last_level_of_every_cluster_counts(tmp_path: Path) -> None:
    def cache(cpu: int, index: int, level: int, kind: str, size: str, shared: str) -> None:
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (
            ("level", str(level)), ("type", kind), ("size", size), ("shared_cpu_list", shared),
        ):  # fmt: skip
            (folder / name).write_text(text + "\n")

    for cpu in range(4):
        cache(cpu, 0, 1, "Data", "64K", str(cpu))
        cache(cpu, 1, 1, "Instruction", "64K", str(cpu))
        cache(cpu, 2, 3, "Unified", "2M", "0-1" if cpu < 2 else "2-3")
    assert last_level_cache_bytes(range(4), tmp_path) == 4 * 2**20
    assert last_level_cache_bytes([0], tmp_path) == 2 * 2**20
    assert last_level_cache_bytes([7], tmp_path) is None  # a machine that does not say
    (tmp_path / "cpu0" / "cache" / "index2" / "size").write_text("?")
    assert last_level_cache_bytes([0], tmp_path) == 64 * 2**10


def test_copies_take_a_quarter_of_the_limit() -> None:
    assert memory_for_copies(0.5) <= 2**27
    assert 0 < memory_for_copies() <= 2**30
