"""Times of the parts the planner's cost model adds up, on one GPU: matrix products by shape and layout, attention by
back end, pointwise passes, host link. Writes planner_parts.csv to $OUT; the profile of the card is fitted on it."""
import csv, os, sys, time
import torch, torch.nn.functional as F
from torch.nn.attention import sdpa_kernel, SDPBackend

dev, bf = "cuda", torch.bfloat16
out = csv.writer(open(os.path.join(os.environ.get("OUT", "."), "planner_parts.csv"), "w"))
out.writerow("part,layout,a,b,c,d,us".split(","))
flush = torch.empty(2**27, device=dev, dtype=torch.int8)  # larger than L2, so inputs come from memory as in a step


def timed(f, least=6):
    f(); torch.cuda.synchronize()
    times = []
    for _ in range(least):
        flush.zero_()
        a, b = torch.cuda.Event(True), torch.cuda.Event(True)
        a.record(); f(); b.record(); torch.cuda.synchronize()
        times.append(a.elapsed_time(b) * 1e3)
    return sorted(times)[len(times) // 2]


def row(part, layout, a, b, c, d, us):
    out.writerow([part, layout, a, b, c, d, f"{us:.2f}"])


p = torch.cuda.get_device_properties(0)
print(p, "free, total", torch.cuda.mem_get_info())
warm = torch.randn(8192, 8192, device=dev, dtype=bf)
end = time.time() + 4
while time.time() < end:
    warm @ warm
    torch.cuda.synchronize()
widths = [(768, 3072), (2048, 5504), (3072, 8192), (4096, 11008), (4096, 14336), (5120, 13824), (8192, 28672)]
shapes = set()
for h, f in widths:
    for t in (1, 2, 4, 8):
        if h < 2048 and t > 2:
            continue
        shapes |= {(3 * h // t, h), (h, h // t), (2 * f // t, h), (h, f // t)}
        if t == 1:
            shapes |= {(32000, h), (6144, h)}
for n, k in sorted(shapes):
    for m in (1024, 2048, 4096, 8192, 16384):
        if m in (1024, 16384) and n * k < 1 << 22:
            continue
        x = torch.randn(m, k, device=dev, dtype=bf); w = torch.randn(n, k, device=dev, dtype=bf); g = torch.randn(m, n, device=dev, dtype=bf)
        acc = torch.zeros(n, k, device=dev)
        row("gemm", "forward", m, n, k, 0, timed(lambda: x @ w.t()))
        row("gemm", "dgrad", m, n, k, 0, timed(lambda: g @ w))
        row("gemm", "wgrad", m, n, k, 0, timed(lambda: torch.mm(g.t(), x)))
        if m in (4096, 8192):
            x8, w8 = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn); one = torch.ones((), device=dev)
            row("fp8", "forward", m, n, k, 0, timed(lambda: torch._scaled_mm(x8, w8.t(), one, one, out_dtype=bf, use_fast_accum=True)))
print("gemm done", flush=True)
for b, s in ((4, 1024), (4, 2048), (1, 4096), (2, 4096), (1, 8192), (1, 16384), (1, 32768)):
    for nq, nkv, d in ((32, 32, 128), (32, 8, 128), (16, 16, 128), (8, 8, 128), (8, 1, 128), (4, 4, 128), (32, 32, 64)):
        for name, be in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            if name == "flash" and nq != 32:
                continue
            q = torch.randn(b, nq, s, d, device=dev, dtype=bf, requires_grad=True)
            k, v = (torch.randn(b, nkv, s, d, device=dev, dtype=bf, requires_grad=True) for _ in range(2))
            try:
                with sdpa_kernel(be):
                    call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=nq != nkv)
                    row("attention", name + "_forward", b, s, nq, nkv * 1000 + d, timed(call))
                    o = call(); g = torch.randn_like(o)
                    row("attention", name + "_backward", b, s, nq, nkv * 1000 + d, timed(lambda: torch.autograd.grad(o, (q, k, v), g, retain_graph=True)))
            except RuntimeError as e:
                print(name, b, s, nq, nkv, d, str(e)[:80])
print("attention done", flush=True)
for mib in (1, 4, 16, 64, 256, 1024):
    a = torch.empty(mib << 20, device=dev, dtype=torch.int8); c = torch.empty_like(a); h = torch.empty(mib << 20, dtype=torch.int8, pin_memory=True)
    row("copy", "device", mib, 0, 0, 0, timed(lambda: c.copy_(a)))
    row("copy", "to_host", mib, 0, 0, 0, timed(lambda: h.copy_(a, non_blocking=True)))
    row("copy", "from_host", mib, 0, 0, 0, timed(lambda: c.copy_(h, non_blocking=True)))
for n in (1 << 22, 1 << 25, 1 << 28):
    ps = [torch.randn(n, device=dev)]; ps[0].grad = torch.randn(n, device=dev)
    opt = torch.optim.AdamW(ps, fused=True)
    row("adamw", "fused_f32", n, 0, 0, 0, timed(opt.step))
print("peak", torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info())
