"""How many copies of what a layer needs to meet the cache as in its network, and the copies."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

torch = pytest.importorskip("torch")

from edgejoule.inference.torch_replay_rotation import (  # noqa: E402
    COUNTS,
    OUTPUT,
    Copies,
    Rotated,
    copied,
    cycle_of,
    nearest,
    turns,
    with_sets,
)
from edgejoule.inference.torch_replay_steps import same_values  # noqa: E402

pytestmark = pytest.mark.torch

MIB = 2**20


def touched_between_uses(found: Mapping[str, Rotated], name: str) -> int:
    """Distinct bytes touched from one use of a copy to its next, by playing it through."""
    copies = found[name].copies
    seen = {
        (other.name, execution % other.copies): other.nbytes
        for execution in range(copies)
        for other in found.values()
    }
    return sum(seen.values())


def test_bytes_between_uses_are_those_of_the_network() -> None:
    numbers = random.Random(0)
    for _ in range(200):
        sizes = {str(i): numbers.randrange(1, 8 * MIB) for i in range(numbers.randrange(1, 5))}
        distances = {name: size + numbers.randrange(200 * MIB) for name, size in sizes.items()}
        found = turns(sizes, distances, cache_bytes=32 * MIB)
        for name, one in found.items():
            assert one.copies in COUNTS
            assert one.reached == touched_between_uses(found, name)
            if 1 < one.copies < COUNTS[-1]:
                wanted = min(distances[name], 48 * MIB)
                assert 0.7 * wanted < one.reached < 2.2 * wanted  # other tensors add theirs
        assert cycle_of([one.copies for one in found.values()]) <= 768


def test_a_weight_that_is_cold_in_the_network_is_cold_alone() -> None:
    sizes = {"x": MIB, "w": 9 * MIB, OUTPUT: MIB}
    far = turns(sizes, {"x": MIB, "w": 500 * MIB, OUTPUT: 2 * MIB}, cache_bytes=60 * MIB)
    assert far["x"].copies == far[OUTPUT].copies == 1
    assert far["w"].copies * 9 * MIB > 60 * MIB
    assert touched_between_uses(far, "w") > 60 * MIB
    near = turns(sizes, {"x": MIB, "w": 20 * MIB, OUTPUT: 2 * MIB}, cache_bytes=60 * MIB)
    assert near["w"].copies == 2  # warm there as well, by as much


def test_nothing_is_rotated_where_one_execution_exceeds_the_cache() -> None:
    found = turns({"x": 100 * MIB, "w": MIB}, {"x": 100 * MIB, "w": 900 * MIB}, 50 * MIB)
    assert [one.copies for one in found.values()] == [1, 1]


@pytest.mark.parametrize(
    ("wanted", "count"), [(0.0, 1), (0.4, 1), (1.3, 1), (1.5, 2), (4.8, 4), (5, 6), (9e9, 256)]
)
def test_counts_divide_768(wanted: float, count: int) -> None:
    assert nearest(wanted) == count
    assert nearest(wanted, most=10) <= 8
    assert all(768 % count == 0 for count in COUNTS)


def test_input_sets_take_turns_only_where_that_leaves_warm_what_is_warm() -> None:
    sizes = {"x": MIB, "w": MIB}
    small = turns(sizes, {"x": MIB, "w": MIB}, 60 * MIB)
    found = with_sets(small, frozenset({"w"}), 4, 60 * MIB)
    assert (found["x"].copies, found["w"].copies) == (4, 1)
    assert found["x"].reached == 5 * MIB
    close = with_sets(small, frozenset({"w"}), 4, 16 * MIB)
    assert (close["x"].copies, close["w"].copies) == (1, 1)
    large = turns({"x": 90 * MIB}, {"x": 90 * MIB}, 60 * MIB)
    assert with_sets(large, frozenset(), 4, 60 * MIB)["x"].copies == 4  # cold in any case


def test_copies_keep_strides_gaps_and_what_is_the_same() -> None:
    base = torch.arange(2 * 8 * 5 * 5, dtype=torch.float32).reshape(2, 8, 5, 5)
    tensors = [
        base,
        base.to(memory_format=torch.channels_last),
        base[:, 3:5],  # with gaps between the images
        base.permute(3, 1, 0, 2),
        base[0, 0, 0].expand(4, 5),
        base[..., 1::2],
        torch.tensor(3),
        torch.empty(0, 3),
    ]
    for tensor in tensors:
        found = copied(tensor)
        assert torch.equal(found, tensor)
        assert found.stride() == tensor.stride()
        assert found.untyped_storage().data_ptr() != base.untyped_storage().data_ptr()
        if tensor.numel():
            assert (found.data_ptr() - tensor.data_ptr()) % 64 == 0


def test_turns_of_sets_and_of_weights() -> None:
    weight = torch.ones(3)
    sets = [((torch.full((3,), float(i)), weight, 5), {"again": [weight]}) for i in range(2)]
    copies = Copies(sets, ("x", "w", None, "w"), {"x": 4, "w": 2}, frozenset({"w"}))
    seen = [copies.arguments(turn) for turn in range(8)]
    assert [float(args[0][0]) for args, _ in seen] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert len({args[0].data_ptr() for args, _ in seen}) == 4
    assert len({args[1].data_ptr() for args, _ in seen}) == 2
    assert all(args[2] == 5 and args[1] is kwargs["again"][0] for args, kwargs in seen)
    assert all(torch.equal(args[1], weight) and args[1] is not weight for args, _ in seen)
    assert copies.nbytes == 4 * 12 + 2 * 12


def test_values_are_the_same_but_for_the_order_of_sums() -> None:
    one = torch.tensor([1.0, -2.0, float("inf")])
    assert same_values([one], [one.clone()]) == (True, "bitwise equal")
    close = one + torch.tensor([1e-6, 0, 0])
    assert same_values([one], [close])[0] is True
    assert "of the largest value" in same_values([one], [close])[1]
    assert same_values([one], [one + 0.01])[0] is False
    assert same_values([one], [torch.tensor([1.0, -2.0, float("nan")])])[0] is False
    assert same_values([torch.tensor([float("nan")])], [torch.tensor([float("nan")])])[0] is True
    assert same_values([torch.tensor([1])], [torch.tensor([2])])[0] is False
    assert same_values([one], [])[0] is False
