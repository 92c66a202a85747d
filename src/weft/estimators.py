"""Graph learning as a scikit-learn classifier: features and a few labels in, labels out.

Knows the graph room and scikit-learn's conventions; NumPy arrays at the border.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from weft.graph import (
    AnchorGraph,
    Bandwidth,
    ClassMass,
    Constant,
    Equation,
    Gaussian,
    Kernel,
    Laplace,
    Laplacian,
    Normalization,
    SelfTuned,
    Tapered,
    VolumeConstraint,
)

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "weft.estimators needs scikit-learn 1.6 or newer, which is not installed: "
        "pip install 'weft[sklearn]'."
    ) from error

__all__ = ["GraphLearningClassifier"]

ArrayLike = Any  # whatever scikit-learn takes: arrays, lists, data frames

_KERNELS: dict[str, Kernel] = {"gaussian": Gaussian(), "tapered": Tapered()}
_CLASS_MASS: dict[Any, Normalization | None] = {
    "auto": ClassMass(below=0.03),
    True: ClassMass(),
    False: None,
}


class GraphLearningClassifier(ClassifierMixin, BaseEstimator):
    """Semi-supervised classifier: labels spread over the graph of nearest neighbours.

    `fit` takes labelled and unlabelled samples together, with -1 for an unknown label as in
    scikit-learn's `LabelSpreading`, and solves Laplace's equation exactly: each unlabelled
    sample becomes the weighted mean of its neighbours. Other equations take its place by
    `equation`. A new sample then takes the weighted mean of its neighbours' solved values; it does
    not change them, and it sees no other new sample.

    Args:
        n_neighbors: neighbours of each sample; cut to what there is.
        kernel: `"gaussian"`, or `"tapered"`, which makes predictions continuous in the features.
        bandwidth: `"self-tuned"`, the distance to the last neighbour, or one length for all.
        equation: how labels spread, such as `Poisson()` or `PLaplace(3)`; `None` is
            `Laplace(tau, fidelity)`.
        tau: decay of the default equation, in the unit of the edge weights; mass lost on the way
            is abstention.
        fidelity: of the default equation: `None` keeps the given labels; a positive number lets
            them give way to their neighbours', the more so the smaller it is: for labels that may
            be wrong.
        normalize: scale each sample to length one first.
        class_mass: whether to match the classes' masses to their shares of the labels; `"auto"`
            does so where fewer than 3 % of the samples are labelled and the equation is the
            default one. Or the classes' known shares of all samples, in the order of `classes_`:
            each class then gets its share (`VolumeConstraint`).

    Attributes:
        classes_: the labels, sorted, without -1.
        X_: the samples given to `fit`.
        label_distributions_: class probabilities of those samples, (n, classes).
        transduction_: their most probable labels.
        abstention_: for each, the mass that reached no label, in [0, 1].
        anchor_graph_: the solved graph that new samples are joined to.
        n_features_in_: number of features.
        feature_names_in_: their names, where `fit` got a data frame.
    """

    def __init__(
        self,
        n_neighbors: int = 25,
        *,
        kernel: str = "gaussian",
        bandwidth: str | float = "self-tuned",
        equation: Equation | None = None,
        tau: float = 0.0,
        fidelity: float | None = None,
        normalize: bool = False,
        class_mass: str | bool | ArrayLike = "auto",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.equation = equation
        self.tau = tau
        self.fidelity = fidelity
        self.normalize = normalize
        self.class_mass = class_mass

    def fit(self, X: ArrayLike, y: ArrayLike) -> "GraphLearningClassifier":
        """Solve for the labels of all samples.

        Args:
            X: samples, (n, d); float32 and float64 are kept, others become float64.
            y: labels of any one type, -1 where unknown.

        Raises:
            ValueError: no sample is labelled, a parameter has no meaning, or `tau` or `fidelity`
                stands beside an `equation`.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        known = np.asarray(y != -1)
        if not known.any():
            raise ValueError("`y` must hold at least one label, got -1 only: label a sample.")
        check_classification_targets(y[known])
        self.X_ = X
        self.classes_, numbers = np.unique(y[known], return_inverse=True)
        self._known = torch.from_numpy(known)
        features, equation, decay = self._features(X), self._equation(), 0.0
        if isinstance(equation, Laplace) and equation.laplacian is Laplacian.COMBINATORIAL:
            decay = float(equation.tau)
        labels = features.new_zeros(len(y), len(self.classes_))
        labels[self._known] = F.one_hot(torch.from_numpy(numbers), len(self.classes_)).to(labels)
        graph = AnchorGraph.build(
            features,
            labels,
            self._known,
            self.n_neighbors,
            kernel=_choose("kernel", self.kernel, _KERNELS),
            bandwidth=_bandwidth(self.bandwidth),
            tau=decay,
        )
        self.anchor_graph_ = replace(
            graph, scores=self._spread(graph, labels, self._normalization())
        )
        self.label_distributions_, self.abstention_ = _distributions(self.anchor_graph_.scores)
        self.transduction_ = self.classes_[self.label_distributions_.argmax(1)]
        return self

    def predict(self, X: ArrayLike) -> Shaped[NDArray, " q"]:
        """Return the most probable label of each new sample."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def predict_proba(self, X: ArrayLike) -> Float[NDArray, "q c"]:
        """Return class probabilities of each new sample, abstention divided out.

        Each is the weighted mean of its neighbours' solved values, `AnchorGraph.query` in its
        interpolated form. A sample that no label reaches gets the same for every class.
        """
        return _distributions(self._query(X))[0]

    def abstention(self, X: ArrayLike) -> Float[NDArray, " q"]:
        """Return, for each new sample, the mass that reached no label, in [0, 1]."""
        return _distributions(self._query(X))[1]

    def explain(self, X: ArrayLike) -> Float[NDArray, "q n"]:
        """Return how much each training sample's label counts in the prediction of new samples.

        Rows are non-negative and sum to one minus the abstention; unlabelled samples have
        weight zero. Times the one-hot labels this is `predict_proba`, before abstention is
        divided out and without any normalisation of class masses.

        Raises:
            ValueError: the scores of the equation are no weighted means of labels.
        """
        check_is_fitted(self)
        equation = self._equation()
        if not isinstance(equation, Laplace) or equation.laplacian is Laplacian.SYMMETRIC:
            raise ValueError(
                "`explain` needs an equation whose scores are weighted means of labels, got "
                f"{equation}: take `equation=None`, or Laplace() with a reweighting."
            )
        identity = torch.eye(len(self.X_), dtype=self.anchor_graph_.scores.dtype)[:, self._known]
        onto = self._query(X, self._spread(self.anchor_graph_, identity, None))
        weights = np.zeros((len(onto), len(self.X_)))
        weights[:, self._known.numpy()] = onto
        return weights

    def _spread(
        self, graph: AnchorGraph, labels: torch.Tensor, normalization: Normalization | None
    ) -> torch.Tensor:
        with torch.no_grad():
            return self._equation().probabilities(
                graph.graph,
                labels,
                self._known,
                points=self._features(self.X_),
                normalization=normalization,
            )

    def _equation(self) -> Equation:
        if self.equation is None:
            return Laplace(self.tau, self.fidelity)
        if self.tau or self.fidelity is not None:
            raise ValueError(
                f"`tau` and `fidelity` belong to the default equation, got {self.tau} and "
                f"{self.fidelity} beside {self.equation}: give them to the equation instead."
            )
        return self.equation

    def _normalization(self) -> Normalization | None:
        if not isinstance(self.class_mass, str | bool):
            return VolumeConstraint(tuple(float(share) for share in self.class_mass))
        chosen = _choose("class_mass", self.class_mass, _CLASS_MASS)
        return None if self.class_mass == "auto" and self.equation is not None else chosen

    def _query(self, X: ArrayLike, scores: torch.Tensor | None = None) -> torch.Tensor:
        """Return each new sample's mean over its neighbours, of `scores` or the solved ones."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        graph = self.anchor_graph_ if scores is None else replace(self.anchor_graph_, scores=scores)
        return graph.query(self._features(X))

    def _features(self, X: NDArray) -> torch.Tensor:
        features = torch.tensor(X)  # a copy: X may be read-only
        return F.normalize(features, dim=1) if self.normalize else features


def _distributions(scores: torch.Tensor) -> tuple[NDArray, NDArray]:
    """Split scores into distributions and abstention; rows without mass become uniform."""
    scores = scores.double().clamp_min(0)
    total = scores.sum(1, keepdim=True)
    uniform = torch.full_like(scores, 1 / scores.shape[1])
    distributions = torch.where(total > 0, scores / torch.where(total > 0, total, 1.0), uniform)
    return distributions.numpy(), (1 - total.squeeze(1)).clamp(0, 1).numpy()


def _bandwidth(choice: str | float) -> Bandwidth:
    if isinstance(choice, str):
        return _choose("bandwidth", choice, {"self-tuned": SelfTuned()})
    return Constant(choice)


def _choose(name: str, choice: Any, choices: dict[Any, Any]) -> Any:
    if choice not in choices:
        names = ", ".join(map(repr, choices))
        raise ValueError(f"`{name}` must be one of {names}, got {choice!r}: choose one of them.")
    return choices[choice]
