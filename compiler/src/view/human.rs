//! The plan on one screen: at most 60 lines, legible without colour.

use llmc_plan::columns::{left, right};
use llmc_plan::plan::{DType, Plan, StageMemory, Storage};
use llmc_planner::over_time::OverTime;

use super::words;
use crate::chinese;
use crate::diag::{Lang, money, short_float};
use crate::unit::{grouped, human_bytes, human_count, human_time};

/// Width of the label column.
pub const LABEL: usize = 11;
/// Width of the figure before a bar.
const FIGURE: usize = 10;

pub(super) struct Page {
    pub(super) lang: Lang,
    lines: Vec<String>,
}

impl Page {
    pub(super) fn t(&self, en: &'static str, zh: &'static str) -> &'static str {
        if self.lang == Lang::En { en } else { zh }
    }

    /// A labelled line; an empty label continues the line above.
    pub(super) fn line(&mut self, en: &'static str, zh: &'static str, text: impl AsRef<str>) {
        let label = self.t(en, zh);
        self.lines.push(format!("{}{}", left(label, LABEL), text.as_ref()).trim_end().to_owned());
    }

    pub(super) fn more(&mut self, text: impl AsRef<str>) {
        self.line("", "", text);
    }
}

/// The plan for people.
pub fn human(p: &Plan, lang: Lang) -> String {
    page_of(p, lang, None)
}

/// The same with how the search went: space, evaluated, pruned by which bound, what each law asks for.
pub fn human_verbose(p: &Plan, over_time: Option<&OverTime>, lang: Lang) -> String {
    page_of(p, lang, Some(over_time))
}

fn page_of(p: &Plan, lang: Lang, verbose: Option<Option<&OverTime>>) -> String {
    let mut page = Page { lang, lines: Vec::new() };
    head(&mut page, p);
    training(&mut page, p);
    page.lines.push(String::new());
    layout(&mut page, p);
    memory(&mut page, p);
    if let Some(over_time) = verbose {
        super::detail::memory(&mut page, p, over_time);
    }
    time(&mut page, p);
    money_and_loss(&mut page, p);
    page.lines.push(String::new());
    search(&mut page, p);
    prices(&mut page, p);
    if verbose.is_some() {
        super::detail::search(&mut page, p);
    }
    let mut out = page.lines.join("\n");
    out.push('\n');
    out
}

fn head(page: &mut Page, p: &Plan) {
    let m = &p.model;
    let hash: String = p.recipe.hash.chars().take(8).collect();
    let title = format!(
        "{} · {} {} · {} {} · {} × {}",
        m.family,
        human_count(m.params as f64),
        page.t("parameters", "参数"),
        human_count(p.budget.tokens as f64),
        page.t("tokens", "词元"),
        p.layout.gpus,
        p.hardware.name
    );
    let word = page.t("recipe", "配方");
    page.lines.push(format!("{title} · {word} {hash}"));
    page.lines.push(String::new());
    let kv = if m.kv_heads == m.heads { String::new() } else { format!(" ({} kv)", m.kv_heads) };
    let shape = match page.lang {
        Lang::En => format!(
            "{} parameters: {} × {} wide, {}{kv} × {}, ffn {}",
            grouped(m.params),
            words::several(m.layers, "layer"),
            grouped(m.hidden),
            words::several(m.heads, "head"),
            m.head_dim,
            grouped(m.ffn)
        ),
        Lang::Zh => format!(
            "{} 参数：{} 层 × 宽 {}，{} 头{kv} × {}，ffn {}",
            grouped(m.params),
            m.layers,
            grouped(m.hidden),
            m.heads,
            m.head_dim,
            grouped(m.ffn)
        ),
    };
    page.line("model", "模型", shape);
    let padded =
        if m.vocab_padded == m.vocab { String::new() } else { format!(" ({})", grouped(m.vocab_padded)) };
    let rope = words::rope_words(p, page.lang);
    let (context, vocab) = (grouped(m.context), grouped(m.vocab));
    let second = match page.lang {
        Lang::En => format!("context {context}, vocabulary {vocab}{padded}, {rope}"),
        Lang::Zh => format!("上下文 {context}，词表 {vocab}{padded}，{rope}"),
    };
    page.more(second);
    if let Some(base) = &p.from {
        let frozen = if p.freeze.is_empty() {
            String::new()
        } else {
            format!("; {} {}", page.t("frozen:", "冻结："), p.freeze.join(", "))
        };
        page.line("from", "基于", format!("{base}{frozen}"));
    }
}

fn training(page: &mut Page, p: &Plan) {
    let (b, s) = (&p.budget, &p.batch);
    let ratio = words::per_parameter(b.tokens, p.model.params);
    page.line(
        "budget",
        "预算",
        match page.lang {
            Lang::En => format!(
                "{} tokens in {}, {ratio} a parameter; {:.2e} FLOPs (6·N·T {:.2e})",
                grouped(b.trained_tokens),
                words::several(b.steps, "step"),
                b.flops,
                b.flops_6nt
            ),
            Lang::Zh => format!(
                "{} 词元，{} 步，每参数 {ratio} 个；{:.2e} FLOPs（6·N·T 为 {:.2e}）",
                grouped(b.trained_tokens),
                grouped(b.steps),
                b.flops,
                b.flops_6nt
            ),
        },
    );
    page.line(
        "batch",
        "批大小",
        match page.lang {
            Lang::En => format!(
                "{} tokens = {} = dp {} × accumulation {} × micro-batch {}; critical {}",
                grouped(s.global_tokens),
                words::several(s.global_sequences, "sequence"),
                p.layout.dp,
                s.accumulation,
                s.micro_batch_sequences,
                human_count(s.critical_tokens as f64)
            ),
            Lang::Zh => format!(
                "{} 词元 = {} 序列 = dp {} × 累积 {} × 微批 {}；临界批 {}",
                grouped(s.global_tokens),
                grouped(s.global_sequences),
                p.layout.dp,
                s.accumulation,
                s.micro_batch_sequences,
                human_count(s.critical_tokens as f64)
            ),
        },
    );
    let lr = &p.lr;
    let last = short_float(lr.final_fraction * 100.0);
    let decay = if lr.decay_fraction > 0.0 {
        let share = short_float(lr.decay_fraction * 100.0);
        match page.lang {
            Lang::En => format!(" (decay {share}%)"),
            Lang::Zh => format!("（衰减 {share}%）"),
        }
    } else {
        String::new()
    };
    let schedule = words::schedule_word(lr.schedule);
    page.line(
        "lr",
        "学习率",
        match page.lang {
            Lang::En => format!(
                "{} {schedule}{decay} to {last}%, warm-up {}",
                short_float(lr.peak),
                words::several(lr.warmup_steps, "step")
            ),
            Lang::Zh => format!(
                "{} {schedule}{decay} 降至 {last}%，预热 {} 步",
                short_float(lr.peak),
                grouped(lr.warmup_steps)
            ),
        },
    );
    let o = &p.optimizer;
    let master =
        if o.master.is_f32() { String::new() } else { format!(" master {}", words::enum_word(&o.master)) };
    let gradients = if o.gradient_dtype == DType::F32 {
        String::new()
    } else {
        format!(" gradients {}", words::enum_word(&o.gradient_dtype))
    };
    page.line(
        "optimizer",
        "优化器",
        format!(
            "{} betas {} {} wd {} clip {}{master}{gradients} · {} · {} · seed {}",
            words::optimizer_word(o.kind),
            short_float(o.beta1),
            short_float(o.beta2),
            short_float(o.weight_decay),
            short_float(o.clip),
            words::enum_word(&p.precision),
            words::enum_word(&p.determinism),
            p.seed
        ),
    );
}

fn layout(page: &mut Page, p: &Plan) {
    let l = &p.layout;
    let nodes = match page.lang {
        Lang::En => format!(
            "{} {} × {}: ",
            l.nodes,
            if l.nodes == 1 { "node" } else { "nodes" },
            l.gpus / l.nodes.max(1)
        ),
        Lang::Zh => format!("{} 节点 × {}：", l.nodes, l.gpus / l.nodes.max(1)),
    };
    page.line(
        "layout",
        "布局",
        format!("{nodes}{}", words::layout_words(l, p.batch.micro_batch_sequences, page.lang)),
    );
}

/// A bar of at most twenty blocks.
pub(super) fn bar(share: f64) -> String {
    "█".repeat((share * 20.0 + 0.5) as usize)
}

fn memory(page: &mut Page, p: &Plan) {
    let fullest: Option<&StageMemory> = p.memory.stages.iter().max_by_key(|s| s.device);
    let Some(stage) = fullest else { return };
    let free = p.hardware.memory_bytes.saturating_sub(stage.device);
    let text = match page.lang {
        Lang::En => format!(
            "{} on the fullest device, {} free; allocated {}, reserved {}",
            words::of_device(p, page.lang),
            human_bytes(free),
            human_bytes(stage.allocated),
            human_bytes(stage.reserved)
        ),
        Lang::Zh => format!(
            "最满设备 {}，剩余 {}；已分配 {}，保留 {}",
            words::of_device(p, page.lang),
            human_bytes(free),
            human_bytes(stage.allocated),
            human_bytes(stage.reserved)
        ),
    };
    page.line("memory", "显存", text);
    for (en, zh, bytes) in words::memory_terms(stage) {
        let share = bytes as f64 / stage.device.max(1) as f64;
        let name = page.t(en, zh);
        page.more(format!("{}  {name} {}", right(&human_bytes(bytes), FIGURE), bar(share)).trim_end());
    }
}

fn time(page: &mut Page, p: &Plan) {
    let t = &p.time;
    let text = match page.lang {
        Lang::En => format!(
            "{} a step, {} tokens/s, {} a device, MFU {}",
            human_time(t.step_seconds, page.lang),
            grouped(t.tokens_per_second as u64),
            grouped(t.tokens_per_second_per_gpu as u64),
            percent(t.mfu)
        ),
        Lang::Zh => format!(
            "每步 {}，{} 词元/秒，每卡 {}，MFU {}",
            human_time(t.step_seconds, page.lang),
            grouped(t.tokens_per_second as u64),
            grouped(t.tokens_per_second_per_gpu as u64),
            percent(t.mfu)
        ),
    };
    page.line("time", "时间", text);
    let mut terms: Vec<(&String, f64)> =
        t.breakdown.iter().map(|(k, v)| (k, *v)).filter(|(_, v)| *v > 0.0).collect();
    terms.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    for (i, (name, seconds)) in terms.iter().enumerate() {
        let share = seconds / t.step_seconds.max(f64::MIN_POSITIVE);
        if i < 6 {
            page.more(
                format!("{}  {name} {}", right(&human_time(*seconds, page.lang), FIGURE), bar(share))
                    .trim_end(),
            );
        }
    }
    let rest: f64 = terms.iter().skip(6).map(|(_, s)| s).sum();
    if rest > 0.0 {
        let other = page.t("other", "其他");
        page.more(format!("{}  {other}", right(&human_time(rest, page.lang), FIGURE)));
    }
    let s = &p.schedule;
    let hours = human_time(s.checkpoint_every_steps as f64 * t.step_seconds, page.lang);
    let text = match page.lang {
        Lang::En => format!(
            "{} (goodput {}); checkpoint every {} ({hours}), evaluation every {}",
            human_time(t.train_seconds, page.lang),
            percent(t.goodput),
            words::several(s.checkpoint_every_steps, "step"),
            grouped(s.eval_every_steps)
        ),
        Lang::Zh => format!(
            "{}（有效率 {}）；每 {} 步保存检查点（{hours}），每 {} 步评估",
            human_time(t.train_seconds, page.lang),
            percent(t.goodput),
            grouped(s.checkpoint_every_steps),
            grouped(s.eval_every_steps)
        ),
    };
    page.line("run", "全程", text);
    if let Some(s) = &p.storage {
        storage(page, s);
    }
}

/// What the measured mount means.
fn storage(page: &mut Page, s: &Storage) {
    let read = format!("{} MB/s", grouped((s.read_bytes_per_second / 1e6) as u64));
    let (data, stop) = (human_time(s.data_seconds, page.lang), human_time(s.checkpoint_seconds, page.lang));
    let longer = (s.exposed_seconds > 0.0).then(|| human_time(s.exposed_seconds, page.lang));
    let shard = s.shard_bytes.div_ceil(1 << 20);
    let (text, more) = match page.lang {
        Lang::En => {
            let hidden = longer.map_or("hide beside it".to_owned(), |x| format!("make it {x} longer"));
            (
                format!("{read} read; the samples of a step take {data} and {hidden}; a checkpoint {stop}"),
                format!("{} micro-batches read ahead; make shards of {shard} MiB or more", s.read_ahead),
            )
        }
        Lang::Zh => {
            let hidden = longer.map_or("被计算掩盖".to_owned(), |x| format!("使其延长 {x}"));
            (
                format!("读取 {read}；每步样本需 {data}，{hidden}；写一次检查点 {stop}"),
                format!("预读 {} 个微批；分片至少 {shard} MiB", s.read_ahead),
            )
        }
    };
    page.line("storage", "存储", text);
    page.more(&more);
}

fn money_and_loss(page: &mut Page, p: &Plan) {
    let c = &p.cost;
    let total = money(c.total, &c.currency);
    page.line("cost", "费用", format!("{total} = {}", words::sum_of_money(p, page.lang)));
    let unit = |x: f64| money(x, &c.currency);
    let basis = match page.lang {
        Lang::En => format!(
            "{} GPU hours × {}; {} kWh × {} ({} kW a device, PUE {})",
            hours(c.gpu_hours),
            unit(c.gpu_per_hour),
            hours(c.electricity_kwh),
            unit(c.electricity_per_kwh),
            short_float(c.power_kw),
            short_float(c.pue)
        ),
        Lang::Zh => format!(
            "{} 卡时 × {}；{} 千瓦时 × {}（每卡 {} kW，PUE {}）",
            hours(c.gpu_hours),
            unit(c.gpu_per_hour),
            hours(c.electricity_kwh),
            unit(c.electricity_per_kwh),
            short_float(c.power_kw),
            short_float(c.pue)
        ),
    };
    page.more(basis);
    if let Some(own) = &c.ownership {
        page.more(match page.lang {
            Lang::En => format!(
                "owned: {} at {} a device hour; rent has paid for a device after {} hours",
                unit(own.total),
                unit(own.gpu_per_hour),
                grouped(own.break_even_hours as u64)
            ),
            Lang::Zh => format!(
                "自有：{}，每卡时 {}；租用 {} 小时即可抵购置价",
                unit(own.total),
                unit(own.gpu_per_hour),
                grouped(own.break_even_hours as u64)
            ),
        });
    }
    if !c.assumed.is_empty() {
        let text = page.t("assumed, not given: ", "未给出，取假定值：");
        page.more(format!("{text}{}", c.assumed.join(", ")));
    }
    let l = &p.loss;
    let text = match page.lang {
        Lang::En => format!("{:.3} nats a token, {:.3} to {:.3} ({})", l.predicted, l.low, l.high, l.law),
        Lang::Zh => format!("每词元 {:.3} nat，区间 {:.3} 至 {:.3}（{}）", l.predicted, l.low, l.high, l.law),
    };
    page.line("loss", "损失", text);
}

fn search(page: &mut Page, p: &Plan) {
    let s = &p.search;
    let text = match page.lang {
        Lang::En => format!(
            "{} layouts, {} evaluated, {} fit; the fastest that fits is taken",
            grouped(s.considered),
            grouped(s.evaluated),
            grouped(s.feasible)
        ),
        Lang::Zh => format!(
            "{} 种布局，评估 {}，可行 {}；取其中最快者",
            grouped(s.considered),
            grouped(s.evaluated),
            grouped(s.feasible)
        ),
    };
    page.line("why", "缘由", text);
    let mut rejected: Vec<(&String, u64)> =
        s.rejected_by.iter().map(|(k, v)| (k, *v)).filter(|(_, v)| *v > 0).collect();
    rejected.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    if !rejected.is_empty() {
        let shown: Vec<String> =
            rejected.iter().take(4).map(|(k, v)| format!("{k} {}", grouped(*v))).collect();
        let text = page.t("rejected by ", "否决：");
        page.more(format!("{text}{}", shown.join(", ")));
    }
    if let Some(r) = &s.runner_up {
        let layout = words::layout_words(&r.layout, r.micro_batch_sequences, page.lang);
        let text = match page.lang {
            Lang::En => format!(
                "runner-up {layout}: {} slower a step, by {}",
                human_time(r.slower_by_seconds, page.lang),
                r.decided_by
            ),
            Lang::Zh => {
                format!(
                    "次优 {layout}：每步慢 {}，取决于 {}",
                    human_time(r.slower_by_seconds, page.lang),
                    r.decided_by
                )
            }
        };
        page.more(text);
    }
    for point in
        s.pareto.iter().skip(1).filter(|x| x.step_seconds > p.time.step_seconds * (1.0 + 1e-6)).take(4)
    {
        let slower = (point.step_seconds / p.time.step_seconds - 1.0) * 100.0;
        let layout = words::layout_words(&point.layout, point.micro_batch_sequences, page.lang);
        let text = match page.lang {
            Lang::En => format!("{} free at +{slower:.1}% time: {layout}", human_bytes(point.margin_bytes)),
            Lang::Zh => format!("多用 {slower:.1}% 时间可余 {}：{layout}", human_bytes(point.margin_bytes)),
        };
        page.more(text);
    }
    for item in &s.extrapolated {
        page.more(match page.lang {
            Lang::En => format!("extrapolated: {item}"),
            Lang::Zh => format!("外推：{}", chinese::extrapolated(item)),
        });
    }
}

/// What departures from the plan cost, in money and time.
fn prices(page: &mut Page, p: &Plan) {
    let unit = |x: f64| {
        let sign = if x < 0.0 { "−" } else { "+" };
        format!("{sign}{}", money(libm::fabs(x), &p.cost.currency))
    };
    let of = |change: &str| p.search.exchange.iter().find(|e| e.change == change);
    let mut parts = Vec::new();
    if let Some(e) = of("loss -0.1%") {
        let tokens = e.tokens / p.budget.trained_tokens.max(1) as f64 * 100.0;
        parts.push(match page.lang {
            Lang::En => format!("0.1% less loss +{tokens:.1}% tokens, {}", unit(e.cost)),
            Lang::Zh => format!("损失降 0.1% 需多 {tokens:.1}% 词元，{}", unit(e.cost)),
        });
    }
    for (change, en, zh) in [
        ("batch x2", "batch ×2", "批 ×2"),
        ("batch x0.5", "batch ×½", "批 ×½"),
        ("lr x2", "lr ×2", "学习率 ×2"),
        ("lr x0.5", "lr ×½", "学习率 ×½"),
    ] {
        if let Some(e) = of(change) {
            parts.push(format!("{} {}", page.t(en, zh), unit(e.cost)));
        }
    }
    if !parts.is_empty() {
        let to = page.t(" to the same loss", "（达到同样损失）");
        page.line("prices", "代价", format!("{}{to}", parts.join(page.t("; ", "；"))));
    }
    if let Some(m) = p.search.memory_price.as_ref().filter(|m| m.step_seconds > 0.0) {
        page.more(match page.lang {
            Lang::En => format!(
                "1 GiB more on every device saves {} a step, {}",
                human_time(m.step_seconds, page.lang),
                money(m.cost, &p.cost.currency)
            ),
            Lang::Zh => format!(
                "每卡多 1 GiB 显存，每步省 {}，共省 {}",
                human_time(m.step_seconds, page.lang),
                money(m.cost, &p.cost.currency)
            ),
        });
    }
}

/// Hours and kWh: whole where there are many.
fn hours(x: f64) -> String {
    if x < 100.0 { short_float(libm::round(x * 1000.0) / 1000.0) } else { grouped(x as u64) }
}

fn percent(x: f64) -> String {
    format!("{:.1}%", x * 100.0)
}
