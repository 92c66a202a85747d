"""Diagnostics are what SciPy says; a linear map stretches by its spectral norm."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.testing import assert_close

from weft.isometry import (
    WithinClass,
    boundary_distance,
    diagnose,
    fit_distances,
    flattened,
    layer_profile,
    lipschitz_profile,
    local_lipschitz,
    pair_distances,
)
from weft.isometry._diagnostics import quantiles

SEEDS = st.integers(0, 2**31)


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64), generator


@given(seed=SEEDS, ties=st.booleans())
def test_a_fit_has_the_numbers_of_scipy_and_numpy(seed, ties):
    (wide, found), _ = draw(seed, 2, 40)
    wide, found = wide.abs() + 0.01, found.abs()
    if ties:
        wide, found = wide.mul(4).round(), found.mul(4).round()
    fit = fit_distances(wide, found)
    assert fit.pearson == pytest.approx(stats.pearsonr(wide, found).statistic, abs=1e-12)
    assert fit.spearman == pytest.approx(stats.spearmanr(wide, found).statistic, abs=1e-12)
    scale = (wide @ found) / (found @ found)
    stress = ((wide - scale * found).square().sum() / wide.square().sum()).sqrt()
    assert fit.stress == pytest.approx(stress.item(), abs=1e-12)
    ratios = (found / wide)[wide > 0]
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    assert fit.ratios == pytest.approx(ratios.quantile(levels).tolist())


def test_quantiles_of_more_pairs_than_torch_takes():
    count = 2**24
    values, levels = torch.arange(count + 1.0).flip(0), torch.tensor([0.0, 0.25, 1.0])
    assert quantiles(values, levels).tolist() == [0, count / 4, count]


@given(seed=SEEDS)
def test_distances_up_to_scale_fit_perfectly(seed):
    wide, _ = draw(seed, 30)
    fit = fit_distances(wide.abs(), 0.3 * wide.abs())
    assert (fit.pearson, fit.spearman) == (pytest.approx(1), pytest.approx(1))
    assert fit.stress == pytest.approx(0, abs=1e-7)
    assert fit.ratios == pytest.approx([0.3] * 5)


def test_features_that_collapsed_to_their_class_have_the_largest_stress():
    (inputs,), _ = draw(0, 1, 12, 3)
    labels = torch.arange(12) % 3
    for features in (nn.functional.one_hot(labels).double(), torch.zeros(12, 4)):
        found = diagnose(inputs, features, labels)
        assert found.pooled.stress == 1
        assert math.isnan(found.pooled.pearson)
        assert found.pooled.ratios == (0,) * 5
    assert math.isinf(diagnose(inputs, nn.functional.one_hot(labels).double(), labels).separation)


def test_equal_inputs_are_in_no_ratio():
    (inputs,), _ = draw(1, 1, 8, 3)
    inputs[1] = inputs[0]
    found = diagnose(inputs, 0.3 * inputs, torch.zeros(8).long())
    assert found.pooled.ratios == pytest.approx((0.3,) * 5)
    assert found.pooled.stress == pytest.approx(0, abs=1e-9)


def test_what_does_not_vary_has_no_correlation():
    fit = fit_distances(torch.ones(4), torch.arange(4.0))
    assert math.isnan(fit.pearson)
    assert math.isnan(fit.spearman)
    assert math.isnan(fit_distances(torch.ones(1), torch.ones(1)).pearson)
    assert all(math.isnan(ratio) for ratio in fit_distances(torch.zeros(2), torch.ones(2)).ratios)


@given(seed=SEEDS)
def test_a_diagnosis_looks_at_each_class_and_at_all_pairs(seed):
    inputs, generator = draw(seed, 20, 3, 2)
    features = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 3, (20,), generator=generator)
    labels[:6] = torch.arange(6) % 3
    found = diagnose(inputs, features, labels)
    flat, within, between = inputs.flatten(1), [], []
    for i, j in torch.combinations(torch.arange(20)).tolist():
        if min(labels[i], labels[j]) >= 0:
            (within if labels[i] == labels[j] else between).append([i, j])
    pairs, across = torch.tensor(within).T, torch.tensor(between).T
    wide, short = pair_distances(flat, pairs), pair_distances(features, pairs)
    assert found.pooled.pearson == pytest.approx(fit_distances(wide, short).pearson)
    assert found.pooled.stress == pytest.approx(fit_distances(wide, short).stress)
    for c, fit in found.classes.items():
        own = labels[pairs[0]] == c
        assert fit.stress == pytest.approx(fit_distances(wide[own], short[own]).stress)
    assert sorted(found.classes) == labels[pairs[0]].unique().tolist()
    assert found.separation == pytest.approx(
        (pair_distances(features, across).mean() / short.mean()).item()
    )
    assert found.input_separation == pytest.approx(
        (pair_distances(flat, across).mean() / wide.mean()).item()
    )
    mean = torch.tensor([fit.stress for fit in found.classes.values()]).double().mean()
    assert found.class_mean().stress == pytest.approx(mean.item())
    assert len(found.class_mean().ratios) == 5


def test_a_sample_of_pairs_says_nearly_the_same():
    inputs, generator = draw(0, 600, 3)
    features = (inputs @ torch.randn(3, 4, generator=generator).double()).tanh()
    labels = torch.randint(4, (600,), generator=generator)
    whole = diagnose(inputs, features, labels)
    some = diagnose(inputs, features, labels, pairs=WithinClass(per_sample=20), generator=generator)
    assert some.pooled.pearson == pytest.approx(whole.pooled.pearson, abs=0.02)
    assert some.separation == pytest.approx(whole.separation, rel=0.02)


def network(device="cpu"):
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)
    return nn.Sequential(nn.Flatten(), *layers).double().to(device)


def test_a_layer_profile_is_the_diagnosis_of_each_output():
    inputs, _ = draw(1, 12, 2, 3)
    labels = torch.arange(12) % 3
    model = network()
    profile = layer_profile(model, ["1", "2", ""], inputs, labels)
    assert profile["2"] == diagnose(inputs, model[:3](inputs).detach(), labels)
    assert profile[""] == diagnose(inputs, model(inputs).detach(), labels)
    assert list(profile) == ["1", "2", ""]
    assert not any(module._forward_hooks for module in model.modules())
    convolution = nn.Conv1d(2, 4, 2).double()
    flat = layer_profile(convolution, [""], inputs, labels, read=flattened)
    assert flat[""] == diagnose(inputs, convolution(inputs).detach(), labels)


@settings(max_examples=20)
@given(seed=SEEDS, rows=st.integers(1, 3))
def test_a_linear_map_stretches_by_its_spectral_norm(seed, rows):
    (left, right), generator = draw(seed, 2, 4, 4)
    values = torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    matrix = torch.linalg.qr(left).Q @ values.diag() @ torch.linalg.qr(right).Q
    inputs = torch.randn(rows, 2, 2, generator=generator, dtype=torch.float64)
    found = local_lipschitz(lambda x: x.flatten(1) @ matrix.T, inputs, generator=generator)
    # A step shrinks all but the first direction to a ninth; by chance it was small at first.
    assert_close(found, values[0].expand(rows), rtol=1e-6, atol=0)
    assert (found <= values[0] * (1 + 1e-12)).all()


def test_stretching_is_the_largest_singular_value_of_each_row_and_layer():
    inputs, generator = draw(2, 4, 6)
    model = network()
    profile = lipschitz_profile(model, ["1", "2", ""], inputs, steps=200, generator=generator)
    for name, part in (("1", model[:2]), ("2", model[:3]), ("", model)):
        jacobians = torch.stack([torch.func.jacrev(part)(row[None])[0, :, 0] for row in inputs])
        assert_close(profile[name], torch.linalg.matrix_norm(jacobians, 2), rtol=1e-5, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    few = local_lipschitz(model, inputs, steps=1, generator=generator)
    assert (few < profile[""]).all()
    flat = local_lipschitz(lambda x: 0 * x, inputs, generator=generator)
    assert flat.tolist() == [0] * 4


def test_the_boundary_of_a_linear_model_is_where_two_logits_meet():
    layer = nn.Linear(3, 4).double()
    inputs, _ = draw(3, 10, 3)
    found = boundary_distance(layer, inputs)
    logits = layer(inputs).detach()
    own = logits.argmax(1)
    for row in range(10):
        others = [c for c in range(4) if c != own[row]]
        apart = (layer.weight[own[row]] - layer.weight[others]).norm(dim=1)
        expected = ((logits[row, own[row]] - logits[row, others]) / apart).min()
        assert found[row].item() == pytest.approx(expected.item())
    assert layer.weight.grad is None


def test_device_is_kept(device):
    model = network(device)
    inputs, labels = draw(4, 8, 6)[0].to(device), (torch.arange(8) % 2).to(device)
    generator = torch.Generator().manual_seed(0)
    assert layer_profile(model, ["2"], inputs, labels)["2"].pooled.stress > 0
    assert local_lipschitz(model, inputs, generator=generator).device.type == device.type
    assert boundary_distance(model, inputs.float().double()).device.type == device.type


def test_refuses_what_it_cannot_use():
    inputs, generator = draw(5, 6, 2)
    labels = torch.arange(6) % 2
    for call, message in (
        (lambda: diagnose(inputs, inputs[:5], labels), "of one batch, got 6 and 5 rows: pass"),
        (lambda: diagnose(inputs, inputs, torch.arange(6)), "class with two rows, got none"),
        (lambda: fit_distances(torch.ones(3), torch.ones(2)), "of the same pairs, got 3 and 2"),
        (lambda: fit_distances(torch.ones(0), torch.ones(0)), "got 0 and 0: one entry per pair"),
        (lambda: fit_distances(torch.ones(1), torch.tensor([torch.nan])), "must be finite, got"),
        (lambda: layer_profile(network(), ["tanh"], inputs, labels), "names of the model's mod"),
        (
            lambda: local_lipschitz(nn.Identity(), inputs, steps=0, generator=generator),
            "`steps` must be at least 1, got 0: take 20",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
