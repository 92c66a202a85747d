import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from typing import get_args, get_type_hints

import numpy as np
import pytest
import typer

import weft
from weft import cli
from weft.lab.recipe import Recipe
from weft.lab.runs import METRICS, RESULTS, Run

TINY = ["--labels", "50", "--backbone", "mlp", "--steps", "2", "--epochs", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An evaluated run per head."""
    folder = tmp_path_factory.mktemp("runs")
    for head in ("softmax", "graph"):
        for words in (["train", folder / head, "--head", head, *TINY], ["evaluate", folder / head]):
            with pytest.raises(SystemExit, match=r"^0$"):
                cli.main([str(word) for word in words])
    return folder


def test_help_answers_without_importing_torch():
    script = "import sys\nfrom weft.cli import main\ntry: main(['--help'])\n"
    script += "finally: print('torch' in sys.modules, 'sklearn' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0
    assert "train" in run.stdout
    assert run.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    "command",
    ["train", "evaluate", "predict", "explain", "audit", "attack", "compare", "report", "demo"],
)
def test_every_command_explains_itself(call, command):
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: weft {command}" in out


def test_the_version_is_the_packages(call):
    assert call("--version") == (0, f"weft {weft.__version__}\n", "")


def test_no_words_show_the_commands(call):
    code, out, _ = call()
    assert code == 0
    assert "evaluate" in out


def test_flags_are_the_fields_of_a_recipe():
    flags = {flag.name: flag for flag in typer.main.get_command(cli.app).commands["train"].params}
    annotations = inspect.signature(cli.train).parameters
    types = get_type_hints(Recipe)
    assert set(flags) - {"path", "recipe", "resume", "overwrite", "as_json"} == set(types)
    for field in dataclasses.fields(Recipe):
        flag = flags[field.name]
        assert flag.opts == [f"--{field.name.replace('_', '-')}"]
        assert (flag.default, flag.help) == (field.default, field.metadata["help"])
        assert get_args(annotations[field.name].annotation)[0] == types[field.name]


def test_flags_win_over_the_file_and_the_file_over_the_defaults(call, tmp_path):
    (tmp_path / "recipe.toml").write_text('head = "softmax"\nfeatures = 8\nepochs = 9\n')
    words = ["--recipe", tmp_path / "recipe.toml", *TINY]
    code, _, _ = call("train", tmp_path / "run", *words)
    assert code == 0
    recipe = Run.open(tmp_path / "run").recipe
    assert (recipe.head, recipe.features, recipe.epochs, recipe.k) == ("softmax", 8, 2, Recipe.k)


def test_a_flag_that_repeats_the_default_still_wins_over_the_file(call, tmp_path):
    (tmp_path / "recipe.toml").write_text('head = "softmax"\nseed = 3\n')
    words = ["--recipe", tmp_path / "recipe.toml", "--seed", "0", *TINY]
    call("train", tmp_path / "run", *words)
    assert Run.open(tmp_path / "run").recipe.seed == 0


def test_training_prints_one_line_on_stdout_and_progress_on_stderr(call, tmp_path):
    code, out, err = call("train", tmp_path / "run", "--head", "softmax", *TINY)
    assert code == 0
    assert out.count("\n") == 1
    assert out.startswith(f"{tmp_path}/run: epochs 2, ")
    assert "epoch 2/2" in err
    assert "samples/s" in err


def test_every_result_is_also_json(call, trained):
    softmax, graph = trained / "softmax", trained / "graph"
    words = {
        "train": ["train", graph, "--resume"],
        "evaluate": ["evaluate", softmax, graph],
        "explain": ["explain", graph, "--sample", "3"],
        "compare": ["compare", softmax, graph],
    }
    found = {}
    for name, line in words.items():
        code, out, _ = call(*line, "--json")
        assert code == 0
        found[name] = [json.loads(text) for text in out.splitlines()]
    assert found["train"][0]["epochs"] == 2
    assert [one["head"] for one in found["evaluate"]] == ["softmax", "graph"]
    assert found["explain"][0]["sample"] == 3
    assert {row["head"] for row in found["compare"][0]} == {"softmax", "graph"}


def test_evaluate_prints_a_line_per_context(call, trained):
    code, out, _ = call("evaluate", trained / "graph")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[1] for line in lines] == ["whole", "batch", "query"]
    assert all(line[2] == "accuracy" for line in lines)


def test_explain_prints_weights_that_sum_to_what_is_not_abstained(call, trained):
    code, out, _ = call("explain", trained / "graph", "--sample", "17", "--most", "3")
    assert code == 0
    _, title, *reasons, rest, total = out.splitlines()
    weights = [float(line.split()[0]) for line in [*reasons, rest]]
    assert len(reasons) == 3
    assert sum(weights) == pytest.approx(float(total.split()[0]), abs=3e-4)
    doubt = float(title.split("abstention ")[1].split()[0])
    assert float(total.split()[0]) == pytest.approx(1 - doubt, abs=2e-4)


def test_predict_says_which_context_it_used(call, trained, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.zeros((3, 64), np.float32))
    words = ["predict", trained / "graph", tmp_path / "in.npz", "-o", tmp_path / "out.csv"]
    assert "3 samples, predicted in the context whole" in call(*words)[1]
    code, out, _ = call(*words, "--context", "query", "--json")
    assert code == 0
    assert json.loads(out)["context"] == "query"
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


def test_compare_and_report_take_several_runs(call, trained, tmp_path):
    runs = [trained / "softmax", trained / "graph"]
    code, out, _ = call("compare", *runs)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["recipe", "softmax", "graph"]
    code, out, _ = call("report", *runs, "-o", tmp_path / "report.html")
    assert (code, out.strip()) == (0, str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'RUN'"),
        (["train", "RUN", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["train", "RUN", "--head", "sofmax"], "'sofmax' is not one of 'softmax', 'graph'"),
        (["train", "RUN", "--epochs", "0"], "`epochs` must be at least 1, got 0"),
        (["train", "RUN", "--data", "nope"], "There are no data 'nope'"),
        (["train", "RUN", "--data", "nope.csv"], "nope.csv is missing"),
        (["train", "RUN", "--recipe", "nope.toml"], "nope.toml: No such file or directory"),
        (["train", "RUN", "--labels", "10"], "needs two labelled samples of a class"),
        (["train", "RUN", "--labels", "3"], "`num_labelled` must be from 10"),
        (["train", "RUN", "--resume"], "must be a run directory, got one without recipe.toml"),
        (["train", "TRAINED"], "got a run already there: continue it with --resume"),
        (["train", "TRAINED", "--resume", "--k", "3"], "--resume goes on with the recipe of"),
        (["evaluate", "RUN"], "must be a run directory"),
        (["explain", "TRAINED", "--sample", "0"], "needs a graph head, got softmax"),
        (["predict", "TRAINED", "nope.npz", "-o", "out.csv"], "nope.npz is missing"),
        (["compare", "RUN"], "must be a run directory"),
        (["report", "TRAINED", "-o", "."], "`output` must be a file"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    call, trained, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": tmp_path / "run", "TRAINED": trained / "softmax"}
    code, out, err = call(*(places.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("weft: ")
    assert message in err


def test_a_mistake_in_the_first_try_leaves_the_name_free(call, tmp_path):
    assert call("train", tmp_path / "run", "--data", "nope")[0] == 2
    assert call("train", tmp_path / "run", "--head", "softmax", *TINY)[0] == 0


def test_a_bug_shows_its_traceback(monkeypatch):
    def broken(*_):
        np.zeros(3).reshape(2)  # a ValueError, but not one that weft raised for the user

    monkeypatch.setattr("weft.lab.evaluate.load_trained", broken)
    monkeypatch.setattr("weft.cli.Run.open", lambda path: path)
    with pytest.raises(ValueError, match="cannot reshape"):
        cli.main(["evaluate", "run"])


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is a signal of POSIX")
def test_ctrl_c_says_what_is_safe_and_how_to_go_on(tmp_path):
    words = ["train", str(tmp_path / "run"), "--head", "softmax", *TINY, "--epochs", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "weft", *words], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / METRICS).exists():
        assert process.poll() is None, "training ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("weft: stopped; ")
    assert last.endswith(f"of 100000 epochs are safe: go on with `weft train {words[1]} --resume`.")
    assert "Traceback" not in err
    assert (Run.open(tmp_path / "run").load_checkpoint() or {})["epoch"] >= 1


def test_the_demo_writes_a_page_and_goes_on_where_it_stopped(call, tmp_path, monkeypatch):
    from weft.lab import demo

    for name in ("SOFTMAX", "GRAPH"):
        small = dataclasses.replace(
            getattr(demo, name), backbone="mlp", pretrain=2, epochs=1, steps=2
        )
        monkeypatch.setattr(demo, name, small)
    code, out, _ = call("demo", tmp_path / "demo")
    assert (code, out.splitlines()[-1]) == (0, str(tmp_path / "demo" / "report.html"))
    before = (tmp_path / "demo" / "graph" / RESULTS).read_bytes()
    assert call("demo", tmp_path / "demo")[0] == 0
    assert (tmp_path / "demo" / "graph" / RESULTS).read_bytes() == before
