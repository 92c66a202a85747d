"""Print the README's tables from results.csv: python experiments/citation/tables.py."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

RESULTS = Path(__file__).with_name("results.csv")
KINDS = {"none": "words alone", "given": "citations", "features": "neighbours", "both": "both"}
METHODS = (
    *("logistic regression", "MLP", "label propagation", "label spreading", "PyG LabelPropagation"),
    *("personalised PageRank", "Poisson learning", "Laplace learning", "Laplace learning, fitted"),
    *("learned weights", "learned weights, with words", "Laplace learning, prior from words"),
    *("Correct and Smooth", "PyG CorrectAndSmooth", "GCN"),
)
PAIRS = (
    ("learned weights", "given", "Laplace learning", "given"),
    ("learned weights", "both", "Laplace learning", "both"),
    ("learned weights, with words", "both", "Laplace learning", "both"),
    ("Laplace learning, fitted", "both", "Laplace learning", "both"),
    ("Laplace learning, prior from words", "given", "Laplace learning", "given"),
    ("Laplace learning, prior from words", "given", "GCN", "given"),
    ("Laplace learning, prior from words", "both", "GCN", "both"),
    ("Correct and Smooth", "given", "GCN", "given"),
    ("Correct and Smooth", "given", "PyG CorrectAndSmooth", "given"),
    ("Correct and Smooth", "both", "PyG CorrectAndSmooth", "both"),
    ("label spreading", "given", "PyG LabelPropagation", "given"),
    ("label spreading", "both", "PyG LabelPropagation", "both"),
)

Runs = dict[tuple[str, str, str], dict[str, list[float]]]


def read(column: str = "accuracy") -> Runs:
    """Return a column in percent by (data, method, graph), then by split."""
    runs: Runs = defaultdict(lambda: defaultdict(list))
    with RESULTS.open(newline="") as file:
        for row in csv.DictReader(file):
            key = row["data"], row["method"], row["graph"]
            runs[key][row["split"]].append(100 * float(row[column]))
    return runs


def random_splits(splits: dict[str, list[float]]) -> np.ndarray:
    """Return the accuracies on the random splits, in their order."""
    return np.array([splits[name][0] for name in sorted(splits.keys() - {"public"}, key=int)])


def half_width(numbers: np.ndarray) -> float:
    """Return half the 95 % t-interval of the mean."""
    return float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))


def cell(splits: dict[str, list[float]] | None) -> str:
    if not splits:
        return ""
    numbers = random_splits(splits)
    return f"{np.mean(splits['public']):.1f} · {numbers.mean():.1f} ± {half_width(numbers):.1f}"


def main() -> None:
    runs, abstained = read(), read("abstained")
    for data in dict.fromkeys(key[0] for key in runs):
        print(f"\n### {data.title()}\n\n| method | {' | '.join(KINDS.values())} |")
        print("|---" * (1 + len(KINDS)) + "|")
        for method in METHODS:
            cells = (cell(runs.get((data, method, kind))) for kind in KINDS)
            print(f"| {method} | {' | '.join(cells)} |")
        lost = abstained[data, "label propagation", "given"]
        print(
            f"\nNo label reaches {np.mean(lost['public']):.1f} % of the public test papers along "
            f"citations, and {random_splits(lost).mean():.1f} % in the random splits."
        )
        print(f"\n| {data.title()}, random splits | against | difference |\n|---|---|---|")
        for method, kind, other, other_kind in PAIRS:
            pair = [runs.get(key) for key in ((data, method, kind), (data, other, other_kind))]
            if all(pair):
                gain = random_splits(pair[0]) - random_splits(pair[1])
                print(
                    f"| {method}, {KINDS[kind]} | {other}, {KINDS[other_kind]} | "
                    f"{gain.mean():+.1f} ± {half_width(gain):.1f} |"
                )


if __name__ == "__main__":
    main()
