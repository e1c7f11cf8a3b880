"""What the parts of a step of a 3B model reach at the clock that the power limit leaves them, beside what each reaches alone.

A card at its power limit runs a product at 1.5 GHz and attention by itself at 1.98: a sum of parts that were timed one by one
is faster than any order of them. Prints attention alone and between products, then a whole step of parts and nothing else.

usage: under_load.py    needs PyTorch with cuDNN attention, 60 GiB and a minute
"""
import subprocess
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

LAYERS, HIDDEN, HEADS, FFN, VOCAB, HEAD = 26, 3072, 24, 8192, 32000, 128
STEP_TOKENS = 131072


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def clock():
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


def middle(values):
    return sorted(values)[len(values) // 2]


class Products:
    """The three products of one weight matrix [n, k] over `rows` tokens."""

    def __init__(self, rows, n, k):
        self.x, self.w, self.dy = random(rows, k), random(n, k) * 0.02, random(rows, n)
        self.y, self.dx, self.dw = random(rows, n), random(rows, k), random(n, k)

    def forward(self):
        torch.mm(self.x, self.w.t(), out=self.y)

    def backward(self):
        torch.mm(self.dy, self.w, out=self.dx)
        torch.mm(self.dy.t(), self.x, out=self.dw)


class Attention:
    """cuDNN attention over `batch` sequences."""

    def __init__(self, batch, context):
        self.qkv = [random(batch, HEADS, context, HEAD).requires_grad_(True) for _ in range(3)]
        self.dout, self.out = random(batch, HEADS, context, HEAD), self.forward()

    def forward(self):
        return F.scaled_dot_product_attention(*self.qkv, is_causal=True)

    def backward(self):
        torch.autograd.grad(self.out, self.qkv, self.dout, retain_graph=True)


def attention(batch, context, beside):
    """Microseconds forward and backward in the second half of three seconds."""
    att, wide = Attention(batch, context), Products(batch * context, 2 * FFN, HIDDEN)
    times, began = [], time.time()
    while time.time() - began < 3:
        for _ in range(20):
            if beside:
                wide.forward(), wide.backward(), wide.backward()
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
            marks[0].record(), att.forward(), marks[1].record(), att.backward(), marks[2].record()
            times.append(marks)
        seen = clock()
        torch.cuda.synchronize()
    times = times[len(times) // 2 :]
    return [round(1e3 * middle([m[i].elapsed_time(m[i + 1]) for m in times])) for i in (0, 1)] + [seen]


def step(batch, context):
    """Seconds of a step of parts: products, attention and copies of the fused passes' and the optimizer's bytes, each sum of
    gradients left out."""
    rows = batch * context
    layer = [Products(rows, n, k) for n, k in ((3 * HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (2 * FFN, HIDDEN), (HIDDEN, FFN))]
    head, att = Products(rows, VOCAB, HIDDEN), Attention(batch, context)
    # Bytes of norms, rotation, SwiGLU and residual sums, 16 bits an element: read or written once.
    forward, backward = 2 * rows * (16 * HIDDEN + 3 * FFN), 2 * rows * (16 * HIDDEN + 5 * FFN)
    source = torch.empty(backward // 4, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    parameters = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * FFN) + 2 * VOCAB * HIDDEN
    update = torch.empty(2**28, device="cuda"), torch.empty(2**28, device="cuda")
    seconds = []
    for _ in range(4):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(STEP_TOKENS // rows):
            for _ in range(LAYERS):
                target[: forward // 4].copy_(source[: forward // 4])
                [part.forward() for part in layer]
                att.forward()
            head.forward(), head.backward()
            for _ in range(LAYERS):
                target.copy_(source)
                [part.backward() for part in layer]
                att.backward()
        left = parameters * 28 // 8  # AdamW: 28 bytes a parameter with f32 master, moments and gradient
        while left > 0:
            update[0][:left].copy_(update[1][:left])
            left -= 2**28
        seen = clock()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return round(middle(seconds[1:]), 4), round(STEP_TOKENS / middle(seconds[1:])), seen


with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
    for beside in (False, True):
        print("attention between products" if beside else "attention alone", attention(2, 4096, beside), flush=True)
    for batch, context in ((2, 4096), (1, 8192)):
        print(f"step of parts, {batch} x {context}: seconds, tokens/s, clock", step(batch, context), flush=True)
