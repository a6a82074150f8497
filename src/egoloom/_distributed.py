"""One process or many: what both trainers need so that sharded weights (FSDP) are trained and saved like whole ones.

Gathering is collective: all processes must ask for the same tensors in the same order. Only the main one keeps and
writes them, so a checkpoint is plain and whole, and any number of processes continues it.
"""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor

from egoloom.errors import UserError

Value = TypeVar("Value")
FSDP_FIX = "accelerate launch --config_file scripts/fsdp.yaml"


def open_accelerator(**options: Any) -> Accelerator:
    """Returns accelerate's handle on devices and processes; without an accelerator, processes speak gloo on CPUs.

    Args:
        **options: Arguments of ``Accelerator``.

    Raises:
        UserError: If FSDP is asked for in a way that cannot work.
    """
    plugin = None
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":  # what `accelerate launch` sets
        # Every process builds all weights; loading them on one alone fails for networks with buffers (batch norm).
        plugin = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False)
        _check_fsdp(plugin)
    accelerator = Accelerator(**{"cpu": not torch.accelerator.is_available(), "fsdp_plugin": plugin, **options})
    if plugin is not None and accelerator.distributed_type is DistributedType.MULTI_CPU:
        # accelerate heeds FSDP for GPUs only and would silently train unsharded; its FSDP 2 itself runs on CPUs too.
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
        AcceleratorState._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
    return accelerator


def _check_fsdp(plugin: FullyShardedDataParallelPlugin) -> None:
    if plugin.fsdp_version != 2:  # flattened weights have lost their names and shapes
        raise UserError(f"FSDP {plugin.fsdp_version} is not supported", allowed="fsdp_version: 2", fix=FSDP_FIX)
    if plugin.auto_wrap_policy is size_based_auto_wrap_policy:  # it picks lists of layers, which FSDP 2 refuses
        raise UserError("FSDP cannot split by size", allowed="TRANSFORMER_BASED_WRAP, NO_WRAP", fix=FSDP_FIX)


def full_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Returns whole tensors on the CPU where ``keep``, nothing elsewhere; all processes must call it alike.

    Args:
        tensors: Whole or sharded tensors; one at a time is gathered.
        keep: Whether this process wants them, usually ``is_main_process``.
    """
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = tensor.detach()
        if isinstance(full, DTensor):
            full = full.full_tensor()
        if keep:
            whole[name] = full.cpu()
    return whole


def sharded_like(value: Tensor, reference: Tensor) -> Tensor:
    """Returns this process's part of a whole tensor that every process has, if the reference is sharded."""
    if isinstance(reference, DTensor) and value.shape == reference.shape:
        value = value.to(reference.device)
        # No rank scatters: each slices its own part.
        return distribute_tensor(value, reference.device_mesh, reference.placements, src_data_rank=None)
    return value


def load_full_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads whole weights into a model, sharded or not; every process must have them."""
    own = model.state_dict()
    model.load_state_dict({name: sharded_like(v, own[name]) if name in own else v for name, v in weights.items()})


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def from_main(value: Value) -> Value:
    """Returns the main process's value on all of them."""
    return broadcast_object_list([value])[0]


def is_any(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is up on some process."""
    if accelerator.num_processes == 1:
        return flag
    count: Any = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum")
    return bool(count > 0)
