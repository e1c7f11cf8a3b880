//! `cost RECIPE…`: what each plan costs, side by side.

use llmc_plan::plan::Plan;

use crate::diag::{Lang, money};
use crate::unit::{grouped, human_count, human_time};

/// A table of plans, one line each, by name.
pub fn table(plans: &[(String, &Plan)], lang: Lang) -> String {
    let head: [&str; 9] = match lang {
        Lang::En => ["recipe", "params", "tokens", "devices", "time", "GPU hours", "kWh", "total", "loss"],
        Lang::Zh => ["配方", "参数", "词元", "设备", "时间", "卡时", "千瓦时", "合计", "损失"],
    };
    let mut rows: Vec<Vec<String>> = vec![head.iter().map(|h| (*h).to_owned()).collect()];
    for (name, p) in plans {
        let mark = if p.cost.assumed.is_empty() { "" } else { " *" };
        rows.push(vec![
            name.clone(),
            human_count(p.model.params as f64),
            human_count(p.budget.trained_tokens as f64),
            format!("{}x{}", p.layout.gpus, p.hardware.name),
            human_time(p.time.train_seconds),
            grouped(p.cost.gpu_hours as u64),
            grouped(p.cost.electricity_kwh as u64),
            format!("{}{mark}", money(p.cost.total, &p.cost.currency)),
            format!("{:.3}", p.loss.predicted),
        ]);
    }
    // Chinese characters take two columns.
    let width = |s: &str| -> usize {
        s.chars().map(|c| if ('\u{2e80}'..'\u{ffe0}').contains(&c) { 2 } else { 1 }).sum()
    };
    let columns: Vec<usize> = (0..head.len())
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| width(c)).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&columns).enumerate().map(|(i, (cell, &w))| {
            let pad = " ".repeat(w.saturating_sub(width(cell)));
            if i == 0 { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
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
