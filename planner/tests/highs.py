"""Solves the programmes of uneven stages that `cargo test -p llmc-planner --test milp` writes, with HiGHS (highspy from
PyPI), and compares its objective with ours and with the dynamic programme's.

    python highs.py INSTANCES.jsonl highs.csv

Writes instance, HiGHS' objective in seconds (empty: infeasible). Exits 1 when any differs by more than 1e-6, relative.
"""

import csv
import json
import sys

import highspy

GIB = 1 << 30


def solve(p):
    """minimise m·T + idle; counts x[s][k] whole; busy_s <= T; bytes_s <= room_s; every stage holds a layer."""
    h = highspy.Highs()
    h.silent()
    h.setOptionValue("mip_rel_gap", 0.0)
    h.setOptionValue("mip_abs_gap", 0.0)
    stages, policies, layers = p["stages"], p["policies"], p["layers"]
    x = [[h.addIntegral(lb=0, ub=layers) for _ in policies] for _ in stages]
    slowest, idle = h.addVariable(lb=0), h.addVariable(lb=0)
    busy = [
        1e3 * s["seconds"] + sum(n * (1e3 * t) for n, t in zip(row, policies)) for s, row in zip(stages, x)
    ]
    h.addConstr(sum(n for row in x for n in row) == layers)
    total = sum(busy[1:], busy[0])
    h.addConstr(idle >= total - slowest - 1e3 * p["filled"])
    for s, row, b in zip(stages, x, busy):
        h.addConstr(b <= slowest)
        h.addConstr(sum(n * (bytes_ / GIB) for n, bytes_ in zip(row, s["layer"])) <= s["room"] / GIB)
        h.addConstr(sum(row[1:], 1 * row[0]) >= 1)
    h.minimize(p["micro_batches"] * slowest + idle)
    if h.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return h.getInfo().objective_function_value / 1e3


def main():
    instances, out = sys.argv[1:]
    rows, wrong, worst = [], [], 0.0
    for line in open(instances):
        p = json.loads(line)
        best = solve(p)
        rows.append((p["instance"], "" if best is None else f"{best:.9e}"))
        for name in ("milp", "dynamic"):
            ours = p[name]
            if (ours is None) != (best is None):
                wrong.append((p["instance"], name, ours, best))
            elif best is not None:
                off = abs(ours / best - 1)
                worst = max(worst, off)
                if off > 1e-6:
                    wrong.append((p["instance"], name, ours, best))
    with open(out, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("instance", "highs_seconds"))
        writer.writerows(rows)
    solved = sum(1 for _, best in rows if best)
    print(f"HiGHS {highspy.Highs().version()}: {len(rows)} programmes, {solved} feasible, worst difference {worst:.1e}")
    for item in wrong[:10]:
        print("differs:", *item)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
