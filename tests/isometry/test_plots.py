"""The pictures hold the numbers: lines, bins and bands are where the formulas put them."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from weft.isometry import (
    WithinClass,
    boundary_distance,
    diagnose,
    fit_distances,
    layer_profile,
    pair_distances,
    plot_profile,
    plot_ratios,
    plot_shepard,
)

pytest.importorskip("matplotlib")
PAIRS = torch.combinations(torch.arange(30)).T


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(axes):
    """Render, which finds what cannot be drawn."""
    axes.figure.canvas.draw()
    return axes


def test_a_shepard_diagram_counts_every_pair_and_has_the_line_of_the_best_scale():
    inputs, features = (pair_distances(draw(30, 4, seed=seed), PAIRS) for seed in (0, 1))
    axes = drawn(plot_shepard(inputs, features))
    (cells,) = axes.collections
    assert cells.get_array().sum() == PAIRS.shape[1]
    (line,) = axes.lines
    (zero, end), (start, height) = line.get_data()
    scale = (inputs * features).sum() / features.square().sum()
    assert (zero, start) == (0, 0)
    assert_close(height, end / scale.item(), rtol=1e-5, atol=0)
    fit = fit_distances(inputs, features)
    assert f"r = {fit.pearson:.3f}" in axes.get_title()
    assert f"stress = {fit.stress:.3f}" in axes.get_title()


def test_an_isometry_lies_on_the_line_and_collapsed_features_have_none():
    inputs = pair_distances(draw(30, 4), PAIRS)
    axes = drawn(plot_shepard(inputs, 3 * inputs))
    centres = axes.collections[0].get_offsets()
    assert abs(centres[:, 1] - 3 * centres[:, 0]).max() < 0.5
    assert "stress = 0.000" in axes.get_title()
    assert not drawn(plot_shepard(inputs, 0 * inputs)).lines


def test_a_profile_has_the_means_over_classes_and_bands_around_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    profile = layer_profile(model, ["0", "1", ""], draw(30, 4), torch.arange(30) % 3)
    axes = drawn(plot_profile(profile))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "output"]
    for line, band, name in zip(
        axes.lines, axes.collections, ("pearson", "spearman", "stress"), strict=True
    ):
        means = [getattr(found.class_mean(), name) for found in profile.values()]
        assert line.get_ydata() == pytest.approx(means)
        edge = band.get_paths()[0].vertices[:, 1]
        every = [getattr(fit, name) for found in profile.values() for fit in found.classes.values()]
        assert (edge.min(), edge.max()) == pytest.approx((min(every), max(every)))


def test_ratios_of_a_scaled_isometry_are_a_flat_line_at_one():
    inputs, labels = draw(30, 4).double(), torch.arange(30) % 3
    turn = torch.linalg.qr(draw(4, 4, seed=2).double())[0]
    axes = drawn(plot_ratios(inputs, 5 * inputs @ turn, labels, inputs[:, 0].abs(), bins=4))
    (median,) = (line for line in axes.lines if len(line.get_ydata()) == 4)
    assert median.get_ydata() == pytest.approx([1] * 4, abs=1e-6)
    edge = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert edge.max() - edge.min() < 1e-6


def test_ratios_are_medians_of_equally_many_pairs_by_the_nearer_end():
    inputs, features, labels = draw(24, 3), draw(24, 5, seed=1), torch.arange(24) % 2
    boundary = draw(24, seed=2).abs()
    axes = drawn(plot_ratios(inputs, features, labels, boundary, bins=3))
    i, j = WithinClass()(24, labels, None, inputs.device).rows
    ratio = (features[i] - features[j]).norm(dim=1) / (inputs[i] - inputs[j]).norm(dim=1)
    ratio = ratio / ratio.median()
    near = torch.minimum(boundary[i], boundary[j])
    parts = near.argsort(stable=True).chunk(3)
    (median,) = (line for line in axes.lines if len(line.get_ydata()) == 3)
    wanted = [ratio[part].quantile(0.5).item() for part in parts]
    assert median.get_ydata() == pytest.approx(wanted, rel=1e-5)
    assert median.get_xdata() == pytest.approx([near[part].median().item() for part in parts])


def test_all_draw_on_axes_that_are_given_and_change_nothing_else():
    from matplotlib import _pylab_helpers, rcParams
    from matplotlib.figure import Figure

    before = dict(rcParams)
    left, middle, right = Figure().subplots(1, 3)
    inputs, labels = draw(30, 4), torch.arange(30) % 3
    model = nn.Linear(4, 3)
    distances = pair_distances(inputs, PAIRS)
    assert plot_shepard(distances, distances, axes=left) is left
    assert plot_profile({"": diagnose(inputs, inputs, labels)}, axes=middle) is middle
    found = plot_ratios(inputs, inputs, labels, boundary_distance(model, inputs), axes=right)
    assert drawn(found) is right
    assert dict(rcParams) == before
    assert not _pylab_helpers.Gcf.figs  # no figure that a display would show


def test_importing_the_room_imports_no_matplotlib():
    script = "import sys, weft.isometry; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    distances = pair_distances(draw(30, 4), PAIRS)
    with pytest.raises(ImportError, match=r"need matplotlib, .* pip install 'weft\[lab\]'"):
        plot_shepard(distances, distances)


def test_refuses_what_it_cannot_draw():
    inputs, labels = draw(30, 4), torch.arange(30) % 3
    far = inputs[:, 0].abs()
    with pytest.raises(ValueError, match="`profile` must have at least one layer, got none"):
        plot_profile({})
    with pytest.raises(ValueError, match="must hold distances of the same pairs, got 3 and 2"):
        plot_shepard(far[:3], far[:2])
    for bins in (0, 136):
        with pytest.raises(ValueError, match=f"unequal inputs, 135, got {bins}: take fewer"):
            plot_ratios(inputs, inputs, labels, far, bins=bins)
    with pytest.raises(ValueError, match="unequal inputs, 0, got 10"):
        plot_ratios(inputs, inputs, torch.arange(30), far)
    with pytest.raises(ValueError, match="`boundary` must be finite"):
        plot_ratios(inputs, inputs, labels, far + math.nan)
    with pytest.raises(ValueError, match="of one batch, got 30 and 29 rows"):
        plot_ratios(inputs, inputs, labels, far[:29])
