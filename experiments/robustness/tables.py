"""Print the tables of the README from results.csv, and draw its figure."""

import argparse
from collections.abc import Iterable

import numpy as np
from methods import all_methods, published
from rows import HERE, RESULTS, interval, read
from run import RADII
from threats import THREATS

from weft.robustness import AutoAttack

PAIRS = {  # what is compared seed by seed
    "graph": "softmax",
    "graph, as accurate as softmax": "softmax",
    "graph, pairs": "softmax, pairs",
    "graph, relative pairs": "softmax, pairs",
    "graph on pairs features, 100 anchors": "softmax, pairs",
    "graph, PGD training": "softmax, PGD training",
    "graph, TRADES": "softmax, TRADES",
    "graph, TRADES, after softmax": "softmax, TRADES, then TRADES",
    "graph, TRADES, after softmax, 100 anchors": "softmax, TRADES, then TRADES",
    "graph, TRADES, after softmax, 300 anchors": "softmax, TRADES, then TRADES",
    "graph, TRADES and pairs, after softmax, 100 anchors": "softmax, TRADES, then TRADES",
}


def values(
    rows: list[dict[str, str]], method: str, epsilon: float, kind: str, column: str
) -> dict[int, float]:
    """Return a column by seed: of the worst case, of one attack, or the least over the naive."""
    found: dict[int, float] = {}
    for row in rows:
        if row["method"] != method or float(row["epsilon"]) != epsilon:
            continue
        naive = row["attack"].startswith(("FGSM", "IFGSM"))
        if row["attack"] == kind or (kind == "naive" and naive):
            seed = int(row["seed"])
            found[seed] = min(found.get(seed, 1.0), float(row[column]))
    return found


def table(data: str, names: Iterable[str]) -> None:
    """Print one row per method: clean, naive and worst accuracy at each radius."""
    rows = [row for row in read(RESULTS) if row["data"] == data]
    radii = [e for e in RADII[data] if any(float(row["epsilon"]) == e for row in rows)]
    print(f"\n### {data}\n")
    heads = [f"ε = {e:g}: published → worst (union)" for e in radii]
    print("| method | seeds | clean | " + " | ".join(heads) + " |")
    print("|---" * (3 + len(radii)) + "|")
    for name in names:
        cells, clean = [], {}
        for epsilon in radii:
            naive = values(rows, name, epsilon, "naive", "accuracy")
            worst = values(rows, name, epsilon, "worst case", "accuracy")
            union = values(rows, name, epsilon, "worst case", "union")
            clean |= values(rows, name, epsilon, "worst case", "clean")
            if not worst:
                cells.append("")
                continue
            parts = [interval(list(part.values())) for part in (naive, worst, union)]
            cells.append(f"{parts[0]} → **{parts[1]}** ({parts[2]})")
        if clean:
            print(
                f"| {name} | {len(clean)} | {interval(list(clean.values()))} | "
                + " | ".join(cells)
                + " |"
            )
    for name, twin in PAIRS.items():
        for epsilon in radii:
            ours = values(rows, name, epsilon, "worst case", "accuracy")
            theirs = values(rows, twin, epsilon, "worst case", "accuracy")
            both = sorted(ours.keys() & theirs)
            if both and max([*ours.values(), *theirs.values()]) > 0.02:
                apart = [ours[seed] - theirs[seed] for seed in both]
                union = values(rows, name, epsilon, "worst case", "union")
                lower = [union[seed] - theirs[seed] for seed in both]
                print(
                    f"\n{name} less {twin}, ε = {epsilon:g}, {len(both)} seeds, worst case: "
                    f"{interval(apart)}; union: {interval(lower)}",
                    end="",
                )
    print()


def beside_auto_attack(data: str) -> None:
    """Print the library's suite beside ours, for methods and seeds that faced both."""
    rows = [row for row in read(RESULTS) if row["data"] == data]
    for name, epsilon in dict.fromkeys((row["method"], float(row["epsilon"])) for row in rows):
        auto = values(rows, name, epsilon, str(AutoAttack()), "accuracy")
        if auto:
            own = values(rows, name, epsilon, "worst case", "accuracy")
            ours = interval([own[seed] for seed in auto])
            theirs = interval(list(auto.values()))
            print(f"{name}, ε = {epsilon:g}: AutoAttack {theirs}, our suite {ours}")


def certificates(data: str) -> None:
    """Print what the nearest pixel certifies."""
    rows = [row for row in read(RESULTS) if row["data"] == data]
    for epsilon in RADII[data]:
        found = values(rows, "nearest pixels", epsilon, "certificate", "accuracy")
        if found:
            clean = values(rows, "nearest pixels", epsilon, "certificate", "clean")
            print(
                f"nearest pixels: {interval(list(clean.values()))} clean, "
                f"{interval(list(found.values()))} certified at {epsilon:g}"
            )


def small_changes(data: str) -> None:
    """Print CW: accuracy and median distance of the last point, and the least change found."""
    rows = [row for row in read(RESULTS) if row["data"] == data and row["epsilon"] == "inf"]
    if not rows:
        return
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    print("\n| method | " + " | ".join(attacks) + " |")
    print("|---" * (1 + len(attacks)) + "|")
    for name in published():
        cells = []
        for attack in attacks:
            right = values(rows, name, np.inf, attack, "accuracy")
            far = values(rows, name, np.inf, attack, "distance")
            if right:
                cells.append(
                    f"{interval(list(right.values()))} at {np.mean(list(far.values())):.2f}"
                )
        if cells:
            print(f"| {name} | " + " | ".join(cells) + " |")


def threat_models() -> None:
    """Print the worst case under each threat model, and the clean accuracy in it."""
    rows = [row for row in read(THREATS) if row["attack"] == "worst case"]
    if not rows:
        return
    threats = list(dict.fromkeys(row["threat"] for row in rows))
    print("\n### digits, other threat models\n\n| method | " + " | ".join(threats) + " |")
    print("|---" * (1 + len(threats)) + "|")
    for name in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for threat in threats:
            own = [row for row in rows if (row["method"], row["threat"]) == (name, threat)]
            clean, worst = ([float(row[key]) for row in own] for key in ("clean", "accuracy"))
            cells.append(f"{interval(clean)} → **{interval(worst)}**" if own else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", action="store_true", help="draw curves.png")
    if parser.parse_args().figure:
        draw()
        return
    for data in RADII:
        if any(row["data"] == data for row in read(RESULTS)):
            table(data, all_methods(data))
            beside_auto_attack(data)
            certificates(data)
            small_changes(data)
    threat_models()


def draw() -> None:
    """Draw accuracy against epsilon: the published attacks dashed, the worst case solid."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read(RESULTS)
    shown = {
        "softmax": "tab:gray",
        "graph": "tab:red",
        "graph, relative pairs": "tab:orange",
        "softmax, TRADES": "tab:blue",
        "softmax, TRADES, then TRADES": "tab:cyan",
        "graph, TRADES, after softmax, 100 anchors": "tab:green",
    }
    radii_of = {data: {row["epsilon"] for row in rows if row["data"] == data} for data in RADII}
    tasks = [data for data, radii in radii_of.items() if len(radii - {"inf"}) > 1]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(max(6, 4.2 * len(tasks)), 4.4), squeeze=False
    )
    for axis, data in zip(axes[0], tasks, strict=True):
        own = [row for row in rows if row["data"] == data]
        for name, colour in shown.items():
            for kind, style in (("naive", "--"), ("worst case", "-")):
                points = {}
                for epsilon in RADII[data]:
                    found = values(own, name, epsilon, kind, "accuracy")
                    if found:
                        points[epsilon] = 100 * np.mean(list(found.values()))
                        clean = values(own, name, epsilon, "worst case", "clean")
                        points[0.0] = 100 * np.mean(list(clean.values()))
                radii = sorted(points)
                label = f"{name}, {'published attacks' if kind == 'naive' else 'worst case'}"
                heights = [points[radius] for radius in radii]
                axis.plot(radii, heights, style, marker=".", color=colour, label=label)
        axis.set(title=data, xlabel="ε (pixels in [0, 1])", ylim=(0, 101))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("accuracy, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=2, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.26, 1, 1))
    figure.savefig(HERE / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
