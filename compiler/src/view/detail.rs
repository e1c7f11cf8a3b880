//! How the search went, for `plan -v`: space, bounds, programmes, laws, ramp, frontier.

use llmc_plan::columns::right;
use llmc_plan::plan::{Plan, StageMemory};
use llmc_planner::over_time::OverTime;

use super::human::Page;
use super::words;
use crate::diag::{Lang, money, short_float};
use crate::unit::{grouped, human_bytes, human_count, human_time};

/// Stages shown at most: the first, the last, the fullest and some between.
const STAGES: u64 = 8;

/// Figures of a line, each so wide.
const WIDTH: usize = 10;

/// Three figures of each stage, and what the fullest uses over a step.
pub(super) fn memory(page: &mut Page, p: &Plan, over_time: Option<&OverTime>) {
    let row = |head: &str, [a, b, c]: [u64; 3]| {
        let figures = [a, b, c].map(|bytes| right(&human_bytes(bytes), WIDTH));
        format!("{} {}", right(head, WIDTH), figures.join(" "))
    };
    let figures = |m: &StageMemory| [m.allocated, m.reserved, m.device];
    let stages: Vec<(u64, &StageMemory)> = (0..).zip(&p.memory.stages).collect();
    if stages.len() > 1 {
        let fullest = stages.iter().max_by_key(|(_, m)| m.device).map_or(0, |(at, _)| *at);
        let last = stages.len() as u64 - 1;
        let shown = |at: u64| {
            let step = last.div_ceil(STAGES - 1).max(1);
            at == fullest || at == last || at.is_multiple_of(step)
        };
        let names = [("stage", "流水级"), ("allocated", "已分配"), ("reserved", "保留"), ("device", "设备")];
        page.line("stages", "流水级", names.map(|(en, zh)| right(page.t(en, zh), WIDTH)).join(" "));
        for (at, m) in stages.iter().filter(|(at, _)| shown(*at)) {
            page.more(row(&at.to_string(), figures(m)));
        }
    }
    let Some(over) = over_time else { return };
    let Some(stage) = p.memory.stages.get(over.stage as usize) else { return };
    let (at, n, all) = (over.stage, over.micro_batches, p.batch.accumulation);
    page.line(
        "over time",
        "随时间",
        match page.lang {
            Lang::En => {
                format!("in use by the program of stage {at}, {n} of {all} micro-batches and the update")
            }
            Lang::Zh => format!("第 {at} 级的程序正在使用的显存，{all} 个微批中的 {n} 个与更新"),
        },
    );
    for m in &over.moments {
        let bar = super::human::bar(m.live as f64 / stage.allocated.max(1) as f64);
        let until = right(&human_time(m.until, page.lang), WIDTH);
        page.more(format!("{} {until} {bar}", right(&human_bytes(m.live), WIDTH)).trim_end());
    }
    let [allocated, reserved, device] = figures(stage).map(human_bytes);
    page.more(match page.lang {
        Lang::En => format!(
            "allocated {allocated}, reserved {reserved} and device {device} from start to end: tensors lie in one arena"
        ),
        Lang::Zh => {
            format!("已分配 {allocated}、保留 {reserved}、设备 {device} 自始至终不变：张量放在一整块内存中")
        }
    });
}

/// Appends it.
pub(super) fn search(page: &mut Page, p: &Plan) {
    let s = &p.search;
    page.line(
        "search",
        "搜索",
        match page.lang {
            Lang::En => format!(
                "space {} points, {} evaluated, {} fit",
                grouped(s.considered),
                grouped(s.evaluated),
                grouped(s.feasible)
            ),
            Lang::Zh => format!(
                "空间 {} 点，评估 {}，可行 {}",
                grouped(s.considered),
                grouped(s.evaluated),
                grouped(s.feasible)
            ),
        },
    );
    let list = |map: &std::collections::BTreeMap<String, u64>| {
        let parts: Vec<String> = map.iter().map(|(k, n)| format!("{k} {}", grouped(*n))).collect();
        if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
    };
    let text = page.t("pruned by bound: ", "被界剪去：");
    page.more(format!("{text}{}", list(&s.pruned_by)));
    let text = page.t("rejected by rule: ", "被规则否决：");
    page.more(format!("{text}{}", list(&s.rejected_by)));
    let text = page.t(
        "mixed-integer programmes solved where a bound beat the best plan: ",
        "界优于当前最佳而求解的整数规划数：",
    );
    page.more(format!("{text}{}", s.milp));
    if let Some(m) = &s.memory_price {
        page.more(match page.lang {
            Lang::En => format!(
                "dual of memory: {} a step and GiB in this layout; the best plan with 1 GiB more saves {}, {}",
                human_time(m.relaxed_step_seconds, page.lang),
                human_time(m.step_seconds, page.lang),
                money(m.cost, &p.cost.currency)
            ),
            Lang::Zh => format!(
                "显存对偶价：此布局每 GiB 每步 {}；多 1 GiB 的最佳计划每步省 {}，共 {}",
                human_time(m.relaxed_step_seconds, page.lang),
                human_time(m.step_seconds, page.lang),
                money(m.cost, &p.cost.currency)
            ),
        });
    }
    for (path, chosen, en, zh) in [
        ("budget.tokens", p.budget.tokens as f64, "tokens", "词元"),
        ("loss.predicted", p.loss.predicted, "loss", "损失"),
        ("batch.global_tokens", p.batch.global_tokens as f64, "batch", "批"),
        ("lr.peak", p.lr.peak, "lr", "学习率"),
    ] {
        let show = |x: f64| match x {
            _ if x >= 1e3 => human_count(x),
            _ if path == "loss.predicted" => format!("{x:.3}"),
            _ => format!("{x:.2e}"),
        };
        let laws: Vec<String> = s
            .laws
            .iter()
            .filter(|l| l.path == path)
            .map(|l| format!("{} {}", l.law, show(l.value)))
            .collect();
        let taken = page.t("taken", "取");
        let (of, then) = (page.t(": ", "："), page.t("; ", "；"));
        page.more(format!("{}{of}{}{then}{taken} {}", page.t(en, zh), laws.join(", "), show(chosen)));
    }
    let hours = p.time.train_seconds / 3600.0;
    page.more(match page.lang {
        Lang::En => format!(
            "failures: {} expected, one in {}; checkpoint every {} (Young/Daly)",
            short_float(libm::round(p.cost.failures * 100.0) / 100.0),
            human_time(hours * 3600.0 / p.cost.failures.max(1e-9), page.lang),
            human_time(p.schedule.checkpoint_every_steps as f64 * p.time.step_seconds, page.lang)
        ),
        Lang::Zh => format!(
            "故障：预计 {} 次，平均 {}一次；每 {}保存检查点（Young/Daly）",
            short_float(libm::round(p.cost.failures * 100.0) / 100.0),
            human_time(hours * 3600.0 / p.cost.failures.max(1e-9), page.lang),
            human_time(p.schedule.checkpoint_every_steps as f64 * p.time.step_seconds, page.lang)
        ),
    });
    if !s.ramp.is_empty() {
        let steps: Vec<String> = (s.ramp.iter())
            .map(|r| {
                format!("{} @ {}", human_count(r.global_tokens as f64), human_count(r.from_tokens as f64))
            })
            .collect();
        let text = page.t(
            "batch ramp by the critical batch (advice, not run): ",
            "按临界批的渐增方案（仅建议，不执行）：",
        );
        page.more(format!("{text}{}", steps.join(" → ")));
    }
    for e in &s.exchange {
        let loss = short_float(libm::round(libm::fabs(e.loss) * 1e5) / 1e3);
        let loss = format!("{}{loss}%", sign(e.loss));
        let tokens = format!("{}{}", sign(e.tokens), human_count(libm::fabs(e.tokens)));
        let time = format!("{}{}", sign(e.seconds), human_time(libm::fabs(e.seconds), page.lang));
        let cost = format!("{}{}", sign(e.cost), money(libm::fabs(e.cost), &p.cost.currency));
        page.more(match page.lang {
            Lang::En => format!("{}: {loss} loss, {tokens} tokens, {time}, {cost}", e.change),
            Lang::Zh => {
                let change = words::change_words(&e.change);
                format!("{change}：损失 {loss}，词元 {tokens}，时间 {time}，费用 {cost}")
            }
        });
    }
    let text = page.t("frontier of time, money, loss and free memory", "时间、费用、损失、剩余显存的前沿");
    page.line("frontier", "前沿", text);
    let last = s.pareto.len().saturating_sub(2);
    for x in s.pareto.iter().take(last.min(8)).chain(s.pareto.iter().skip(last)) {
        page.more(format!(
            "{} {} {:.3} {}  {}",
            right(&human_time(x.train_seconds, page.lang), 9),
            right(&money(x.cost, &p.cost.currency), 12),
            x.loss,
            right(&human_bytes(x.margin_bytes), 9),
            words::layout_words(&x.layout, x.micro_batch_sequences, page.lang)
        ));
    }
}

fn sign(x: f64) -> &'static str {
    if x < 0.0 { "−" } else { "+" }
}
