"""The report's explorer works in a browser, from the address to the reasons of a prediction."""

import re
from pathlib import Path

import numpy as np
import pytest

from .report_pages import HOSTILE, Page, browse, make_run

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from weft.lab.report import write_report


def detail(dom: str) -> str:
    found = re.search(r'<div id="detail".*?</section>', dom, re.DOTALL)
    assert found
    return found[0].replace("&nbsp;", " ")


@pytest.fixture
def two_heads(tmp_path) -> Path:
    runs = [make_run(tmp_path / head, head=head) for head in ("softmax", "graph")]
    return write_report(runs, tmp_path / "report.html")


def test_the_address_chooses_a_sample_and_shows_what_decided_it(two_heads):
    samples = Page(two_heads).samples
    run, row = samples["runs"][1], 4  # number 22, a wrong one
    shown = detail(browse(two_heads, "#sample=22&run=1"))
    guess, truth = (samples["classes"][k] for k in (run["classes"][row][0], run["labels"][row]))
    assert f'data-sample="22" data-label="{truth}" data-predicted="{guess}"' in shown
    assert f"<strong>Predicted {guess}</strong>, wrong: it is {truth}" in shown
    weights, none = run["reasons"]["weights"][row], run["abstention"][row]
    rest = 1 - sum(weights) - none
    assert (
        f"These 3 carry {100 * sum(weights):.1f} %, all others together {100 * rest:.1f} %, "
        f"and {100 * none:.1f} % reached no label" in shown
    )
    for weight in weights:
        assert f"<strong>{100 * weight:.1f} %</strong>" in shown
    assert "<div>sample 25</div>" in shown  # the next row is its first neighbour
    assert "<strong>0.500</strong>" in shown


def test_the_list_can_be_kept_to_wrong_samples(two_heads):
    dom = browse(two_heads, "#sample=22&run=1&show=wrong")
    assert re.findall(r'role="option"', dom) == ['role="option"'] * 3  # 3 of 12 are wrong
    assert "3 of 12 samples" in dom


def test_a_softmax_head_says_why_it_has_no_reasons(two_heads):
    shown = detail(browse(two_heads, "#sample=13&run=0"))
    assert "no labelled example stands behind a single prediction" in shown
    assert "Its neighbours" not in shown


def test_arrow_keys_search_and_choice_of_run_move_through_the_samples(two_heads):
    script = """
    const at = (id) => document.getElementById(id);
    const press = (key) => at("samples").dispatchEvent(new KeyboardEvent("keydown", { key }));
    const said = [];
    const note = () => said.push(at("detail").dataset.sample + location.hash);
    at("search").value = "19"; at("search").dispatchEvent(new Event("input")); note();
    press("ArrowRight"); note();
    press("End"); note();
    press("Home"); press("ArrowLeft"); note();
    at("run").value = "0"; at("run").dispatchEvent(new Event("change")); note();
    at("filter").value = "doubt"; at("filter").dispatchEvent(new Event("change")); note();
    document.documentElement.dataset.said = said.join(" ");
    """
    run = Page(two_heads).samples["runs"][0]
    doubtful = run["index"][int(np.argmin(np.max(run["probabilities"], 1)))]
    found = re.search(r'data-said="([^"]*)"', browse(two_heads, script=script))
    assert found
    assert found[1].replace("&amp;", "&").split() == [
        "19#sample=19&run=1&show=all",
        "22#sample=22&run=1&show=all",
        "43#sample=43&run=1&show=all",
        "10#sample=10&run=1&show=all",
        "10#sample=10&run=0&show=all",
        f"{doubtful}#sample={doubtful}&run=0&show=doubt",
    ]


def test_vectors_have_an_explorer_too(tmp_path):
    page = write_report([make_run(tmp_path / "run", vectors=True)], tmp_path / "report.html")
    assert 'data-sample="13"' in detail(browse(page, "#sample=13"))


def test_hostile_text_runs_nothing_in_the_browser(tmp_path):
    run = make_run(tmp_path / "run", classes=[HOSTILE, "dog", "hen"], data=HOSTILE)
    dom = browse(write_report([run], tmp_path / "report.html"), "#sample=13")
    assert "data-hacked" not in re.search(r"<html[^>]*>", dom)[0]
    assert "&lt;/script&gt;&lt;script&gt;document" in detail(dom)


def test_a_mistake_in_the_page_would_be_seen(two_heads):
    with pytest.raises(AssertionError, match="data-error"):
        browse(two_heads, script="undefinedFunction();")


def test_the_true_class_is_shown_even_where_it_is_least_probable(tmp_path):
    run = make_run(tmp_path / "run", classes=[f"class {k}" for k in range(12)])
    page = write_report([run], tmp_path / "report.html")
    assert "✓ class 11" in detail(browse(page, "#sample=43"))  # ten others are more probable
