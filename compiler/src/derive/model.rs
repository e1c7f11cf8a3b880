//! The shape: presets, the solver, counts.

use super::{Reader, Rule, Writer};
use crate::ledger::Fact;
use crate::shape::{self, Shape, ShapePins};

/// `llama` where no family is named.
pub const FAMILY: Rule = Rule {
    id: "model.family",
    reads: &[],
    writes: &["model.family"],
    cite: "arXiv 2302.13971",
    doc: "LLaMA where no family is named.",
    run: |_, w| w.put("model.family", Fact::Word("llama".into())),
};

/// The released tokenizer's size.
pub const VOCAB: Rule = Rule {
    id: "model.vocab",
    reads: &["model.family"],
    writes: &["model.vocab"],
    cite: "data/models/*.toml",
    doc: "The vocabulary of the family's released tokenizer.",
    run: |r, w| {
        if let Some(f) = r.word("model.family").and_then(shape::family) {
            w.preset("model.vocab", Fact::Count(f.vocab), &table(&f.family), "family", &f.cite);
        }
    },
};

/// Whether the head shares the embedding.
pub const TIED: Rule = Rule {
    id: "model.tied",
    reads: &["model.family"],
    writes: &["model.tied"],
    cite: "data/models/*.toml",
    doc: "Head and embedding are apart, as in the family's released models.",
    run: |r, w| {
        if let Some(f) = r.word("model.family").and_then(shape::family) {
            w.preset("model.tied", Fact::Flag(f.tied), &table(&f.family), "family", &f.cite);
        }
    },
};

fn table(family: &str) -> String {
    format!("models/{family}")
}

const PARTS: &[&str] =
    &["model.layers", "model.hidden", "model.heads", "model.kv_heads", "model.head_dim", "model.ffn"];

/// A released size fills what is not pinned, as long as the width is its own.
pub const PRESET: Rule = Rule {
    id: "model.preset",
    reads: &["model.family", "model.size", "model.hidden", "model.heads"],
    writes: PARTS,
    cite: "data/models/*.toml",
    doc: "The released model of that name fills what the recipe does not pin.",
    run: |r, w| {
        let Some(f) = r.word("model.family").and_then(shape::family) else { return };
        let Some(size) = r.word("model.size") else { return };
        let Some(s) = f.shapes.get(size) else { return };
        // Heads and feed-forward follow the width: another width needs the solver's rules, not the preset's numbers.
        if r.count("model.hidden").is_some_and(|h| h != s.hidden) {
            return;
        }
        let t = table(&f.family);
        let mut put = |path, n| w.preset(path, Fact::Count(n), &t, size, &s.cite);
        put("model.layers", s.layers);
        put("model.hidden", s.hidden);
        put("model.ffn", s.ffn);
        if r.count("model.heads").is_none_or(|h| h == s.heads) {
            put("model.heads", s.heads);
            put("model.kv_heads", s.kv_heads);
            put("model.head_dim", s.head_dim);
        }
    },
};

/// Everything else about the shape.
pub const SHAPE: Rule = Rule {
    id: "model.shape",
    reads: &[
        "model.asked_params",
        "model.vocab",
        "model.tied",
        "model.layers",
        "model.hidden",
        "model.heads",
        "model.kv_heads",
        "model.head_dim",
        "model.ffn",
    ],
    writes: PARTS,
    cite: "width / depth near 128 and ffn = 8/3·hidden up to 256 as in LLaMA (arXiv 2302.13971, table 2); loss is flat around it (arXiv 2001.08361, figure 5)",
    doc: "The shape nearest LLaMA's proportions with the asked parameters, around what is pinned.",
    run: solve,
};

fn solve(r: &Reader, w: &mut Writer) {
    let pins = ShapePins {
        layers: r.count("model.layers"),
        hidden: r.count("model.hidden"),
        heads: r.count("model.heads"),
        kv_heads: r.count("model.kv_heads"),
        head_dim: r.count("model.head_dim"),
        ffn: r.count("model.ffn"),
    };
    let (Some(vocab), Some(tied)) = (r.count("model.vocab"), r.flag("model.tied")) else { return };
    let solved = match (pins.hidden, pins.layers, r.count("model.asked_params")) {
        (Some(hidden), Some(layers), _) => Some(shape::complete(hidden, layers, &pins)),
        (_, _, Some(target)) => shape::solve(target, vocab, tied, &pins),
        _ => None,
    };
    let Some(s) = solved else { return };
    for (path, n) in PARTS.iter().zip([s.layers, s.hidden, s.heads, s.kv_heads, s.head_dim, s.ffn]) {
        w.put(path, Fact::Count(n));
    }
}

/// ε and initialisation.
pub const CONSTANTS: Rule = Rule {
    id: "model.constants",
    reads: &["model.family"],
    writes: &["model.norm_eps", "model.init_std"],
    cite: "config.json of the released models; residual branches end with init / sqrt(2·layers) (Radford et al. 2019, GPT-2)",
    doc: "ε of RMSNorm and the standard deviation of the initialisation, as the family has them.",
    run: |r, w| {
        if let Some(f) = r.word("model.family").and_then(shape::family) {
            let t = table(&f.family);
            w.preset("model.norm_eps", Fact::Real(f.norm_eps), &t, "family", &f.cite);
            w.preset("model.init_std", Fact::Real(f.init_std), &t, "family", &f.cite);
        }
    },
};

/// No dropout.
pub const DROPOUT: Rule = Rule {
    id: "model.dropout",
    reads: &[],
    writes: &["model.dropout"],
    cite: "arXiv 2302.13971: LLaMA trains without dropout; one epoch does not overfit",
    doc: "No dropout.",
    run: |_, w| w.put("model.dropout", Fact::Real(0.0)),
};

/// Exact parameters and the padded vocabulary.
pub const COUNTS: Rule = Rule {
    id: "model.counts",
    reads: &[
        "model.layers",
        "model.hidden",
        "model.heads",
        "model.kv_heads",
        "model.head_dim",
        "model.ffn",
        "model.vocab",
        "model.tied",
    ],
    writes: &["model.params", "model.params_non_embedding", "model.vocab_padded"],
    cite: "counted from the shape; vocabulary rows up to a multiple of 128 (Megatron-LM, --make-vocab-size-divisible-by 128)",
    doc: "Exact parameter counts, and embedding rows that every tensor-parallel size divides.",
    run: |r, w| {
        let parts = [
            r.count("model.layers"),
            r.count("model.hidden"),
            r.count("model.heads"),
            r.count("model.kv_heads"),
            r.count("model.head_dim"),
            r.count("model.ffn"),
        ];
        let [Some(layers), Some(hidden), Some(heads), Some(kv_heads), Some(head_dim), Some(ffn)] = parts
        else {
            return;
        };
        let (Some(vocab), Some(tied)) = (r.count("model.vocab"), r.flag("model.tied")) else { return };
        let s = Shape { layers, hidden, heads, kv_heads, head_dim, ffn };
        let params = s.params(vocab, tied);
        // A tied matrix is the head's product too, so it stays counted.
        let embedding = if tied { 0 } else { vocab.saturating_mul(hidden) };
        w.put("model.params", Fact::Count(params));
        w.put("model.params_non_embedding", Fact::Count(params.saturating_sub(embedding)));
        w.put("model.vocab_padded", Fact::Count(vocab.div_ceil(128) * 128));
    },
};
