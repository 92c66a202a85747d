"""The nearest reference decides, and nothing within the certified radius changes that."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.heads import NearestHead, Whole, predict

SEEDS = st.integers(0, 2**31)
NORMS = [1.0, 2.0, math.inf]


def problem(seed, count=30, classes=3, width=4):
    generator = torch.Generator().manual_seed(seed)
    references = torch.randn(count, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    labels[:classes] = torch.arange(classes)
    features = torch.randn(20, width, generator=generator, dtype=torch.float64)
    return references, labels, features, generator


@given(seed=SEEDS, norm=st.sampled_from(NORMS))
def test_logits_are_minus_the_least_distance_of_each_class(seed, norm):
    references, labels, features, _ = problem(seed)
    head = NearestHead(references, labels, norm=norm, temperature=0.5)
    table = (features[:, None] - references).abs()
    table = table.pow(norm).sum(2).pow(1 / norm) if norm < math.inf else table.amax(2)
    for c in range(3):
        assert_close(head(features)[:, c], -2 * table[:, labels == c].amin(1))


@given(seed=SEEDS)
def test_far_from_the_origin_the_nearest_are_still_the_nearest(seed):
    references, labels, features, _ = problem(seed)
    references, features = (1e6 + 1e-2 * part for part in (references, features))
    head = NearestHead(references, labels)
    table = (features[:, None] - references).norm(dim=2)
    least = torch.stack([table[:, labels == c].amin(1) for c in range(3)], dim=1)
    assert_close(head.distances(features), least, rtol=1e-6, atol=1e-9)


def test_it_is_the_nearest_neighbour_classifier_of_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    references, labels, features, _ = problem(0, 200, 5)
    peer = neighbors.KNeighborsClassifier(1).fit(references.numpy(), labels.numpy())
    head = NearestHead(references, labels)
    assert head(features).argmax(1).tolist() == peer.predict(features.numpy()).tolist()


def test_behind_a_backbone_it_is_a_classifier_like_any_other():
    references, labels, features, _ = problem(1)
    model = nn.Sequential(nn.Linear(4, 3).double(), nn.Tanh())
    model.append(NearestHead(model(references), labels))
    assert_close(predict(model, features, Whole()).probabilities, model(features).softmax(1))
    nn.functional.cross_entropy(model(features), labels[:20]).backward()
    assert model[0].weight.grad.norm() > 0


@pytest.mark.parametrize("norm", NORMS)
def test_derivatives_in_features_match_finite_differences_twice(norm):
    references, labels, features, _ = problem(2)
    head = NearestHead(references, labels, norm=norm)
    assert gradcheck(head, features.requires_grad_())
    assert gradgradcheck(head, features)


def attack(head, features, radius, norm, generator):
    """Move features within their radius to where other classes are nearer: draws and gradients."""
    scale = radius[:, None] * (1 - 1e-9)
    own = head(features).argmax(1)

    def inside(step):
        size = torch.linalg.vector_norm(step, norm, dim=1, keepdim=True)
        return step * (scale / torch.maximum(size, scale))

    for _ in range(50):
        draws = torch.randn(features.shape, generator=generator, dtype=features.dtype)
        if norm == math.inf:
            draws = draws.sign()
        yield features + inside(draws * 100)
    for target in range(head(features).shape[1]):
        step = torch.zeros_like(features)
        for _ in range(40):
            moved = (features + step).requires_grad_()
            logits = head(moved)
            gain = logits[:, target] - logits.gather(1, own[:, None])[:, 0]
            (slope,) = torch.autograd.grad(gain.sum(), moved)
            if norm == math.inf:
                slope = slope.sign()
            if norm == 1:
                slope = slope * (slope.abs() == slope.abs().amax(1, keepdim=True))
            size = torch.linalg.vector_norm(slope, norm, dim=1, keepdim=True).clamp_min(1e-12)
            step = inside(step + 0.3 * scale * slope / size)
            yield features + step


@settings(max_examples=10)
@given(seed=SEEDS, norm=st.sampled_from(NORMS))
def test_no_attack_within_the_radius_changes_a_prediction(seed, norm):
    references, labels, features, generator = problem(seed)
    head = NearestHead(references, labels, norm=norm)
    own, radius = head(features).argmax(1), head.certified_radius(features)
    for moved in attack(head, features, radius, norm, generator):
        assert torch.equal(head(moved).argmax(1), own)


def test_a_little_outside_the_radius_of_norm_2_a_step_over_the_plane_changes_it():
    references, labels, features, generator = problem(3)
    head = NearestHead(references, labels)
    own, radius = head(features).argmax(1), head.certified_radius(features)
    broken = torch.zeros(20, dtype=torch.bool)
    for moved in attack(head, features, 1.05 * radius, 2, generator):
        broken |= head(moved).argmax(1) != own
    assert broken.double().mean() > 0.5  # behind the plane a third reference may save it


@given(seed=SEEDS)
def test_in_norm_2_the_plane_is_at_least_as_far_as_half_the_difference(seed):
    references, labels, features, _ = problem(seed)
    first, second = NearestHead(references, labels).distances(features).sort(1).values.T[:2]
    radius = NearestHead(references, labels).certified_radius(features)
    assert (radius >= (second - first) / 2 - 1e-12).all()
    for norm in (1.0, math.inf):
        head = NearestHead(references, labels, norm=norm)
        first, second = head.distances(features).sort(1).values.T[:2]
        assert_close(head.certified_radius(features), (second - first) / 2)


def test_the_plane_between_two_references_is_where_the_radius_ends():
    head = NearestHead(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
    features = torch.tensor([[1.0, 0.0], [1.0, 50.0], [2.0, 7.0], [5.0, -9.0]])
    assert_close(head.certified_radius(features), torch.tensor([1.0, 1.0, 0.0, 3.0]))
    assert_close(
        head.certified_radius(features, lipschitz=4.0), torch.tensor([0.25, 0.25, 0.0, 0.75])
    )


def test_equal_references_of_two_classes_certify_nothing_and_one_class_everything():
    head = NearestHead(torch.tensor([[0.0], [0.0], [3.0]]), torch.tensor([0, 1, 1]))
    assert head.certified_radius(torch.tensor([[0.0], [1.0]])).tolist() == [0, 0]
    one = NearestHead(torch.tensor([[0.0]]), torch.tensor([0]))
    assert one.certified_radius(torch.ones(2, 1)).tolist() == [math.inf, math.inf]


@pytest.fixture(scope="module")
def digits():
    """450 test digits of the stratified split with seed 0, and the other 1347, in [0, 1]."""
    datasets = pytest.importorskip("sklearn.datasets")
    selection = pytest.importorskip("sklearn.model_selection")
    data = datasets.load_digits()
    split = selection.train_test_split(
        data.data / 16, data.target, test_size=450, stratify=data.target, random_state=0
    )
    return [torch.from_numpy(part) for part in split]


@pytest.mark.parametrize(
    ("norm", "epsilons", "shares"),
    [
        (math.inf, (0.05, 0.1, 0.15, 0.2), (92.9, 66.4, 45.8, 16.7)),
        (2.0, (0.05, 0.1, 0.2, 0.3, 0.5), (98.2, 97.6, 95.3, 87.1, 64.0)),
        (1.0, (0.1, 0.5, 1.0), (97.6, 93.6, 83.3)),
    ],
)
def test_certified_accuracy_on_digits_without_training(digits, norm, epsilons, shares):
    train, test, train_labels, test_labels = digits
    head = NearestHead(train, train_labels, norm=norm)
    right, radius = head(test).argmax(1) == test_labels, head.certified_radius(test)
    found = [100 * (right & (radius > epsilon)).double().mean().item() for epsilon in epsilons]
    assert [round(share, 1) for share in found] == list(shares)


def test_blocks_give_the_same(monkeypatch):
    references, labels, features, _ = problem(4)
    head = NearestHead(references, labels)
    whole = head(features), head.certified_radius(features)
    monkeypatch.setattr("weft.heads._nearest._BLOCK", 100)
    assert_close((head(features), head.certified_radius(features)), whole, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_and_device_follow_the_features_also_without_rows(dtype, device):
    references, labels, features, _ = problem(5)
    head = NearestHead(references.float(), labels).to(device)
    features = features.to(device, dtype)
    wanted = torch.float32 if dtype == torch.float16 else dtype
    for rows in (features, features[:0]):
        logits, radius = head(rows), head.certified_radius(rows)
        assert logits.shape == (len(rows), 3)
        assert radius.shape == (len(rows),)
        assert {logits.dtype, radius.dtype} == {wanted}
        assert {logits.device.type, radius.device.type} == {device.type}


def test_a_state_with_another_number_of_references_loads():
    references, labels, features, _ = problem(6)
    head, other = NearestHead(references, labels), NearestHead(references[:5], torch.arange(5) % 2)
    other.load_state_dict(head.state_dict())
    assert_close(other(features), head(features))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"norm": 3.0}, ValueError, "`norm` must be 1, 2 or infinity, got 3.0"),
        ({"temperature": 0.0}, ValueError, "`temperature` must be positive, got 0.0"),
        ({"references": torch.zeros(3)}, ValueError, r"`references` must have 2 axes \(m, d\)"),
        ({"references": torch.full((3, 2), torch.nan)}, ValueError, "`references` must be finite"),
        ({"labels": torch.zeros(2).long()}, ValueError, r"each reference, shape \(3,\), got"),
        ({"labels": torch.zeros(3)}, ValueError, "one class number .* got torch.float32"),
        ({"labels": torch.tensor([0, 2, 2])}, ValueError, r"each at least once, got \[0, 2\]"),
        ({"labels": torch.tensor([-1, 0, 1])}, ValueError, r"at least once, got \[-1, 0, 1\]"),
    ],
)
def test_refuses_references_it_cannot_use(change, error, message):
    arguments = {"references": torch.zeros(3, 2), "labels": torch.tensor([0, 1, 1]), **change}
    with pytest.raises(error, match=message):
        NearestHead(**arguments)


def test_refuses_features_it_cannot_use():
    head = NearestHead(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    for call in (head, head.certified_radius):
        with pytest.raises(ValueError, match="`features` must be as wide as the references, 2, g"):
            call(torch.zeros(3, 4))
        with pytest.raises(ValueError, match="`features` must be finite, got NaN or infinity firs"):
            call(torch.full((3, 2), torch.nan))
    with pytest.raises(ValueError, match=r"`lipschitz` must be positive, got 0\.0: take 1"):
        head.certified_radius(torch.zeros(3, 2), lipschitz=0.0)
