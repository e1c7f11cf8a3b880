//! Defaults of training that need no search: edition, seed, precision, optimizer, data.

use super::Rule;
use crate::ledger::Fact;

/// The newest edition.
pub const EDITION: Rule = Rule {
    id: "edition.current",
    reads: &[],
    writes: &["recipe.edition"],
    cite: "docs/language.md",
    doc: "A recipe without an edition means the newest.",
    run: |_, w| w.put("recipe.edition", Fact::Count(2026)),
};

/// Seed 1.
pub const SEED: Rule = Rule {
    id: "seed.default",
    reads: &[],
    writes: &["seed"],
    cite: "any number does; a fixed one makes two runs of one recipe alike",
    doc: "Seed 1.",
    run: |_, w| w.put("seed", Fact::Count(1)),
};

/// bf16 on a GPU.
pub const PRECISION: Rule = Rule {
    id: "precision.default",
    reads: &["hardware.kind"],
    writes: &["precision"],
    cite: "Kalamkar et al. 2019, arXiv 1905.12322: bf16 trains like f32 without loss scaling; CPUs emulate it",
    doc: "bf16 on a GPU, f32 on a CPU.",
    run: |r, w| {
        let cpu = r.word("hardware.kind") == Some("cpu");
        w.put("precision", Fact::Word(if cpu { "f32" } else { "bf16" }.into()));
    },
};

/// AdamW.
pub const OPTIMIZER: Rule = Rule {
    id: "optimizer.default",
    reads: &[],
    writes: &["optimizer.kind", "optimizer.clip", "optimizer.state_dtype"],
    cite: "arXiv 2302.13971, section 2.3: AdamW, clipped at 1.0; moments in f32",
    doc: "AdamW with the gradient norm clipped at 1 and moments in f32.",
    run: |_, w| {
        w.put("optimizer.kind", Fact::Word("adamw".into()));
        w.put("optimizer.clip", Fact::Real(1.0));
        w.put("optimizer.state_dtype", Fact::Word("f32".into()));
    },
};

/// Betas and ε by optimizer.
pub const BETAS: Rule = Rule {
    id: "optimizer.betas",
    reads: &["optimizer.kind"],
    writes: &["optimizer.beta1", "optimizer.beta2", "optimizer.eps"],
    cite: "AdamW: arXiv 2302.13971, section 2.3 (0.9, 0.95); Lion: arXiv 2302.06675, section 5 (0.9, 0.99); Adafactor: arXiv 1804.04235, section 9 (no first moment, ε 1e-30)",
    doc: "Betas and ε that the optimizer's authors, for AdamW LLaMA's, use.",
    run: |r, w| {
        let (beta1, beta2, eps) = match r.word("optimizer.kind") {
            Some("lion") => (0.9, 0.99, 1e-8),
            Some("adafactor") => (0.0, 0.999, 1e-30),
            _ => (0.9, 0.95, 1e-8),
        };
        w.put("optimizer.beta1", Fact::Real(beta1));
        w.put("optimizer.beta2", Fact::Real(beta2));
        w.put("optimizer.eps", Fact::Real(eps));
    },
};

/// Weight decay by optimizer.
pub const DECAY: Rule = Rule {
    id: "optimizer.weight_decay",
    reads: &["optimizer.kind"],
    writes: &["optimizer.weight_decay"],
    cite: "AdamW: arXiv 2302.13971, section 2.3 (0.1); Lion: arXiv 2302.06675, section 5 (3 to 10 times AdamW's)",
    doc: "0.1, for Lion three times that because its learning rate is as much lower.",
    run: |r, w| {
        let lion = r.word("optimizer.kind") == Some("lion");
        w.put("optimizer.weight_decay", Fact::Real(if lion { 0.3 } else { 0.1 }));
    },
};

/// `batch 512 sequences` in tokens.
pub const BATCH: Rule = Rule {
    id: "batch.sequences",
    reads: &["batch.asked_sequences", "model.context"],
    writes: &["batch.asked_tokens"],
    cite: "tokens = sequences × context",
    doc: "A batch in sequences is that many contexts of tokens.",
    run: |r, w| {
        if let (Some(n), Some(context)) = (r.count("batch.asked_sequences"), r.count("model.context"))
            && let Some(tokens) = n.checked_mul(context)
        {
            w.put("batch.asked_tokens", Fact::Count(tokens));
        }
    },
};

/// How text becomes tokens.
pub const TOKENIZER: Rule = Rule {
    id: "tokenizer.default",
    reads: &["model.family"],
    writes: &[
        "tokenizer.kind",
        "tokenizer.digits",
        "tokenizer.byte_fallback",
        "clean.unreadable",
        "pack.kind",
        "pack.document_mask",
    ],
    cite: "arXiv 2302.13971, section 2.1 (digits split, byte fallback); Llama 3's splitter groups up to three digits",
    doc: "Byte-level BPE; digits split as LLaMA does, grouped as Llama 3 does; documents end to end.",
    run: |r, w| {
        let llama3 = r.word("model.family") == Some("llama3");
        w.put("tokenizer.kind", Fact::Word("bpe".into()));
        w.put("tokenizer.digits", Fact::Word(if llama3 { "group" } else { "split" }.into()));
        w.put("tokenizer.byte_fallback", Fact::Flag(true));
        w.put("clean.unreadable", Fact::Word("stop".into()));
        w.put("pack.kind", Fact::Word("concat".into()));
        w.put("pack.document_mask", Fact::Flag(false));
    },
};

/// Validation text where none is named.
pub const HOLDOUT: Rule = Rule {
    id: "eval.holdout",
    reads: &["eval.ppl"],
    writes: &["eval.holdout"],
    cite: "one document in a hundred, chosen by a hash of its content",
    doc: "One per cent of the documents validate unless the recipe names validation text.",
    run: |r, w| w.put("eval.holdout", Fact::Real(if r.has("eval.ppl") { 0.0 } else { 0.01 })),
};
