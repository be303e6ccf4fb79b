"""A GPU that the CPU plays: tensors that say they are elsewhere, and a list of what makes the host wait for it.

It is a backend of Python for torch, of one device. The CPU computes what is computed there, so the numbers are its.
As on a GPU, an operation on tensors of two devices raises, but for numbers without axes and for indices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class PlayedBackend(_DummyBackendModule):
    """What torch asks of a backend, in tests that run after this one is there too."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


PLAYED = torch.device("privateuseone:0")
"""The device that torch leaves to others."""
CPU = torch.device("cpu")
aten = torch.ops.aten
SIZES = (aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim)
READS = (*SIZES, aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten._linalg_check_errors)
"""The host needs the value, or the size of the result, which the values decide."""
INDEXING = (aten.index, aten.index_put_, aten._index_put_impl_)


class PlayedTensor(Tensor):
    """A tensor on the played GPU, and where its numbers really are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> PlayedTensor:
        layout: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.shape, device=PLAYED, **layout)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # as torch's documentation writes it
        raise RuntimeError(f"{func} outside of play_gpu()")


class PlayedGpu(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types
    """Runs every operation, and lists the waits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.waits: list[str] = []
        self.pinned: set[int] = set()
        """Addresses of pinned memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        played = [each for each in tensors if isinstance(each, PlayedTensor)]
        if func.overloadpacket is aten._pin_memory:
            return self.pin(args[0])
        self.check(func, args, kwargs, played, [each for each in tensors if not isinstance(each, PlayedTensor)])
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        args_held, held = tree_map_only(PlayedTensor, lambda each: each.held, (args, kwargs))
        made = func(
            *args_held, **(held | ({"device": CPU} if target else {}) | ({"pin_memory": False} if "pin_memory" in held else {}))
        )
        if not (target.type == PLAYED.type if target else played):
            return made
        if func.overloadpacket is aten._to_copy and made is args_held[0]:
            made = made.clone()
        wrapped = tree_map_only(Tensor, PlayedTensor, made)
        if not played:
            return wrapped
        return return_and_correct_aliasing(func, args, kwargs, wrapped)  # type: ignore[no-untyped-call]  # as above

    def pin(self, tensor: Tensor) -> Tensor:
        made = tensor.clone()
        self.pinned.add(made.data_ptr())
        return made

    def check(self, func: Any, args: Any, kwargs: Any, played: list[PlayedTensor], others: list[Tensor]) -> None:
        """List a wait. Raises RuntimeError for tensors of two devices."""
        operator = func.overloadpacket
        if operator is aten._to_copy or operator is aten.copy_:
            self.check_copy(args, kwargs, operator is aten.copy_)
            return
        if not played:
            return
        if operator in READS:
            self.waits.append(str(func))
        if operator in INDEXING:
            if any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in args[1]):
                self.waits.append(f"{func} with a mask")
        elif any(each.ndim for each in others):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {PLAYED} and cpu")

    def check_copy(self, args: Any, kwargs: Any, is_inplace: bool) -> None:
        """A copy to the GPU waits unless its source is pinned and the host need not wait; one from it always does."""
        source = args[1] if is_inplace else args[0]
        target = args[0].device if is_inplace else torch.device(kwargs.get("device") or source.device)
        if target.type == source.device.type:
            return
        non_blocking = kwargs.get("non_blocking") or (is_inplace and len(args) > 2 and args[2])
        is_free = target.type == PLAYED.type and non_blocking and source.data_ptr() in self.pinned
        if not is_free and source.numel():
            self.waits.append(f"copy of {tuple(source.shape)} {source.dtype} to {target.type}")


@cache
def register_backend() -> None:
    """Tell torch of the device, once and for good: a process that did so has no use of a real GPU."""
    _setup_privateuseone_for_python_backend("played", backend_module=PlayedBackend())


@contextmanager
def play_gpu() -> Iterator[PlayedGpu]:
    register_backend()
    with PlayedGpu() as gpu:
        yield gpu
