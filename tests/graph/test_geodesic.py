"""Paths over neighbours: as Floyd and Warshall find them, along a roll, inside a class."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.graph import Geodesics, geodesic_distances, knn_graph

SEEDS = st.integers(0, 2**31)


def draw(seed, num_points=20, width=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_points, width, generator=generator, dtype=torch.float64)


def all_pairs(count):
    return torch.combinations(torch.arange(count)).T


def floyd_warshall(points, edges):
    i, j = edges
    distance = torch.full((len(points),) * 2, torch.inf, dtype=points.dtype).fill_diagonal_(0)
    distance[i, j] = distance[j, i] = (points[i] - points[j]).norm(dim=1)
    for k in range(len(points)):
        distance = torch.minimum(distance, distance[:, k, None] + distance[k])
    return distance


def spanning_bridges(points, part):
    """The minimum spanning tree of parts, by Kruskal over all pairs of points."""
    i, j = all_pairs(len(points))
    part, chosen = part.clone(), []
    for at in (points[i] - points[j]).norm(dim=1).argsort().tolist():
        a, b = part[i[at]].item(), part[j[at]].item()
        if a != b:
            part[part == b] = a
            chosen.append([i[at].item(), j[at].item()])
    return torch.tensor(chosen, dtype=torch.long).reshape(-1, 2).T


@settings(max_examples=20)
@given(seed=SEEDS, k=st.integers(1, 4), bridges=st.booleans())
def test_distances_are_those_of_floyd_and_warshall(seed, k, bridges):
    points, pairs = draw(seed), all_pairs(20)
    graph = knn_graph(points, k)
    edges = graph.edges
    if bridges:
        edges = torch.cat([edges, spanning_bridges(points, graph.components())], dim=1)
    expected = floyd_warshall(points, edges)[pairs[0], pairs[1]]
    assert_close(geodesic_distances(points, pairs, k=k, bridges=bridges), expected)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_they_are_a_metric_at_least_the_straight_one_and_follow_the_points(seed):
    points, count = draw(seed), 20
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count)).T
    table = geodesic_distances(points, pairs, k=3).reshape(count, count)
    assert_close(table, table.T)
    assert (table.diagonal() == 0).all()
    assert (table >= torch.cdist(points, points) - 1e-7).all()
    assert (table[:, :, None] <= table[:, None] + table.T[None] + 1e-9).all()
    moved = 3 * points.flip(1) + 7
    assert_close(geodesic_distances(moved, pairs, k=3).reshape(count, count), 3 * table)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    place = order.argsort()
    assert_close(geodesic_distances(points[order], place[pairs], k=3), table.flatten())


def test_with_all_others_as_neighbours_they_are_straight():
    points, pairs = draw(0), all_pairs(20)
    straight = (points[pairs[0]] - points[pairs[1]]).norm(dim=1)
    assert_close(geodesic_distances(points, pairs, k=19), straight)


def test_on_the_swiss_roll_they_are_those_of_the_unrolled_sheet():
    generator = torch.Generator().manual_seed(0)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(1000, generator=generator))
    height = 21 * torch.rand(1000, generator=generator)
    points = torch.stack([angle * angle.cos(), height, angle * angle.sin()], dim=1)
    # The arc of the spiral r = t up to t is (t sqrt(1 + t^2) + asinh t) / 2.
    arc = (angle * (1 + angle.square()).sqrt() + angle.asinh()) / 2
    sheet = torch.stack([arc, height], dim=1)
    i, j = pairs = torch.randint(1000, (2, 2000), generator=generator)
    truth = (sheet[i] - sheet[j]).norm(dim=1)

    def correlation(distances):
        return torch.corrcoef(torch.stack([distances, truth]))[0, 1]

    assert correlation(geodesic_distances(points, pairs, k=8)) >= 0.99
    assert correlation((points[i] - points[j]).norm(dim=1)) < 0.6  # straight through the roll


def test_within_classes_each_class_is_a_point_set_of_its_own():
    points, labels = draw(1, 30), torch.arange(30) % 3
    labels[-1] = -1
    pairs = all_pairs(30)
    pairs = pairs[:, (labels[pairs[0]] == labels[pairs[1]]) & (labels[pairs[0]] >= 0)]
    found = geodesic_distances(points, pairs, labels=labels, k=2)
    for c in range(3):
        members = (labels == c).nonzero().squeeze(1)
        own = all_pairs(len(members))
        expected = geodesic_distances(points[members], own, k=2)
        assert_close(found[labels[pairs[0]] == c], expected)


def test_parts_are_joined_by_the_shortest_bridge_or_stay_apart():
    points = torch.tensor([[0.0], [1], [2], [10], [11], [12], [100], [101]])
    pairs = torch.tensor([[0, 0, 2, 0], [2, 3, 5, 7]])
    assert geodesic_distances(points, pairs, k=1).tolist() == [2, 10, 10, 101]
    apart = geodesic_distances(points, pairs, k=1, bridges=False)
    assert apart.tolist() == [2, math.inf, math.inf, math.inf]


def test_bridges_between_equal_gaps_are_as_long_as_the_gap():
    points = torch.tensor([[0.0, 0], [0, 1], [5, 0], [5, 1], [10, 0], [10, 1]])
    pairs = torch.tensor([[0, 0], [2, 4]])
    assert geodesic_distances(points, pairs, k=1).tolist() == [5, 10]


def test_many_sources_and_blocks_of_them_give_the_same(monkeypatch):
    points, pairs = draw(2, 40), all_pairs(40)
    whole = geodesic_distances(points, pairs, k=3)
    monkeypatch.setattr("weft.graph._geodesic._BLOCK", 120)
    assert_close(geodesic_distances(points, pairs, k=3), whole, rtol=0, atol=0)
    assert_close(geodesic_distances(points, pairs.flip(0), k=3), whole)


def test_equal_points_are_at_distance_zero():
    points = torch.zeros(6, 2)
    assert geodesic_distances(points, all_pairs(6), k=2).abs().max() < 1e-30


@settings(max_examples=20)
@given(seed=SEEDS, bridges=st.booleans())
def test_kept_distances_are_the_same_in_any_order_of_asking(seed, bridges):
    points, labels = draw(seed, 24), torch.arange(24) % 3
    labels[-1] = -1
    pairs = all_pairs(24)
    pairs = pairs[:, (labels[pairs[0]] == labels[pairs[1]]) & (labels[pairs[0]] >= 0)]
    options = {"labels": labels, "k": 2, "bridges": bridges}
    expected = geodesic_distances(points, pairs, **options)
    geodesics = Geodesics(points, **options)
    order = torch.randperm(pairs.shape[1], generator=torch.Generator().manual_seed(seed))
    for part in order.split(7):
        assert_close(geodesics(pairs[:, part]), expected[part])
        assert_close(geodesics(pairs[:, part].flip(0)), expected[part])


def test_kept_distances_are_searched_once(monkeypatch):
    geodesics = Geodesics(draw(8), k=3)
    pairs = torch.tensor([[0, 0, 1], [5, 6, 7]])
    expected = geodesics(pairs)
    monkeypatch.delattr("weft.graph._geodesic.csgraph.dijkstra")
    assert_close(geodesics(pairs), expected, rtol=0, atol=0)


def test_kept_distances_are_of_the_points_as_they_were():
    points = draw(9)
    geodesics, pairs = Geodesics(points, k=3), all_pairs(20)
    expected = geodesic_distances(points, pairs, k=3)
    points.mul_(2)
    assert_close(geodesics(pairs), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_device_are_those_of_the_points_and_there_is_no_gradient(dtype, device):
    points = draw(3).to(device, dtype).requires_grad_()
    for found in (
        geodesic_distances(points, all_pairs(20).to(device), k=4),
        Geodesics(points, k=4)(all_pairs(20).to(device)),
    ):
        assert (found.dtype, found.device.type, found.requires_grad) == (dtype, device.type, False)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_pairs_and_labels_of_any_integers_will_do(dtype):
    points, pairs, labels = draw(6), all_pairs(20), torch.zeros(20)
    expected = geodesic_distances(points, pairs, k=3)
    found = geodesic_distances(points, pairs.to(dtype), labels=labels.to(dtype), k=3)
    assert_close(found, expected, rtol=0, atol=0)
    kept = Geodesics(points, labels=labels.to(dtype), k=3)(pairs.to(dtype))
    assert_close(kept, expected)


def test_no_pairs_and_a_class_of_one_point():
    points = draw(4, 3)
    assert geodesic_distances(points, torch.zeros(2, 0, dtype=torch.long)).shape == (0,)
    alone = torch.tensor([[0], [0]])
    labels = torch.tensor([0, 1, 1])
    assert geodesic_distances(points, alone, labels=labels).tolist() == [0]
    geodesics = Geodesics(points, labels=labels)
    assert geodesics(torch.zeros(2, 0, dtype=torch.long)).shape == (0,)
    assert geodesics(alone).tolist() == [0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"points": torch.zeros(20, 2).long()}, TypeError, "floating-point tensor, got torch.int"),
        ({"points": torch.zeros(20)}, ValueError, r"`points` must have 2 axes \(n, d\)"),
        ({"points": torch.full((20, 2), torch.nan)}, ValueError, "`points` must be finite, got"),
        ({"pairs": torch.zeros(3, 2).long()}, ValueError, r"in shape \(2, m\), got torch.int64 of"),
        ({"pairs": torch.zeros(2, 3)}, ValueError, "`pairs` must hold integers .* got torch.float"),
        ({"pairs": torch.eye(2) > 0}, ValueError, "must hold integers .* got torch.bool of shape"),
        ({"pairs": [[0], [1]]}, ValueError, "`pairs` must hold integers in shape .*, got list"),
        ({"pairs": torch.tensor([[0], [20]])}, ValueError, r"rows 0..19 of `points`, got 0 to 20"),
        ({"labels": torch.zeros(19).long()}, ValueError, r"shape \(20\), got torch.int64 of shape"),
        ({"labels": torch.arange(20)}, ValueError, "got 0 and 1 of classes 0 and 1: drop the pair"),
        ({"labels": -torch.ones(20).long()}, ValueError, "of classes -1 and -1: drop the pair"),
        ({"k": 0}, ValueError, "`k` must be at least 1, got 0"),
    ],
)
def test_refuses_what_it_cannot_use(change, error, message):
    arguments = {"points": draw(5), "pairs": torch.tensor([[0], [1]]), **change}
    with pytest.raises(error, match=message):
        geodesic_distances(**arguments)
    pairs = arguments.pop("pairs")
    with pytest.raises(error, match=message):
        Geodesics(**arguments)(pairs)


def test_equal_points_are_at_zero_also_on_the_way_to_others():
    points = draw(3, 6)
    points[1] = points[0]
    points[5] = points[4]
    found = geodesic_distances(points, all_pairs(6), k=2)
    i, j = all_pairs(6)
    assert found[(i == 0) & (j == 1)] == found[(i == 4) & (j == 5)] == 0
    assert_close(found[(i == 0) & (j > 1)], found[(i == 1) & (j > 1)])
    assert (found[(i == 0) & (j > 1)] > 1e-3).all()
