"""The parts of a report: loading runs, their numbers, pictures and figures, and the page itself."""
