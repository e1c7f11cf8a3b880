#!/bin/bash
# One session on a GPU machine, under 9 minutes: every kernel against its twin, the self-test, then timed steps of the
# plans given. Each part has its own timeout; the session ends with one JSON whatever failed.
#
# PEERS=SCRIPT runs a peer right after each of ours and prints the ratio.
#
# usage: session.sh FOLDER PLAN...     FOLDER holds llmc, llmc-worker and ops (the test binary of runtime/tests/ops), built
#                                      on an ordinary machine: `make gpu-session` gathers them. Results go to $OUT.
# SEARCH="3b-4k ..." times these plans once more with a GEMM search (a minute each); CEILING=1 measures the parts of each
# bf16 plan's step alone (parts.py), in the same call, and prints what share of the ceiling they allow it reached.
# GRADIENTS=1 adds gradients against f64 (about a minute), CALIBRATE=1 a calibration (three to four minutes).
set -u
bin=$(realpath "$1"); shift
out=$(realpath "${OUT:-.}")
LIBTORCH=${LIBTORCH:-$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')}
export LIBTORCH LD_LIBRARY_PATH=$LIBTORCH/lib:$LIBTORCH/../nvidia/cu13/lib:${LD_LIBRARY_PATH:-} OMP_WAIT_POLICY=passive

part() { # NAME SECONDS COMMAND...
  local name=$1 seconds=$2 began=$SECONDS; shift 2
  timeout "$seconds" "$@" >"$out/$name.out" 2>"$out/$name.err"
  local code=$?
  printf '{"part": "%s", "code": %d, "seconds": %d}\n' "$name" "$code" $((SECONDS - began)) >>"$out/parts.jsonl"
  [ "$code" = 0 ] || { echo "FAILED $name ($code)"; tail -n 5 "$out/$name.err"; grep -hE '^error|panicked|FAILED' "$out/$name.out" | head -n 20; }
}

peer() { # PLAN: what the script is asked for, or failure where it knows no such thing
  python3 - "$1" <<'E1'
import json, os, sys
plan, shape = json.load(open(sys.argv[1])), os.path.basename(sys.argv[1]).split("-")[0]
kind = {"bf16": "titan-cudnn", "fp8": "titan-fp8"}.get(plan["precision"])
if shape not in ("160m", "1b", "3b") or kind is None:
    sys.exit(1)
print(kind, shape, plan["model"]["context"], plan["batch"]["micro_batch_sequences"], plan["batch"]["accumulation"])
E1
}

: >"$out/parts.jsonl"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.limit --format=csv,noheader >"$out/card.txt"
[ -x "$bin/ops" ] && part ops "${OPS_SECONDS:-120}" env LLMC_TEST_DEVICE=cuda "$bin/ops"
[ -n "${SKIP_SELFTEST:-}" ] || part selftest 90 "$bin/llmc-worker" selftest --device cuda
[ -n "${GRADIENTS:-}" ] && part gradients 150 "$bin/llmc-worker" gradients --device cuda # cosines to f64 at the widths of 1B and 3B
# CALIBRATE: time the calibration's own plans and fit a profile on them, in $out/calibration and $out/profiles.
[ -n "${CALIBRATE:-}" ] && part calibrate "${CALIBRATE_SECONDS:-300}" env LLMC_WORKER="$bin/llmc-worker" "$bin/llmc" calibrate --device --keep "$out/calibration" -o "$out/profiles"
for plan in "$@"; do
  name=$(basename "$plan" .json)
  part "bench-$name" "${BENCH_SECONDS:-75}" "$bin/llmc-worker" bench --plan "$plan" --steps "${STEPS:-5}" --algorithms "$out"
  # What `llmc calibrate rows/*.bench.json` reads.
  [ -s "$out/bench-$name.out" ] && mkdir -p "$out/rows" && cp "$plan" "$out/rows/$name.json" && cp "$out/bench-$name.out" "$out/rows/$name.bench.json"
  [ -f "$out/gemm.json" ] && mv "$out/gemm.json" "$out/gemm-$name.json"
  # PEERS: a script that takes PEER SHAPE CONTEXT MICRO-BATCH ACCUMULATION STEPS and prints RESULT and a JSON object; run
  # right after ours, on plans whose name begins with a shape it knows. Peers fill the card: their allocator must not round up.
  [ -n "${PEERS:-}" ] && arguments=$(peer "$plan") && part "peer-$name" "${PEER_SECONDS:-120}" \
    env -u LD_LIBRARY_PATH PYTORCH_ALLOC_CONF=expandable_segments:True python3 "$PEERS" $arguments "${STEPS:-5}"
done
for plan in "$@"; do
  name=$(basename "$plan" .json)
  [[ " ${SEARCH:-} " == *" $name "* ]] && part "bench-$name-search" "${SEARCH_SECONDS:-150}" \
    "$bin/llmc-worker" bench --plan "$plan" --steps "${STEPS:-5}" --algorithms "$out" --search
done
[ -n "${CEILING:-}" ] && part ceiling "${CEILING_SECONDS:-120}" env -u LD_LIBRARY_PATH python3 "$bin/parts.py" "$@"

python3 - "$out" <<'E2'
import glob, json, os, sys
out = sys.argv[1]
session = {"card": open(f"{out}/card.txt").read().strip(), "parts": [json.loads(l) for l in open(f"{out}/parts.jsonl")]}
for path in sorted(glob.glob(f"{out}/selftest.out") + glob.glob(f"{out}/gradients.out") + glob.glob(f"{out}/bench-*.out")):
    name = os.path.basename(path)[:-4]
    try:
        session[name] = json.load(open(path))
    except ValueError:
        session[name] = None
for path in glob.glob(f"{out}/peer-*.out"):
    results = [line[6:].strip() for line in open(path, errors="replace") if line.startswith("RESULT")]
    session[os.path.basename(path)[:-4]] = json.loads(results[-1]) if results else None

if os.path.exists(f"{out}/ceiling.out"):
    found = [json.loads(line) for line in open(f"{out}/ceiling.out", errors="replace") if line.startswith("{")]
    session["ceiling"] = {parts["plan"]: parts for parts in found}
json.dump(session, open(f"{out}/session.json", "w"))
for path in glob.glob(f"{out}/*.out") + glob.glob(f"{out}/*.err") + glob.glob(f"{out}/gemm-*.json") + [f"{out}/parts.jsonl", f"{out}/card.txt"]:
    session.setdefault("texts", {})[os.path.basename(path)] = open(path, errors="replace").read()[-6000:]
    os.remove(path)
json.dump(session, open(f"{out}/session.json", "w"))
for name, r in session.items():
    if name.startswith("bench-") and r:
        busy = " ".join(f"{k} {1e3 * v:.0f}" for k, v in sorted(r["by_kind"].items(), key=lambda kv: -kv[1]))
        p, s = r["peak_bytes"], r["step_seconds"]
        peer = session.get("peer-" + name[6:])
        parts = session.get("ceiling", {}).get(name[6:].removesuffix("-search"))
        if parts:
            print(f"{name[6:]:16} {r['tokens_per_second']['measured'] / parts['ceiling']:.3f} x the {parts['ceiling']:.0f} tok/s of the parts alone")
        if peer:
            ours = r["tokens_per_second"]["measured"]
            print(f"{name[6:]:16} {ours / peer['tok_s']:.2f} x {peer['peer']}: {peer['tok_s']} tok/s, {peer['peak_alloc_gib']} GiB")
        print(f"{name[6:]:16} {r['tokens_per_second']['measured']:9.0f} tok/s  MFU {100 * r['mfu']['measured']:.1f}  step {s['measured']:.3f} s "
              f"(plan {100 * (s['error'] or 0):+.1f} %)  peak {p['measured'] / 2**30:.2f} GiB ({100 * (p['error'] or 0):+.2f} %)  "
              f"reserved {r['reserved_bytes'] / 2**30:.2f}  late {r['late_allocations']}  first step {r['first_step_seconds']:.1f} s  "
              f"loss {r['losses'][0]:.3f} {r['losses'][1]:.3f}\n{'':16} ms: {busy}  of {1e3 * r['watched_seconds']:.0f}")
    if name == "gradients" and r:
        print("gradients", r["ok"], {k: (v["ok"], round(v["worst"], 5), round(v["loss"] / v["reference_loss"] - 1, 6), [round(x, 1) for x in v["seconds"]]) for k, v in r["cases"].items()})
    if name == "selftest" and r:
        print("selftest", r["ok"], {k: v for k, v in r["ops"].items() if not v["ok"]}, r["bitwise"], {k: (v["ok"], v["worst"], v["repeats"]) for k, v in r["training"].items()})
E2
