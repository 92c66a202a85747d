"""Draw paths by learned costs, with and without the projection: python docs/figures/discrete.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, softplus

from weft.discrete import GridPath, Identity, Projection, hamming_l1, solve_discrete

SIZE, STEPS = 16, 300
TRUE, FOUND = "#1b9e77", "#d95f02"


def draw_terrain(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return costs (count, SIZE, SIZE) of three values, and two noisy views of them."""
    noise = torch.randn(count, 1, SIZE + 4, SIZE + 4, generator=generator)
    heights = avg_pool2d(noise, 5, 1)[:, 0]
    costs = 1 + 3 * (heights > 0).float() + 5 * (heights > 0.2).float()
    views = costs[:, None] + 2 * torch.randn(count, 2, SIZE, SIZE, generator=generator)
    return costs, views


def train(views: Tensor, paths: Tensor, rule: Identity) -> tuple[nn.Module, list[float]]:
    """Return a network from views to costs, and the mean length of these at each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 1), nn.Flatten(1, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    lengths = []
    for step in range(STEPS):
        rows = slice(50 * step % len(views), 50 * step % len(views) + 50)
        costs = softplus(model(views[rows]))
        lengths.append(costs.flatten(1).norm(dim=1).mean().item())
        loss = hamming_l1(solve_discrete(costs, GridPath(), rule), paths[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, lengths


def main() -> None:
    """Train twice, and draw costs, paths and lengths."""
    torch.set_num_threads(1)
    costs, views = draw_terrain(500, Generator().manual_seed(0))
    paths = GridPath()(costs)
    true, seen = draw_terrain(1, Generator().manual_seed(1))
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), layout="constrained")
    shown = [("true costs", true[0], GridPath()(true)[0], TRUE)]
    for name, projection in (
        ("no projection", Projection.NONE),
        ("default", Projection.AFFINE_NORM),
    ):
        model, lengths = train(views, paths, Identity(projection))
        with torch.no_grad():
            learned = softplus(model(seen))
        shown.append((f"learned, {name}", learned[0], GridPath()(learned)[0], FOUND))
        axes[3].plot(lengths, label=name)
    least = (true[0] * shown[0][2]).sum()
    for axis, (name, field, path, colour) in zip(axes, shown, strict=False):
        axis.imshow(field, cmap="Greys")
        at = path.nonzero()
        axis.scatter(at[:, 1], at[:, 0], s=22, color=colour)
        axis.set(xticks=[], yticks=[], title=name)
        axis.set_xlabel(f"path: {(true[0] * path).sum() / least:.2f} of the least cost")
    axes[3].set(yscale="log", title="length of the costs", xlabel="step")
    axes[3].legend(fontsize=8)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main()
