import pytest
import torch
import torch.nn.functional as F

from weft.heads import GraphHead

CLASSES, ROWS = 3, 36


@pytest.fixture
def features():
    """Three overlapping groups of points in float64, one per class, in turn."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(CLASSES, 4, dtype=torch.float64).repeat(ROWS // CLASSES, 1)
    return centres + 0.4 * torch.randn(ROWS, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def labels():
    """Class numbers of the first third of the rows; -1 for the others."""
    return torch.where(torch.arange(ROWS) < ROWS // 3, torch.arange(ROWS) % CLASSES, -1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_class_numbers(features, labels, dtype):
    head = GraphHead(CLASSES, k=5)
    expected = head(features, labels)
    torch.testing.assert_close(head(features, labels.to(dtype), labels >= 0), expected)


@pytest.mark.parametrize("shape", [(ROWS - 1,), (ROWS, 1), (ROWS, CLASSES)])
def test_rejects_class_numbers_that_are_not_one_per_row(features, shape):
    with pytest.raises(ValueError, match=r"`labels` must have one entry for each of the 36 rows"):
        GraphHead(CLASSES, k=5)(features, torch.zeros(shape, dtype=torch.long))


def test_the_gradient_of_a_row_of_zeros_is_of_ordinary_size(features, labels):
    features = torch.where(torch.arange(ROWS)[:, None] == 20, 0.0, features).requires_grad_()
    log_probabilities = GraphHead(CLASSES, k=5)(features, labels)
    F.nll_loss(log_probabilities[18:], torch.arange(18, ROWS) % CLASSES).backward()
    size = features.grad.norm(dim=1)
    assert size.isfinite().all()
    assert size[20] < 10 * size.median()


@pytest.mark.parametrize("normalize", [True, False])
def test_rejects_features_that_are_not_rows_of_floating_point_numbers(labels, normalize):
    head = GraphHead(CLASSES, k=5, normalize=normalize)
    with pytest.raises(TypeError, match=r"`features` must be a floating-point tensor, got torch"):
        head(torch.ones(ROWS, 4, dtype=torch.long), labels)
    with pytest.raises(ValueError, match=r"`features` must have 2 axes \(n, d\), got shape"):
        head(torch.ones(ROWS, 2, 2), labels)


def test_a_frozen_head_takes_labels_as_probabilities(features, labels):
    head, known = GraphHead(CLASSES, k=5), labels >= 0
    one_hot = F.one_hot(labels.clamp_min(0), CLASSES).double()
    expected = head.freeze(features, labels).query(features + 0.1)
    torch.testing.assert_close(
        head.freeze(features, one_hot, known).query(features + 0.1), expected
    )
