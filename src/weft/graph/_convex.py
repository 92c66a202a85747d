"""Equations that minimise a convex energy: the p-Laplacian, and any energy of the user.

Newton's method runs without gradient to convergence. Two more Newton steps, differentiable and
through the same primitive, then make the derivatives exact: at a solution u* of g(u*, q) = 0
the step u* - H^-1 g(u*, q) has the derivative -H^-1 dg/dq that the implicit function theorem
asks for, and a second step the second derivative. Knows graphs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import grad

from weft._check import ConvergenceError
from weft.graph._edges import node_sums
from weft.graph._equation import Equation, Problem, check_between, check_not_negative, per_node
from weft.graph._linear_solvers import LinearSolver
from weft.graph._solve import SolveLog, solve_system

Elementwise = Callable[[Tensor], Tensor]
"""A function of one number, written for tensors of any shape in torch's operations."""


def _half_square(x: Tensor) -> Tensor:
    return x.square() / 2


@dataclass(frozen=True)
class ConvexEnergy(Equation):
    """Scores that minimise  sum_ij w_ij phi(u_i - u_j) + sum_i tau_i theta(u_i),  u = labels.

    Each class is a problem of its own. Differentiable twice in weights, labels, `tau` and
    whatever tensors `phi` and `theta` hold.

    Args:
        phi: even, strictly convex and twice differentiable, such as `torch.cosh` or
            `lambda t: (1 + t**2).sqrt()`.
        theta: likewise, but even or not; half the square by default, as in decay.
        tau: weight of theta, not negative: a number or one per node.
        max_steps: Newton steps before `ConvergenceError`.

    Source: the elliptic equations of Brown et al., arXiv 2412.08016, in energy form.
    """

    phi: Elementwise
    theta: Elementwise = _half_square
    tau: float | Tensor = 0.0
    max_steps: int = 100

    def __post_init__(self) -> None:
        check_not_negative("tau", self.tau)

    def decay(self) -> float | Tensor:
        """Return tau."""
        return self.tau

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Start from Laplace learning, minimise, and take two differentiable steps."""
        path = [_half_square, self.phi]
        return _minimizer(problem, path, self.theta, self.tau, self.max_steps)


@dataclass(frozen=True)
class PLaplace(Equation):
    """The variational p-Laplace equation: sum_j w_ij |u_i - u_j|^(p-2) (u_i - u_j) = 0.

    p = 2 is Laplace learning. Above, labels are felt further, which helps where they are few;
    towards 1, scores become piecewise constant, as by a minimal cut. With decay, tau u is added.
    The solution is followed from p = 2 in steps. Differentiable twice in weights, labels, `tau`
    and `p`. Near 1 and far above 2 the systems become ill-conditioned: take `Cholesky()` where the
    size allows it.

    Args:
        p: above 1; a number or a tensor of one.
        tau: decay, not negative: a number or one per node.
        floor: |t| is replaced by (t^2 + floor^2)^(1/2), so that the energy has a second derivative
            at zero, and one that is not zero; in the unit of the labels. What varies by less
            than this from node to node is spread as with p = 2.
        max_steps: Newton steps, for each p on the way, before `ConvergenceError`.

    Source: Slepcev, Thorpe, SIAM J. Math. Anal. 51, 2019, for the energy. The GraphLearning
        package solves another equation under this name, the game-theoretic p-Laplacian.
    """

    p: float | Tensor = 3.0
    tau: float | Tensor = 0.0
    floor: float = 1e-3
    max_steps: int = 100

    def __post_init__(self) -> None:
        check_between("p", self.p, 1, float("inf"))
        check_not_negative("tau", self.tau)
        if not self.floor > 0:
            raise ValueError(f"`floor` must be positive, got {self.floor}: it rounds the energy.")

    def decay(self) -> float | Tensor:
        """Return tau."""
        return self.tau

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Follow the minimiser from p = 2, by steps of 4/3 in p - 1."""
        p = float(self.p)
        path, reached = [2.0], 1.0
        while not 3 / 4 <= reached / (p - 1) <= 4 / 3:
            reached *= 4 / 3 if reached < p - 1 else 3 / 4
            path.append(1 + reached)
        energies = [partial(_power, p=at, floor=self.floor) for at in [*path, self.p]]
        return _minimizer(problem, energies, _half_square, self.tau, self.max_steps)


def _power(t: Tensor, p: float | Tensor, floor: float) -> Tensor:
    # Not as a power: torch takes x ** 0 for constant in its exponent, which it meets at p = 2.
    return (p / 2 * (t.square() + floor**2).log()).exp() / p


def _minimizer(
    problem: Problem,
    path: Sequence[Elementwise],
    theta: Elementwise,
    tau: float | Tensor,
    max_steps: int,
) -> Tensor:
    """Minimise along a path of energies without gradient; differentiate at its end."""
    # In float64 whatever comes in: second derivatives span many powers of ten.
    labels = problem.labels.double()
    energy = _Energy.of(problem, path[-1], theta, tau)
    with torch.no_grad():
        scores = labels
        for phi in path[:-1]:  # only on the way
            scores = _descend(replace(energy, phi=phi), scores, 1e-2, max_steps)
        # The two steps to come square what is left, twice.
        scores = _descend(energy, scores, 1e-7, max_steps)
    scores = torch.where(problem.known[:, None], labels, scores)
    for _ in range(2):
        scores = scores - energy.newton_step(scores)[0]
    return scores.to(problem.labels.dtype)


def _descend(energy: "_Energy", scores: Tensor, rtol: float, max_steps: int) -> Tensor:
    """Minimise by Newton's method; each class has its own step length."""
    least = rtol * scores.abs().max().clamp_min(torch.finfo(scores.dtype).tiny)
    step = scores
    for _ in range(max_steps):
        step, slope = energy.newton_step(scores)
        if step.abs().max() <= least:
            return scores - step
        before = energy.value(scores)
        rounding = 1e-14 * before.abs()
        length = torch.ones_like(before)
        for _ in range(40):
            after = energy.value(scores - length * step)
            short = after <= before - 1e-4 * length * slope + rounding
            if short.all():
                break
            length = torch.where(short, length, length / 2)
        scores = scores - length * step
    raise ConvergenceError(
        f"Newton's method must move no score by more than {least.item():.1e}, got a last "
        f"step of {step.abs().max().item():.1e} after {max_steps}: raise `floor` or `max_steps`, "
        "take p closer to 2, or see that phi and theta are convex."
    )


@dataclass(frozen=True, eq=False)
class _Energy:
    """The energy of all classes, and its Newton step; nodes that are not free stay put.

    Args:
        edges: of the graph.
        weights: in float64; those of edges at lost nodes are zero.
        free: nodes to solve for.
        tau: weight of theta at each node.
        phi: the energy of a difference.
        theta: the energy of a value.
        copies: the edges of one copy of the graph for each class, side by side.
        num_graphs: equal blocks in all copies.
    """

    edges: Int[Tensor, "2 e"]
    weights: Float[Tensor, " e"]
    free: Bool[Tensor, " n"]
    tau: Float[Tensor, " n"]
    phi: Elementwise
    theta: Elementwise
    copies: Int[Tensor, "2 c*e"]
    num_graphs: int
    solver: LinearSolver | None
    log: SolveLog | None

    @classmethod
    def of(
        cls, problem: Problem, phi: Elementwise, theta: Elementwise, tau: float | Tensor
    ) -> "_Energy":
        graph, lost, count = problem.graph, problem.lost, problem.labels.shape[1]
        i, j = graph.edges
        shift = graph.num_nodes * torch.arange(count, device=i.device)
        return cls(
            edges=graph.edges,
            weights=torch.where(lost[i] | lost[j], 0.0, graph.weights.double()),
            free=~(problem.known | lost),
            tau=per_node("tau", tau, graph).double(),
            phi=phi,
            theta=theta,
            copies=(graph.edges[:, None] + shift[:, None]).reshape(2, -1),
            num_graphs=count * graph.num_graphs,
            solver=problem.solver,
            log=problem.log,
        )

    def value(self, scores: Tensor) -> Float[Tensor, " c"]:
        """Return the energy of each class."""
        i, j = self.edges
        between = self.phi(scores[i] - scores[j]) * self.weights[:, None]
        return between.sum(0) + (self.theta(scores) * self.tau[:, None]).sum(0)

    def newton_step(self, scores: Tensor) -> tuple[Float[Tensor, "n c"], Float[Tensor, " c"]]:
        """Return H^-1 g, and <g, H^-1 g> of each class.

        The Hessian is a Laplacian, of weights w phi'', and a diagonal, tau theta'' and the edges
        to nodes that are not free.
        """
        i, j = self.edges
        free = self.free[:, None]
        slopes, bends = _derivatives(self.phi, scores[i] - scores[j])
        slopes, bends = slopes * self.weights[:, None], bends * self.weights[:, None]
        own_slopes, own_bends = _derivatives(self.theta, scores)
        pull = torch.zeros_like(scores).index_add(0, i, slopes).index_add(0, j, slopes, alpha=-1)
        pull = torch.where(free, pull + self.tau[:, None] * own_slopes, 0.0)
        inside = self.free[i] & self.free[j]
        weights = torch.where(inside[:, None], bends, 0.0).T.reshape(-1)
        crossing = torch.where(inside[:, None], 0.0, bends).T.reshape(-1)
        diagonal = node_sums(crossing, self.copies, scores.numel())
        diagonal = diagonal.view(-1, len(scores)).T + self.tau[:, None] * own_bends
        step = solve_system(
            weights,
            torch.where(free, diagonal, 1.0).T.reshape(-1),
            pull.T.reshape(-1, 1),
            self.copies,
            num_graphs=self.num_graphs,
            solver=self.solver,
            log=self.log,
        )
        step = step.view(-1, len(scores)).T
        return step, (pull * step).sum(0)


def _derivatives(function: Elementwise, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and second derivative at each entry; differentiable themselves."""
    first = grad(lambda x: function(x).sum())
    return first(x), grad(lambda x: first(x).sum())(x)
