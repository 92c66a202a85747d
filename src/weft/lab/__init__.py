"""The lab: data, backbones, recipes, training, evaluation and reports.

Import from its modules, `from weft.lab.data import load_data`: this file stays empty, so that a
command that only prints its help does not wait for PyTorch.
"""
