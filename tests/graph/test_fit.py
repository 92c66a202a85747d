"""Fitted hyper-parameters are where the held-out loss is least; nothing else is read."""

import pytest
import torch
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    Gaussian,
    Laplace,
    NearestLabel,
    PageRank,
    PLaplace,
    Poisson,
    Spreading,
    fit_equation,
    knn_graph,
)


def case(seed=0, num_nodes=90, num_known=30, noise=0.5):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(num_nodes) % 3
    points = torch.eye(3, 4)[classes] + noise * torch.randn(num_nodes, 4, generator=generator)
    return points.double(), one_hot(classes, 3).double(), torch.arange(num_nodes) < num_known


def held_out(equation, graph, labels, known, folds=5):
    """The loss that is minimised, by hand: every fold is predicted from the others."""
    nodes = known.nonzero().squeeze(1)
    nodes = nodes[labels[nodes].argmax(1).argsort(stable=True)]
    losses = []
    for fold in range(folds):
        hidden = nodes[fold::folds]
        shown = known.clone()
        shown[hidden] = False
        scores = equation(graph, labels, shown)[hidden] + 1e-6
        shares = scores / scores.sum(1, keepdim=True)
        losses.append(-(labels[hidden] * shares.log()).sum(1).mean())
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize(
    ("equation", "name"),
    [
        (Laplace(tau=0.1), "tau"),
        (Laplace(tau=0.0, fidelity=1.0), "fidelity"),
        (Spreading(0.5), "alpha"),
        (PageRank(0.5), "alpha"),
        (PLaplace(2.5), "p"),
    ],
    ids=str,
)
def test_no_step_to_either_side_is_better(equation, name):
    points, labels, known = case(num_nodes=45, num_known=24)
    graph = knn_graph(points, 8)
    fitted = fit_equation(equation, graph, labels, known)
    best = getattr(fitted.equation, name)
    assert fitted.loss == pytest.approx(held_out(fitted.equation, graph, labels, known), abs=1e-9)
    assert fitted.start == pytest.approx(held_out(equation, graph, labels, known), abs=1e-9)
    assert fitted.loss <= fitted.start
    for factor in (0.97, 1.03):
        value = 1 - factor * (1 - best) if name == "alpha" else factor * best
        if name == "p":
            value = 1 + factor * (best - 1)
        beside = type(equation)(**{**vars(equation), name: value})
        assert held_out(beside, graph, labels, known) >= fitted.loss - 1e-6


def test_the_scale_of_the_bandwidths_is_fitted_beside_the_decay():
    points, labels, known = case(1)

    def graph(scale):
        return knn_graph(points, 8, kernel=Gaussian(4 / scale**2))

    fitted = fit_equation(Laplace(tau=0.1), graph, labels, known)
    assert fitted.scale != 1.0
    only_decay = fit_equation(Laplace(tau=0.1), graph(torch.ones(())), labels, known)
    assert fitted.loss <= only_decay.loss + 1e-9
    assert only_decay.scale == 1.0
    found = knn_graph(points, 8, kernel=Gaussian(4 / fitted.scale**2))
    assert fitted.loss == pytest.approx(held_out(fitted.equation, found, labels, known), abs=1e-9)


def test_a_scale_alone_is_fitted_for_an_equation_without_numbers():
    points, labels, known = case(2)
    fitted = fit_equation(
        Poisson(), lambda s: knn_graph(points, 8, kernel=Gaussian(4 / s**2)), labels, known
    )
    assert fitted.equation == Poisson()
    assert fitted.loss < fitted.start


def test_labels_of_unknown_nodes_are_not_read():
    points, labels, known = case(3)
    graph = knn_graph(points, 8)
    hidden = torch.where(known[:, None], labels, torch.nan)
    fits = [fit_equation(Spreading(), graph, y, known) for y in (labels, hidden)]
    assert fits[0] == fits[1]


def test_every_label_is_left_out_once_with_as_many_folds():
    points, labels, known = case(4, num_known=12)
    graph = knn_graph(points, 8)
    fitted = fit_equation(Laplace(tau=0.1), graph, labels, known, folds=12)
    by_hand = held_out(fitted.equation, graph, labels, known, folds=12)
    assert fitted.loss == pytest.approx(by_hand, abs=1e-9)


def test_a_generator_shuffles_the_folds_and_repeats_them():
    points, labels, known = case(5)
    graph = knn_graph(points, 8)
    losses = [
        fit_equation(
            Laplace(0.1), graph, labels, known, generator=torch.Generator().manual_seed(seed)
        ).loss
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_another_loss_may_be_lowered():
    points, labels, known = case(6)
    graph = knn_graph(points, 8)
    fitted = fit_equation(
        Laplace(tau=0.1), graph, labels, known, loss=lambda p, y: (p - y).square().sum(1).mean()
    )
    assert fitted.loss <= fitted.start


def test_what_stands_at_zero_or_none_stays_there_and_what_is_fitted_is_a_number():
    points, labels, known = case(7)
    fitted = fit_equation(Laplace(tau=0.0, fidelity=1.0), knn_graph(points, 8), labels, known)
    assert fitted.equation.tau == 0.0
    assert isinstance(fitted.equation.fidelity, float)


def test_fitted_decay_does_not_depend_on_the_precision():
    points, labels, known = case(8)
    fits = [
        fit_equation(Laplace(tau=0.1), knn_graph(x, 8), labels.to(x), known)
        for x in (points, points.float())
    ]
    assert_close(fits[0].loss, fits[1].loss, rtol=1e-3, atol=0)


def test_refuses_what_cannot_be_fitted():
    points, labels, known = case()
    graph = knn_graph(points, 8)
    with pytest.raises(ValueError, match="`equation` must have a positive hyper-parameter to fit"):
        fit_equation(Laplace(), graph, labels, known)
    with pytest.raises(TypeError, match="`equation` must be differentiable to be fitted, got Near"):
        fit_equation(NearestLabel(), graph, labels, known)
    for folds in (1, 31):
        with pytest.raises(ValueError, match="`folds` must lie between 2 and the number of labels"):
            fit_equation(Spreading(), graph, labels, known, folds=folds)
