//! Fitted profiles: factors on a family's base profile, one file a (hardware family, stack, precision), each with the
//! rows it was fitted on and their residuals. `llmc calibrate` writes them; the scorer selects one by the names that a
//! run table gives. Plans for our own runtime use the base profile until one is fitted on its logs.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use llmc_plan::plan::Precision;
use serde::{Deserialize, Serialize};

use crate::hardware::{Hardware, HardwareError};
use crate::logs::OWN;
use crate::profile::Profile;
use crate::stack::kin;

/// A quantity that a fit may change: a factor on one field (or a pair) of the base profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knob {
    /// Rate of matrix products.
    Gemm,
    /// Rate of attention.
    Attention,
    /// Rate of pointwise passes.
    Pointwise,
    /// Every part of a layer alike: gaps between kernels, clock under load.
    Stack,
    /// Exposed share of tensor-parallel collectives.
    Tensor,
    /// Bus bandwidth inside a machine.
    Ring,
    /// Bus bandwidth between machines.
    Network,
    /// Share of collectives that computation can hide.
    Overlap,
    /// Slow-down of computation beside collectives.
    Tax,
    /// Waiting for the slowest device.
    Straggler,
    /// Pipelines that share machines.
    Contention,
    /// Host seconds a layer.
    Host,
    /// Host seconds a tensor-parallel collective.
    HostCollective,
    /// Seconds a step.
    Step,
    /// Seconds a kernel.
    Launch,
    /// K of half the product rate.
    K0,
    /// Passes over an unfused score matrix.
    Score,
    /// Passes of casts to fp8.
    Cast,
    /// Idle share of a last wave that is lost.
    Wave,
    /// Start and steps of a collective.
    Latency,
    /// Reserved ÷ allocated − 1.
    Slack,
}

impl Knob {
    /// Physical range of the field behind the knob; a factor leads to its nearest end.
    fn field(self, p: &mut Profile) -> (Vec<&mut f64>, f64, f64) {
        match self {
            // η times the losses by tile, wave and K is the fraction of the peak; alone it may come close to 1.
            Knob::Gemm => (vec![&mut p.gemm.eta_bf16, &mut p.gemm.eta_fp8, &mut p.gemm.eta_f32], 0.05, 1.0),
            Knob::Attention => (vec![&mut p.attention.forward, &mut p.attention.backward], 0.02, 0.9),
            Knob::Pointwise => (vec![&mut p.memory.pointwise], 0.05, 0.95),
            Knob::Stack => (vec![&mut p.fixed.stack], 1.0, 4.0),
            Knob::Tensor => (vec![&mut p.comm.tensor], 0.05, 2.0),
            // A ring within a machine reaches 0.80 to 0.82 of its links where nothing else is wrong (ml-engineering
            // network/README.md).
            Knob::Ring => (vec![&mut p.comm.ring], 0.2, 0.85),
            Knob::Network => (vec![&mut p.comm.network], 0.02, 1.0),
            Knob::Overlap => (vec![&mut p.comm.overlap], 0.02, 1.0),
            Knob::Tax => (vec![&mut p.comm.tax], 0.0, 1.0),
            // Beyond, a slow stack on few devices would pass for waiting and be paid again on many.
            Knob::Straggler => (vec![&mut p.comm.straggler], 0.0, 0.06),
            Knob::Contention => (vec![&mut p.comm.contention], 0.0, 0.5),
            Knob::Host => (vec![&mut p.fixed.host_layer], 1e-6, 0.01),
            Knob::HostCollective => (vec![&mut p.fixed.host_collective], 1e-7, 0.005),
            Knob::Step => (vec![&mut p.fixed.step], 1e-4, 5.0),
            Knob::Launch => (vec![&mut p.gemm.launch], 1e-7, 2e-5),
            Knob::K0 => (vec![&mut p.gemm.k0], 1.0, 4000.0),
            Knob::Score => (vec![&mut p.attention.score_passes], 2.0, 60.0),
            Knob::Cast => (vec![&mut p.gemm.fp8_cast_passes], 0.05, 6.0),
            Knob::Latency => {
                (vec![&mut p.comm.base, &mut p.comm.step_link, &mut p.comm.step_network], 1e-7, 0.01)
            }
            Knob::Slack => (vec![&mut p.fixed.slack], 0.0, 1.5),
            Knob::Wave => (vec![&mut p.gemm.wave], 0.0, 1.0),
        }
    }

    /// Multiplies the field behind the knob, within its physical range.
    pub fn apply(self, profile: &mut Profile, factor: f64) {
        let (fields, low, high) = self.field(profile);
        for field in fields {
            *field = (*field * factor).clamp(low, high);
        }
    }
}

/// Factors by knob.
pub type Scale = BTreeMap<Knob, f64>;

/// `base` with every factor applied.
pub fn scaled(base: &Profile, scale: &Scale) -> Profile {
    let mut profile = base.clone();
    for (knob, factor) in scale {
        knob.apply(&mut profile, *factor);
    }
    profile
}

/// Knobs of step time, what most runs show first.
pub const KNOBS: &[Knob] = &[
    Knob::Gemm,
    Knob::Attention,
    Knob::Pointwise,
    Knob::Straggler,
    Knob::Tensor,
    Knob::Overlap,
    Knob::Host,
    Knob::HostCollective,
    Knob::Cast,
    Knob::Score,
    Knob::Latency,
    Knob::Network,
    Knob::K0,
    Knob::Step,
    Knob::Launch,
    Knob::Stack,
    Knob::Ring,
    Knob::Contention,
];

/// A fitted profile with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// Also the file's name.
    pub name: String,
    /// Software stack ([`crate::stack`]).
    pub stack: String,
    /// Base profile of the hardware family; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// The one device it was measured on; absent: several of the family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Precision of the products; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Factors on the base profile.
    pub scale: Scale,
    /// How it was fitted.
    pub fit: Evidence,
    /// ln(predicted ÷ measured) of every row used.
    pub residuals: BTreeMap<String, f64>,
}

/// How well a fit does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Rows used.
    pub rows: u64,
    /// Base profiles of the cards they ran on.
    #[serde(default)]
    pub families: Vec<String>,
    /// Numbers fitted on them; the others are inherited.
    pub knobs: Vec<Knob>,
    /// Memory peaks behind `slack`; 0: inherited.
    pub peaks: u64,
    /// Started from the base profile, not from the wider fit.
    pub from_base: bool,
    /// Mean absolute error of tokens per second on the rows themselves.
    pub mape: f64,
    /// The same on held-out fifths.
    pub cross_validated: f64,
}

/// Reads a fitted profile.
///
/// # Errors
/// One line that names the place, the field and what was expected.
pub fn read(text: &str) -> Result<Fitted, String> {
    let fitted: Fitted = toml::from_str(text).map_err(|e| HardwareError::of_toml(text, &e).to_string())?;
    let line = |key: &str| 1 + text.lines().position(|l| l.trim_start().starts_with(key)).unwrap_or(0);
    for (knob, factor) in &fitted.scale {
        if !(*factor > 0.0 && factor.is_finite()) {
            let key = format!("{knob:?}").to_lowercase();
            return Err(format!(
                "line {}: `scale.{key}`: expected a factor above 0, found {factor}",
                line(&key)
            ));
        }
    }
    let fit = &fitted.fit;
    if 5 * fit.knobs.len() as u64 > fit.rows {
        return Err(format!(
            "line {}: `fit.knobs`: expected at most one number per 5 rows, found {} for {}",
            line("knobs"),
            fit.knobs.len(),
            fit.rows
        ));
    }
    Ok(fitted)
}

include!("../data/profiles/fitted/list.rs");

/// The embedded fitted profiles.
fn all() -> &'static [Fitted] {
    static ALL: OnceLock<Vec<Fitted>> = OnceLock::new();
    ALL.get_or_init(|| FITTED.iter().filter_map(|text| read(text).ok()).collect())
}

/// Stack name of what is fitted over all of them.
pub const POOLED: &str = "pooled";

/// The closest fitted profile: same stack and family, in that precision or over all; else the stack's, where it saw this
/// family or more than one; else all stacks' on that hardware; else the pooled one. What one family of cards showed about
/// a stack is as likely about the card: it says nothing of another.
pub fn select(stack: &str, family: &str, precision: Precision) -> Option<&'static Fitted> {
    closest(all(), stack, family, precision)
}

/// The profile fitted on our own runs: on that very device, else on one of its family. Plans use it in place of the base
/// profile.
pub fn own(device: &Hardware, precision: Precision) -> Option<&'static Fitted> {
    let of = |f: &&Fitted| f.stack == OWN && f.precision.is_none_or(|p| p == precision);
    let here = |f: &&Fitted| of(f) && f.hardware.as_ref() == Some(&device.name);
    let near = |f: &&Fitted| of(f) && f.family.as_ref() == Some(&device.profile);
    all().iter().find(here).or_else(|| all().iter().find(near))
}

/// What our runtime is on any card, before anything is fitted: algorithms chosen by measuring show none of the base
/// profile's loss of fill at short inner extents (690-730 TFLOP/s at 1,024, 2,048 and 3,072 alike in three plans of
/// `llmc calibrate --device`, one H100 SXM5, 2026-11-24), and the host adds 0.6-1.0 ms to a step there, not a Python
/// loop's 4.
pub fn ours(base: &Profile) -> Profile {
    scaled(base, &Scale::from([(Knob::K0, 0.01), (Knob::Step, 0.25)]))
}

/// [`select`] among given profiles.
pub fn closest<'a>(all: &'a [Fitted], stack: &str, family: &str, precision: Precision) -> Option<&'a Fitted> {
    let on_card = |stack: &str| {
        let of = |p: Option<Precision>| {
            let here = |f: &&Fitted| f.family.as_deref() == Some(family) && f.precision == p;
            all.iter().filter(|f| f.stack == stack).find(here)
        };
        of(Some(precision)).or_else(|| of(None))
    };
    let wide = |stack: &str| all.iter().find(|f| f.stack == stack && f.family.is_none());
    let general = |f: &&Fitted| {
        let seen = &f.fit.families;
        seen.len() != 1 || seen.iter().any(|name| name == family)
    };
    on_card(stack)
        .or_else(|| wide(stack).filter(general))
        .or_else(|| kin(stack).and_then(on_card))
        .or_else(|| on_card(POOLED))
        .or_else(|| wide(POOLED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fitted_profile_reads_and_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/profiles/fitted");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "toml"));
        assert_eq!(files.count(), FITTED.len());
        for text in FITTED {
            let fitted = read(text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(fitted.residuals.len() as u64, fitted.fit.rows, "{}", fitted.name);
        }
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        let text = "name = \"x\"\nstack = \"x\"\n[scale]\ngemm = -1.0\n[fit]\nrows = 5\nknobs = [\"gemm\"]\npeaks = 0\nfrom_base = true\nmape = 0.1\ncross_validated = 0.1\n[residuals]\n";
        assert!(read(text).unwrap_err().contains("line 4: `scale.gemm`: expected a factor above 0"));
        let many = text.replace("-1.0", "1.0").replace("rows = 5", "rows = 4");
        assert!(read(&many).unwrap_err().contains("one number per 5 rows"));
    }
}
