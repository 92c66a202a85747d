"""Exact neighbours are those of brute force in float64, ties by index, whatever the data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.graph import ExactNeighbors, FaissNeighbors, recall
from weft.graph._approximate import _drop_self
from weft.graph._neighbors import smallest_entries


def brute_force(features, k):
    """The k nearest others by direct differences in float64, ties by index."""
    x = features.double()
    squared = (x[:, None] - x[None]).square().sum(2)
    squared.fill_diagonal_(torch.inf)
    return squared.sort(dim=1, stable=True).indices[:, :k]


def assert_same_neighbors(found, expected):
    """The same sets, the same k-th; the order before it is free."""
    assert torch.equal(found[:, -1], expected[:, -1])
    assert torch.equal(found.sort(1).values, expected.sort(1).values)


def random(generator):
    return torch.randn(300, 12, generator=generator, dtype=torch.float64)


def lattice(generator):
    return torch.randint(5, (300, 3), generator=generator).double()


def collapsed(generator):
    centres = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    scatter = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    return centres.repeat(50, 1) + 1e-3 * scatter


def tightly_collapsed(generator):
    centres = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    scatter = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    return centres.repeat(50, 1) + 1e-6 * scatter


def duplicated(generator):
    return torch.randn(40, 4, generator=generator, dtype=torch.float64).repeat(8, 1)


def identical(generator):
    return torch.full((120, 4), 0.1, dtype=torch.float64)


def offset(generator):
    return torch.randn(300, 6, generator=generator, dtype=torch.float64) + 1e4


def unequal(generator):
    return torch.randn(300, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [1e6, 1.0, 1e-6]
    )


def on_a_line(generator):
    return torch.arange(300, dtype=torch.float64)[:, None]


def huge(generator):
    return 1e18 * torch.randn(300, 4, generator=generator, dtype=torch.float64)


def tiny(generator):
    return 1e-20 * torch.randn(300, 4, generator=generator, dtype=torch.float64)


KINDS = [
    random, lattice, collapsed, tightly_collapsed, duplicated, identical, offset, unequal,
    on_a_line, huge, tiny,
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbors_are_those_of_brute_force(kind, dtype, generator, device):
    features = kind(generator).to(dtype)
    for k in (1, 2, 7, 25):
        found = ExactNeighbors()(features.to(device), k)
        assert found.device.type == device.type
        assert_same_neighbors(found.cpu(), brute_force(features, k))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60),
    st.integers(1, 9),
    st.sampled_from([1.0, 0.1, 1 / 3]),
)
def test_ties_go_to_the_lower_index(points, k, spacing):
    features = torch.tensor(points, dtype=torch.float32) * spacing
    k = min(k, len(features) - 1)
    assert_same_neighbors(ExactNeighbors()(features, k), brute_force(features, k))


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 2**30])
@pytest.mark.parametrize("kind", [random, lattice, duplicated])
def test_the_size_of_chunks_does_not_matter(kind, chunk_bytes, generator):
    features = kind(generator).float()
    found = ExactNeighbors(chunk_bytes=chunk_bytes)(features, 9)
    assert_same_neighbors(found, ExactNeighbors()(features, 9))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_others_are_found_when_k_is_all_there_are(count, generator):
    features = torch.randn(count, 3, generator=generator)
    found = ExactNeighbors()(features, count - 1)
    assert_same_neighbors(found, brute_force(features, count - 1))


def test_points_without_coordinates_coincide():
    assert_same_neighbors(ExactNeighbors()(torch.empty(6, 0), 3), brute_force(torch.empty(6, 0), 3))


def test_points_that_are_not_contiguous_are_read_right(generator):
    features = torch.randn(7, 60, 3, generator=generator).transpose(0, 2)[1]  # (60, 7)
    assert_same_neighbors(ExactNeighbors()(features, 5), brute_force(features, 5))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_coarse_matrix_products_do_not_change_the_result(precision, generator, device):
    features = torch.randn(600, 64, generator=generator).to(device)
    exact = ExactNeighbors()(features, 9)
    torch.set_float32_matmul_precision(precision)
    try:
        assert_same_neighbors(ExactNeighbors()(features, 9), exact)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_coarse_matrix_products_set_for_one_backend_do_not_change_the_result(generator):
    backend = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(backend, "fp32_precision"):
        pytest.skip("this torch sets the precision of products in one place only")
    features = torch.randn(600, 64, generator=generator)
    exact, before = ExactNeighbors()(features, 9), backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        assert_same_neighbors(ExactNeighbors()(features, 9), exact)
    finally:
        backend.fp32_precision = before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_change_the_result(dtype, generator, device):
    features = random(generator).float().to(device)
    exact = ExactNeighbors()(features, 9)
    with torch.autocast(device.type, dtype):
        assert_same_neighbors(ExactNeighbors()(features, 9), exact)


def test_the_result_has_no_gradient_and_leaves_the_features_alone(generator):
    features = torch.randn(30, 3, generator=generator, requires_grad=True)
    before = features.detach().clone()
    assert not ExactNeighbors()(features, 4).requires_grad
    assert torch.equal(features, before)


@pytest.mark.parametrize("search", [ExactNeighbors(), FaissNeighbors()], ids=repr)
@pytest.mark.parametrize("k", [5, 6, 0, -1])
def test_refuses_more_neighbors_than_there_are(search, k, generator):
    with pytest.raises(ValueError, match=f"less than the number of rows, 5, got {k}: a row"):
        search(torch.randn(5, 3, generator=generator), k)


@pytest.mark.parametrize("search", [ExactNeighbors(), FaissNeighbors()], ids=repr)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_features_that_are_not_finite(search, bad, generator):
    features = torch.randn(50, 3, generator=generator)
    features[7, 1] = bad
    with pytest.raises(ValueError, match=r"`features` must be finite, got .* first in row 7"):
        search(features, 5)


@pytest.mark.parametrize("search", [ExactNeighbors(), FaissNeighbors()], ids=repr)
def test_refuses_features_that_are_no_matrix(search):
    with pytest.raises(ValueError, match=r"`features` must have 2 axes \(n, d\), got shape \(5,\)"):
        search(torch.ones(5), 2)


@pytest.mark.parametrize("chunk_bytes", [0, -5])
def test_refuses_a_chunk_of_nothing(chunk_bytes):
    with pytest.raises(ValueError, match=f"`chunk_bytes` must be positive, got {chunk_bytes}"):
        ExactNeighbors(chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("columns", [30, 400])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_smallest_is_topk(columns, levels, generator):
    values = torch.randint(levels, (50, columns), generator=generator).double()
    values[:, 3] = torch.inf
    smallest, places = smallest_entries(values, 8)
    assert torch.equal(smallest, values.topk(8, largest=False).values)
    assert torch.equal(values.gather(1, places), smallest)
    assert all(len(set(row)) == 8 for row in places.tolist())


def faiss_features(generator):
    return torch.randn(3000, 3, generator=generator)


def test_faiss_finds_nearly_all_neighbors_of_low_dimensional_points(generator):
    pytest.importorskip("faiss")
    features = faiss_features(generator)
    found = FaissNeighbors()(features, 10)
    assert found.shape == (3000, 10)
    assert found.dtype == torch.long
    assert recall(found, features) > 0.95


def test_faiss_that_probes_every_cell_is_exact(generator):
    pytest.importorskip("faiss")
    features = faiss_features(generator)
    found = FaissNeighbors(cells=20, probes=20)(features, 10)
    assert recall(found, features, sample=3000) > 0.9999  # float32 distances may swap a pair


@pytest.mark.parametrize("kind", [duplicated, identical, random])
def test_faiss_finds_k_different_others(kind, generator):
    pytest.importorskip("faiss")
    features = kind(generator).float()
    for k in (1, 10, len(features) - 1):
        found = FaissNeighbors()(features, k)
        assert not (found == torch.arange(len(features))[:, None]).any()
        assert all(len(set(row)) == k for row in found.tolist())
        assert found.min() >= 0


def test_faiss_refuses_to_find_less_than_was_demanded(generator):
    pytest.importorskip("faiss")
    spread = torch.randn(4000, 40, generator=generator)
    message = r"`least_recall` asks for 0.990 of the true .* were found with probes = 1: raise"
    with pytest.raises(ValueError, match=message):
        FaissNeighbors(probes=1, least_recall=0.99)(spread, 10)
    found = FaissNeighbors(probes=100, least_recall=0.99)(spread, 10)
    assert torch.equal(found, FaissNeighbors(probes=100)(spread, 10))


@pytest.mark.parametrize("block", [1, 700])
def test_faiss_and_recall_give_the_same_in_blocks(generator, monkeypatch, block):
    pytest.importorskip("faiss")
    features = faiss_features(generator)[:1500]
    whole = FaissNeighbors(cells=10)(features, 5)
    share = recall(whole, features)
    monkeypatch.setattr("weft.graph._approximate._BLOCK", block)
    monkeypatch.setattr("weft.graph._approximate._CHECKED", block)
    assert torch.equal(FaissNeighbors(cells=10)(features, 5), whole)
    assert recall(whole, features) == share


def test_faiss_searches_half_precision_as_it_is(generator):
    pytest.importorskip("faiss")
    features = faiss_features(generator).half()
    found = FaissNeighbors(cells=20, probes=20)(features, 10)
    assert torch.equal(found, FaissNeighbors(cells=20, probes=20)(features.float(), 10))


@pytest.mark.parametrize("dim", [3, 70])
def test_faiss_with_cells_in_cells_is_exact_where_all_are_probed(generator, monkeypatch, dim):
    pytest.importorskip("faiss", reason="FAISS is not installed")
    monkeypatch.setattr("weft.graph._approximate._FLAT", 20)
    features = torch.randn(3000, dim, generator=generator)
    found = FaissNeighbors(cells=70, probes=70, components=70)(features, 10)
    assert recall(found, features) == 1.0
    few = FaissNeighbors(cells=70, probes=12, components=70, least_recall=0.5)(features, 10)
    assert (few >= 0).all()
    assert (few != torch.arange(3000)[:, None]).all()


def test_faiss_with_cells_in_cells_bears_points_that_coincide(generator, monkeypatch):
    pytest.importorskip("faiss", reason="FAISS is not installed")
    monkeypatch.setattr("weft.graph._approximate._FLAT", 20)
    features = torch.randn(5, 3, generator=generator).repeat_interleave(600, 0)
    found = FaissNeighbors(cells=70, probes=1)(features, 10)
    assert recall(found, features) == 1.0


@pytest.mark.parametrize("least", [-0.1, 1.5])
def test_faiss_refuses_a_recall_that_is_no_share(least):
    with pytest.raises(ValueError, match=rf"`least_recall` must lie in \[0, 1\], got {least}"):
        FaissNeighbors(least_recall=least)


@pytest.mark.parametrize("wrong", ["cells", "probes", "components"])
def test_faiss_refuses_no_cells_probes_or_components(wrong):
    with pytest.raises(ValueError, match="`cells`, `probes` and `components` must be positive"):
        FaissNeighbors(**{wrong: 0})


def test_faiss_compares_candidates_of_principal_components_in_full(generator):
    pytest.importorskip("faiss")
    inside = torch.randn(3000, 8, generator=generator) @ torch.randn(8, 90, generator=generator)
    features = inside + torch.randn(3000, 90, generator=generator)
    search = FaissNeighbors(cells=10, probes=10, components=8)
    found = search(features, 10)
    by_components = torch.pca_lowrank(features, q=8, niter=10)
    projected = (features - features.mean(0)) @ by_components[2]
    alone = ExactNeighbors()(projected, 10)
    assert recall(found, features) > 0.99
    assert recall(alone, features) < 0.9  # the same 8 directions
    distances = (features[found] - features[:, None]).norm(dim=2)
    assert (distances.diff(dim=1) > -1e-5).all()  # in order by all 90


def test_faiss_searches_no_wider_features_as_they_are(generator):
    pytest.importorskip("faiss")
    features = faiss_features(generator)
    found = FaissNeighbors(components=3)(features, 10)
    assert torch.equal(found, FaissNeighbors()(features, 10))
    assert not torch.equal(found, FaissNeighbors(components=1)(features, 10))


def test_drop_self_keeps_the_order_of_the_others():
    found = torch.tensor([[0, 2, 1], [0, 2, 1], [0, 1, 2], [0, 1, 2]])  # row 3 missed itself
    assert _drop_self(found).tolist() == [[2, 1], [0, 2], [0, 1], [0, 1]]


def test_recall_is_one_for_the_truth_and_the_share_of_hits_else(generator):
    features = torch.randn(100, 4, generator=generator)
    found = ExactNeighbors()(features, 5)
    assert recall(found, features) == 1.0
    found[:, 0] = torch.arange(100)  # no row is its own neighbour
    assert recall(found, features) == pytest.approx(0.8)
    assert recall(found, features, sample=10, generator=generator) == pytest.approx(0.8)


def test_recall_counts_any_of_several_points_at_the_same_distance(generator):
    features = identical(generator)
    last = torch.stack([torch.tensor([(i + 1) % 120, (i + 2) % 120]) for i in range(120)])
    assert recall(last, features) == 1.0
