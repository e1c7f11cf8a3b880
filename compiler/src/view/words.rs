//! Parts of a plan in the words of the field, shared by every view.

use llmc_plan::model::RopeMethod;
use llmc_plan::plan::{Layout, LrSchedule, Offload, OptimizerKind, Plan, Recompute, Schedule};

use crate::diag::{Lang, money, short_float};
use crate::unit::{grouped, human_bytes};

/// A JSON word of a unit enum (`one_f_one_b`).
fn word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// `cosine`, `wsd`, …
pub fn schedule_word(schedule: LrSchedule) -> String {
    word(&schedule)
}

/// `adamw`, …
pub fn optimizer_word(kind: OptimizerKind) -> String {
    word(&kind)
}

/// `bf16`, `fast`, … of any plan enum.
pub fn enum_word<T: serde::Serialize>(value: &T) -> String {
    word(value)
}

/// `1 step`, `2,000 steps`.
pub fn several(n: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// Tokens a parameter: to a tenth, or two digits where there is less than one.
pub fn per_parameter(tokens: u64, params: u64) -> String {
    let ratio = tokens as f64 / params.max(1) as f64;
    let shown = if ratio >= 1.0 {
        libm::round(ratio * 10.0) / 10.0
    } else {
        format!("{ratio:.1e}").parse().unwrap_or(ratio)
    };
    short_float(shown)
}

/// `dp 64 · tp 1 · ZeRO-3`: only what differs from one device.
pub fn layout_words(l: &Layout, micro: u64, lang: Lang) -> String {
    let mut parts = vec![format!("dp {}", l.dp)];
    for (name, n) in [("tp", l.tp), ("cp", l.cp), ("pp", l.pp), ("vp", l.vp)] {
        if n > 1 {
            parts.push(format!("{name} {n}"));
        }
    }
    if l.sequence_parallel {
        parts.push("sp".to_owned());
    }
    parts.push(match (l.zero_stage, l.shard_group == l.dp) {
        (0, _) => "ZeRO-0".to_owned(),
        (z, true) => format!("ZeRO-{z}"),
        (z, false) => format!("ZeRO-{z}/{}", l.shard_group),
    });
    if l.schedule != Schedule::None {
        parts.push(word(&l.schedule));
    }
    if !l.stages.is_empty() {
        let sum = |f: fn(&llmc_plan::plan::StageLayers) -> u64| l.stages.iter().map(f).sum::<u64>();
        let layers = sum(|s| s.layers);
        let (most, least) =
            (l.stages.iter().map(|s| s.layers).max(), l.stages.iter().map(|s| s.layers).min());
        if most.zip(least).is_some_and(|(most, least)| most > least + 1) || l.pp > 1 {
            let held: Vec<String> = l.stages.iter().map(|s| s.layers.to_string()).collect();
            parts.push(format!("{} {}", if lang == Lang::En { "layers" } else { "层" }, held.join("/")));
        }
        for (name, n) in [("selective", sum(|s| s.selective)), ("full", sum(|s| s.full))] {
            if n > 0 {
                parts.push(if lang == Lang::En {
                    format!("recompute {name} in {n} of {layers} layers")
                } else {
                    format!("{layers} 层中 {n} 层重计算 {name}")
                });
            }
        }
        if sum(|s| s.offload) > 0 {
            let n = sum(|s| s.offload);
            parts.push(if lang == Lang::En {
                format!("offload {n} inputs")
            } else {
                format!("卸载 {n} 个输入")
            });
        }
    } else if l.recompute != Recompute::None {
        parts.push(format!(
            "{} {}",
            if lang == Lang::En { "recompute" } else { "重计算" },
            word(&l.recompute)
        ));
    }
    if l.offload != Offload::None {
        parts.push(format!("{} {}", if lang == Lang::En { "offload" } else { "卸载" }, word(&l.offload)));
    }
    parts.push(format!("{} {micro}", if lang == Lang::En { "micro-batch" } else { "微批" }));
    parts.join(" · ")
}

/// `yarn s=2 over 4,096, θ 10,000`
pub fn rope_words(p: &Plan, lang: Lang) -> String {
    let r = &p.model.rope;
    let theta = short_float(r.theta);
    if r.method == RopeMethod::None {
        return format!("RoPE θ {theta}");
    }
    let (method, factor, original) = (word(&r.method), short_float(r.factor), grouped(r.original_context));
    match lang {
        Lang::En => format!("RoPE {method} s={factor} over {original}, θ {theta}"),
        Lang::Zh => format!("RoPE {method} s={factor}，原上下文 {original}，θ {theta}"),
    }
}

/// `¥467,997 + ¥18,928 = ¥486,925`
pub fn sum_of_money(p: &Plan, lang: Lang) -> String {
    let c = &p.cost;
    let m = |x: f64| money(x, &c.currency);
    let (gpu, power) = if lang == Lang::En { ("GPU", "electricity") } else { ("算力", "电费") };
    let mut parts = vec![format!("{gpu} {}", m(c.gpu)), format!("{power} {}", m(c.electricity))];
    let rest = c.other - c.spares - c.storage - c.network;
    for (en, zh, amount) in [
        ("spares", "备机", c.spares),
        ("storage", "存储", c.storage),
        ("network", "网络", c.network),
        ("other", "其他", rest),
    ] {
        if amount > 1e-6 * c.total {
            parts.push(format!("{} {}", if lang == Lang::En { en } else { zh }, m(amount)));
        }
    }
    parts.join(" + ")
}

/// A departure from the plan, as `search.exchange` names it, in Chinese.
pub fn change_words(change: &str) -> String {
    let names = [("loss ", "损失 "), ("batch ", "批 "), ("lr ", "学习率 ")];
    names.iter().fold(change.replace(" x", " ×"), |text, (en, zh)| text.replace(en, zh))
}

/// Bytes of the terms of a stage, largest first.
pub fn memory_terms(stage: &llmc_plan::plan::StageMemory) -> Vec<(&'static str, &'static str, u64)> {
    let mut terms = vec![
        ("parameters", "参数", stage.parameters),
        ("gradients", "梯度", stage.gradients),
        ("optimizer", "优化器", stage.optimizer),
        ("activations", "激活", stage.activations),
        ("logits", "logits", stage.logits),
        ("buffers", "缓冲区", stage.buffers),
        ("allocator", "分配器", stage.reserved.saturating_sub(stage.allocated)),
        ("context", "CUDA 与通信", stage.device.saturating_sub(stage.reserved)),
    ];
    terms.retain(|t| t.2 > 0);
    terms.sort_by_key(|t| std::cmp::Reverse(t.2));
    terms
}

/// `75.1 GiB of 79.1 GiB`
pub fn of_device(p: &Plan, lang: Lang) -> String {
    let of = if lang == Lang::En { "of" } else { "/" };
    format!("{} {of} {}", human_bytes(p.memory.device_bytes), human_bytes(p.hardware.memory_bytes))
}
