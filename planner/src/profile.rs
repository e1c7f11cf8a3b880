//! Efficiency profiles: how much of a card's peak each part of a step reaches. One TOML file a family of cards, with
//! the measurement or paper behind every number; `llmc calibrate` writes more.

use llmc_plan::lang::Said;
use llmc_plan::say;
use serde::{Deserialize, Serialize};

use crate::hardware::{Hardware, HardwareError};

/// Efficiencies of one family of hardware with one software stack. Rates are fractions of the card's peak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name that hardware files refer to.
    pub name: String,
    /// Where the numbers are from.
    pub source: String,
    /// Matrix products.
    pub gemm: Gemm,
    /// Fused attention.
    pub attention: Attention,
    /// Pointwise passes and optimizer.
    pub memory: MemoryRate,
    /// Collectives.
    pub comm: Comm,
    /// Fixed costs and slack.
    pub fixed: Fixed,
    /// Bounds of what was measured, for `search.extrapolated`.
    pub measured: Measured,
}

/// `T = 2MNK / (peak · η · (w/⌈w⌉)^wave · tile use · K/(K + k0)) + launch`, w = tiles ÷ multiprocessors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// η of bf16 and fp16 products, sustained.
    pub eta_bf16: f64,
    /// η of fp8 products, sustained.
    pub eta_fp8: f64,
    /// η of f32 products.
    pub eta_f32: f64,
    /// K at which half the rate of a long product is reached.
    pub k0: f64,
    /// How much of the last wave's idle share is lost: 1 = all, 0 = none (stream-K, split-K).
    pub wave: f64,
    /// Tiles the library has, rows × columns × relative rate.
    pub tiles: Vec<(f64, f64, f64)>,
    /// Seconds a kernel launch adds.
    pub launch: f64,
    /// Seconds a byte and element that casts to fp8 with a scale adds, as passes over the operands.
    pub fp8_cast_passes: f64,
}

/// `T = launch + FLOPs/(peak_bf16 · rate) + elements of Q · per_element`; causal FLOPs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Forward rate, head dimension 128.
    pub forward: f64,
    /// Backward rate.
    pub backward: f64,
    /// Seconds an element of Q, forward (mask edges, softmax).
    pub forward_element: f64,
    /// Seconds an element of Q, backward.
    pub backward_element: f64,
    /// Rate at head dimension 64 ÷ rate at 128.
    pub narrow_head: f64,
    /// Rate of FlashAttention-2 ÷ the rates above (Hopper: 254-300 against 502-548 TFLOP/s forward, measured).
    pub flash2: f64,
    /// Passes over the score matrix, forward and backward together, where attention is not fused.
    pub score_passes: f64,
    /// Time of a bit-equal backward ÷ the fast one, where it keeps six sums of dQ.
    pub bitwise_backward: f64,
}

/// Fractions of the peak memory bandwidth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryRate {
    /// Fused pointwise passes.
    pub pointwise: f64,
    /// Optimizer pass.
    pub optimizer: f64,
}

/// NCCL: `T = latency + bytes/bandwidth` (NCCL src/graph/tuning.cc).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comm {
    /// Ring bus bandwidth ÷ link bandwidth, inside a machine.
    pub ring: f64,
    /// All-reduce bus bandwidth with switch reduction ÷ link bandwidth; more than 4 ranks, at least 2 MiB.
    pub nvls: f64,
    /// Bus bandwidth ÷ (NICs × NIC bandwidth), between machines.
    pub network: f64,
    /// Seconds a collective takes to start.
    pub base: f64,
    /// Seconds a ring step inside a machine.
    pub step_link: f64,
    /// Seconds a ring step between machines.
    pub step_network: f64,
    /// Share of tensor-parallel collectives that the products beside them do not hide.
    pub tensor: f64,
    /// Share of data- and context-parallel communication that computation beside it can hide.
    pub overlap: f64,
    /// Share of overlapped time by which computation slows down (multiprocessors and bandwidth taken).
    pub tax: f64,
    /// Waiting for the slowest of n devices: × (1 + straggler·√x·x/(x+1)), x = log2 n (form and 0.09 from SimuMax,
    /// `estimate_straggler_increase_ratio`).
    pub straggler: f64,
    /// Pipelines that share machines delay each other: × (1 + contention·(r − 1)·log2(dp ÷ machine)), r = replicas on one
    /// machine, for more replicas than a machine has devices. An observation, not a law: it is 0 but where runs show it
    /// (vTrain's multi-node runs, [`crate::stack::Facts::contended`]).
    #[serde(default)]
    pub contention: f64,
}

/// Costs that do not grow with the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixed {
    /// Whole step ÷ the sum of its parts measured alone (clock under load, gaps between kernels).
    pub stack: f64,
    /// Seconds a step: optimizer's scalars, logging, data hand-over.
    pub step: f64,
    /// Seconds a micro-batch and layer that the host needs to enqueue; hidden while the device is slower.
    pub host_layer: f64,
    /// Seconds more for each tensor-parallel collective of the layer.
    pub host_collective: f64,
    /// Device bytes of context and libraries.
    pub context_bytes: u64,
    /// Device bytes of one communicator.
    pub communicator_bytes: u64,
    /// Library workspaces, bytes.
    pub workspace_bytes: u64,
    /// Reserved ÷ allocated − 1.
    pub slack: f64,
    /// Share of a layer's forward pass that full recomputation repeats: 1 where a framework runs the block again.
    #[serde(default = "whole")]
    pub redo: f64,
}

fn whole() -> f64 {
    1.0
}

/// What the profile was measured on; outside of it a plan lists an extrapolation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Most GPUs in a run behind the profile.
    pub gpus: u64,
    /// Longest context.
    pub context: u64,
    /// Names of hardware measured; others of the family are scaled by their peaks.
    pub hardware: Vec<String>,
    /// Precisions measured.
    pub precision: Vec<String>,
}

const PROFILES: &[(&str, &str)] = &[
    ("h100", include_str!("../data/profiles/h100.toml")),
    ("h20", include_str!("../data/profiles/h20.toml")),
    ("a100", include_str!("../data/profiles/a100.toml")),
    ("b200", include_str!("../data/profiles/b200.toml")),
    ("ada", include_str!("../data/profiles/ada.toml")),
    ("v100", include_str!("../data/profiles/v100.toml")),
    ("cpu", include_str!("../data/profiles/cpu.toml")),
];

/// The embedded profile of that name; `None` for an unknown one.
pub fn preset(name: &str) -> Option<Profile> {
    let (_, text) = PROFILES.iter().find(|(known, _)| *known == name)?;
    read(text).ok()
}

/// Names of the embedded profiles.
pub fn names() -> Vec<&'static str> {
    PROFILES.iter().map(|(name, _)| *name).collect()
}

/// The profile of a device: its file's own, else the embedded one that it names.
pub fn of(hardware: &Hardware) -> Option<Profile> {
    hardware.efficiencies.clone().or_else(|| preset(&hardware.profile))
}

/// Reads a profile.
///
/// # Errors
/// One line that names the place, the field and what was expected.
pub fn read(text: &str) -> Result<Profile, String> {
    let profile: Profile = toml::from_str(text).map_err(|e| HardwareError::of_toml(text, &e).to_string())?;
    check(&profile, text).map_err(|wrong| wrong.to_string())?;
    Ok(profile)
}

/// Refuses what is no efficiency; `text` is where the profile was written, for the line.
///
/// # Errors
/// Line, field, what was expected and what was found.
pub fn check(p: &Profile, text: &str) -> Result<(), HardwareError> {
    let shares = [
        ("gemm.eta_bf16", p.gemm.eta_bf16),
        ("gemm.eta_fp8", p.gemm.eta_fp8),
        ("gemm.eta_f32", p.gemm.eta_f32),
        ("attention.forward", p.attention.forward),
        ("attention.backward", p.attention.backward),
        ("attention.narrow_head", p.attention.narrow_head),
        ("attention.flash2", p.attention.flash2),
        ("memory.pointwise", p.memory.pointwise),
        ("memory.optimizer", p.memory.optimizer),
        ("comm.ring", p.comm.ring),
        ("comm.network", p.comm.network),
    ];
    // Largest values far above any measured: beyond, the unit is another, microseconds for seconds.
    let others = [
        ("gemm.k0", p.gemm.k0, 1e5),
        ("gemm.wave", p.gemm.wave, 1.0),
        ("gemm.launch", p.gemm.launch, 1e-3),
        ("gemm.fp8_cast_passes", p.gemm.fp8_cast_passes, 100.0),
        ("attention.forward_element", p.attention.forward_element, 1e-6),
        ("attention.backward_element", p.attention.backward_element, 1e-6),
        ("attention.score_passes", p.attention.score_passes, 1e3),
        ("comm.base", p.comm.base, 0.1),
        ("comm.step_link", p.comm.step_link, 0.1),
        ("comm.step_network", p.comm.step_network, 0.1),
        ("comm.tensor", p.comm.tensor, 2.0),
        ("comm.overlap", p.comm.overlap, 1.0),
        ("comm.tax", p.comm.tax, 1.0),
        ("comm.straggler", p.comm.straggler, 1.0),
        ("comm.contention", p.comm.contention, 1.0),
        ("fixed.step", p.fixed.step, 60.0),
        ("fixed.host_layer", p.fixed.host_layer, 0.1),
        ("fixed.host_collective", p.fixed.host_collective, 0.1),
        ("fixed.slack", p.fixed.slack, 2.0),
        ("fixed.redo", p.fixed.redo, 2.0),
    ];
    let line = |field: &str| {
        let key = field.rsplit('.').next().unwrap_or(field);
        let here =
            |l: &str| l.trim_start().strip_prefix(key).is_some_and(|r| r.trim_start().starts_with('='));
        1 + text.lines().position(here).unwrap_or(0)
    };
    let wrong = |field: &str, expected: Said, found: String| HardwareError {
        line: line(field),
        field: field.into(),
        expected,
        found: Said::same(found),
    };
    for (field, value) in shares {
        if !(value > 0.0 && value <= 1.0) {
            return Err(wrong(
                field,
                say!("a share above 0 and at most 1", "大于 0 且不超过 1 的份额"),
                value.to_string(),
            ));
        }
    }
    for (field, value, most) in others {
        if !(0.0..=most).contains(&value) {
            let expected = say!("0 to {most}", " 0 至 {most}", most);
            return Err(wrong(field, expected, value.to_string()));
        }
    }
    for (field, value) in
        [("fixed.stack", p.fixed.stack), ("attention.bitwise_backward", p.attention.bitwise_backward)]
    {
        if !(1.0..100.0).contains(&value) {
            return Err(wrong(field, say!("a factor of 1 or more", "不小于 1 的系数"), value.to_string()));
        }
    }
    if !(p.comm.nvls > 0.0 && p.comm.nvls < 4.0) {
        return Err(wrong("comm.nvls", say!("a positive ratio", "正的比值"), p.comm.nvls.to_string()));
    }
    let whole = |tile: &(f64, f64, f64)| {
        (1.0..1e6).contains(&tile.0) && (1.0..1e6).contains(&tile.1) && tile.2 > 0.0 && tile.2 <= 1.0
    };
    if p.gemm.tiles.is_empty() || !p.gemm.tiles.iter().all(whole) {
        return Err(wrong(
            "gemm.tiles",
            say!("[rows, columns, rate ≤ 1] at least once", "至少一个 [行, 列, 速率 ≤ 1]"),
            format!("{:?}", p.gemm.tiles),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_reads_and_every_card_has_one() {
        for (name, text) in PROFILES {
            let profile = read(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(&profile.name, name);
        }
        for name in crate::hardware::names() {
            let hardware = crate::hardware::preset(name).unwrap();
            assert!(preset(&hardware.profile).is_some(), "{name}");
        }
    }

    #[test]
    fn figures_out_of_range_are_named_with_their_line() {
        let text = include_str!("../data/profiles/h100.toml");
        let error = read(&text.replacen("ring = 0", "ring = -0", 1)).unwrap_err();
        assert!(error.contains("`comm.ring`: expected a share") && error.starts_with("line "), "{error}");
        let error = read(&text.replacen("ring = 0.81", "ring = \"0.81 TB/s\"", 1)).unwrap_err();
        assert!(
            error.starts_with("line ") && error.contains("`ring`: expected a number, found string"),
            "{error}"
        );
        for (from, to, part) in [
            ("overlap = 0.85", "overlap = 5", "`comm.overlap`: expected 0 to 1, found 5"),
            ("launch = ", "launch = 3 #", "`gemm.launch`: expected 0 to 0.001, found 3"),
            ("base = ", "base = 8.4 #", "`comm.base`: expected 0 to 0.1, found 8.4"),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert_ne!(wrong, text, "{from}");
            let error = read(&wrong).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let missing: String =
            text.lines().filter(|l| !l.starts_with("k0 ")).map(|l| format!("{l}\n")).collect();
        let error = read(&missing).unwrap_err();
        assert!(
            error.starts_with("line ") && error.contains("`k0`: expected a value, found nothing"),
            "{error}"
        );
    }
}
