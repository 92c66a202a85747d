"""Class masses and means come out as asked, rows keep their sums, and the collapse is undone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import Centering, ClassMass, Unreached, knn_graph, laplace_learning

CORRECTIONS = [ClassMass(), Centering()]


def problem(seed, num_nodes=12, classes=3, num_known=3):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(num_nodes, classes, generator=generator, dtype=torch.float64) / classes
    known = torch.arange(num_nodes) < num_known
    labels = one_hot(torch.arange(num_nodes) % classes, classes).double() * known[:, None]
    return torch.where(known[:, None], labels, scores), labels, known


def test_class_mass_is_that_of_pencil_and_paper():
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.1], [0.3, 0.1]], dtype=torch.float64)
    known = torch.tensor([True, True, False, False])
    labels = scores * known[:, None]
    # Masses 0.4 and 0.1, shares one half each: columns are scaled by 1.25 and 5.
    first = torch.tensor([0.625, 0.5]).double() * 0.6 / 1.125
    second = torch.tensor([0.375, 0.5]).double() * 0.4 / 0.875
    expected = torch.stack([scores[0], scores[1], first, second])
    assert_close(ClassMass()(scores, labels, known, 1), expected)


def test_class_mass_with_priors_is_that_of_pencil_and_paper():
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.1], [0.3, 0.1]], dtype=torch.float64)
    known = torch.tensor([True, False, False])
    labels = scores * known[:, None]
    # Only their ratio counts: 1 to 3. Columns are scaled by 0.25 / 0.4 and 0.75 / 0.1.
    scaled = scores[1:] * torch.tensor([0.625, 7.5]).double()
    expected = scaled * scores[1:].sum(1, keepdim=True) / scaled.sum(1, keepdim=True)
    assert_close(ClassMass(priors=(2.0, 6.0))(scores, labels, known, 1)[1:], expected)


def test_centering_is_that_of_pencil_and_paper():
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.7, 0.3]], dtype=torch.float64)
    known = torch.tensor([True, True, False, False])
    labels = scores * known[:, None]
    # Means 0.8 and 0.2 move to 0.5 and 0.5.
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
    assert_close(Centering()(scores, labels, known, 1), expected)


def test_centering_cuts_what_falls_below_zero():
    scores = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.8, 0.2]], dtype=torch.float64)
    known = torch.tensor([True, True, False, False])
    corrected = Centering()(scores, scores * known[:, None], known, 1)
    assert corrected.min() >= 0
    assert_close(corrected.sum(1), torch.ones(4).double())


@pytest.mark.parametrize("correct", CORRECTIONS, ids=repr)
@given(seed=st.integers(0, 2**31))
def test_rows_keep_their_sums_and_known_rows_everything(correct, seed):
    scores, labels, known = problem(seed)
    corrected = correct(scores, labels, known, 1)
    assert_close(corrected.sum(1), scores.sum(1))
    assert torch.equal(corrected[known], scores[known])
    assert corrected.min() >= 0


@given(seed=st.integers(0, 2**31))
def test_class_masses_move_towards_the_shares(seed):
    scores, labels, known = problem(seed)
    scores = torch.where(known[:, None], scores, scores / scores.sum(1, keepdim=True))
    share = labels.sum(0) / labels.sum()
    mass = ClassMass()(scores, labels, known, 1)[~known].mean(0)
    assert (mass - share).norm() <= (scores[~known].mean(0) - share).norm() + 1e-9


def test_class_mass_of_any_column_scale_is_the_same():
    scores, labels, known = problem(3)
    free = ~known[:, None]
    skewed = torch.where(free, scores * torch.tensor([1e-6, 1.0, 1e4]).double(), scores)
    rows = torch.where(free, skewed * scores.sum(1, True) / skewed.sum(1, True), scores)
    ratio = ClassMass()(skewed, labels, known, 1)[~known]
    expected = ClassMass()(scores, labels, known, 1)[~known]
    assert_close(ratio / ratio.sum(1, True), expected / expected.sum(1, True))
    assert_close(ClassMass()(rows, labels, known, 1).sum(1), rows.sum(1))


@pytest.mark.parametrize("correct", CORRECTIONS, ids=repr)
@pytest.mark.parametrize("tiny", [1e-100, 1e-200])
def test_tiny_scores_are_corrected_like_large_ones(correct, tiny):
    scores, labels, known = problem(4)
    small = torch.where(known[:, None], scores, scores * tiny)
    corrected = correct(small, labels, known, 1)[~known] / tiny
    assert_close(corrected, correct(scores, labels, known, 1)[~known])


@pytest.mark.parametrize("correct", CORRECTIONS, ids=repr)
def test_abstaining_rows_stay_zero_and_do_not_count(correct):
    scores, labels, known = problem(5)
    more = torch.cat([scores, torch.zeros(7, 3).double()])
    corrected = correct(
        more, torch.cat([labels, torch.zeros(7, 3).double()]), torch.arange(19) < 3, 1
    )
    assert not corrected[12:].any()
    assert_close(corrected[:12], correct(scores, labels, known, 1))


@pytest.mark.parametrize("correct", CORRECTIONS, ids=repr)
def test_derivatives_match_finite_differences_twice(correct):
    scores, labels, known = problem(6)
    scores = torch.where(known[:, None], scores, scores + 1).requires_grad_()  # nothing is cut
    labels = (labels + 0.1).requires_grad_()

    def run(scores, labels):
        return correct(scores, labels, known, 1)

    assert gradcheck(run, (scores, labels), check_forward_ad=True)
    assert gradgradcheck(run, (scores, labels))


@pytest.mark.parametrize("correct", [ClassMass, Centering])
def test_it_acts_only_below_its_share_of_known_nodes(correct):
    scores, labels, known = problem(7)  # a quarter is known
    assert correct(below=0.25)(scores, labels, known, 1) is scores
    assert not torch.equal(correct(below=0.26)(scores, labels, known, 1), scores)


@pytest.mark.parametrize("correct", CORRECTIONS, ids=repr)
def test_it_leaves_a_graph_alone_where_nothing_or_everything_is_known(correct):
    scores, labels, known = problem(8)
    for same in (torch.zeros_like(known), torch.ones_like(known)):
        assert torch.equal(correct(scores, labels * same[:, None], same, 1), scores)


@pytest.mark.parametrize("correct", [ClassMass(below=0.3), Centering(below=0.3)], ids=repr)
def test_each_of_several_graphs_is_corrected_as_on_its_own(correct):
    parts = [problem(9, num_known=3), problem(10, num_known=6), problem(11, num_known=0)]
    scores, labels, known = (torch.cat(column) for column in zip(*parts, strict=True))
    together = correct(scores, labels, known, 3)
    assert_close(together, torch.cat([correct(*part, 1) for part in parts]))
    assert not torch.equal(together[:12], parts[0][0])
    assert torch.equal(together[12:], torch.cat([parts[1][0], parts[2][0]]))


@pytest.mark.parametrize("correct", CORRECTIONS, ids=repr)
def test_refuses_labels_without_masses(correct):
    scores, labels, known = problem(12)
    with pytest.raises(ValueError, match=r"must not be negative .* got -1: pass normalization=No"):
        correct(scores, -labels, known, 1)


def test_refuses_priors_that_do_not_fit():
    with pytest.raises(ValueError, match="`priors` must have 3 entries, one per class, got 2"):
        ClassMass(priors=(1.0, 2.0))(*problem(13), 1)
    with pytest.raises(ValueError, match="`priors` must be positive, got"):
        ClassMass(priors=(1.0, 0.0, 1.0))


@pytest.mark.parametrize("correct", [ClassMass, Centering])
@pytest.mark.parametrize("below", [-0.1, 1.5, float("nan")])
def test_refuses_a_share_that_is_none(correct, below):
    with pytest.raises(ValueError, match=f"`below` must be a share of nodes in .* got {below}"):
        correct(below=below)


def isotropic_mixture(num_nodes, generator):
    """Ten classes in thirty dimensions, and two labels of each."""
    labels = torch.arange(num_nodes) % 10
    centres = 3.5 * torch.nn.functional.normalize(torch.randn(10, 30, generator=generator), dim=1)
    features = centres[labels] + torch.randn(num_nodes, 30, generator=generator)
    return features, labels, torch.arange(num_nodes) < 20


def test_corrections_undo_the_collapse_at_low_label_rates(generator):
    features, labels, known = isotropic_mixture(1500, generator)
    graph = knn_graph(features, 15)

    def accuracy(**options):
        scores = laplace_learning(graph, one_hot(labels, 10), known, **options)
        return (scores.argmax(1) == labels)[~known].double().mean().item()

    assert accuracy(normalization=None) < 0.4
    for correct in CORRECTIONS:
        assert accuracy(normalization=correct) > 0.8
    assert accuracy() == accuracy(normalization=ClassMass())  # the default at this rate


def test_uniform_rows_of_unreached_nodes_stay_uniform(generator):
    features = torch.randn(60, 2, generator=generator)
    features[40:] += 100  # no label there
    labels = one_hot(torch.arange(60) % 3 // 2, 2)
    scores = laplace_learning(
        knn_graph(features, 5), labels, torch.arange(60) < 6,
        unreached=Unreached.UNIFORM, normalization=ClassMass(),
    )  # fmt: skip
    assert (scores[40:] == 0.5).all()
    assert_close(scores.sum(1), torch.ones(60))
