"""Write training state as safetensors bytes, and read it back. Nothing is ever unpickled.

Training state is a tree of dicts, lists, tensors and plain values (what `state_dict()` gives).
Its tensors become the file's tensors; the rest is JSON in the file's header.
"""

import json
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

_KEY = "weft"


def pack(tree: Any) -> bytes:
    """Turn a tree of dicts, lists, tensors and plain values into the bytes of a file."""
    tensors: dict[str, torch.Tensor] = {}

    def plain(node: Any) -> Any:
        if isinstance(node, torch.Tensor):
            name = str(len(tensors))
            tensors[name] = node.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(node, dict):  # as pairs: an optimizer's state has integer keys
            return {"pairs": [[key, plain(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return [plain(value) for value in node]
        return node

    header = json.dumps(plain(tree))
    return save(tensors, metadata={_KEY: header})


def unpack(path: str) -> Any:
    """Read a file that `pack` made.

    Raises:
        ValueError: the file is damaged, or is no checkpoint of this library.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} must be a checkpoint written by weft, got something else ({error}): "
            "train again with --overwrite."
        ) from None

    def live(node: Any) -> Any:
        if isinstance(node, list):
            return [live(value) for value in node]
        if isinstance(node, dict):
            if "tensor" in node:
                return tensors[node["tensor"]]
            return {key: live(value) for key, value in node["pairs"]}
        return node

    return live(header)
