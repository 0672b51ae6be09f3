"""A base that several processes hold between them while they tune (torch's FSDP2, ``fully_shard``).

Only the frozen base is sharded: a layer's weights come together for its forward and its backward
pass, and go apart again. The adapter, some thousandths of the base, is whole in each process, and
its gradients are averaged as in every data-parallel run. So optimizers (8-bit ones take no sharded
tensors), clipping, checkpoints and the saved adapter are those of one process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import StageError
from ..harness.models.load import keep_weights_trainable
from ..harness.ranks import place, world


def hold_in_nf4(model: Any, dtype: torch.dtype, device: str) -> None:
    """Hold the linear layers of *model*, which lies on the CPU, in 4 bit; the head stays as it is.

    One matrix at a time passes through *device*, where bitsandbytes rounds it as it would in a
    process that has the whole model there. The codes are stored as *dtype*, the model's own: a
    unit of FSDP has one dtype.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    kind = {"compress_statistics": True, "quant_type": "nf4", "quant_storage": dtype}
    head = model.get_output_embeddings()
    plain = [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear and m is not head]
    for name, layer in plain:
        with torch.device("meta"):
            held = Linear4bit(layer.in_features, layer.out_features, False, dtype, **kind)
        weight = Params4bit(layer.weight.data, requires_grad=False, module=held, **kind)
        held.weight = weight.to(place(device)).to("cpu")
        held.bias = layer.bias
        held.train(layer.training)
        model.set_submodule(name, held)
    keep_weights_trainable(model)
    model.is_loaded_in_4bit = True  # peft asks


def shard(model: Any, device: str) -> None:
    """Keep of *model*, a peft model on the CPU, this process's share of the base on *device*.

    Units are the decoder's layers, the embeddings, and the rest (last norm, head). Not more than
    two layers are whole on the device at a time, while it is loaded and while it is tuned.

    Raises:
        StageError: The architecture does not say what its layers are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    base = model.get_base_model()
    names = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise StageError(
            f"{base.config.model_type}: FSDP cannot be used, for its code does not name its layers "
            "(_no_split_modules); use --multi_gpu, with quantization: nf4 if it must be smaller"
        )
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    rules = {
        "mesh": init_device_mesh(device, (world(),)),
        "ignored_params": trained,
        # By default the last unit stays whole after a forward pass, until some process saves a
        # checkpoint, which shards it; the processes would then not gather it alike.
        "reshard_after_forward": True,
    }
    for layer in layers:
        fully_shard(layer, **rules)
    words, head = base.get_input_embeddings(), base.get_output_embeddings()
    if words.weight is not head.weight:
        fully_shard(words, **rules)
    fully_shard(model, **rules)
    where = place(device)
    for parameter in trained:
        parameter.data = parameter.data.to(where)
    for module in model.modules():
        if getattr(module, "quant_state", None) is not None:
            module.quant_state.to(where)


def averaged(model: Any) -> nn.Module:
    """*model*, whose trained parameters begin alike in all processes and get averaged gradients."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    for parameter in model.parameters():
        if parameter.requires_grad:
            distributed.broadcast(parameter.data, 0)
    return DistributedDataParallel(model, init_sync=False)  # the shares of the base differ


def let_go() -> None:
    """Give the GPU's memory back in all processes: the first one scores with all GPUs."""
    import gc

    from torch import distributed

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    distributed.barrier()
