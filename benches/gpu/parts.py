"""What the parts of a plan's step allow on this card, as if each were all there is: products with cuBLAS's own choice of
algorithm, cuDNN attention, and the bytes of all other passes at the rate of a copy. A line of JSON for each bf16 plan.

    parts.py PLAN...            every part timed alone; `ceiling` is the tokens/s of their sum
    parts.py --loaded PLAN...   also attention between products, and a whole step of parts after each other: a card at its
                                power limit runs at 1.5 GHz what alone it runs at 1.98, so no order of parts takes their sum

Needs PyTorch with cuDNN attention and Triton; 20 s a plan, with --loaded 30 s more.
"""
import json
import os
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def middle(values):
    return sorted(values)[len(values) // 2]


def seconds(call):
    return do_bench(call, warmup=50, rep=200, return_mode="median") / 1e3


def clock():
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


class Products:
    """The three products of one weight matrix [n, k] over `rows` tokens."""

    def __init__(self, rows, n, k):
        self.x, self.w, self.dy = random(rows, k), random(n, k), random(rows, n)
        self.y, self.dx, self.dw = random(rows, n), random(rows, k), random(n, k)

    def forward(self):
        torch.mm(self.x, self.w.t(), out=self.y)

    def input_gradient(self):
        torch.mm(self.dy, self.w, out=self.dx)

    def weight_gradient(self):
        torch.mm(self.dy.t(), self.x, out=self.dw)

    def backward(self):
        self.input_gradient(), self.weight_gradient()

    def alone(self):
        """Seconds, each product timed by itself."""
        return seconds(self.forward) + seconds(self.input_gradient) + seconds(self.weight_gradient)


class Attention:
    """cuDNN attention over `batch` sequences."""

    def __init__(self, batch, heads, kv_heads, context, width):
        self.qkv = [random(batch, n, context, width).requires_grad_(True) for n in (heads, kv_heads, kv_heads)]
        self.grouped, self.dout = kv_heads < heads, random(batch, heads, context, width)
        self.out = self.forward()

    def forward(self):
        return F.scaled_dot_product_attention(*self.qkv, is_causal=True, enable_gqa=self.grouped)

    def backward(self):
        torch.autograd.grad(self.out, self.qkv, self.dout, retain_graph=True)


class Step:
    """The parts of the step that a plan describes."""

    def __init__(self, plan):
        m, b = plan["model"], plan["batch"]
        hidden, ffn, self.layers, self.vocab = m["hidden"], m["ffn"], m["layers"], m["vocab_padded"]
        self.rows, self.tokens = b["micro_batch_sequences"] * m["context"], b["global_tokens"]
        q, kv = m["heads"] * m["head_dim"], m["kv_heads"] * m["head_dim"]
        shapes = ((q + 2 * kv, hidden), (hidden, q), (2 * ffn, hidden), (hidden, ffn))
        self.layer = [Products(self.rows, n, k) for n, k in shapes]
        self.head = Products(self.rows, self.vocab, hidden)
        self.attention = Attention(b["micro_batch_sequences"], m["heads"], m["kv_heads"], m["context"], m["head_dim"])
        # Bytes of norms, rotation, SwiGLU and residual sums at 16 bits an element, each operand read or written once.
        norms, turned = 2 * self.rows * hidden, 2 * self.rows * 2 * (q + kv)
        self.forward_bytes = 12 * norms + turned + 2 * self.rows * 3 * ffn
        self.backward_bytes = 12 * norms + turned + 2 * self.rows * 5 * ffn
        self.weights = sum(n * k for n, k in shapes)  # of a layer
        self.parameters = self.layers * self.weights + (1 if m["tied"] else 2) * self.vocab * hidden

    def parts(self, copied):
        """Seconds of each part alone, over the step. `copied`: bytes a second of a copy."""
        passes = self.tokens / self.rows
        alone = {
            "products": sum(part.alone() for part in self.layer),
            "attention": seconds(self.attention.forward) + seconds(self.attention.backward),
            "passes": (self.forward_bytes + self.backward_bytes) / copied,
            # 0.11 ms for the 113 M weights of a 3B layer on an H100 whose copies ran at 3.0 TB/s (2026-11).
            "sums": 0.11e-3 * self.weights / 113e6 * 3.0e12 / copied,
        }
        alone = {name: self.layers * passes * part for name, part in alone.items()}
        # The head's logits are written, read and turned into their gradient, which is read.
        logits = 4 * 2 * self.rows * self.vocab / copied
        alone["head"] = passes * (self.head.alone() + logits)
        # AdamW with f32 master, moments and gradient and a 16-bit weight: three read and written, one read, one written;
        # and the gradient read once more for its norm.
        alone["optimizer"] = 32 * self.parameters / copied
        return alone

    def attention_between_products(self):
        """Seconds forward and backward in the second half of three seconds, and the clock."""
        times, began = [], time.time()
        while time.time() - began < 3:
            for _ in range(20):
                self.layer[2].forward(), self.layer[2].backward(), self.layer[2].backward()
                marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
                marks[0].record(), self.attention.forward(), marks[1].record(), self.attention.backward(), marks[2].record()
                times.append(marks)
            seen = clock()
            torch.cuda.synchronize()
        times = times[len(times) // 2 :]
        return [middle([m[i].elapsed_time(m[i + 1]) for m in times]) / 1e3 for i in (0, 1)] + [seen]

    def whole(self):
        """Seconds of a step of products, attention and copies of the other passes' and the optimizer's bytes, without
        sums of gradients, norms and loss, and the clock."""
        source = torch.empty(self.backward_bytes // 4, device="cuda", dtype=torch.bfloat16)
        target, update = torch.empty_like(source), [torch.empty(2**28, device="cuda") for _ in range(2)]
        forward = self.forward_bytes // 4
        steps = []
        for _ in range(4):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(self.tokens // self.rows):
                for _ in range(self.layers):
                    target[:forward].copy_(source[:forward])
                    [part.forward() for part in self.layer]
                    self.attention.forward()
                self.head.forward(), self.head.backward()
                for _ in range(self.layers):
                    target.copy_(source)
                    [part.backward() for part in self.layer]
                    self.attention.backward()
            for left in range(28 * self.parameters // 8, 0, -(2**28)):
                update[0][:left].copy_(update[1][:left])
            seen = clock()
            torch.cuda.synchronize()
            steps.append(time.perf_counter() - began)
        return middle(steps[1:]), seen


def copy_rate():
    source, target = (torch.zeros(2**29, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * source.nbytes / seconds(lambda: target.copy_(source))


def main(arguments):
    loaded, copied = "--loaded" in arguments, copy_rate()
    for path in (a for a in arguments if a != "--loaded"):
        plan = json.load(open(path))
        if plan["precision"] != "bf16":
            continue
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            step = Step(plan)
            parts = step.parts(copied)
            found = {"plan": os.path.basename(path).removesuffix(".json"), "ceiling": step.tokens / sum(parts.values()), "seconds": parts}
            if loaded:
                found["attention_alone"] = [seconds(step.attention.forward), seconds(step.attention.backward)]
                found["attention_between_products"] = step.attention_between_products()
                found["whole"] = step.whole()
        print(json.dumps(found), flush=True)
        del step
        torch.cuda.empty_cache()


main(sys.argv[1:])
