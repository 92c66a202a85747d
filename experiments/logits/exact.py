"""What must hold exactly: the bound, the signs, and thresholds that absent classes do not move.

    python experiments/logits/exact.py

Prints what it finds over 1,000 random batches each, in a few seconds.
"""

import torch
from torch import Generator, Tensor

from weft.logits import LPL, ByConfidence, BySize, ClassStats, loss_variation

BATCHES = 1000


def absent_classes(generator: Generator) -> tuple[float, float, float]:
    """Draw a batch of 128 over 100 classes, most of them well learned.

    Returns:
        The number of absent classes, and the share of present classes that LPL by confidence
        pushes up: with absent classes left out of the threshold, and counted as confidence zero.
    """
    targets = torch.randint(100, (128,), generator=generator)
    confidence = 0.8 + 0.2 * torch.rand(100, generator=generator, dtype=torch.float64)
    own = confidence[targets, None]
    probabilities = ((1 - own) / 99).expand(-1, 100).scatter(1, targets[:, None], own)
    stats = ClassStats(torch.full((100,), 10))
    seen = stats.observe(probabilities, targets)
    zeros_for_absent = seen.nan_to_num(0).mean().item()
    present = ~seen.isnan()
    shares = [
        (bounds(stats.counts, seen)[present] > 0).double().mean().item()
        for bounds in (ByConfidence(), ByConfidence(threshold=zeros_for_absent))
    ]
    return (~present).sum().item(), *shares


def bound_and_signs(generator: Generator, steps: int) -> tuple[Tensor, bool]:
    """Perturb a random batch with a long tail of classes.

    Returns:
        For each present class the length of its shift over its bound; and whether every class's
        loss went the way of its sign.
    """
    num_classes = int(torch.randint(2, 30, (), generator=generator))
    counts = torch.randint(1, 1000, (num_classes,), generator=generator)
    targets = counts.double().multinomial(128, replacement=True, generator=generator)
    spread = 10 * torch.rand((), generator=generator)
    logits = spread * torch.randn(128, num_classes, generator=generator, dtype=torch.float64)
    bounds = BySize(epsilon=0.5, delta_epsilon=3.0)
    stats = ClassStats(counts)
    lpl = LPL(stats, bounds, steps=steps)
    signed = bounds(stats.counts, stats.confidence)
    lengths = (lpl(logits, targets) - logits).norm(dim=1) / signed[targets].abs()
    variation = loss_variation(lpl, logits, targets)
    there = ~variation.isnan()
    return lengths, bool((variation.sign() == signed.sign())[there].all())


def main() -> None:
    torch.set_num_threads(1)
    generator = Generator().manual_seed(0)
    found = torch.tensor([absent_classes(generator) for _ in range(BATCHES)]).double()
    absent, left_out, as_zeros = found.mean(0).tolist()
    print(f"100 classes, batches of 128: {absent:.1f} classes absent")
    print(f"pushed up, absent classes left out of the mean: {left_out:.3f} of those present")
    print(f"pushed up, absent classes counted as zero: {as_zeros:.3f} of those present")
    for steps in (1, 3, 10):
        pairs = [bound_and_signs(generator, steps) for _ in range(BATCHES)]
        lengths = torch.cat([lengths for lengths, _ in pairs])
        right = sum(right for _, right in pairs)
        print(
            f"K = {steps}: length over bound {lengths.min():.6f} to {lengths.max():.9f}; "
            f"every class's loss moved the way of its sign in {right} of {BATCHES} batches"
        )


if __name__ == "__main__":
    main()
