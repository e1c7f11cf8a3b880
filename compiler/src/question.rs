//! Facts → the planner's question, and the data side's specification.

use std::collections::BTreeMap;

use llmc_plan::data::{
    CleanSpec, DATA_FORMAT_VERSION, DataSpec, Dedup, DynamicSpec, MixSpec, MixStage, OnError, Packing,
    Script, SourceSpec, TokenizerKind, TokenizerSpec, Unicode, ValidationSpec,
};
use llmc_plan::model::{Model, Rope, RopeMethod};
use llmc_plan::plan::{
    DType, Determinism, LrSchedule, Master, Offload, Optimizer, OptimizerKind, Precision, Recompute, Schedule,
};
use llmc_planner::question::{
    Budget, Cluster, Continued, LearningRate, Peak, Pins, Prices, Question, Reliability, RunAsk, Span,
    Variant,
};

use crate::ledger::Facts;
use crate::resolve::Resolved;

/// The model, when every part of it is known.
pub fn model(f: &Facts) -> Option<Model> {
    let count = |part: &str| f.count(&format!("model.{part}"));
    let method = match f.word("model.rope.method")? {
        "pi" => RopeMethod::Pi,
        "ntk" => RopeMethod::Ntk,
        "yarn" => RopeMethod::Yarn,
        "llama3" => RopeMethod::Llama3,
        _ => RopeMethod::None,
    };
    Some(Model {
        family: f.word("model.family")?.to_owned(),
        params: count("params")?,
        params_non_embedding: count("params_non_embedding")?,
        layers: count("layers")?,
        hidden: count("hidden")?,
        heads: count("heads")?,
        kv_heads: count("kv_heads")?,
        head_dim: count("head_dim")?,
        ffn: count("ffn")?,
        vocab: count("vocab")?,
        vocab_padded: count("vocab_padded")?,
        context: count("context")?,
        rope: Rope {
            method,
            factor: f.real("model.rope.factor")?,
            original_context: f.count("model.rope.original_context")?,
            theta: f.real("model.rope.theta")?,
        },
        tied: f.flag("model.tied")?,
        norm_eps: f.real("model.norm_eps")?,
        dropout: f.real("model.dropout")?,
        init_std: f.real("model.init_std")?,
    })
}

/// A stretch of the run at `PATH_steps`, `_tokens`, `_fraction` or `_seconds`.
fn stretch(f: &Facts, path: &str) -> Option<Span> {
    let at = |tail: &str| format!("{path}_{tail}");
    if let Some(n) = f.count(&at("steps")) {
        return Some(Span::Steps(n));
    }
    if let Some(n) = f.count(&at("tokens")) {
        return Some(Span::Tokens(n));
    }
    f.real(&at("fraction")).map(Span::Fraction).or_else(|| f.real(&at("seconds")).map(Span::Seconds))
}

/// The question, when model and hardware are known.
pub fn question(r: &Resolved) -> Option<Question> {
    let f = &r.facts;
    let model = model(f)?;
    let cluster = match (f.count("on.nodes"), f.count("on.gpus_per_node")) {
        (Some(nodes), Some(gpus_per_node)) => Some(Cluster { nodes, gpus_per_node }),
        _ => None,
    };
    let mut budget = Vec::new();
    budget.extend(f.count("budget.tokens").map(Budget::Tokens));
    budget.extend(f.real("budget.asked_seconds").map(Budget::Seconds));
    let currency = f.word("cost.currency").map(str::to_owned);
    budget.extend(f.real("budget.asked_money").map(|amount| Budget::Money {
        amount,
        currency: currency.clone().unwrap_or_else(|| "CNY".to_owned()),
    }));
    budget.extend(f.real("budget.asked_flops").map(Budget::Flops));
    let memory_limit = (r.expect.iter())
        .filter(|e| e.metric.name == "memory" && e.cmp == llmc_grammar::Cmp::Le)
        .map(|e| e.bound as u64)
        .min();
    let frozen = frozen_params(&model, &r.freeze);
    Some(Question {
        variant: Variant::default(),
        hardware: r.hardware.clone()?,
        cluster,
        budget,
        batch_tokens: f.count("batch.asked_tokens"),
        optimizer: optimizer(f)?,
        lr: learning_rate(f),
        precision: match f.word("precision")? {
            "f32" => Precision::F32,
            "fp16" => Precision::Fp16,
            "fp8" => Precision::Fp8,
            _ => Precision::Bf16,
        },
        determinism: f
            .word("determinism")
            .map(|w| if w == "fast" { Determinism::Fast } else { Determinism::Bitwise }),
        pins: pins(f),
        mount: r.mount.clone(),
        fitted: r.fitted.clone(),
        prices: Prices {
            currency,
            gpu_hour: f.real("cost.gpu_per_hour"),
            power_kw: f.real("cost.power_kw"),
            pue: f.real("cost.pue"),
            electricity_kwh: f.real("cost.electricity_per_kwh"),
            other_hour: f.real("cost.other_hour"),
            storage_hour: f.real("cost.storage_hour"),
            network_hour: f.real("cost.network_hour"),
            spares: f.real("cost.spare_share"),
            buy: f.real("cost.buy"),
            life_seconds: f.real("cost.life_seconds"),
            usage: f.real("cost.usage"),
            upkeep: f.real("cost.upkeep"),
        },
        reliability: Reliability {
            failures_per_gpu_hour: f.real("ask.mtbf_seconds").map(|seconds| 3600.0 / seconds),
            restart_seconds: f.real("ask.restart_seconds"),
            ..Reliability::default()
        },
        run: RunAsk {
            checkpoint_every: stretch(f, "schedule.checkpoint_every"),
            checkpoint_keep: f.count("schedule.checkpoint_keep"),
            checkpoint_zstd: f.count("schedule.checkpoint_zstd"),
            eval_every: stretch(f, "schedule.eval_every"),
            eval_sequences: f.count("schedule.eval_sequences"),
            skip_steps: f.count("schedule.skip_steps"),
        },
        seed: f.count("seed")?,
        continued: f.has("from").then(|| Continued {
            base_peak_lr: None,
            base_tokens: None,
            trainable_params: (frozen > 0).then(|| model.params.saturating_sub(frozen)),
        }),
        memory_limit_bytes: memory_limit,
        model,
    })
}

fn optimizer(f: &Facts) -> Option<Optimizer> {
    Some(Optimizer {
        kind: match f.word("optimizer.kind")? {
            "lion" => OptimizerKind::Lion,
            "adafactor" => OptimizerKind::Adafactor,
            "paged_adamw" => OptimizerKind::PagedAdamw,
            _ => OptimizerKind::Adamw,
        },
        beta1: f.real("optimizer.beta1")?,
        beta2: f.real("optimizer.beta2")?,
        eps: f.real("optimizer.eps")?,
        weight_decay: f.real("optimizer.weight_decay")?,
        clip: f.real("optimizer.clip")?,
        state_dtype: match f.word("optimizer.state_dtype") {
            Some("bf16") => DType::Bf16,
            Some("fp8") => DType::F8E4m3,
            _ => DType::F32,
        },
        master: match f.word("optimizer.master") {
            Some("split") => Master::Split,
            Some("stochastic") => Master::Stochastic,
            _ => Master::F32,
        },
        gradient_dtype: if f.word("optimizer.gradient_dtype") == Some("bf16") {
            DType::Bf16
        } else {
            DType::F32
        },
    })
}

fn learning_rate(f: &Facts) -> LearningRate {
    LearningRate {
        peak: f.real("lr.peak").map(Peak::Absolute).or_else(|| f.real("lr.multiple").map(Peak::Multiple)),
        schedule: f.word("lr.schedule").map(|word| match word {
            "linear" => LrSchedule::Linear,
            "onecycle" => LrSchedule::Onecycle,
            "wsd" => LrSchedule::Wsd,
            "constant" => LrSchedule::Constant,
            _ => LrSchedule::Cosine,
        }),
        final_fraction: f.real("lr.final_fraction"),
        decay_fraction: f.real("lr.decay_fraction"),
        warmup: stretch(f, "lr.warmup"),
    }
}

fn pins(f: &Facts) -> Pins {
    let count = |name: &str| f.count(&format!("layout.{name}"));
    Pins {
        tp: count("tp"),
        sequence_parallel: f.flag("layout.sequence_parallel"),
        cp: count("cp"),
        pp: count("pp"),
        vp: count("vp"),
        schedule: f.word("layout.schedule").map(|w| match w {
            "one_f_one_b" => Schedule::OneFOneB,
            "interleaved" => Schedule::Interleaved,
            "zero_bubble" => Schedule::ZeroBubble,
            _ => Schedule::None,
        }),
        dp: count("dp"),
        zero_stage: count("zero_stage"),
        shard_group: count("shard_group"),
        micro_batch: f.count("batch.micro_batch_sequences"),
        recompute: f.word("layout.recompute").map(|w| match w {
            "selective" => Recompute::Selective,
            "full" => Recompute::Full,
            _ => Recompute::None,
        }),
        offload: f.word("layout.offload").map(|w| match w {
            "optimizer" => Offload::Optimizer,
            "activations" => Offload::Activations,
            _ => Offload::None,
        }),
    }
}

/// Parameters that are not trained.
pub fn frozen_params(m: &Model, freeze: &[String]) -> u64 {
    let has = |name: &str| freeze.iter().any(|f| f == name);
    let embedding = m.vocab.saturating_mul(m.hidden);
    let attention = m.hidden.saturating_mul((2 * m.heads + 2 * m.kv_heads).saturating_mul(m.head_dim));
    let ffn = 3u64.saturating_mul(m.hidden).saturating_mul(m.ffn);
    let mut frozen = 0u64;
    for (name, n) in [
        ("embeddings", embedding),
        ("attention", attention.saturating_mul(m.layers)),
        ("ffn", ffn.saturating_mul(m.layers)),
        ("norms", m.hidden.saturating_mul(2 * m.layers + 1)),
        ("head", if m.tied { 0 } else { embedding }),
    ] {
        if has(name) {
            frozen = frozen.saturating_add(n);
        }
    }
    frozen
}

/// What `llmc-data` is told; `None` without a `data` clause.
pub fn data(r: &Resolved) -> Option<DataSpec> {
    let f = &r.facts;
    r.data.span?;
    let sources = (r.data.sources.iter())
        .map(|s| SourceSpec {
            name: s.name.clone(),
            globs: vec![s.glob.clone()],
            importance: s.importance,
            weight: s.weight,
            min_share: s.min_share,
            max_share: s.max_share,
            max_epochs: s.max_epochs,
            in_place: s.in_place,
        })
        .collect();
    let default = TokenizerSpec {
        kind: TokenizerKind::Bpe,
        vocab: u32::try_from(f.count("model.vocab")?).ok()?,
        digits_split: f.word("tokenizer.digits") != Some("group"),
        byte_fallback: f.flag("tokenizer.byte_fallback")?,
        special_tokens: vec!["<|endoftext|>".to_owned()],
        import: f.word("tokenizer.import").map(str::to_owned),
        sample_bytes: f.count("tokenizer.sample_bytes").unwrap_or(64 << 20),
    };
    let context = u32::try_from(f.count("model.context")?).ok()?;
    // 0 is the context, and the window. More is possible for neither, which a warning says.
    let at_most = |path: &str, most: u32| f.count(path).map_or(0, |n| n.min(u64::from(most)) as u32);
    let window = at_most("eval.window", context);
    let stride = at_most("eval.stride", if window == 0 { context } else { window });
    Some(DataSpec {
        format_version: DATA_FORMAT_VERSION.to_owned(),
        root: ".".to_owned(),
        tokenizer: default,
        sources,
        validation: ValidationSpec {
            fraction: f.real("eval.holdout")?,
            globs: f.word("eval.ppl").map(str::to_owned).into_iter().collect(),
            window,
            stride,
        },
        packing: match f.word("pack.kind")? {
            "best_fit" => Packing::BestFit,
            "padding" => Packing::Padding,
            "buckets" => Packing::Buckets,
            _ => Packing::Concat,
        },
        // Documents of a bucketed row must not see each other.
        document_mask: f.flag("pack.document_mask")? || f.word("pack.kind") == Some("buckets"),
        context,
        seed: f.count("seed")?,
        mix: MixSpec {
            temperature: f.real("mix.temperature").unwrap_or(1.0),
            stages: stages(r),
            dynamic: r.data.dynamic.as_ref().map(|rule| DynamicSpec {
                every_steps: rule.every,
                rate: rule.rate,
                smoothing: rule.smoothing,
                references: r.data.references.clone(),
            }),
            ..MixSpec::default()
        },
        on_error: if f.word("clean.unreadable") == Some("skip") { OnError::Skip } else { OnError::Stop },
        clean: clean(f),
    })
}

/// Later phases of the mixture. What a phase does not name goes on as before.
fn stages(r: &Resolved) -> Vec<MixStage> {
    let mut phases: Vec<_> = r.data.phases.iter().collect();
    phases.sort_by(|a, b| a.start.total_cmp(&b.start));
    let mut weights = BTreeMap::new();
    let mut stages = Vec::new();
    for phase in phases {
        weights.extend(phase.shares.iter().cloned());
        let (start, weights) = (Some(phase.start), weights.clone());
        stages.push(MixStage { at_sample: 0, start, weights, reason: String::new() });
    }
    stages
}

fn clean(f: &Facts) -> CleanSpec {
    let default = CleanSpec::default();
    CleanSpec {
        unicode: match f.word("clean.unicode") {
            Some("nfc") => Unicode::Nfc,
            Some("nfkc") => Unicode::Nfkc,
            _ => Unicode::Keep,
        },
        dedup: match f.word("clean.dedup") {
            Some("exact") => Dedup::Exact,
            Some("minhash") => Dedup::Near,
            _ => Dedup::Off,
        },
        similarity: f.real("clean.similarity").unwrap_or(default.similarity),
        min_bytes: f.count("clean.min_bytes").unwrap_or(default.min_bytes),
        max_bytes: f.count("clean.max_bytes"),
        min_letters: f.real("clean.letters").unwrap_or(default.min_letters),
        scripts: [("clean.lang.en", Script::Latin), ("clean.lang.zh", Script::Han)]
            .into_iter()
            .filter(|(path, _)| f.has(path))
            .map(|(_, script)| script)
            .collect(),
    }
}
