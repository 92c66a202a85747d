"""Small evaluated runs for the tests of reports, and reports read back from disk or a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from weft.lab.recipe import Recipe
from weft.lab.runs import Run

CLASSES = ["cat", "dog", "hen"]
HOSTILE = "</script><script>document.documentElement.dataset.hacked=1</script><b title='\"&$x_{"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def make_run(path, *, accuracy=0.75, classes=CLASSES, vectors=False, without=(), **fields) -> Path:
    """Write an evaluated run of 12 samples and 5 anchors; every fourth prediction is wrong."""
    recipe = Recipe(**({"data": "digits", "labels": 5} | fields))
    rng = np.random.default_rng(recipe.seed)
    m, a, c = 12, 5, len(classes)
    labels = np.arange(m) % c
    anchor_labels = np.arange(a) % c
    shares = rng.dirichlet(np.full(a, 0.3), size=m)
    right = np.arange(m) % 4 != 0
    wanted = np.where(right, labels, (labels + 1) % c)
    shares += 3 * (anchor_labels == wanted[:, None])
    abstention = np.zeros(m) if recipe.head == "softmax" else np.linspace(0.3, 0, m)
    shares *= (1 - abstention)[:, None] / shares.sum(axis=1, keepdims=True)
    shape = (4,) if vectors else (1, 6, 4)
    arrays = {
        "labels": labels,
        "probabilities": shares @ np.eye(c)[anchor_labels],
        "abstention": abstention,
        "features": rng.normal(size=(m, 3)).astype(np.float32),
        "inputs": rng.random((m, *shape), dtype=np.float32),
        "index": 10 + 3 * np.arange(m),
        "anchor_labels": anchor_labels,
        "anchor_inputs": rng.random((a, *shape), dtype=np.float32),
        "anchor_features": rng.normal(size=(a, 3)).astype(np.float32),
    }
    if recipe.head == "graph":
        order = np.argsort(-shares, axis=1)[:, :3]
        nodes = (np.arange(m)[:, None] + [1, 2, m]) % (m + a)
        arrays |= {
            "reason_anchor": order,
            "reason_weight": np.take_along_axis(shares, order, axis=1),
            "neighbor_index": nodes,
            "neighbor_weight": np.tile([0.5, 0.25, 0.125], (m, 1)),
        }
    context = {"accuracy": accuracy, "ece": 0.125, "abstention": abstention.mean()}
    run = Run.create(path, recipe)
    run.append_metrics(
        [
            {"epoch": epoch, "step": epoch, "split": split, "loss": 1 / epoch, "accuracy": 0.5}
            for epoch in (1, 2, 3)
            for split in ("train", "valid")
        ]
    )
    run.save_results(
        {
            "num_test": 40,
            "classes": classes,
            "contexts": {
                "whole": context,
                "batch": context | {"accuracy": accuracy - 0.01},
                "query": context | {"accuracy": accuracy - 0.02},
            },
        }
    )
    run.save_predictions({name: array for name, array in arrays.items() if name not in without})
    return path


class Page(HTMLParser):
    """A report read back: its tables, what it loads, what it says, its samples."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tables: list[list[list[str]]] = []
        self.loads: list[str] = []
        self.said: list[str] = []
        self.into = [""]
        self.feed(self.source)
        found = re.search(r'type="application/json">(.*?)</script>', self.source, re.DOTALL)
        assert found
        self.samples = json.loads(found[1])

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.into = self.tables[-1][-1]
            self.into.append("")
        elif tag in ("p", "li", "figcaption", "h1"):
            self.into = self.said
            self.into.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "p", "li", "figcaption", "h1"):
            self.into[-1] = " ".join(self.into[-1].split())
            self.into = [""]

    def handle_data(self, data):
        self.into[-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.said)


def browse(page: Path, address: str = "", script: str = "") -> str:
    """Open a report in headless Chromium, run a script in it, and return the DOM as HTML."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: install it to test the page in a browser")
    copy = page.with_name("opened.html")
    copy.write_text(page.read_text(encoding="utf-8") + f"<script>{script}</script>", "utf-8")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", f"--user-data-dir={page.parent / 'profile'}", "--dump-dom"),
        copy.as_uri() + address,
    ]
    dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    html = re.search(r"<html[^>]*>", dom)
    assert html
    assert "data-error" not in html[0], html[0]
    assert 'data-ready="true"' in html[0], html[0]
    return dom
