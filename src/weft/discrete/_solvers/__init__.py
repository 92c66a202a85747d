"""The solvers, thin over libraries: selections, assignments, paths, trees, tours, programs."""
