//! Seconds of a collective, by NCCL's own model: `latency + bytes / bandwidth` (NCCL src/graph/tuning.cc).

use super::Setting;

/// What the two halves of a machine without links between its devices send each other, as a share of one device's PCIe
/// bandwidth. Eight A100 in MooreThreads/SimuMax@3005b17c:configs/system/a100_pcie.json: 7.65 and 7.0 GB/s a ring (gather,
/// scatter) where two rings cross at once, 4 and 3.9 where four do, 13.5 and 11.1 one of all eight, 20.7 in a half.
const BRIDGE: f64 = 0.6;

/// A set of ranks that talk: how many, over how many machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Ranks.
    pub ranks: u64,
    /// Machines they lie on.
    pub nodes: u64,
    /// Devices between neighbours in a machine: as many groups of its kind lie side by side.
    pub stride: u64,
}

impl Group {
    /// `ranks` of them, neighbours being `stride` devices apart on machines of `per_node` devices.
    pub fn strided(ranks: u64, stride: u64, per_node: u64) -> Group {
        let in_node = (per_node / stride.max(1)).clamp(1, ranks.max(1));
        Group { ranks, nodes: ranks.div_ceil(in_node), stride: stride.max(1) }
    }
}

/// Bus bandwidth of a ring: the slower of the link inside and all the NICs that the group has in one machine.
fn ring_bandwidth(s: &Setting, g: Group) -> f64 {
    let per_node = g.ranks as f64 / g.nodes as f64;
    // A board of four joins each pair by a third of the links: two devices talk over that third alone (NVIDIA HGX H100
    // 4-GPU; Ampere's NVIDIA "Redstone" board).
    let joined = match s.hardware.mesh {
        Some(all) if per_node > 1.0 => ((per_node - 1.0) / (all as f64 - 1.0)).min(1.0),
        _ => 1.0,
    };
    let mut link = s.hardware.link_bandwidth * s.profile.comm.ring * joined;
    if s.hardware.link_kind == "pcie" && per_node * g.stride as f64 > s.hardware.gpus_per_node as f64 / 2.0 {
        link = link.min(BRIDGE * s.hardware.link_bandwidth / g.stride as f64);
    }
    if g.nodes <= 1 {
        return link;
    }
    link.min(per_node * s.hardware.network_bandwidth * s.profile.comm.network)
}

/// Latency of a ring of `steps`, of which `crossing` go over the network.
fn ring_latency(s: &Setting, steps: f64, crossing: f64) -> f64 {
    let c = &s.profile.comm;
    c.base + (steps - crossing) * c.step_link + crossing * c.step_network
}

/// Reduce-scatter or all-gather whose full buffer has `bytes`.
pub fn scatter(s: &Setting, g: Group, bytes: f64) -> f64 {
    if g.ranks <= 1 || bytes <= 0.0 {
        return 0.0;
    }
    let n = g.ranks as f64;
    let crossing = if g.nodes > 1 { g.nodes as f64 - 1.0 } else { 0.0 };
    // Beyond 32 ranks NCCL ≥ 2.23 has PAT, logarithmic in the ranks: 2·log2 n steps.
    let ring = ring_latency(s, n - 1.0, crossing);
    let pat = s.profile.comm.base + 2.0 * libm::log2(n) * s.profile.comm.step_network;
    ring.min(pat) + bytes * (n - 1.0) / n / ring_bandwidth(s, g)
}

/// All-reduce of `bytes`: the best of ring, tree and switch reduction.
pub fn all_reduce(s: &Setting, g: Group, bytes: f64) -> f64 {
    if g.ranks <= 1 || bytes <= 0.0 {
        return 0.0;
    }
    let c = &s.profile.comm;
    let n = g.ranks as f64;
    let nodes = g.nodes as f64;
    let moved = 2.0 * bytes * (n - 1.0) / n;
    let bandwidth = ring_bandwidth(s, g);
    let crossing = if g.nodes > 1 { 2.0 * (nodes - 1.0) } else { 0.0 };
    let ring = ring_latency(s, 2.0 * (n - 1.0), crossing) + moved / bandwidth;
    // Tree: ×0.92 of the ring's bandwidth (tuning.cc).
    let depth = 2.0 * ((n / nodes - 1.0) * c.step_link + libm::log2(nodes.max(1.0)) * c.step_network);
    let tree = c.base + depth + moved / (bandwidth * 0.92);
    let mut best = ring.min(tree);
    if s.hardware.nvls && g.nodes == 1 && g.ranks > 4 && bytes >= 2097152.0 {
        best = best.min(c.base + 25e-6 + moved / (s.hardware.link_bandwidth * c.nvls));
    }
    // Across machines with a switch in each: reduced there, then a tree over the networks (NVLS_TREE of tuning.cc: 20.9 µs a hop).
    if s.hardware.nvls && g.nodes > 1 && n / nodes > 4.0 && bytes >= 2097152.0 {
        let hops = 25e-6 + 2.0 * libm::log2(nodes) * 20.9e-6;
        let network = n / nodes * s.hardware.network_bandwidth * c.network;
        best = best.min(c.base + hops + moved / network.min(s.hardware.link_bandwidth * c.nvls));
    }
    best
}

/// Point to point, `crossing` machines or not.
pub fn send(s: &Setting, bytes: f64, crossing: bool) -> f64 {
    let c = &s.profile.comm;
    if crossing {
        c.base + c.step_network + bytes / (s.hardware.network_bandwidth * c.network)
    } else {
        c.base + c.step_link + bytes / (s.hardware.link_bandwidth * c.ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::{Cluster, Question};

    /// NCCL's formula by hand, for an H100 of 450 GB/s a link and 50 GB/s a card of network.
    #[test]
    fn collectives_are_nccls_own_model() {
        let model = crate::logs::tests::model();
        let q = Question { cluster: Some(Cluster { nodes: 4, gpus_per_node: 8 }), ..Question::of(model) };
        let s = crate::setting(&q, q.cluster.unwrap(), 32).unwrap();
        let c = &s.profile.comm;
        let (node, all) = (Group::strided(8, 1, 8), Group::strided(32, 1, 8));
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        let bytes = 1e9;
        // Ring within a machine: 7 steps; across four: 28 within and 3 between.
        near(scatter(&s, node, bytes), 8.4e-6 + 7.0 * 3.4e-6 + bytes * 7.0 / 8.0 / (450e9 * c.ring));
        let slow = (450e9 * c.ring).min(8.0 * 50e9 * c.network);
        let ring: f64 = 8.4e-6 + 28.0 * 3.4e-6 + 3.0 * 14e-6;
        let pat = 8.4e-6 + 2.0 * 5.0 * 14e-6;
        near(scatter(&s, all, bytes), ring.min(pat) + bytes * 31.0 / 32.0 / slow);
        // The switch reduces within a machine, and within each of several before the tree.
        near(all_reduce(&s, node, bytes), 33.4e-6 + 2.0 * bytes * 7.0 / 8.0 / (450e9 * c.nvls));
        let wire = 2.0 * bytes * 31.0 / 32.0;
        let tree = 33.4e-6 + 2.0 * 2.0 * 20.9e-6 + wire / (8.0 * 50e9 * c.network).min(450e9 * c.nvls);
        let rings = 8.4e-6 + 56.0 * 3.4e-6 + 6.0 * 14e-6 + wire / slow;
        near(all_reduce(&s, all, bytes), tree.min(rings));
        assert!(tree < rings, "{tree} {rings}");
        // Small ones go over the tree without a switch.
        let small = 1e4;
        let plain = 8.4e-6 + 2.0 * (7.0 * 3.4e-6 + 2.0 * 14e-6) + 2.0 * small * 31.0 / 32.0 / (slow * 0.92);
        near(all_reduce(&s, all, small), plain);
    }
}
