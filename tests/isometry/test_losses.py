"""Losses are those of a NumPy reference, zero at isometries, invariant as documented, smooth."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import pearsonr
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.isometry import (
    AllPairs,
    Correlation,
    Euclidean,
    Ranking,
    Reduction,
    SquaredError,
    Stress,
    WithinClass,
    chebyshev,
    isometry_loss,
    manhattan,
)

DISCREPANCIES = [SquaredError(), Stress(), Correlation(), Ranking()]
SCALE_FREE = [Stress(), Correlation(), Ranking()]
seeds = st.integers(0, 2**31)


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(seed, n=12, classes=3, width=4):
    """Inputs, features and labels, the last one unknown."""
    labels = torch.arange(n) % classes
    labels[-1] = -1
    return normal(seed, n, 5), normal(seed + 1, n, width), labels


def reference(discrepancy, inputs, features, labels):
    """The definition in NumPy, on all ordered pairs of one class."""
    x, z, y = inputs.numpy(), features.numpy(), labels.numpy()
    same = (y[:, None] == y) & (y >= 0)[:, None] & ~np.eye(len(y), dtype=bool)
    wide, near = cdist(x, x)[same], cdist(z, z)[same]
    match discrepancy:
        case SquaredError(scale):
            return np.mean((scale * near - wide) ** 2)
        case Stress():
            s = np.linalg.lstsq(near[:, None], wide, rcond=None)[0]
            return np.sum((wide - s * near) ** 2) / np.sum(wide**2)
        case Correlation():
            return 1 - pearsonr(wide, near).statistic
        case Ranking():
            sign = np.sign(np.subtract.outer(wide, wide))
            change = np.subtract.outer(near, near)
            return 1 - np.sum(sign * change) / np.sum(np.abs(change) * (sign != 0))


def orthogonal(seed, width):
    return torch.linalg.qr(normal(seed, width, width)).Q


@pytest.mark.parametrize("discrepancy", [SquaredError(3.0), *DISCREPANCIES], ids=repr)
@settings(max_examples=30)
@given(seed=seeds)
def test_losses_are_those_of_the_numpy_reference(discrepancy, seed):
    case = batch(seed)
    ours = isometry_loss(*case, discrepancy=discrepancy)
    assert ours.item() == pytest.approx(reference(discrepancy, *case), abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 10.0])
def test_the_papers_loss_is_the_mean_over_the_matrix_of_the_batch(scale):
    inputs, features, labels = batch(3, n=30)
    labels[-1] = 0  # the paper has no unknown labels
    same = (labels[:, None] == labels).double()
    wide, near = torch.cdist(inputs, inputs), torch.cdist(features, features)
    theirs = torch.nn.functional.mse_loss(scale * same * near, same * wide)
    ours = isometry_loss(
        inputs,
        features,
        labels,
        discrepancy=SquaredError(scale),
        reduction=Reduction.MATRIX,
    )
    assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_two_reductions_differ_by_the_share_of_the_matrix():
    inputs, features, labels = batch(4, n=12)  # 3 classes: 4, 4 and 3 rows, one unknown
    per_pair, matrix = (
        isometry_loss(inputs, features, labels, reduction=reduction)
        for reduction in (Reduction.PAIRS, Reduction.MATRIX)
    )
    assert_close(matrix, per_pair * 2 * (6 + 6 + 3) / 12**2)


@pytest.mark.parametrize("reduction", Reduction)
def test_sampled_pairs_have_the_loss_of_every_pair_as_their_mean(reduction):
    inputs, features, labels = batch(5, n=24)
    settings = {"discrepancy": SquaredError(), "reduction": reduction}
    every = isometry_loss(inputs, features, labels, **settings)
    generator, rule = torch.Generator().manual_seed(0), WithinClass(per_sample=1)
    drawn = torch.stack(
        [
            isometry_loss(inputs, features, labels, pairs=rule, generator=generator, **settings)
            for _ in range(2000)
        ]
    )
    error = drawn.std() / len(drawn) ** 0.5
    assert (drawn.mean() - every).abs() < 4 * error


@pytest.mark.parametrize("discrepancy", DISCREPANCIES, ids=repr)
@settings(max_examples=20)
@given(seed=seeds, wider=st.integers(0, 3))
def test_losses_are_zero_at_isometries(discrepancy, seed, wider):
    inputs, _, labels = batch(seed)
    turn = orthogonal(seed, 5 + wider)[:5]  # into a space of more dimensions
    features = inputs @ turn + normal(seed + 2, 5 + wider)
    assert isometry_loss(inputs, features, labels, discrepancy=discrepancy) < 1e-10


@pytest.mark.parametrize("discrepancy", SCALE_FREE, ids=repr)
@settings(max_examples=20)
@given(seed=seeds, scale=st.floats(1e-2, 1e2))
def test_scale_free_losses_are_zero_at_similarities(discrepancy, seed, scale):
    inputs, _, labels = batch(seed)
    features = scale * (inputs @ orthogonal(seed, 5)) + 3.0
    assert isometry_loss(inputs, features, labels, discrepancy=discrepancy) < 1e-7


@pytest.mark.parametrize("discrepancy", DISCREPANCIES, ids=repr)
@settings(max_examples=20)
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_losses_do_not_see_what_their_docstring_says(discrepancy, seed, scale):
    inputs, features, labels = batch(seed)
    before = isometry_loss(inputs, features, labels, discrepancy=discrepancy)
    moved = features @ orthogonal(seed, 4) + normal(seed, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    cases = [(inputs, moved, labels), (inputs[order], features[order], labels[order])]
    if discrepancy in SCALE_FREE:
        cases += [(inputs, scale * features, labels), (scale * inputs, features, labels)]
    for case in cases:
        after = isometry_loss(*case, discrepancy=discrepancy)
        assert_close(after, before, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("discrepancy", [Correlation(), Ranking()], ids=repr)
def test_correlation_and_ranking_do_not_see_what_is_added_to_distances(discrepancy):
    wide, near = normal(6, 40).abs(), normal(7, 40).abs()
    assert_close(discrepancy(2 * wide + 3, 5 * near + 1), discrepancy(wide, near))


def test_ranking_sees_only_the_order_of_the_inputs_distances():
    wide, near = normal(8, 40).abs(), normal(9, 40).abs()
    assert_close(Ranking()(wide.exp() ** 3, near), Ranking()(wide, near))


@pytest.mark.parametrize("ties", [1, 2, 5, 40])
def test_ranking_counts_pairs_of_different_distances_only(ties):
    wide = (torch.arange(40) // ties).double()
    near = normal(10, 40).abs()
    sign, change = (wide[:, None] - wide).sign(), near[:, None] - near
    spread = (change.abs() * (sign != 0)).sum()
    wanted = 1 - (sign * change).sum() / spread if ties < 40 else torch.tensor(0.0).double()
    assert_close(Ranking()(wide, near), wanted)


def test_opposite_orders_have_the_largest_losses():
    wide = torch.arange(1.0, 9.0)
    assert_close(Correlation()(wide, 10 - wide), torch.tensor(2.0))
    assert_close(Ranking()(wide, 10 - wide), torch.tensor(2.0))


@pytest.mark.parametrize("discrepancy", DISCREPANCIES, ids=repr)
@pytest.mark.parametrize("n", [6, 40])
def test_losses_have_two_derivatives_in_features_at_any_batch_size(discrepancy, n):
    inputs, features, labels = batch(11, n=n, classes=2, width=2)
    if discrepancy != Ranking():  # where distances are equal, its gradient jumps
        features[1] = features[3]  # two rows of one class coincide

    def run(features):  # an epsilon that finite differences can see
        return isometry_loss(
            inputs, features, labels, discrepancy=discrepancy, feature_metric=Euclidean(0.1)
        )

    assert gradcheck(run, features.requires_grad_())
    assert gradgradcheck(run, features.requires_grad_())


@pytest.mark.parametrize("discrepancy", [SquaredError(), Stress(), Correlation()], ids=repr)
def test_losses_have_two_derivatives_in_inputs_where_asked(discrepancy):
    inputs, features, labels = (part.requires_grad_(part.is_floating_point()) for part in batch(12))

    def run(inputs, features):
        return isometry_loss(
            inputs, features, labels, discrepancy=discrepancy, differentiate_inputs=True
        )

    assert gradcheck(run, (inputs, features))
    assert gradgradcheck(run, (inputs, features))


def test_inputs_get_no_gradient_unless_asked():
    inputs, features, labels = batch(13)
    features.requires_grad_()
    isometry_loss(inputs.requires_grad_(), features, labels).backward()
    assert inputs.grad is None
    assert features.grad is not None


@pytest.mark.parametrize("discrepancy", DISCREPANCIES, ids=repr)
def test_equal_rows_everywhere_have_finite_losses_and_two_finite_derivatives(discrepancy):
    inputs, _, labels = batch(14)
    for wide, near in ((inputs, 1.0), (torch.ones_like(inputs), 1.0), (inputs, 1e-9)):
        features = torch.full((12, 3), near, dtype=torch.float64).requires_grad_()
        loss = isometry_loss(wide, features, labels, discrepancy=discrepancy)
        (grad,) = torch.autograd.grad(loss, features, create_graph=True)
        (second,) = torch.autograd.grad(grad.sum(), features)
        assert loss.isfinite()
        assert grad.isfinite().all()
        assert second.isfinite().all()


@pytest.mark.parametrize("discrepancy", [Correlation(), Ranking()], ids=repr)
def test_all_features_equally_far_apart_cost_one_and_all_inputs_nothing(discrepancy):
    apart, equal = torch.tensor([1.0, 2.0, 3.0]), torch.full((3,), 0.7)
    assert_close(discrepancy(apart, equal), torch.tensor(1.0))
    assert_close(discrepancy(equal, apart), torch.tensor(0.0))


@pytest.mark.parametrize("discrepancy", [Stress(), Correlation(), Ranking()], ids=repr)
@pytest.mark.parametrize("collapsed", [torch.zeros(12, 2), torch.ones(12, 1)])
def test_features_that_collapsed_cost_one(discrepancy, collapsed):
    inputs, _, labels = batch(19)
    loss = isometry_loss(inputs, collapsed, labels, discrepancy=discrepancy)
    assert_close(loss, torch.tensor(1.0))


def test_features_equally_far_apart_but_for_rounding_are_flat_to_correlation():
    apart = torch.linspace(1, 2, 20)
    noise = torch.tensor([-1e-7, 1e-7]).repeat(10)  # one unit in the last place
    assert_close(Correlation()(apart, 0.7 + noise), torch.tensor(1.0), rtol=0, atol=1e-5)
    assert_close(Correlation()(0.7 + noise, apart), torch.tensor(0.0))


@pytest.mark.parametrize("discrepancy", DISCREPANCIES, ids=repr)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [-1, -1, -1, -1], [-1, 0, 1, -1]])
def test_without_a_pair_the_loss_is_zero_and_so_is_its_gradient(discrepancy, labels):
    features = normal(15, 4, 2).requires_grad_()
    loss = isometry_loss(normal(16, 4, 3), features, torch.tensor(labels), discrepancy=discrepancy)
    loss.backward()
    assert loss == 0
    assert_close(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("discrepancy", DISCREPANCIES, ids=repr)
def test_one_class_is_all_pairs(discrepancy):
    inputs, features, _ = batch(17)
    one = isometry_loss(inputs, features, torch.zeros(12).long(), discrepancy=discrepancy)
    every = isometry_loss(inputs, features, pairs=AllPairs(), discrepancy=discrepancy)
    assert_close(one, every)


@pytest.mark.parametrize("discrepancy", DISCREPANCIES, ids=repr)
def test_features_of_width_one_keep_a_line(discrepancy):
    inputs = normal(18, 10, 1)
    loss = isometry_loss(inputs, -inputs, torch.zeros(10).long(), discrepancy=discrepancy)
    assert loss < 1e-12


@pytest.mark.parametrize("metric", [manhattan, chebyshev])
def test_inputs_are_compared_in_the_metric_that_is_asked_for(metric):
    inputs, features, labels = batch(19)
    name = {manhattan: "cityblock", chebyshev: "chebyshev"}[metric]
    distances = torch.from_numpy(cdist(inputs, inputs, name))
    pairs = WithinClass()(12, labels, None, labels.device).rows
    by_metric = isometry_loss(inputs, features, labels, metric=metric)
    given_ones = isometry_loss(None, features, pairs=pairs, distances=distances[*pairs])
    assert_close(by_metric, given_ones)


def test_given_pairs_are_taken_as_they_are():
    inputs, features, _ = batch(20)
    pairs = torch.tensor([[0, 0, 5], [1, 11, 6]])
    wide, near = (torch.pairwise_distance(*part[pairs], eps=0) for part in (inputs, features))
    loss = isometry_loss(inputs, features, pairs=pairs, discrepancy=SquaredError())
    assert_close(loss, (wide - near).square().mean())


def test_inputs_and_features_of_any_shape_are_flattened():
    inputs, features, labels = batch(21)
    flat = isometry_loss(inputs[:, :4], features, labels)
    assert_close(
        isometry_loss(inputs[:, :4].view(12, 1, 2, 2), features.view(12, 2, 2), labels), flat
    )


@pytest.mark.parametrize("discrepancy", DISCREPANCIES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_loss_has_the_dtype_of_the_features_float32_at_least(device, discrepancy, dtype):
    inputs, features, labels = (part.to(device) for part in batch(22))
    features = features.to(dtype)
    exact = isometry_loss(inputs, features.double(), labels, discrepancy=discrepancy)
    with torch.autocast(device.type, torch.bfloat16):
        loss = isometry_loss(inputs.float(), features, labels, discrepancy=discrepancy)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.device.type == device.type
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.ones(11, 2)}, ValueError, "must be of one batch, got 12 and 11 rows"),
        ({"features": torch.full((12, 2), torch.nan)}, ValueError, "`features` must be finite"),
        ({"inputs": torch.full((12, 2), torch.inf)}, ValueError, "`inputs` must be finite"),
        ({"inputs": torch.ones(12, 2).byte()}, TypeError, "`inputs` must be a floating-point"),
        ({"inputs": None}, ValueError, "`inputs` are needed, got None"),
        ({"features": torch.ones(12)}, ValueError, "`features` must have 2 axes"),
        ({"labels": torch.zeros(11).long()}, ValueError, "`labels` must have one entry for each"),
        ({"labels": torch.zeros(12)}, TypeError, "`labels` must be a tensor of class numbers"),
        ({"labels": None}, ValueError, "`labels` are needed for pairs within a class, got None"),
        ({"distances": torch.ones(3)}, ValueError, "`distances` belong to pairs that are given"),
        (
            {"distances": torch.ones(3), "pairs": torch.zeros(2, 4).long()},
            ValueError,
            "`distances` must have one entry for each of 4 pairs, got 3",
        ),
        ({"pairs": torch.tensor([[0], [12]])}, ValueError, "`pairs` must be rows from 0 to 11"),
        ({"pairs": torch.zeros(4).long()}, ValueError, r"`pairs` must have shape \(2, p\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, error, message):
    inputs, features, labels = batch(23)
    with pytest.raises(error, match=message):
        isometry_loss(**{"inputs": inputs, "features": features, "labels": labels} | change)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match="`scale` must be positive, got"):
        SquaredError(scale)
