import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from weft.graph import (
    Cholesky,
    ConjugateGradient,
    Constant,
    Gaussian,
    SelfTuned,
    Tapered,
    Unreached,
)
from weft.heads import GraphHead, LinearHead, abstention

CLASSES, ROWS = 3, 36


def overlapping_groups(rows=ROWS, seed=0):
    """Overlapping groups of points in float64, one per class, in turn."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(CLASSES, 4, dtype=torch.float64)[torch.arange(rows) % CLASSES]
    return centres + 0.4 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def features():
    return overlapping_groups()


@pytest.fixture
def labels():
    """Class numbers of the first third of the rows; -1 for the others."""
    return torch.where(torch.arange(ROWS) < ROWS // 3, torch.arange(ROWS) % CLASSES, -1)


def two_islands(labelled_on_the_second):
    """Two groups without an edge between them, and labels on the first or on both."""
    features = torch.cat([overlapping_groups(12), overlapping_groups(12) + 100])
    labels = torch.full((24,), -1)
    labels[:3] = torch.arange(3)
    if labelled_on_the_second:
        labels[12:15] = torch.arange(3)
    return features, labels


# What comes out


@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradient()])
def test_without_decay_every_row_is_a_distribution(features, labels, solver):
    log_probabilities = GraphHead(CLASSES, k=5, tau=0.0, solver=solver)(features, labels)
    total = log_probabilities.exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=4e-6, rtol=0)  # 3 epsilon
    torch.testing.assert_close(abstention(log_probabilities), 1 - total.clamp_max(1))


def test_decay_takes_mass_away_and_abstention_has_it(features, labels):
    head = GraphHead(CLASSES, k=5, tau=0.1)
    scores = head.scores(features, labels)
    missing = 1 - scores.sum(1)
    assert (missing[labels >= 0] == 0).all()
    assert (missing[labels < 0] > 0.01).all()
    torch.testing.assert_close(abstention(head.log(scores)), missing, atol=4e-6, rtol=0)


def test_labelled_rows_keep_their_label(features, labels):
    known = labels >= 0
    scores = GraphHead(CLASSES, k=5).scores(features, labels)
    torch.testing.assert_close(scores[known], F.one_hot(labels[known], CLASSES).double())


def test_rows_that_no_label_reaches_are_finite_and_abstain():
    features, labels = two_islands(labelled_on_the_second=False)
    features.requires_grad_()
    out = GraphHead(CLASSES, k=3, tau=0.0, normalize=False)(features, labels)
    assert out.isfinite().all()
    torch.testing.assert_close(abstention(out[12:]), torch.ones(12).double(), atol=4e-6, rtol=0)
    assert (abstention(out[:12]) < 4e-6).all()
    F.nll_loss(out, torch.arange(24) % CLASSES).backward()
    assert features.grad.isfinite().all()


def test_rows_that_no_label_reaches_may_be_uniform_or_an_error():
    features, labels = two_islands(labelled_on_the_second=False)
    head = GraphHead(CLASSES, k=3, tau=0.0, normalize=False, unreached=Unreached.UNIFORM)
    torch.testing.assert_close(
        head.scores(features, labels)[12:], torch.full((12, 3), 1 / 3).double()
    )
    head = GraphHead(CLASSES, k=3, tau=0.0, normalize=False, unreached=Unreached.ERROR)
    with pytest.raises(ValueError, match="marks no node in the component of node 12"):
        head(features, labels)


def test_nll_counts_abstention_and_cross_entropy_divides_it_out(features, labels):
    head, targets = GraphHead(CLASSES, k=5, tau=0.3), torch.arange(ROWS) % CLASSES
    out = head(features, labels)
    lost = F.nll_loss(out, targets) - F.cross_entropy(out, targets)
    reached = 1 - abstention(out)
    torch.testing.assert_close(lost, -reached.log().mean(), atol=3e-6, rtol=0)  # epsilon


def test_islands_with_labels_of_their_own_do_not_see_each_other():
    features, labels = two_islands(labelled_on_the_second=True)
    head = GraphHead(CLASSES, k=3, normalize=False)
    together = head(features, labels)
    torch.testing.assert_close(together[:12], head(features[:12], labels[:12]))
    torch.testing.assert_close(together[12:], head(features[12:], labels[12:]))


def test_one_class_no_labelled_row_no_query_and_a_single_row(features, labels):
    one = GraphHead(1, k=5, tau=0.0)(features, labels.clamp_max(0))
    torch.testing.assert_close(one, torch.zeros_like(one), atol=1e-5, rtol=0)
    for tau in (0.0, 0.1):
        none = GraphHead(CLASSES, k=5, tau=tau)(features, torch.full_like(labels, -1))
        torch.testing.assert_close(none, torch.full_like(none, 1e-6).log())
    everything = torch.arange(ROWS) % CLASSES
    all_known = GraphHead(CLASSES, k=5)(features, everything).exp()
    torch.testing.assert_close(
        all_known, F.one_hot(everything, CLASSES).double(), atol=2e-6, rtol=0
    )
    for label in (-1, 2):
        assert GraphHead(CLASSES, k=5)(features[:1], torch.tensor([label])).isfinite().all()


def test_identical_rows_get_the_mean_of_their_labels():
    labels = torch.tensor([0, 0, 1, -1, -1])
    scores = GraphHead(2, k=4, tau=0.0).scores(torch.ones(5, 3), labels)
    torch.testing.assert_close(scores[3:], torch.tensor([[2 / 3, 1 / 3]]).expand(2, 2))


@given(seed=st.integers(0, 1000))
def test_the_order_of_rows_does_not_matter(seed):
    features = overlapping_groups(seed=seed)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    labels = torch.where(order % 4 == 0, order % CLASSES, -1)
    head = GraphHead(CLASSES, k=5)
    torch.testing.assert_close(head(features[order], labels[order]), head(features, labels)[order])


def test_lengths_of_features_count_only_without_normalisation(features, labels):
    lengths = torch.linspace(0.1, 9, ROWS).double()[:, None]
    head, plain = GraphHead(CLASSES, k=5), GraphHead(CLASSES, k=5, normalize=False)
    torch.testing.assert_close(head(lengths * features, labels), head(features, labels))
    assert (plain(lengths * features, labels) - plain(features, labels)).abs().max() > 0.1


def test_class_masses_are_normalised_only_where_labels_are_few():
    features = overlapping_groups(200)
    corrected = GraphHead(CLASSES, k=5, tau=0.0)
    plain = GraphHead(CLASSES, k=5, tau=0.0, normalization=None)
    for count, acts in ((5, True), (7, False)):  # 2.5 % and 3.5 % of the rows
        labels = torch.where(torch.arange(200) < count, torch.arange(200) % CLASSES, -1)
        change = corrected.scores(features, labels) - plain.scores(features, labels)
        assert (change.abs().max() > 1e-3) == acts


def test_a_linear_head_is_a_linear_layer(features):
    head = LinearHead(4, CLASSES).double()
    torch.testing.assert_close(head(features), features @ head.weight.T + head.bias)


# Labels


def test_class_numbers_a_mask_and_probabilities_say_the_same(features, labels):
    head, known = GraphHead(CLASSES, k=5), labels >= 0
    expected = head(features, labels)
    garbage = torch.where(known, labels, 99)  # never read
    torch.testing.assert_close(head(features, garbage, known), expected)
    probabilities = F.one_hot(labels.clamp_min(0), CLASSES).double()
    probabilities[~known] = torch.nan
    torch.testing.assert_close(head(features, probabilities, known), expected)


def test_labels_may_be_uncertain(features, labels):
    known = labels >= 0
    half = torch.full((ROWS, CLASSES), 1 / CLASSES, dtype=torch.float64)
    scores = GraphHead(CLASSES, k=5, tau=0.0).scores(features, half, known)
    torch.testing.assert_close(scores, half)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_class_numbers(features, labels, dtype):
    head = GraphHead(CLASSES, k=5)
    expected = head(features, labels)
    torch.testing.assert_close(head(features, labels.to(dtype), labels >= 0), expected)


@pytest.mark.parametrize("shape", [(ROWS - 1,), (ROWS, 1), (ROWS, CLASSES)])
def test_rejects_class_numbers_that_are_not_one_per_row(features, shape):
    with pytest.raises(ValueError, match=r"`labels` must have one entry for each of the 36 rows"):
        GraphHead(CLASSES, k=5)(features, torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("wrong", [3, -1])
def test_rejects_a_known_label_outside_the_classes(features, labels, wrong):
    labels[5], known = wrong, torch.ones(ROWS, dtype=torch.bool)
    known[12:] = False
    with pytest.raises(ValueError, match=rf"`labels` must lie in 0..2 where known, got {wrong}: "):
        GraphHead(CLASSES, k=5)(features, labels, known)


def test_rejects_probabilities_without_mask_of_another_shape_or_not_finite(features, labels):
    head, known = GraphHead(CLASSES, k=5), labels >= 0
    with pytest.raises(ValueError, match=r"need shape \(36, 3\) and a `known` mask"):
        head(features, torch.ones(ROWS, CLASSES))
    with pytest.raises(ValueError, match=r"need shape \(36, 3\) .* got shape \(36, 4\)"):
        head(features, torch.ones(ROWS, CLASSES + 1), known)
    with pytest.raises(ValueError, match=r"`labels` must be finite, got NaN or infinity first in"):
        head(features, torch.full((ROWS, CLASSES), torch.inf), known)


def test_rejects_a_mask_that_is_no_mask(features, labels):
    head = GraphHead(CLASSES, k=5)
    with pytest.raises(TypeError, match=r"`known` must be a boolean mask, got torch.int64"):
        head(features, labels, labels)
    with pytest.raises(ValueError, match=r"`known` must have shape \(36,\), got \(35,\)"):
        head(features, labels, labels[1:] >= 0)


@pytest.mark.parametrize("normalize", [True, False])
def test_rejects_features_that_are_not_rows_of_floating_point_numbers(labels, normalize):
    head = GraphHead(CLASSES, k=5, normalize=normalize)
    with pytest.raises(TypeError, match=r"`features` must be a floating-point tensor, got torch"):
        head(torch.ones(ROWS, 4, dtype=torch.long), labels)
    with pytest.raises(ValueError, match=r"`features` must have 2 axes \(n, d\), got shape"):
        head(torch.ones(ROWS, 2, 2), labels)
    with pytest.raises(
        ValueError, match=r"`features` must be finite, got NaN or infinity first in"
    ):
        head(torch.full((ROWS, 2), torch.nan), labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be at least 1, got 0"),
        ({"tau": -0.1}, "`tau` must not be negative, got -0.1"),
        ({"tau": float("nan")}, "`tau` must not be negative, got nan"),
        ({"epsilon": 0.0}, "`epsilon` must lie between 0 and 1, got 0.0"),
    ],
)
def test_rejects_settings_without_meaning(settings, message):
    with pytest.raises(ValueError, match=message):
        GraphHead(**{"num_classes": CLASSES, **settings})


def test_a_frozen_head_takes_labels_as_probabilities(features, labels):
    head, known = GraphHead(CLASSES, k=5), labels >= 0
    one_hot = F.one_hot(labels.clamp_min(0), CLASSES).double()
    expected = head.freeze(features, labels).query(features + 0.1)
    torch.testing.assert_close(
        head.freeze(features, one_hot, known).query(features + 0.1), expected
    )


# Gradients


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    "bandwidth", [SelfTuned(), Constant(0.8)], ids=lambda it: type(it).__name__
)
@pytest.mark.parametrize("kernel", [Gaussian(), Tapered()], ids=lambda it: type(it).__name__)
def test_gradients_match_finite_differences(normalize, kernel, bandwidth):
    head = GraphHead(CLASSES, 4, kernel=kernel, bandwidth=bandwidth, tau=0.05, normalize=normalize)
    labels = torch.where(torch.arange(12) < 6, torch.arange(12) % CLASSES, -1)
    features = overlapping_groups(12).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: head(x, labels)[6:], features)


def test_labels_as_probabilities_get_exact_gradients(features, labels):
    head, known = GraphHead(CLASSES, k=5), labels >= 0
    given = torch.full((ROWS, CLASSES), 0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: head(features, y, known)[12:], given)


class Learned(nn.Module):
    """A bandwidth with a parameter."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, kth_squared):
        return self.log_scale.exp() * kth_squared


def test_a_bandwidth_with_parameters_is_part_of_the_head_and_is_learned(features, labels):
    head = GraphHead(CLASSES, k=5, bandwidth=Learned())
    (parameter,) = head.parameters()

    def run(value):
        return torch.func.functional_call(head, {"bandwidth.log_scale": value}, (features, labels))

    assert torch.autograd.gradcheck(run, parameter)
    head(features, labels)[20, 0].backward()
    assert parameter.grad.abs() > 1e-4


def test_the_gradient_of_a_row_of_zeros_is_of_ordinary_size(features, labels):
    features = torch.where(torch.arange(ROWS)[:, None] == 20, 0.0, features).requires_grad_()
    log_probabilities = GraphHead(CLASSES, k=5)(features, labels)
    F.nll_loss(log_probabilities[18:], torch.arange(18, ROWS) % CLASSES).backward()
    size = features.grad.norm(dim=1)
    assert size.isfinite().all()
    assert size[20] < 10 * size.median()


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_in_float32(features, labels, dtype):
    half = features.to(dtype).requires_grad_()
    head = GraphHead(CLASSES, k=5)
    out = head(half, labels)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, head(half.detach().float(), labels))
    F.nll_loss(out[12:], torch.arange(12, ROWS) % CLASSES).backward()
    assert half.grad.dtype == dtype
    assert half.grad.isfinite().all()


def test_autocast_touches_the_backbone_and_not_the_head(features, labels):
    torch.manual_seed(0)
    backbone, head = nn.Linear(4, 8), GraphHead(CLASSES, k=5)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = backbone(features.float())
        out = head(encoded, labels)
    assert (encoded.dtype, out.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out, head(encoded, labels))
    F.nll_loss(out[12:], torch.arange(12, ROWS) % CLASSES).backward()
    assert backbone.weight.grad.norm() > 0


def test_float32_agrees_with_float64(features, labels):
    head = GraphHead(CLASSES, k=5)
    single, double = (head.scores(features.to(t), labels) for t in (torch.float32, torch.float64))
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=0)


def test_runs_on_every_device(features, labels, device):
    out = GraphHead(CLASSES, k=5)(features.to(device), labels.to(device))
    assert out.device.type == device.type
    torch.testing.assert_close(out.cpu(), GraphHead(CLASSES, k=5)(features, labels))


def test_the_printout_shows_the_settings():
    text = str(GraphHead(7, k=9, tau=0.5, kernel=Tapered()))
    assert all(word in text for word in ("num_classes=7", "k=9", "tau=0.5", "Tapered(rate=4.0)"))
