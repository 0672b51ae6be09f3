"""A base held by two processes between them gives the losses and gradients of a whole one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medbench.errors import StageError
from medbench.finetune.recipe import load_recipe
from medbench.finetune.sharding import shard

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch, transformers
from torch import distributed
from torch.distributed.tensor import DTensor
from medbench.finetune import sharding, train
from medbench.finetune.recipe import load_recipe
from medbench.harness.ranks import Ranks
from medbench.harness.suite import ModelSpec

checkpoint, tied, out = sys.argv[1:]
os.environ["ACCELERATE_USE_FSDP"] = "true"
size = int(os.environ["WORLD_SIZE"])
ranks = Ranks.__new__(Ranks)
ranks.size = size
ranks.connect("cpu")
rank = distributed.get_rank()

clinic = load_recipe("clinic")
lora = clinic.adapter.model_copy(update={"dropout": 0.0})
ia3 = load_recipe("medical-o1-ia3").adapter
prefix = load_recipe("medical-o1-prefix").adapter
kinds = {
    "lora": (checkpoint, lora, "none"),
    "tied": (tied, lora, "none"),
    "nf4": (checkpoint, lora, "nf4"),
    "nf4, tied": (tied, lora, "nf4"),
    "dora": (checkpoint, lora.model_copy(update={"dora": True}), "none"),
    "dora over nf4": (checkpoint, lora.model_copy(update={"dora": True}), "nf4"),
    "ia3": (checkpoint, ia3, "none"),
    "prefix": (checkpoint, prefix, "none"),
}
found = {}
for name, (base, adapter, quantization) in kinds.items():
    checkpointing = adapter.kind != "prefix"
    recipe = clinic.model_copy(update={
        "adapter": adapter, "quantization": quantization, "precision": "float32",
        "gradient_checkpointing": checkpointing,
    })
    losses, gradients, shares = [], [], []
    for sharded in ("false", "true"):
        os.environ["MEDBENCH_SHARDED"] = sharded
        transformers.set_seed(1)
        job = train.Job(ModelSpec(pretrained=base), recipe, Path(out), Path(out), "cpu")
        model, _ = train.TRL.load(job)
        trained = [p for p in model.parameters() if p.requires_grad]
        if sharded == "true":
            sharding.shard(model, "cpu")
            frozen = [p for p in model.parameters() if not p.requires_grad]
            assert all(isinstance(p, DTensor) for p in frozen), name
            assert not any(isinstance(p, DTensor) for p in trained), name
            held = sum(p.to_local().nbytes for p in frozen)
            shares.append(held / sum(p.nbytes for p in frozen))
            model = sharding.averaged(model)
        draw = torch.Generator().manual_seed(0)
        for p in trained:  # B of LoRA begins as zeros, whose A has no gradient
            p.data += 0.02 * torch.randn(p.shape, generator=draw)
        if checkpointing:
            inner = getattr(model, "module", model)
            inner.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        ids = torch.randint(5, 200, (4, 24), generator=draw)
        # A whole base sees all rows; of a shared one each process sees its half.
        mine = ids if sharded == "false" else ids[rank::size]
        for _ in range(2):  # the second pass gathers what the first has sharded again
            model.zero_grad()
            loss = model(input_ids=mine, labels=mine, use_cache=False).loss
            loss.backward()
        mean = loss.detach().clone()
        if sharded == "true":
            distributed.all_reduce(mean)
            mean /= size
        losses.append(mean.item())
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    one, two = gradients
    found[name] = {
        "loss": abs(losses[0] - losses[1]),
        "gradient": ((one - two).norm() / one.norm()).item(),
        "norm": one.norm().item(),
        "share": shares[0],
    }
if rank == 0:
    Path(out, "found.json").write_text(json.dumps(found))
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.fixture
def tied(tmp_path: Path, clinic: Path) -> Path:
    """A model with biases, whose head is its embeddings, with the clinic's tokenizer."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path / "tied"
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=1024, tie_word_embeddings=True, **shape, **heads)
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zeros until then
            parameter.data.normal_()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(clinic).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_every_adapter_over_a_shared_base_has_the_gradients_of_a_whole_one(
    tmp_path: Path, clinic: Path, tied: Path
) -> None:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            str(script), str(clinic), str(tied), str(tmp_path),
        ],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {
        "lora", "tied", "nf4", "nf4, tied", "dora", "dora over nf4", "ia3", "prefix",
    }  # fmt: skip
    for name, one in found.items():
        assert one["norm"] > 0, name
        assert one["loss"] < 1e-5, name
        assert one["gradient"] < 1e-4, name
        assert one["share"] == pytest.approx(0.5, abs=0.01), name


def test_a_model_that_does_not_name_its_layers_is_refused(clinic: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(clinic)
    base._no_split_modules = None
    model = get_peft_model(base, load_recipe("clinic").adapter.config())
    with pytest.raises(StageError, match=r"llama: FSDP cannot be used.*--multi_gpu"):
        shard(model, "cpu")
