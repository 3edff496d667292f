"""A CUDA device without one: tensors that say they are on it and compute on the CPU.

What it finds is code that forgets where its tensors are: an operator that gets tensors of two devices raises
here as it does on a GPU. It says nothing about kernels, streams, speed or memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA = torch.device("cuda", 0)
#: Operators that take tensors of both devices: copies, and an index that lies on the CPU.
_MIXING = {"copy_", "_to_copy", "to", "index", "index_put", "index_put_", "_index_put_impl_"}


_LIBRARY = "transformers.generation.continuous_batching"


class _OnCuda(torch.Tensor):
    """Holds the real tensor in ``held``."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> _OnCuda:
        made: _OnCuda = torch.Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=CUDA,
        )
        made.held = real
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    # These ask for the device's driver before they become operators.
    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
        return _OnCuda(self.held.contiguous(memory_format=memory_format))

    def copy_(self, other: torch.Tensor, non_blocking: bool = False) -> Any:
        self.held.copy_(_held(other))
        return self

    def __getitem__(self, index: Any) -> Any:
        return _OnCuda(self.held[_held(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.dim() and not isinstance(value, _OnCuda):
            raise RuntimeError("setitem: the value is on the cpu")
        self.held[_held(index)] = _held(value)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _PretendCuda(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _held(value: Any) -> Any:
    return tree_map_only(_OnCuda, lambda tensor: tensor.held, value)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    values = tree_flatten((args, kwargs))[0]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    on_cuda = [tensor for tensor in tensors if isinstance(tensor, _OnCuda)]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, _OnCuda) and tensor.dim()]
    if on_cuda and elsewhere and name not in _MIXING:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")
    if name in ("index", "index_put", "index_put_") and on_cuda and not isinstance(args[0], _OnCuda):
        raise RuntimeError(f"{name}: indices on cuda, values on the cpu")
    to_cuda = bool(on_cuda)
    asked = [value for value in values if isinstance(value, torch.device)]
    if asked:
        to_cuda = asked[0].type == "cuda"
        args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    if name == "copy_":
        to_cuda = isinstance(args[0], _OnCuda)
    real_args, real_kwargs = _held((args, kwargs))
    out = func(*real_args, **real_kwargs)
    if func._schema.is_mutable and not name.startswith("_scaled"):
        # In place: what was given is what comes back.
        given = {id(tensor.held): tensor for tensor in on_cuda}
        return tree_map_only(
            torch.Tensor, lambda tensor: given.get(id(tensor), _OnCuda(tensor) if to_cuda else tensor), out
        )
    return tree_map_only(torch.Tensor, _OnCuda, out) if to_cuda else out


_tensor_on_cpu = torch.tensor


def _tensor(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
    """``torch.tensor`` makes its tensor out of the mode's sight."""
    made = _tensor_on_cpu(data, **kwargs)
    return made if device is None else made.to(device)


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """Within, ``cuda`` is there."""
    torch._C._ensureCUDADeviceGuardSet()
    with (
        mock.patch("torch.cuda._lazy_init"),
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.tensor", _tensor),
        mock.patch(f"{_LIBRARY}.cache.get_device_and_memory_breakdown", return_value=(CUDA, 1 << 34, 0, 0)),
        mock.patch("torch._dynamo.mark_static_address"),
        # A torch built without CUDA cannot fill in the index of the device.
        mock.patch("moodq_worker.engine_hf.engine.choose_device", return_value=CUDA),
        mock.patch("torch.cuda.is_current_stream_capturing", return_value=False),
        _PretendCuda(),  # type: ignore[no-untyped-call]
    ):
        # A module takes new parameters instead of new data for those it has, which lie on the CPU.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
