//! `cost RECIPE…`: what each plan costs, side by side.

use llmc_plan::plan::Plan;

use crate::diag::{Lang, money};
use crate::unit::{grouped, human_count, human_time};

/// The recipes of the mission's table: 3B, 7B and 13B at 4k and 8k, each with its name.
pub const MISSION: [(&str, &str); 6] = [
    ("3B 4k", include_str!("../../recipes/llama-3b-4k.llm")),
    ("3B 8k", include_str!("../../recipes/llama-3b-8k.llm")),
    ("7B 4k", include_str!("../../recipes/llama-7b-4k.llm")),
    ("7B 8k", include_str!("../../recipes/llama-7b-8k.llm")),
    ("13B 4k", include_str!("../../recipes/llama-13b-4k.llm")),
    ("13B 8k", include_str!("../../recipes/llama-13b-8k.llm")),
];

/// The plan at a measured speed, tokens a second on one device: time and money follow, all else stays.
pub fn at_speed(plan: &Plan, per_device: f64) -> Plan {
    let mut p = plan.clone();
    let times = p.time.tokens_per_second_per_gpu / per_device;
    p.time.tokens_per_second_per_gpu = per_device;
    p.time.tokens_per_second = per_device * p.layout.gpus as f64;
    p.time.mfu /= times;
    for x in [&mut p.time.step_seconds, &mut p.time.train_seconds] {
        *x *= times;
    }
    let c = &mut p.cost;
    for x in [
        &mut c.gpu_hours,
        &mut c.gpu,
        &mut c.electricity_kwh,
        &mut c.electricity,
        &mut c.other,
        &mut c.total,
        &mut c.spares,
        &mut c.storage,
        &mut c.network,
        &mut c.failures,
    ] {
        *x *= times;
    }
    if let Some(own) = &mut c.ownership {
        own.total *= times;
    }
    p
}

/// A table of plans, one line each, by name, drawn by `draw` ([`crate::columns`]).
pub fn table(plans: &[(String, &Plan)], lang: Lang, draw: impl Fn(&[Vec<String>]) -> String) -> String {
    let owned = plans.iter().any(|(_, p)| p.cost.ownership.is_some());
    let head: Vec<&str> = match lang {
        Lang::En => vec![
            "recipe",
            "params",
            "ctx",
            "tokens",
            "devices",
            "tokens/s",
            "time",
            "GPU hours",
            "×/GPU·h",
            "kWh",
            "×/kWh",
            "PUE",
            "total",
            "loss",
            "owned",
        ],
        Lang::Zh => vec![
            "配方",
            "参数",
            "上下文",
            "词元",
            "设备",
            "词元/秒",
            "时间",
            "卡时",
            "每卡时",
            "千瓦时",
            "每千瓦时",
            "PUE",
            "合计",
            "损失",
            "自有",
        ],
    };
    let head: Vec<&str> = head.into_iter().take(if owned { 15 } else { 14 }).collect();
    let mut rows: Vec<Vec<String>> = vec![head.iter().map(|h| (*h).to_owned()).collect()];
    for (name, p) in plans {
        let mark = if p.cost.assumed.is_empty() { "" } else { " *" };
        rows.push(vec![
            name.clone(),
            human_count(p.model.params as f64),
            grouped(p.model.context),
            human_count(p.budget.trained_tokens as f64),
            format!("{}x{}", p.layout.gpus, p.hardware.name),
            grouped(p.time.tokens_per_second as u64),
            human_time(p.time.train_seconds, lang),
            grouped(p.cost.gpu_hours as u64),
            money(p.cost.gpu_per_hour, &p.cost.currency),
            grouped(p.cost.electricity_kwh as u64),
            money(p.cost.electricity_per_kwh, &p.cost.currency),
            crate::diag::short_float(p.cost.pue),
            format!("{}{mark}", money(p.cost.total, &p.cost.currency)),
            format!("{:.3}", p.loss.predicted),
        ]);
        if let (true, Some(row)) = (owned, rows.last_mut()) {
            let own = p.cost.ownership.as_ref();
            row.push(own.map_or(String::new(), |o| money(o.total, &p.cost.currency)));
        }
    }
    let mut out = draw(&rows);
    if plans.iter().any(|(_, p)| !p.cost.assumed.is_empty()) {
        let note = if lang == Lang::En {
            "* over assumed prices; give yours with `price < … >`\n"
        } else {
            "* 按假定价格计算；请用 `price < … >` 给出实际价格\n"
        };
        out.push_str(note);
    }
    out
}
