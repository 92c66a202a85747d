"""The command line: words in, one line per result out, exit code 2 for a user's mistake.

`weft --help` answers at once: torch is imported inside the commands that compute.
"""

import dataclasses
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

try:
    import typer
except ImportError:
    sys.exit("weft: the command line needs packages that are missing: pip install 'weft[lab]'.")

from weft import __version__
from weft.lab._attack_settings import AttackSettings
from weft.lab._equations import SpreadName, build_equation, read_shares
from weft.lab._flags import flags_of
from weft.lab.recipe import Recipe
from weft.lab.runs import Run

app = typer.Typer(
    help="Train, judge and question classifiers whose head is a graph.",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
RunPaths = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Context = Literal["whole", "batch", "query"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a user's mistake, 130 stopped by Ctrl-C.

    `weft attack` exits with 1 where a check of its own failed.
    Any other error is a bug in this library, and shows its traceback.
    """
    try:
        code = app(args=arguments, prog_name="weft", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped.", code=130)
    except typer.TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}. See `weft --help`.", code=2)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = None
        sys.exit(0)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _fail(f"{named}.", code=2)
    except (ValueError, RuntimeError) as error:
        # What weft itself raises is meant for the user; what a library raises is a bug of ours.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals.get("__name__", "").startswith("weft."):
            raise
        _fail(" ".join(str(error).split()), code=2)
    sys.exit(code or 0)


def _fail(message: str, *, code: int) -> NoReturn:
    print(f"weft: {message}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _weft(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"weft {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
@flags_of(Recipe, "Recipe")
def train(
    context: typer.Context,
    path: RunPath,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file; flags beside it win.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run.")] = False,
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Train a classifier, and keep all that made it in the directory RUN."""
    source = context.get_parameter_source
    given = {
        name: value for name, value in flags.items() if str(source(name)).endswith("COMMANDLINE")
    }
    if resume and (given or recipe or overwrite):
        raise ValueError(
            "--resume goes on with the recipe of the run, got other flags beside it: "
            "leave them out, or start anew with --overwrite."
        )
    if resume:
        run = Run.open(path)
    else:
        start = Recipe.read(recipe) if recipe else Recipe()
        run = Run.create(path, dataclasses.replace(start, **given), overwrite=overwrite)

    from weft.lab.train import train

    try:
        result = train(run)
    except KeyboardInterrupt:
        state = run.load_checkpoint()
        done = state["epoch"] if state else 0
        _fail(
            f"stopped; {done} of {run.recipe.epochs} epochs are safe: "
            f"go on with `weft train {path} --resume`.",
            code=130,
        )
    words = ", ".join(f"{name} {value:.4g}" for name, value in result.items())
    print(json.dumps({"run": str(path), **result}) if as_json else f"{path}: {words}")


@app.command()
def evaluate(paths: RunPaths, as_json: AsJson = False) -> None:
    """Test trained runs in three contexts: the whole set, batches, one query at a time."""
    from weft.lab.evaluate import evaluate

    for path in paths:
        results = evaluate(Run.open(path))
        if as_json:
            print(json.dumps({"run": str(path), **results}), flush=True)
            continue
        for context, values in (results["contexts"] | results["levels"]).items():
            words = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            print(f"{path}  {context:5}  {words}", flush=True)


@app.command()
def predict(
    path: RunPath,
    inputs: Annotated[Path, typer.Argument(help="A .npz, a .csv, or a folder of images.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.csv", help="Table to write.")
    ],
    context: Annotated[Context, typer.Option(help="What shares a graph with a sample.")] = "whole",
    as_json: AsJson = False,
) -> None:
    """Predict samples that have no labels, into a CSV table."""
    from weft.lab.predict import predict

    count = predict(Run.open(path), inputs, output, context=context)
    record = {"output": str(output), "samples": count, "context": context}
    line = f"{output}: {count} samples, predicted in the context {context}"
    print(json.dumps(record) if as_json else line)


@app.command()
def explain(
    path: RunPath,
    sample: Annotated[int, typer.Option(help="Number of a test sample, from 0.")],
    most: Annotated[int, typer.Option(help="How many labelled examples to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show the labelled examples behind one prediction, with their exact weights."""
    from weft.lab.explain import explain

    answer = explain(Run.open(path), sample)
    lines = [str(path), *answer.lines(most)]
    print(json.dumps(dataclasses.asdict(answer)) if as_json else "\n".join(lines))


@app.command()
def audit(
    path: RunPath,
    most: Annotated[int, typer.Option(help="How many labels to list.")] = 20,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.html", help="Page to write, with pictures."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the labels most likely wrong, and the examples that speak against them."""
    from weft.lab.audit import audit

    found = audit(Run.open(path), most, output)
    lines = [str(path), *found.lines()]
    print(json.dumps(dataclasses.asdict(found)) if as_json else "\n".join(lines))


@app.command()
@flags_of(AttackSettings)
def attack(
    path: RunPath,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew.")] = False,
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Attack a run in every way there is, and check whether the numbers can be believed.

    Goes on by itself where it was stopped. Exit code 1 if a check of masking failed.
    """
    from weft.lab.attack import attack, lines

    try:
        results = attack(Run.open(path), AttackSettings(**flags), overwrite=overwrite)
    except KeyboardInterrupt:
        _fail("stopped; finished attacks are safe: the same command goes on.", code=130)
    print(json.dumps(results) if as_json else "\n".join([str(path), *lines(results)]))
    raise typer.Exit(0 if results["passed"] else 1)


@app.command()
def propagate(
    features: Annotated[Path, typer.Argument(metavar="FEATURES.npy", help="One row per sample.")],
    labels: Annotated[
        Path,
        typer.Option(help="An .npy, -1 where not known, or a .csv with the columns row and label."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.npz", help="Predictions to write.")
    ],
    k: Annotated[int, typer.Option(help="Neighbours of each row.", min=1)] = 10,
    search: Annotated[
        Literal["exact", "index"], typer.Option(help="All distances, or FAISS's cells.")
    ] = "exact",
    probes: Annotated[int, typer.Option(help="Cells that the index looks into.", min=1)] = 16,
    least_recall: Annotated[
        float, typer.Option(help="Share of true neighbours the index must find.", min=0, max=1)
    ] = 0.9,
    equation: Annotated[SpreadName, typer.Option(help="How labels spread.")] = "laplace",
    tau: Annotated[float, typer.Option(help="Decay per row.", min=0)] = 0.0,
    shares: Annotated[
        str, typer.Option(metavar="A,B,...", help="Shares of the classes, where known.")
    ] = "",
    tolerance: Annotated[float, typer.Option(help="Relative residual of the solve.")] = 1e-6,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 = torch's.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Spread the labels of a few rows over all rows of a file; resumes by itself."""
    import torch

    from weft.graph import ClassMass, ExactNeighbors, FaissNeighbors, VolumeConstraint
    from weft.lab.propagate import propagate

    if threads:
        torch.set_num_threads(threads)
    exact, volumes = search == "exact", read_shares(shares)
    normalization = ClassMass(below=0.03) if equation == "laplace" else None
    record = propagate(
        features,
        labels,
        output,
        build_equation(equation, tau, volumes),
        ExactNeighbors() if exact else FaissNeighbors(probes=probes, least_recall=least_recall),
        k=k,
        normalization=VolumeConstraint(volumes) if volumes else normalization,
        tolerance=tolerance,
    )
    words = ", ".join(f"{name} {value}" for name, value in record.items() if name != "output")
    print(json.dumps(record) if as_json else f"{output}: {words}")


@app.command()
def compare(paths: RunPaths, as_json: AsJson = False) -> None:
    """Compare evaluated runs: accuracy by context, mean and 95 % t-interval over seeds."""
    from weft.lab.compare import as_table, compare

    rows = compare(paths)
    print(json.dumps(rows) if as_json else "\n".join(as_table(rows)))


@app.command()
def report(
    paths: RunPaths,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.html", help="Page to write.")
    ],
) -> None:
    """Write one self-contained HTML page about evaluated runs."""
    from weft.lab.report import write_report

    print(write_report(paths, output))


@app.command()
def demo(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Where to work.")] = Path("demo"),
) -> None:
    """Train both heads on digits with 100 labels, and write a page that compares them."""
    from weft.lab.compare import as_table, compare
    from weft.lab.demo import demo

    print("\n".join(as_table(compare(demo(path)))))
    print(path / "report.html")
