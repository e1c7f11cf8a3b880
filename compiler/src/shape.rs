//! Model presets and the solver that shapes any other size.
//!
//! Presets are `data/models/*.toml`, each with its source and its published parameter count, which a
//! test recounts. Not here: what a recipe pins (`resolve/model.rs`) and RoPE (`derive/rope.rs`).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// One family of models, as `data/models/FAMILY.toml` states it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// Name in a recipe.
    pub family: String,
    /// Where the common figures come from.
    pub cite: String,
    /// Vocabulary of the released tokenizer.
    pub vocab: u64,
    /// Context the released models were trained at, tokens.
    pub context: u64,
    /// Base of the rotary frequencies.
    pub theta: f64,
    /// ε of RMSNorm.
    pub norm_eps: f64,
    /// Standard deviation of the normal initialisation.
    pub init_std: f64,
    /// Head shares the embedding.
    pub tied: bool,
    /// Released sizes, by the name a recipe uses (`7b`).
    pub shapes: BTreeMap<String, PresetShape>,
}

/// One released size.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetShape {
    /// Decoder blocks.
    pub layers: u64,
    /// Residual width.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of the gated feed-forward.
    pub ffn: u64,
    /// Exact parameters at the family's vocabulary.
    pub params: u64,
    /// Source.
    pub cite: String,
}

const FILES: &[&str] = &[
    include_str!("../data/models/llama.toml"),
    include_str!("../data/models/llama2.toml"),
    include_str!("../data/models/llama3.toml"),
];

/// All families in the order they are listed to people.
pub fn families() -> &'static [Family] {
    static FAMILIES: OnceLock<Vec<Family>> = OnceLock::new();
    // A file that does not parse is left out; a test parses each.
    FAMILIES.get_or_init(|| FILES.iter().filter_map(|text| toml::from_str(text).ok()).collect())
}

/// The family of that name.
pub fn family(name: &str) -> Option<&'static Family> {
    families().iter().find(|f| f.family == name)
}

/// What decides a dense decoder's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Decoder blocks.
    pub layers: u64,
    /// Residual width.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of the gated feed-forward.
    pub ffn: u64,
}

/// Parts of a shape that are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShapePins {
    /// Decoder blocks.
    pub layers: Option<u64>,
    /// Residual width.
    pub hidden: Option<u64>,
    /// Query heads.
    pub heads: Option<u64>,
    /// Key and value heads.
    pub kv_heads: Option<u64>,
    /// Width of a head.
    pub head_dim: Option<u64>,
    /// Width of the feed-forward.
    pub ffn: Option<u64>,
}

impl Shape {
    /// All parameters with a vocabulary of `vocab` rows: embedding, blocks (q, k, v, o, gate, up, down, two norms),
    /// final norm, and the head unless tied. Saturates instead of overflowing: callers compare with ceilings.
    pub fn params(&self, vocab: u64, tied: bool) -> u64 {
        let q = u128::from(self.heads) * u128::from(self.head_dim);
        let kv = u128::from(self.kv_heads) * u128::from(self.head_dim);
        let hidden = u128::from(self.hidden);
        let block = hidden * (2 * q + 2 * kv) + 3 * hidden * u128::from(self.ffn) + 2 * hidden;
        let ends = u128::from(vocab) * hidden * if tied { 1 } else { 2 } + hidden;
        u64::try_from(block.saturating_mul(u128::from(self.layers)).saturating_add(ends)).unwrap_or(u64::MAX)
    }
}

/// Width of LLaMA's feed-forward: two thirds of 4·hidden, up to the next multiple of 256
/// (facebookresearch/llama `model.py`, `FeedForward`, multiple_of = 256).
pub fn ffn_width(hidden: u64) -> u64 {
    (8 * hidden / 3).div_ceil(256) * 256
}

/// Head width when none is given: 128 as in every LLaMA from 7B; 64 below a width of 1,024, where 128 would leave
/// fewer than eight heads (GPT-2's smallest models use 64: Radford et al. 2019).
pub fn head_width(hidden: u64) -> u64 {
    if hidden >= 1024 && hidden.is_multiple_of(128) {
        128
    } else if hidden.is_multiple_of(64) {
        64
    } else {
        32
    }
}

/// The rest of a shape once width and depth are known, pins first.
pub fn complete(hidden: u64, layers: u64, pins: &ShapePins) -> Shape {
    let head_dim = pins
        .head_dim
        .or_else(|| pins.heads.and_then(|h| hidden.checked_div(h)))
        .unwrap_or(head_width(hidden));
    let heads = pins.heads.unwrap_or_else(|| (hidden.checked_div(head_dim).unwrap_or(1)).max(1));
    Shape {
        layers,
        hidden,
        heads,
        kv_heads: pins.kv_heads.unwrap_or(heads),
        head_dim,
        ffn: pins.ffn.unwrap_or(ffn_width(hidden)),
    }
}

/// Width ÷ depth of LLaMA 7B and 13B (both 128; arXiv 2302.13971, table 2). Loss is flat around it
/// (Kaplan et al. 2020, arXiv 2001.08361, figure 5: within 1 % from 50 to 200).
const ASPECT: f64 = 128.0;
/// How far from the asked size a rounder shape may stay; 7B itself is 3.7 % below its name.
const TOLERANCE: f64 = 0.03;

/// The shape nearest the LLaMA aspect ratio whose parameters are within 3 % of `target`; the nearest in size when none
/// is. Width in steps of 128 (64 below 1,024). `None` when the pins admit no shape at all.
pub fn solve(target: u64, vocab: u64, tied: bool, pins: &ShapePins) -> Option<Shape> {
    let widths: Vec<u64> = match pins.hidden {
        Some(h) => vec![h],
        // From 4,096 on by 4 heads of 128, from 8,192 on by 8, as LLaMA's own widths: tensor parallelism divides heads.
        None => [(64, 1024, 64), (1024, 4096, 128), (4096, 8192, 512), (8192, 65_537, 1024)]
            .into_iter()
            .flat_map(|(from, to, step)| (from..to).step_by(step))
            .collect(),
    };
    let mut best: Option<((bool, u64, u64, u64), Shape)> = None;
    for hidden in widths {
        if pins.hidden.is_none() && pins.heads.is_some_and(|h| h == 0 || !hidden.is_multiple_of(h)) {
            continue;
        }
        let one = complete(hidden, 1, pins).params(vocab, tied);
        let none = complete(hidden, 0, pins).params(vocab, tied);
        let block = one.saturating_sub(none).max(1);
        let ideal = target.saturating_sub(none) / block;
        let depths: Vec<u64> = match pins.layers {
            Some(l) => vec![l],
            None => [ideal, ideal + 1].into_iter().filter(|&l| (2..=512).contains(&l)).collect(),
        };
        for layers in depths {
            let shape = complete(hidden, layers, pins);
            let params = shape.params(vocab, tied);
            let off = (params as f64 / target as f64 - 1.0).abs();
            let aspect = libm::fabs(libm::log(hidden as f64 / layers as f64 / ASPECT));
            let near = off <= TOLERANCE;
            // Whole numbers make a total order: parts per million of the deviation that decides, then the other.
            let (first, second) = if near { (aspect, off) } else { (off, aspect) };
            let key = (!near, (first * 1e6) as u64, (second * 1e6) as u64, hidden);
            if best.as_ref().is_none_or(|(k, _)| key < *k) {
                best = Some((key, shape));
            }
        }
    }
    best.map(|(_, shape)| shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_counts_as_published() {
        for text in FILES {
            let f: Family = toml::from_str(text).unwrap();
            for (name, s) in &f.shapes {
                let shape = Shape {
                    layers: s.layers,
                    hidden: s.hidden,
                    heads: s.heads,
                    kv_heads: s.kv_heads,
                    head_dim: s.head_dim,
                    ffn: s.ffn,
                };
                assert_eq!(shape.params(f.vocab, f.tied), s.params, "{} {name}", f.family);
                assert!(!s.cite.is_empty() && !f.cite.is_empty());
            }
        }
        assert_eq!(families().len(), FILES.len());
    }

    #[test]
    fn published_totals() {
        let total = |f: &str, s: &str| family(f).unwrap().shapes[s].params;
        assert_eq!(total("llama", "7b"), 6_738_415_616);
        assert_eq!(total("llama", "13b"), 13_015_864_320);
        assert_eq!(total("llama2", "70b"), 68_976_648_192);
        assert_eq!(total("llama3", "8b"), 8_030_261_248);
        assert_eq!(total("llama3", "70b"), 70_553_706_496);
        assert_eq!(total("llama3", "405b"), 405_853_388_800);
    }

    #[test]
    fn llama_widths_follow_the_rule() {
        assert_eq!(
            (ffn_width(4096), ffn_width(5120), ffn_width(6656), ffn_width(8192)),
            (11008, 13824, 17920, 22016)
        );
    }

    #[test]
    fn any_size_is_met_within_three_percent() {
        for target in [20e6, 125e6, 350e6, 1.3e9, 2.7e9, 6.7e9, 30e9, 100e9, 500e9] {
            let shape = solve(target as u64, 32_000, false, &ShapePins::default()).unwrap();
            let off = shape.params(32_000, false) as f64 / target - 1.0;
            assert!(off.abs() <= 0.05, "{target}: {shape:?} is off by {off}");
            let aspect = shape.hidden as f64 / shape.layers as f64;
            assert!(target < 1e9 || (60.0..260.0).contains(&aspect), "{target}: {shape:?}");
        }
    }

    #[test]
    fn the_solver_meets_llama_itself() {
        let shape = solve(6_738_415_616, 32_000, false, &ShapePins::default()).unwrap();
        assert_eq!((shape.layers, shape.hidden, shape.ffn), (32, 4096, 11008));
    }

    #[test]
    fn pins_stay() {
        let pins = ShapePins { layers: Some(24), heads: Some(16), kv_heads: Some(4), ..Default::default() };
        let shape = solve(1_300_000_000, 32_000, false, &pins).unwrap();
        assert_eq!((shape.layers, shape.heads, shape.kv_heads), (24, 16, 4));
        assert_eq!(shape.hidden % 16, 0);
        let nothing = ShapePins { heads: Some(0), ..Default::default() };
        assert_eq!(solve(1_300_000_000, 32_000, false, &nothing), None);
    }
}
