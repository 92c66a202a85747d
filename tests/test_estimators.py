import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading
from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

from weft.estimators import GraphLearningClassifier
from weft.graph import (
    WNLL,
    CenteredKernel,
    Laplace,
    Laplacian,
    NearestLabel,
    PageRank,
    PLaplace,
    Poisson,
    PoissonMBO,
    ProperlyWeighted,
    SparsePropagation,
    Spreading,
    VolumeConstraint,
)

MINUS_ONE = {
    "check_classifiers_classes": "takes -1 for a class; scikit-learn spares its own semi-supervised"
    " estimators that, by name (tested under such a name below)"
}


@parametrize_with_checks(
    [GraphLearningClassifier(), GraphLearningClassifier(5, kernel="tapered", normalize=True)],
    expected_failed_checks=lambda _: MINUS_ONE,
)
def test_keeps_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_keeps_the_convention_of_classes_as_the_semi_supervised_estimators_do():
    check_classifiers_classes("LabelSpreading", GraphLearningClassifier())


@pytest.fixture(scope="module")
def digits():
    """Features and true labels of the digits, and a copy of the labels with ten a class left."""
    X, y = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    kept = [generator.choice(np.flatnonzero(y == digit), 10, replace=False) for digit in range(10)]
    partial = np.full_like(y, -1)
    partial[np.concatenate(kept)] = y[np.concatenate(kept)]
    return X, y, partial


@pytest.fixture
def moons():
    """Two interleaving half circles, 120 points, eight of them labelled."""
    X, y = make_moons(120, noise=0.08, random_state=0)
    partial = np.where(np.arange(120) < 8, y, -1)
    assert set(partial) == {-1, 0, 1}
    return X, y, partial


# Quality


def test_reads_digits_better_than_label_spreading_and_nearest_neighbours(digits):
    X, y, partial = digits
    hidden = partial == -1
    ours = GraphLearningClassifier(10).fit(X, partial)
    spreading = LabelSpreading(kernel="knn").fit(X, partial)
    nearest = KNeighborsClassifier(1).fit(X[~hidden], y[~hidden])
    accuracy = (ours.transduction_ == y)[hidden].mean()
    assert accuracy > 0.965
    assert accuracy > (spreading.transduction_ == y)[hidden].mean() + 0.01
    assert accuracy > nearest.score(X[hidden], y[hidden]) + 0.03


def test_new_samples_are_read_as_well_as_those_that_were_there(digits):
    X, y, partial = digits
    model = GraphLearningClassifier(10).fit(X[:1200], partial[:1200])
    assert model.score(X[1200:], y[1200:]) > 0.9
    assert model.score(X[:1200], y[:1200]) > 0.95


def test_follows_the_moons_from_eight_labels(moons):
    X, y, partial = moons
    assert (GraphLearningClassifier(8).fit(X, partial).transduction_ == y).mean() > 0.95


def test_known_shares_decide_how_many_samples_a_class_gets():
    X = np.random.default_rng(0).normal(size=(200, 2))
    y = np.full(200, -1)
    y[[int(X[:, 0].argmin()), int(X[:, 0].argmax())]] = 0, 1
    model = GraphLearningClassifier(8, class_mass=(3.0, 1.0)).fit(X, y)
    assert (model.transduction_ == 0).mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_allclose(model.label_distributions_.sum(1), 1)
    with pytest.raises(ValueError, match="`priors` must have 2 entries, one per class, got 3"):
        GraphLearningClassifier(8, class_mass=[1, 1, 1]).fit(X, y)


def test_class_masses_help_where_one_label_a_class_is_known(digits):
    X, y, partial = digits
    first = [np.flatnonzero(partial == digit)[0] for digit in range(10)]
    few = np.full_like(y, -1)
    few[first] = y[first]
    accuracy = {
        choice: (
            GraphLearningClassifier(10, class_mass=choice).fit(X, few).transduction_ == y
        ).mean()
        for choice in ("auto", True, False)
    }
    assert accuracy["auto"] == accuracy[True] > accuracy[False] + 0.02


# What comes out


def test_rows_are_distributions_and_the_transduction_is_their_maximum(moons):
    X, _, partial = moons
    model = GraphLearningClassifier(8, tau=0.05).fit(X, partial)
    np.testing.assert_allclose(model.label_distributions_.sum(1), 1)
    np.testing.assert_array_equal(
        model.transduction_, model.classes_[model.label_distributions_.argmax(1)]
    )
    known = partial != -1
    np.testing.assert_array_equal(model.transduction_[known], partial[known])
    np.testing.assert_array_equal(model.label_distributions_[known].max(1), 1)
    assert model.X_.shape == X.shape
    assert model.n_features_in_ == 2


def test_abstention_is_the_mass_that_decays(moons):
    X, _, partial = moons
    without, with_decay = (GraphLearningClassifier(8, tau=t).fit(X, partial) for t in (0.0, 0.05))
    np.testing.assert_allclose(without.abstention_, 0, atol=1e-9)
    np.testing.assert_allclose(without.abstention(X + 0.01), 0, atol=1e-9)
    assert (with_decay.abstention_[partial != -1] == 0).all()
    assert (with_decay.abstention_[partial == -1] > 0.01).all()
    assert (with_decay.abstention(X + 0.01) > 0).all()


def test_a_sample_that_no_label_reaches_abstains_and_is_uniform(moons):
    X, _, partial = moons
    island = X[:30] + 1000
    model = GraphLearningClassifier(8).fit(
        np.concatenate([X, island]), np.concatenate([partial, np.full(30, -1)])
    )
    np.testing.assert_array_equal(model.abstention_[120:], 1)
    np.testing.assert_array_equal(model.label_distributions_[120:], 0.5)
    np.testing.assert_array_equal(model.abstention(island), 1)
    np.testing.assert_array_equal(model.predict_proba(island), 0.5)


def test_a_new_sample_takes_the_mean_of_its_neighbours(moons):
    X, _, partial = moons
    model = GraphLearningClassifier(1, bandwidth=0.5).fit(X, partial)
    np.testing.assert_allclose(model.predict_proba(X + 1e-6), model.label_distributions_, atol=1e-9)


def test_an_answer_does_not_depend_on_what_else_is_asked(moons):
    X, _, partial = moons
    model = GraphLearningClassifier(8).fit(X, partial)
    together = model.predict_proba(X + 0.02)
    alone = np.concatenate([model.predict_proba(row[None] + 0.02) for row in X])
    np.testing.assert_allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"tau": 0.1}, {"fidelity": 0.5}], ids=str)
def test_explanations_reproduce_the_prediction(moons, settings):
    X, _, partial = moons
    model = GraphLearningClassifier(8, class_mass=False, **settings).fit(X, partial)
    queries = X[20:60] + 0.03
    weights = model.explain(queries)
    assert (weights >= -1e-12).all()
    assert (weights[:, partial == -1] == 0).all()
    np.testing.assert_allclose(weights.sum(1), 1 - model.abstention(queries))
    scores = weights @ (partial[:, None] == model.classes_)
    np.testing.assert_allclose(
        scores / scores.sum(1, keepdims=True), model.predict_proba(queries), atol=1e-9
    )


def test_an_explanation_says_what_another_label_would_change(moons):
    X, _, partial = moons
    model = GraphLearningClassifier(8, class_mass=False).fit(X, partial)
    queries = X[20:60] + 0.03
    weights, before = model.explain(queries), model.predict_proba(queries)
    changed = partial.copy()
    changed[0] = 1 - partial[0]
    after = clone(model).fit(X, changed).predict_proba(queries)
    np.testing.assert_allclose((after - before)[:, changed[0]], weights[:, 0], atol=1e-9)
    assert weights[:, 0].max() > 0.05


def test_fidelity_lets_a_wrong_label_give_way(moons):
    X, y, _ = moons
    wrong = y.copy()
    wrong[10] = 1 - y[10]
    firm, soft = (GraphLearningClassifier(8, fidelity=f).fit(X, wrong) for f in (None, 0.1))
    assert firm.transduction_[10] == wrong[10]
    assert soft.transduction_[10] == y[10]


# Inputs


def test_labels_may_be_words(moons):
    X, y, partial = moons
    numbers = GraphLearningClassifier(8).fit(X, partial)
    words = np.where(partial == -1, -1, np.array(["down", "up"], dtype=object)[partial])
    model = GraphLearningClassifier(8).fit(X, words)
    assert model.classes_.tolist() == ["down", "up"]
    np.testing.assert_array_equal(model.transduction_ == "up", numbers.transduction_ == 1)
    everything = np.array(["down", "up"])[y]  # no -1 fits among strings
    assert GraphLearningClassifier(8).fit(X, everything).score(X, everything) == 1


def test_scaling_samples_changes_nothing_when_normalised(digits):
    X, _, partial = digits
    X, partial, lengths = X[:300], partial[:300], np.linspace(0.5, 3, 300)[:, None]
    model = GraphLearningClassifier(10, normalize=True).fit(X, partial)
    scaled = clone(model).fit(lengths * X, partial)
    np.testing.assert_allclose(scaled.label_distributions_, model.label_distributions_, atol=1e-9)
    np.testing.assert_allclose(scaled.predict_proba(7 * X), model.predict_proba(X), atol=1e-9)


def test_float32_is_kept_and_agrees(moons):
    X, _, partial = moons
    double = GraphLearningClassifier(8).fit(X, partial)
    single = GraphLearningClassifier(8).fit(X.astype(np.float32), partial)
    assert single.X_.dtype == np.float32
    np.testing.assert_allclose(single.label_distributions_, double.label_distributions_, atol=1e-4)


def test_names_of_a_data_frame_are_kept(moons):
    pandas = pytest.importorskip("pandas")
    X, _, partial = moons
    frame = pandas.DataFrame(X, columns=["east", "north"])
    model = GraphLearningClassifier(8).fit(frame, pandas.Series(partial))
    assert model.feature_names_in_.tolist() == ["east", "north"]
    plain = GraphLearningClassifier(8).fit(X, partial)
    np.testing.assert_array_equal(model.predict_proba(frame), plain.predict_proba(X))
    assert model.explain(frame).shape == (120, 120)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"east": "west"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "rbf"}, "`kernel` must be one of 'gaussian', 'tapered', got 'rbf'"),
        ({"bandwidth": "auto"}, "`bandwidth` must be one of 'self-tuned', got 'auto'"),
        ({"bandwidth": -1.0}, "`value` must be positive, got -1.0"),
        ({"class_mass": "never"}, "`class_mass` must be one of 'auto', True, False, got 'never'"),
        ({"n_neighbors": 0}, "`k` must be at least 1, got 0"),
        ({"tau": -1.0}, "`tau` must be finite and not negative, got -1"),
        ({"fidelity": -1.0}, "`fidelity` must be finite and not negative, got -1"),
    ],
    ids=str,
)
def test_rejects_parameters_without_meaning(moons, settings, message):
    X, _, partial = moons
    with pytest.raises(ValueError, match=message):
        GraphLearningClassifier(**settings).fit(X, partial)


def test_rejects_a_set_without_labels(moons):
    with pytest.raises(ValueError, match="`y` must hold at least one label, got -1 only"):
        GraphLearningClassifier().fit(moons[0], np.full(120, -1))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "abstention", "explain"])
def test_rejects_questions_before_fit(moons, method):
    with pytest.raises(NotFittedError):
        getattr(GraphLearningClassifier(), method)(moons[0])


# In company


def test_works_in_a_pipeline_and_a_grid_search(moons):
    X, y, _ = moons
    pipeline = make_pipeline(StandardScaler(), GraphLearningClassifier())
    grid = {
        "graphlearningclassifier__n_neighbors": [4, 8],
        "graphlearningclassifier__kernel": ["gaussian", "tapered"],
        "graphlearningclassifier__bandwidth": ["self-tuned", 0.3],
    }
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.97
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.9


def test_a_clone_is_unfitted_and_a_pickle_predicts_the_same(moons):
    X, _, partial = moons
    model = GraphLearningClassifier(8, tau=0.01, kernel="tapered").fit(X, partial)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "classes_")
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict_proba(X + 0.1), model.predict_proba(X + 0.1))


def test_without_scikit_learn_one_clear_error_says_what_to_install():
    script = "import sys; sys.modules['sklearn'] = None; import weft.estimators"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: weft.estimators needs scikit-learn 1.6 or newer")
    assert last.endswith("pip install 'weft[sklearn]'.")


# Equations

EQUATIONS = [
    Laplace(0.01, laplacian=Laplacian.RANDOM_WALK),
    Laplace(reweighting=WNLL()),
    Laplace(reweighting=ProperlyWeighted()),
    Spreading(0.9),
    PageRank(),
    Poisson(),
    CenteredKernel(),
    PLaplace(3.0),
    NearestLabel(),
    SparsePropagation(),
    PoissonMBO(VolumeConstraint((0.5, 0.5))),
]


@pytest.mark.parametrize("equation", EQUATIONS, ids=str)
def test_any_equation_tells_the_moons_apart(moons, equation):
    X, y, partial = moons
    model = GraphLearningClassifier(8, equation=equation).fit(X, partial)
    assert (model.transduction_ == y).mean() > 0.8  # eight labels; Laplace learning has 0.95
    assert (model.predict(X + 0.01) == y).mean() > 0.8
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    assert clone(model).get_params()["equation"] == equation


def test_an_equation_given_equals_the_default_one_spelt_out(moons):
    X, _, partial = moons
    default = GraphLearningClassifier(8, tau=0.1, fidelity=2.0, class_mass=True).fit(X, partial)
    spelt = GraphLearningClassifier(8, equation=Laplace(0.1, 2.0), class_mass=True).fit(X, partial)
    np.testing.assert_array_equal(default.predict_proba(X), spelt.predict_proba(X))
    np.testing.assert_array_equal(default.abstention_, spelt.abstention_)


def test_equations_are_searched_over_a_grid(moons):
    X, y, _ = moons
    grid = {"equation": [None, Poisson(), PLaplace(4.0)]}
    search = GridSearchCV(GraphLearningClassifier(8), grid, cv=3, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.9


def test_only_weighted_means_of_labels_are_explained(moons):
    X, _, partial = moons
    reweighted = GraphLearningClassifier(8, equation=Laplace(reweighting=WNLL())).fit(X, partial)
    np.testing.assert_allclose(reweighted.explain(X[:5]).sum(1), 1)
    for equation in (Poisson(), Laplace(laplacian=Laplacian.SYMMETRIC)):
        model = GraphLearningClassifier(8, equation=equation).fit(X, partial)
        with pytest.raises(ValueError, match="`explain` needs an equation whose scores are"):
            model.explain(X[:5])


def test_parameters_of_the_default_equation_are_refused_beside_another(moons):
    X, _, partial = moons
    for wrong in ({"tau": 0.1}, {"fidelity": 1.0}):
        with pytest.raises(ValueError, match="`tau` and `fidelity` belong to the default equation"):
            GraphLearningClassifier(equation=Poisson(), **wrong).fit(X, partial)
