"""Train with 100 labels: digits, a small network, the graph head, plain PyTorch.

In each step half of the labelled digits are anchors, which carry their labels into the graph;
the loss is taken on the other half. So the network learns features in which labels spread to
the right digits. Unlabelled digits keep them company: labels travel over them.

Run: python examples/few_labels.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from weft.heads import GraphClassifier, GraphHead, Queries, Whole, choose_anchors, predict


def main(steps: int = 100) -> dict[str, float]:
    """Return the accuracy on all digits without label, in two contexts."""
    torch.manual_seed(0)
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)

    labelled = choose_anchors(labels, per_class=10)
    is_hidden = torch.ones(len(labels), dtype=torch.bool)
    is_hidden[labelled] = False
    unlabelled = is_hidden.nonzero().squeeze(1)

    backbone = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    model = GraphClassifier(backbone, GraphHead(10, k=10), inputs[labelled], labels[labelled])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    for _ in range(steps):
        anchors, targets = labelled[torch.randperm(100)].split(50)
        company = unlabelled[torch.randint(len(unlabelled), (300,))]
        model.set_anchors(inputs[anchors], labels[anchors])
        logits = model(inputs[torch.cat([targets, company])])
        loss = F.cross_entropy(logits[: len(targets)], labels[targets])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.set_anchors(inputs[labelled], labels[labelled])  # all labels serve the prediction
    accuracy = {}
    for context in (Whole(), Queries()):
        prediction = predict(model, inputs[unlabelled], context)
        right = prediction.probabilities.argmax(1) == labels[unlabelled]
        accuracy[context.name] = right.float().mean().item()
    return accuracy


if __name__ == "__main__":
    for context, share in main().items():
        print(f"{context:>6}: {share:.1%} of the digits without label read right")
