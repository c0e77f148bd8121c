"""States of networks on their way in and out of a file: what is in it is held against the network before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError


@dataclass(frozen=True)
class Form:
    """What a tensor is, without its values; prints as such."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


Forms = Mapping[str, Form]


def forms_of(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    """Return what each tensor is."""
    return {name: Form(value.dtype, tuple(value.shape)) for name, value in tensors.items()}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name; tied tensors appear under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def state_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a network's state under `prefix`.

    Raises:
        CheckpointError: it holds something that is not a tensor.
    """
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"save(): {name!r} in the network's state is not a tensor; without pickle it cannot be saved"
            )
    return {prefix + name: value for name, value in state.items()}


def check_state(file: Forms, own: Forms, what: str) -> None:
    """Raise `CheckpointError` unless the tensors in a file are those of a network, called `what`."""
    complaints = [f"{name} is only in the file" for name in file.keys() - own.keys()]
    complaints += [f"{name} is not in the file" for name in own.keys() - file.keys()]
    for name in own.keys() & file.keys():
        if own[name] != file[name]:
            same = file[name].shape == own[name].shape
            one, other = (str(form) if same else str(list(form.shape)) for form in (file[name], own[name]))
            complaints.append(f"{name} is {one} in the file, {other} in the network")
    if complaints:
        raise CheckpointError(
            f"load(): the {what} does not fit the file in {len(complaints)} tensors: "
            f"{'; '.join(sorted(complaints)[:3])}; build the network that was saved"
        )


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, what: str) -> nn.Module:
    """Put the tensors under `prefix` into `module` and return it.

    Raises:
        CheckpointError: names, types or shapes differ; `module` is then unchanged.
    """
    state = under(prefix, tensors)
    check_state(forms_of(state), forms_of(module.state_dict()), f"{what} ({type(module).__name__})")
    module.load_state_dict(state)
    return module


def under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has names that start with `prefix`, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
