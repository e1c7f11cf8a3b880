//! LLM0902: the planner refuses for another reason than memory.

use llmc_planner::Infeasible;

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Text, Value, short_float, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0902",
    severity: Severity::Error,
    args: &["rule", "words", "figures", "fixes"],
    message: text("no plan meets the recipe: {words}", "没有计划满足配方：{words}"),
    labels: &[text("{figures}", "{figures}")],
    help: &[
        text("these work, each planned: {fixes}", "以下更改均已验证可行：{fixes}"),
        text(
            "unpin part of `layout`, or change batch, devices or budget",
            "请取消固定部分 `layout`，或更改批大小、设备数、预算",
        ),
    ],
    page: Page {
        what: text(
            "Every layout was rejected by a rule other than memory, or the question contradicts itself. The figures of that rule are shown.",
            "所有布局都因显存以外的规则被否决，或要求自相矛盾。会列出该规则的数值。",
        ),
        why: text("A plan that breaks a rule would not run.", "违反规则的计划无法运行。"),
        example: "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nlayout < recompute none  offload activations >",
        instead: "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nlayout < recompute full  offload activations >",
    },
};

/// The planner's rules in words, with the recipe path they concern.
const WORDS: &[(&str, &str, Text)] = &[
    ("heads_divisible", "layout.tp", text("tp must divide the heads", "tp 须整除头数")),
    ("kv_heads_divisible", "layout.tp", text("tp must divide the key-value heads", "tp 须整除 KV 头数")),
    ("ffn_divisible", "layout.tp", text("tp must divide the feed-forward width", "tp 须整除 ffn 宽度")),
    ("vocab_divisible", "layout.tp", text("tp must divide the padded vocabulary", "tp 须整除填充后的词表")),
    ("tp_in_node", "layout.tp", text("tp must stay inside a node", "tp 须在节点之内")),
    ("context_divisible", "layout.cp", text("2·cp must divide the context", "2·cp 须整除上下文")),
    (
        "sequence_divisible",
        "layout.sequence_parallel",
        text(
            "sequence parallelism cuts the context into tp parts, each into 2·cp where cp is above 1",
            "序列并行把上下文切成 tp 份，cp 大于 1 时每份再切 2·cp 块",
        ),
    ),
    (
        "stages_hold_a_layer",
        "layout.pp",
        text("every pipeline stage must hold a layer", "每个流水级至少一层"),
    ),
    (
        "batch_divisible",
        "batch.asked_tokens",
        text("dp × micro-batch must divide the batch", "dp × 微批须整除批大小"),
    ),
    (
        "interleaved_micro_batches",
        "layout.schedule",
        text("an interleaved pipeline needs accumulation that pp divides", "交错流水要求 pp 整除累积次数"),
    ),
    (
        "ranks_make_gpus",
        "layout.tp",
        text("dp·tp·pp·cp must make up the devices", "dp·tp·pp·cp 须等于设备数"),
    ),
    (
        "shard_group_in_dp",
        "layout.shard_group",
        text(
            "a shard group divides dp, and without `zero 1` or higher it is 1",
            "分片组须整除 dp；没有 `zero 1` 及以上时只能为 1",
        ),
    ),
    (
        "sequence_parallel_needs_tp",
        "layout.sequence_parallel",
        text(
            "sequence parallelism runs along tensor ranks: tp must be 2 or more",
            "序列并行依附张量并行：tp 至少为 2",
        ),
    ),
    (
        "schedule_of_stages",
        "layout.schedule",
        text(
            "the schedule does not go with the stages: `none` with pp 1, the others with more, `interleaved` alone with vp above 1",
            "流水调度与级数不符：pp 1 用 `none`，更多级用其余调度，vp 大于 1 只能用 `interleaved`",
        ),
    ),
    (
        "offload_needs_full_recompute",
        "layout.offload",
        text("offloading activations needs `recompute full`", "卸载激活需要 `recompute full`"),
    ),
    (
        "optimizer_already_paged",
        "layout.offload",
        text("a paged optimizer is already in host memory", "分页优化器已在主机内存中"),
    ),
    ("host_memory", "layout.offload", text("the host's memory is too small", "主机内存不足")),
    ("cluster.underivable", "hardware.name", text("the device count cannot be derived", "无法推导设备数")),
    (
        "budget.contradiction",
        "budget.tokens",
        text("the limits of the budget contradict each other", "预算的限制互相矛盾"),
    ),
];

/// What a rule of the planner says.
pub fn words(rule: &str) -> Option<Text> {
    WORDS.iter().find(|(id, _, _)| *id == rule).map(|(_, _, words)| *words)
}

/// The planner's rules by name.
pub fn names() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(id, _, _)| *id)
}

/// Without a count of devices, when the model fits none.
const NEVER: (&str, &str, Text) = (
    "cluster.none",
    "hardware.name",
    text("the model fits no count of these devices", "任何数量的这种设备都放不下该模型"),
);

/// The refusing rule, its figures and its fixes.
pub fn found(r: &Resolved, currency: &str, why: &Infeasible) -> Diagnostic {
    let (rule, figures, fixes) = match why {
        Infeasible::Question { rule, figures, fixes } => ((*rule).to_owned(), figures, fixes),
        Infeasible::Layout { rule, figures, fixes, .. } => (rule.clone(), figures, fixes),
    };
    let known = WORDS.iter().find(|(id, _, _)| *id == rule);
    // An infinite figure is a limit that was not given, or a time that no count of devices reaches.
    let finite = figures.iter().filter(|(_, x)| x.is_finite());
    let shown: Vec<String> = finite.map(|(name, x)| format!("{name} {}", short_float(*x))).collect();
    let never = figures.get("seconds_least").is_some_and(|x| x.is_infinite());
    let known = if never { Some(&NEVER) } else { known };
    let d = Diagnostic::new(&RULE)
        .at(known.and_then(|(_, path, _)| place(r, path)).unwrap_or_else(|| super::unfit::place(r)))
        .arg("words", known.map_or(Value::Text(rule.clone()), |(_, _, words)| (*words).into()))
        .text("rule", rule);
    let d = if shown.is_empty() { d } else { d.arg("figures", Value::List(shown)) };
    super::unfit::with_fixes(d, fixes, currency)
}

/// Where a path was typed, or another pin of the same clause.
fn place(r: &Resolved, path: &str) -> Option<Span> {
    let clause = path.split('.').next().unwrap_or(path);
    let same = |p: &str| p.split('.').next() == Some(clause);
    r.facts
        .span(path)
        .or_else(|| r.facts.iter().filter(|(p, _, _)| same(p)).find_map(|(p, _, _)| r.facts.span(p)))
}
