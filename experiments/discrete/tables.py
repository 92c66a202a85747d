"""Print the tables of the README from results.csv: means over seeds, and halves of 95 % intervals.

python experiments/discrete/tables.py
"""

from dataclasses import dataclass

import numpy as np
from rows import half_width, interval, read, results, values


@dataclass(frozen=True)
class Column:
    """A measure of a problem, with a heading."""

    heading: str
    problem: str
    measure: str
    digits: int = 1


def grid_columns(problem: str) -> list[Column]:
    return [
        Column(f"{problem}: cost", problem, "ratio", 2),
        Column("optimal", problem, "optimal", 0),
    ]


TABLES = {
    "grids": [
        *grid_columns("terrain 12"),
        Column("length of costs", "terrain 12", "length"),
        Column("solved", "terrain 12", "solved", 0),
        Column("terrain 18: cost", "terrain 18", "ratio", 2),
        Column("terrain 24: cost", "terrain 24", "ratio", 2),
        *grid_columns("terrain 30"),
        *grid_columns("maps"),
    ],
    "tours": [
        Column("5 places", "5 places", "right"),
        Column("length of costs", "5 places", "last length", 2),
        Column("solved", "5 places", "solved", 0),
        Column("5 of unseen places", "5 places", "unseen right"),
        Column("unseen, whole: length", "5 places", "unseen ratio"),
        Column("gradient noise 0.25", "5 places, gradient noise 0.25", "right"),
        Column("gradient noise 12.5", "5 places, gradient noise 12.5", "right"),
        Column("labels flipped", "5 places, a tenth of labels flipped", "right"),
        Column("8 places", "8 places", "right"),
    ],
    "matching": [
        Column("right", "points", "right"),
        Column("length of costs", "points", "last length", 0),
        Column("solved", "points", "solved", 0),
    ],
    "house": [
        *(Column(f"frames, gap {gap}", "frames", f"right at {gap}") for gap in (10, 50, 90)),
        *(Column(f"landmarks, gap {gap}", "landmarks", f"right at {gap}") for gap in (50, 90)),
        *(Column(f"patches, gap {gap}", "patches", f"right at {gap}") for gap in (10, 50, 90)),
        Column("solved", "frames", "solved", 0),
    ],
    "subsets": [
        Column("digits: bound", "digits", "bound", 2),
        Column("on training part", "digits", "train bound", 2),
        Column("solved", "digits", "solved", 0),
        Column("MNIST: bound", "mnist", "bound", 1),
        Column("MNIST, longer: bound", "mnist, longer", "bound", 1),
    ],
    "retrieval": [
        Column("recall at 1", "omniglot", "recall at 1"),
        Column("recall at 4", "omniglot", "recall at 4"),
        Column("mean cosine", "omniglot", "mean cosine", 2),
        Column("solved", "omniglot", "solved", 0),
    ],
    "explain": [
        Column("bibtex: loss", "bibtex", "loss", 2),
        Column("micro-F1", "bibtex", "micro f1"),
        Column("pixels: loss", "pixels", "loss", 2),
        Column("right class on top", "pixels", "top right"),
    ],
}
PAIRS = [  # experiment, problem, measure, one method less another
    ("grids", "terrain 12", "ratio", "Identity, norm", "Blackbox, norm"),
    ("grids", "terrain 12", "ratio", "Identity, norm", "Blackbox, norm, half the epochs"),
    ("grids", "terrain 12", "ratio", "Identity, noise 0.2", "Blackbox, noise 0.2"),
    *(
        ("grids", problem, "ratio", "Identity, norm", f"Blackbox, norm{half}")
        for problem in ("terrain 18", "terrain 24", "terrain 30", "maps")
        for half in ("", ", half the epochs")
    ),
    ("tours", "5 places", "right", "Identity, affine norm", "Identity, norm"),
    ("tours", "5 places", "right", "Identity, affine norm", "Identity, std"),
    ("tours", "5 places", "right", "Identity, affine norm", "Identity, std, noise 0.2"),
    ("tours", "5 places", "right", "Identity, affine norm", "Blackbox, noise 0.2"),
    ("tours", "5 places", "right", "Identity, affine norm", "Blackbox, affine norm"),
    ("tours", "5 places", "right", "Identity, affine norm", "Blackbox, noise 0.2, half the epochs"),
    *(
        ("tours", problem, "right", "Identity, affine norm", "Blackbox, std, noise 0.2")
        for problem in (
            "5 places, gradient noise 0.25",
            "5 places, gradient noise 12.5",
            "5 places, a tenth of labels flipped",
        )
    ),
    *(
        ("tours", "5 places, gradient noise 0.25", "right", "Identity, affine norm", other)
        for other in ("Blackbox 5, noise 0.2", "Blackbox 5, affine norm")
    ),
    ("tours", "8 places", "right", "Identity, affine norm", "Blackbox, noise 0.2"),
    ("matching", "points", "right", "Identity, affine norm", "Identity"),
    ("matching", "points", "right", "Identity, affine norm", "Identity, norm"),
    ("matching", "points", "right", "Identity, affine norm", "Identity, noise 1"),
    ("matching", "points", "right", "Identity, noise 1", "Blackbox, noise 1"),
    ("matching", "points", "right", "Identity, noise 1", "Blackbox, noise 1, half the steps"),
    ("house", "patches", "right at 90", "Identity, affine norm", "Blackbox, affine norm"),
    *(
        ("retrieval", "omniglot", "recall at 1", "Identity, std, flat", other)
        for other in (
            "Identity, std",
            "Blackbox, std",
            "Blackbox, none, noise 0.01",
            "Blackbox, std, half the steps",
            "Blackbox, none, noise 0.01, half the steps",
            "SoftSort straight through",
            "contrastive",
            "triplet",
            "multi-similarity",
            "FastAP",
            "SmoothAP",
        )
    ),
    ("subsets", "digits", "bound", "Identity, std", "I-MLE 100"),
    ("subsets", "mnist", "bound", "Identity, std", "I-MLE 10"),
    ("subsets", "mnist, longer", "bound", "Identity, std", "I-MLE 10"),
    ("explain", "bibtex", "loss", "Identity, std", "Identity"),
    ("explain", "bibtex", "loss", "Identity, std", "I-MLE"),
]


def print_table(experiment: str, columns: list[Column]) -> None:
    rows = [row for row in read(results()) if row["experiment"] == experiment]
    print(f"\n{experiment}\n\n| method |", " | ".join(c.heading for c in columns), "|")
    print("|---|" + "---|" * len(columns))
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [values(experiment, c.problem, method, c.measure) for c in columns]
        cells = [
            str(int(numbers[0]))
            if c.measure == "solved" and len(numbers)
            else interval(numbers, c.digits)
            for numbers, c in zip(found, columns, strict=True)
        ]
        print(f"| {method} |", " | ".join(cells), "|")


def print_differences() -> None:
    print("\nSeed by seed\n\n| problem | measure | this | less this | difference | seeds |")
    print("|---|---|---|---|---|---|")
    for experiment, problem, measure, one, other in PAIRS:
        pair = [values(experiment, problem, method, measure) for method in (one, other)]
        if min(map(len, pair)) > 1:
            count = min(map(len, pair))
            apart = np.subtract(*(numbers[:count] for numbers in pair))
            low, high = apart.mean() - half_width(apart), apart.mean() + half_width(apart)
            span = f"{apart.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
            print(f"| {problem} | {measure} | {one} | {other} | {span} | {count} |")


if __name__ == "__main__":
    for name, columns in TABLES.items():
        print_table(name, columns)
    print_differences()
