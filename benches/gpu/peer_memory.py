"""Peaks of Hugging Face's and litgpt's models under plain PyTorch on one GPU, as rows of a run table.

What a peer's program holds is seldom in its own figures: whether weights are f32 under autocast, what a loss keeps, what the
allocator reserves beside. These runs differ in one of these at a time. `planner/data/peers.csv` is what one card said.

usage: peer_memory.py [RUN...] >rows.csv     no RUN: all of them, about seven minutes of an H200
Needs torch, transformers and, for runs u1 to v3, litgpt.
"""
import csv
import gc
import importlib.metadata
import importlib.util
import os
import sys
import types

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import torch
import transformers
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing, checkpoint_wrapper
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

# layers, width, heads, heads of keys, feed-forward, vocabulary, tied
SHAPES = {
    "tiny": (22, 2048, 32, 4, 5632, 32000, False),  # TinyLlama
    "1b": (16, 2048, 32, 8, 8192, 128256, True),  # Llama 3.2
    "3b": (26, 3072, 24, 24, 8192, 32000, False),
    "7b": (32, 4096, 32, 32, 11008, 32000, False),  # Llama 2
    "8b8": (8, 4096, 32, 8, 14336, 128256, False),  # eight layers of Llama 3
    "q05": (24, 896, 14, 2, 4864, 151936, True),  # as Qwen2.5
    "gpt2m": (24, 1024, 16, 16, 4096, 50257, True),
    "gpt2x": (48, 1600, 25, 25, 6400, 50257, True),
}
# Of litgpt: the configuration and how many of its layers.
LITGPT = {
    "lit-tiny": ("tiny-llama-1.1b", 22),
    "lit-13b2": ("Llama-2-13b-hf", 2),
    "lit-13b4": ("Llama-2-13b-hf", 4),
    "lit-7b8": ("Llama-2-7b-hf", 8),
    "lit-8b8": ("Llama-3-8B", 8),
}
# shape, context, micro-batch, accumulation, weights, and what else is not usual
RUNS = {
    "t1": ("tiny", 2048, 4, 1, "bf16"),
    "t2": ("tiny", 2048, 4, 1, "f32"),
    "t3": ("tiny", 2048, 4, 4, "f32"),
    "t4": ("tiny", 2048, 4, 4, "bf16"),
    "t5": ("tiny", 2048, 4, 1, "f32", "full"),
    "t6": ("tiny", 2048, 16, 1, "bf16", "full"),
    "t7": ("tiny", 2048, 4, 1, "f32", "eager"),
    "t8": ("tiny", 2048, 4, 1, "bf16", "fused"),
    "t9": ("tiny", 2048, 16, 1, "f32", "fused"),
    "l1": ("1b", 2048, 4, 1, "bf16"),
    "l2": ("1b", 8192, 1, 1, "f32"),
    "l3": ("1b", 4096, 2, 1, "bf16", "full"),
    "l4": ("1b", 4096, 8, 4, "f32", "full", "fused"),
    "b1": ("3b", 4096, 2, 1, "bf16"),
    "b2": ("3b", 4096, 2, 1, "f32", "full"),
    "b3": ("3b", 4096, 1, 1, "f32", "fused"),
    "e1": ("8b8", 4096, 2, 1, "bf16", "full"),
    "e2": ("8b8", 4096, 2, 1, "f32"),
    "c1": ("tiny", 2048, 8, 1, "f32", "fused", "compile"),
    "c2": ("1b", 4096, 2, 1, "bf16", "fused", "compile"),
    "d1": ("tiny", 2048, 4, 1, "f32", "fused", "compile"),
    "d2": ("3b", 4096, 1, 1, "f32", "fused", "compile"),
    "d3": ("1b", 2048, 8, 1, "f32", "fused", "compile"),
    "d4": ("3b", 4096, 2, 4, "f32", "fused", "compile"),
    "g1": ("gpt2m", 1024, 16, 1, "bf16"),
    "g2": ("gpt2m", 1024, 16, 1, "f32"),
    "g3": ("gpt2m", 1024, 8, 1, "f32", "eager"),
    "g4": ("gpt2x", 1024, 8, 1, "f32", "full"),
    "g5": ("gpt2m", 1024, 32, 1, "f32", "full", "fused"),
    "g6": ("gpt2x", 1024, 4, 4, "bf16", "eager"),
    "m1": ("7b", 2048, 1, 1, "bf16"),
    "m2": ("7b", 4096, 2, 1, "bf16", "full"),
    "m3": ("7b", 2048, 4, 4, "bf16", "full", "fused"),
    "m4": ("3b", 2048, 8, 1, "bf16", "full"),
    "m6": ("1b", 1024, 4, 1, "f32", "fused"),
    "m7": ("tiny", 1024, 32, 2, "bf16", "fused"),
    "q1": ("q05", 2048, 4, 1, "bf16"),
    "q2": ("q05", 4096, 4, 1, "f32", "full"),
    "q3": ("q05", 2048, 8, 4, "bf16", "full"),
    "u1": ("lit-tiny", 2048, 4, 1, "bf16", "fused"),
    "u2": ("lit-tiny", 2048, 4, 1, "bf16", "fused", "compile"),
    "u3": ("lit-13b2", 4096, 2, 1, "bf16", "fused", "compile"),
    "u4": ("lit-13b4", 4096, 2, 1, "bf16", "fused", "compile"),
    "u5": ("lit-13b4", 4096, 2, 1, "bf16", "fused"),
    "u6": ("lit-7b8", 4096, 1, 1, "bf16", "fused"),
    "u7": ("lit-7b8", 4096, 1, 1, "bf16", "fused", "compile"),
    "u8": ("lit-7b8", 4096, 2, 1, "bf16", "fused", "full"),
    "u9": ("lit-7b8", 4096, 2, 1, "bf16", "fused", "full", "compile"),
    "v1": ("lit-8b8", 8192, 1, 1, "bf16", "fused"),
    "v2": ("lit-8b8", 8192, 1, 1, "bf16", "fused", "compile"),
    "v3": ("lit-8b8", 4096, 2, 1, "bf16", "fused", "full"),
}
COLUMNS = (
    "id,source,source_path_or_url,hardware,n_gpus,gpus_per_node,model_name,layers,hidden,heads,kv_heads,ffn,vocab,glu,tied,seq,"
    "micro_batch_seqs,global_batch_seqs,zero_stage,act_ckpt,precision,attn_impl,compile,peak_mem_gib,notes"
).split(",")


def litgpt(shape):
    """Classes of litgpt and the configuration; its package imports more than its models need."""
    if "litgpt" not in sys.modules:
        package = types.ModuleType("litgpt")
        package.__path__ = list(importlib.util.find_spec("litgpt").submodule_search_locations)
        sys.modules["litgpt"] = package
    model = importlib.import_module("litgpt.model")
    name, layers = LITGPT[shape]
    return model, importlib.import_module("litgpt.config").Config.from_name(name, n_layer=layers)


def dimensions(shape):
    """Layers, width, heads, heads of keys, feed-forward, vocabulary, tied."""
    if shape in SHAPES:
        return SHAPES[shape]
    c = litgpt(shape)[1]
    return c.n_layer, c.n_embd, c.n_head, c.n_query_groups, c.intermediate_size, c.padded_vocab_size, False


def build(shape, context, *unusual):
    """The model, and its loss over a batch of tokens with what its trainers hold beside it."""
    layers, width, heads, keys, wide, vocab, tied = dimensions(shape)
    if shape in LITGPT:
        module, config = litgpt(shape)
        config.block_size = context
        model = module.GPT(config)
        if "full" in unusual:
            block = lambda part: isinstance(part, module.Block)
            apply_activation_checkpointing(model, checkpoint_wrapper_fn=checkpoint_wrapper, check_fn=block)

        def loss(forward, ids):
            logits = forward(ids)
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()), logits

        return model, loss
    attention = "eager" if "eager" in unusual else "sdpa"
    common = dict(use_cache=False, attn_implementation=attention, vocab_size=vocab, tie_word_embeddings=tied)
    if shape.startswith("gpt2"):
        kind, config = GPT2LMHeadModel, GPT2Config(n_embd=width, n_layer=layers, n_head=heads, **common)
    else:
        kind, config = LlamaForCausalLM, LlamaConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=keys,
            intermediate_size=wide, max_position_embeddings=8192, **common)
    model = kind(config)
    if "full" in unusual:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, lambda forward, ids: (forward(input_ids=ids, labels=ids).loss, None)


def peaks(shape, context, micro, accumulation, weights, *unusual, steps=3):
    """GiB allocated and reserved at most, over three steps of AdamW with clipped gradients."""
    torch.set_default_dtype(torch.bfloat16 if weights == "bf16" else torch.float32)
    with torch.device("cuda"):
        model, loss_of = build(shape, context, *unusual)
    torch.set_default_dtype(torch.float32)
    model.train()
    vocab = dimensions(shape)[5]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused="fused" in unusual, foreach="fused" not in unusual)
    forward = torch.compile(model) if "compile" in unusual else model
    for _ in range(steps):
        for _ in range(accumulation):
            ids = torch.randint(0, vocab, (micro, context), device="cuda")
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=weights == "f32"):
                loss, held = loss_of(forward, ids)
                loss = loss / accumulation
            loss.backward()
            del loss, held
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30


def rows(name, run, card):
    """The run's two rows, of what is allocated and of what is reserved."""
    shape, context, micro, accumulation, weights, *unusual = run
    layers, width, heads, keys, wide, vocab, tied = dimensions(shape)
    gpt, lit = shape.startswith("gpt2"), shape in LITGPT
    release, torch_release = transformers.__version__, torch.__version__.split("+")[0]
    program = f"litgpt {importlib.metadata.version('litgpt')}" if lit else f"transformers {release}"
    notes = f"{program}, torch {torch_release}; torch AdamW{' fused' if 'fused' in unusual else ''}; "
    notes += "pure-bf16; " if weights == "bf16" else "f32 weights under autocast; "
    notes += "hidden-dropout=0.1; " if gpt else ""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for word, gib in zip(("allocated", "reserved"), peaks(*run)):
        yield dict(
            id=f"{name}-{word}", source=f"{'litgpt' if lit else 'Hugging Face transformers'} on one card", hardware=card, n_gpus=1, gpus_per_node=8,
            source_path_or_url="benches/gpu/peer_memory.py", model_name=shape, layers=layers, hidden=width, heads=heads,
            kv_heads=keys, ffn=wide, vocab=vocab, glu=int(not gpt), tied=int(tied), seq=context, micro_batch_seqs=micro,
            global_batch_seqs=micro * accumulation, zero_stage=0, act_ckpt="full" if "full" in unusual else "none",
            precision="bf16", attn_impl="eager" if "eager" in unusual else "sdpa", compile=int("compile" in unusual),
            peak_mem_gib=f"{gib:.3f}", notes=f"{notes}max_memory_{word}")


def main():
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    table.writeheader()
    card = torch.cuda.get_device_name().removeprefix("NVIDIA ")
    for name in sys.argv[1:] or RUNS:
        for row in rows(name, RUNS[name], card):
            table.writerow(row)
        sys.stdout.flush()


main()
