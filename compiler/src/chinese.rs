//! What clauses and rules say, in Chinese. The English stands where each is defined.

use llmc_grammar::Keyword;

/// What a clause says, in one line.
pub fn clause(keyword: Keyword) -> &'static str {
    match keyword {
        Keyword::Edition => "语言版本。",
        Keyword::Model => "模型族与规模，或具体形状。",
        Keyword::From => "从哪个检查点开始。",
        Keyword::Budget => "可用的词元、时间、金额或 FLOPs。",
        Keyword::On => "使用的硬件。",
        Keyword::Seed => "所有随机数所依据的种子。",
        Keyword::Batch => "全局批大小。",
        Keyword::Tokenizer => "文本如何变成词元。",
        Keyword::Data => "命名的文本来源。",
        Keyword::Clean => "过滤与去重哪些内容。",
        Keyword::Pack => "文档如何装入序列。",
        Keyword::Mix => "各来源的取样比例。",
        Keyword::Optimizer => "优化器及其设置。",
        Keyword::Lr => "峰值学习率与调度。",
        Keyword::Precision => "矩阵乘法的数值格式。",
        Keyword::Determinism => "快速，或逐位可复现。",
        Keyword::Freeze => "不训练的部分。",
        Keyword::Layout => "并行布局中固定的部分。",
        Keyword::Checkpoint => "何时、如何保存状态。",
        Keyword::Eval => "评估什么、多久一次。",
        Keyword::Price => "GPU 小时与电力的价格。",
        Keyword::Expect => "计划必须满足的界限。",
    }
}

/// Values and options of a clause whose row of the reference holds more than names; as the row has them, in Chinese.
pub fn options(keyword: Keyword) -> Option<&'static str> {
    Some(match keyword {
        Keyword::Model => {
            "`layers hidden heads kv_heads head_dim ffn vocab ctx tied norm_eps dropout init rope`；rope 取 `none`、`pi(s=)`、`ntk(s=)`、`yarn(s=)`、`llama3(s=)`"
        }
        Keyword::From => "继续训练所用的 Hugging Face 目录",
        Keyword::Budget => "不写时：计算最优的词元数（Chinchilla）。词元、时间、金额给出其二，可推导设备数",
        Keyword::On => {
            r#"`mount "mount.json"`：`llmc data bench FOLDER --out mount.json` 在其中一台机器上测得，用于读取样本、预读与检查点；`profile "profiles/h200-llmc.toml"`：`llmc calibrate --device -o profiles` 在该设备上拟合，用于单卡计划；只写设备型号时推导数量"#
        }
        Keyword::Seed => "用于初始化、数据顺序与 dropout",
        Keyword::Optimizer => {
            "`adamw lion adafactor paged_adamw`；`betas wd clip eps state master gradients skip`；`state f32|bf16|fp8`：动量的格式；8 位时每 256 个一组带一个 f32 缩放（arXiv 2110.02861），可规划，尚不能运行；`master f32|split|stochastic`：bf16 权重的 f32 主副本完整保存（每参数多 4 字节）、只存权重所缺的 16 位（2 字节，同样的 f32），或不保存而用随机舍入；`gradients f32|bf16`：各层矩阵的梯度在一步内累加的格式（bf16 权重上的 AdamW；每参数少 2 字节）；`skip`：连续多少步出现非有限值而被略过后停止训练"
        }
        Keyword::Lr => {
            "调度 `cosine linear onecycle wsd constant`；`warmup` 或 `rewarm` 以步、词元、时间或 % 计"
        }
        Keyword::Data => {
            "每个来源一项：名称与通配路径，相对于配方；其中 `epochs <= 4`：最多读几遍；`in_place yes`：Megatron 的 `.bin` 文件用链接而不复制（docs/data.md）"
        }
        Keyword::Clean => {
            "`unicode keep|nfc|nfkc`、`dedup off|exact|minhash`、`similarity 80%`、`length >= 64`、`length <= 1 MiB` 或两者写作 `length 64 1 MiB`、`letters >= 50%`、`lang en` 或 `lang any(en, zh)`（按文字系统）、`unreadable stop|skip`；构建时给出各项排除的内容与样例"
        }
        Keyword::Mix => {
            r#"`temperature(α)`：比例 ∝ 词元数^α；`importance("weights.csv")`：再乘以表中各来源的系数（CSV `source,number`、TOML `source = number`，或含一列名称与一列数值的 Parquet）；`dynamic(every=100 steps, rate=1, smoothing=0.1%, reference="losses.csv")`：各阶段起始比例之后随实测损失变化（docs/running.md）。块内为每个来源的比例、下限或上限；`at 80% < … >` 为后续阶段，其中上下限仍然有效，未写的来源保持原比例"#
        }
        Keyword::Layout => {
            "`tp pp cp dp vp zero shard_group micro sequence_parallel schedule recompute offload`；写出的值固定，不再搜索"
        }
        Keyword::Checkpoint => "`every keep`；`zstd 1`：压缩主副本与动量（docs/running.md）",
        Keyword::Eval => {
            "`every sequences holdout ppl`；`window 8k  stride 4k` 在文本上滑动窗口，使每个词元至少由其前 window − stride 个词元预测"
        }
        Keyword::Price => {
            "你的价格；不写时按注明的假定价格计算。另有 `storage ¥10/h  network ¥5/h  other ¥120/h`，备用设备（`spares 3%`），以及自有而非租用：`buy ¥250k` 为一台设备连同其所占的服务器，`life 1461 days`、`usage 80%`、每年 `upkeep 5%`；`mtbf 50000 h` 为单卡平均故障间隔（不写时取 Llama 3 的故障率），`restart 15 min` 为从故障到恢复训练的时间"
        }
        Keyword::Expect => "对计划的断言；不成立即为错误",
        _ => return None,
    })
}

/// What a rule says, by its identifier.
pub fn rule(id: &str) -> Option<&'static str> {
    RULES.iter().find(|(known, _)| *known == id).map(|(_, words)| *words)
}

/// What the planner says of a value outside its measurements (`search.extrapolated`); as it is where it is not known.
pub fn extrapolated(said: &str) -> String {
    EXTRAPOLATED.iter().find_map(|(en, zh)| fill(said, en, zh)).unwrap_or_else(|| said.to_owned())
}

/// Each `{}` of a template takes the words that stand in the other's place.
const EXTRAPOLATED: &[(&str, &str)] = &[
    ("hardware {}: scaled by its peaks from profile {}", "硬件 {}：由档案 {} 按峰值换算"),
    ("{} devices: measured up to {}", "{} 张卡：实测最多 {} 张"),
    ("context {}: measured up to {}", "上下文 {}：实测最长 {}"),
    ("precision {}: not measured", "精度 {}：未曾实测"),
    ("loss of {} parameters: law fitted on {} to {}", "{} 参数的损失：定律拟合于 {} 至 {}"),
    ("loss after {} tokens: law fitted on {} to {}", "{} 词元后的损失：定律拟合于 {} 至 {}"),
    (
        "no program, closed form alone: tensor parallelism is lowered with sequence parallelism only",
        "没有程序，只有解析式：张量并行只在启用序列并行时下降为程序",
    ),
    (
        "no program, closed form alone: moments of 8 bits are planned, not lowered: choose state bf16",
        "没有程序，只有解析式：8 位动量可规划，尚不能下降为程序：请选 state bf16",
    ),
    (
        "no program, closed form alone: a tied head needs embedding and head on one pipeline rank: choose pp 1",
        "没有程序，只有解析式：共享的输出头要求词嵌入与输出头在同一流水级：请选 pp 1",
    ),
    (
        "no program, closed form alone: zero-bubble is not lowered with a ring: choose one_f_one_b",
        "没有程序，只有解析式：zero-bubble 不与环形上下文并行同用：请选 one_f_one_b",
    ),
    (
        "no program, closed form alone: deferred weight gradients need whole accumulators: choose zero 1",
        "没有程序，只有解析式：推迟的权重梯度需要完整的累加器：请选 zero 1",
    ),
    (
        "no program, closed form alone: 8-bit products need multiples of {}, {} is none: choose bf16",
        "没有程序，只有解析式：8 位乘法要求 {} 的倍数，{} 不是：请选 bf16",
    ),
    (
        "no program, closed form alone: fp8 is lowered for tp 1, cp 1, zero 0 to 2 and no zero-bubble schedule",
        "没有程序，只有解析式：fp8 只支持 tp 1、cp 1、zero 0 至 2，且不用 zero-bubble",
    ),
    (
        "no program, closed form alone: the inputs of all blocks are offloaded, or of none",
        "没有程序，只有解析式：要么卸载所有层的输入，要么都不卸载",
    ),
    (
        "no program, closed form alone: activations are not offloaded from a pipeline: choose pp 1",
        "没有程序，只有解析式：流水线中不卸载激活：请选 pp 1",
    ),
];

fn fill(said: &str, en: &str, zh: &str) -> Option<String> {
    let mut pieces = en.split("{}");
    let mut rest = said.strip_prefix(pieces.next()?)?;
    let mut out = zh.to_owned();
    for piece in pieces {
        let at = if piece.is_empty() { rest.len() } else { rest.find(piece)? };
        let (word, after) = rest.split_at(at);
        out = out.replacen("{}", word, 1);
        rest = after.strip_prefix(piece)?;
    }
    rest.is_empty().then_some(out)
}

const RULES: &[(&str, &str)] = &[
    ("model.family", "未指定模型族时为 LLaMA。"),
    ("model.vocab", "该模型族所发布分词器的词表。"),
    ("model.tied", "输出头与词嵌入分开，与该族已发布的模型一致。"),
    ("model.preset", "配方未固定的部分取自该名称的已发布模型。"),
    ("model.shape", "在固定部分之外，取参数量符合要求且最接近 LLaMA 比例的形状。"),
    ("model.constants", "RMSNorm 的 ε 与初始化标准差，取该模型族的值。"),
    ("model.dropout", "不使用 dropout。"),
    ("model.counts", "精确的参数量，以及能被各种张量并行度整除的词嵌入行数。"),
    ("rope.base", "基座模型的上下文：取其 config.json，没有则假定为该模型族的值。"),
    ("model.context", "基座的上下文；没有基座时取该模型族发布时的上下文。"),
    ("rope.theta", "该模型族旋转频率的底数。"),
    ("rope.scaling", "从头训练时原上下文为 ctx / s；继续训练时取基座的上下文，s = ctx / 原上下文。"),
    ("plan.format", "本程序写出的计划格式版本。"),
    ("recipe.text", "读到的配方原文及其哈希。"),
    ("freeze.nothing", "除 `freeze` 指定的以外全部训练。"),
    ("edition.current", "未写版本的配方按最新版本理解。"),
    ("seed.default", "种子为 1。"),
    ("precision.default", "GPU 上为 bf16，CPU 上为 f32。"),
    ("optimizer.default", "AdamW，梯度范数裁剪到 1，动量以 f32 保存。"),
    ("optimizer.betas", "优化器作者所用的 beta 与 ε；AdamW 取 LLaMA 的值。"),
    ("optimizer.weight_decay", "0.1；Lion 为其三倍，因为它的学习率相应更低。"),
    ("batch.sequences", "以序列给出的批大小等于同样多个上下文的词元。"),
    ("tokenizer.default", "字节级 BPE；数字像 LLaMA 那样逐位切分，或像 Llama 3 那样分组；文档首尾相接。"),
    ("eval.holdout", "除非配方指定验证文本，否则百分之一的文档用于验证。"),
    ("budget.chinchilla", "没有预算时每参数 20 个词元，即 Hoffmann 的计算最优比例。"),
    ("budget.from_flops", "FLOPs 预算可换得 C / (6·N) 个词元。"),
    ("budget.from_time", "时间预算换得集群在其间训练的词元，故障计入。"),
    ("budget.from_money", "金额预算换得集群的小时数，再换得词元。"),
    (
        "cluster.derive",
        "未给设备数时，取能在时间或金额内训练完这些词元的最少设备；未给词元时，取金额在该时间内租得起的设备数。",
    ),
    (
        "batch.step_law",
        "由训练词元数得出全局批大小，不超过临界批，每个 rank 都是整条序列；若另一批大小的布局能更早达到同样损失（多用的词元计入），则取它（`search.exchange`）。",
    ),
    ("batch.critical", "超过此批大小后，批翻倍不再使步数减半。"),
    ("batch.whole", "整数步，每步整数条序列。"),
    ("lr.step_law", "峰值学习率；取两条定律中较低者，因为高于最优值时损失上升更快。"),
    ("lr.rewarm", "继续预训练：基座峰值的若干倍；峰值未知时取规则给出的值。"),
    ("lr.warmup", "2,000 步，至多为全程的 1 %，但不少于 2/(1−β₂)，也不超过十分之一。"),
    ("lr.schedule", "除非另有要求，按余弦降到峰值的十分之一。"),
    ("determinism.default", "GPU 上为 fast，CPU 上为 bitwise。"),
    ("search", "布局搜索。"),
    ("memory.closed_form", "各流水级按种类的字节数，由闭式给出。"),
    ("memory.walk", "可以降级时，取实际执行的程序的字节数。"),
    ("time.cost_model", "一步的秒数，为未被掩盖的各项之和。"),
    (
        "storage.mount",
        "每个 rank 的一个线程逐条读取样本，每条耗时为一次延迟加其字节数；超过一步的部分需要等待。检查点按实测带宽写出。",
    ),
    ("goodput.daly", "按 Daly 间隔保存检查点，计入故障与重启后，真正用于训练的时间比例。"),
    ("schedule.eval", "除非另有要求，每完成全程的五十分之一评估一次。"),
    ("schedule.defaults", "保留三个检查点，不压缩；使用全部验证集；允许连续跳过十步。"),
    ("cost.assumed", "未给出的价格取假定值，并注明。"),
    ("cost.money", "按给定价格计算；未给出的取假定值并注明。"),
    (
        "loss.chinchilla",
        "训练结束时的损失，区间涵盖常数误差与其他拟合；批大小高于或低于最优值时按较少的词元计。",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_sentence() {
        let ids = crate::derive::RULES.iter().map(|r| r.id);
        let ids: Vec<&str> = ids.chain(llmc_planner::rules::RULES.iter().map(|r| r.id)).collect();
        for id in &ids {
            assert!(rule(id).is_some_and(|words| words.ends_with('。')), "{id}");
        }
        assert!(RULES.iter().all(|(id, _)| ids.contains(id)), "a rule that is gone");
    }

    /// The planner words these itself: a new one needs its line here.
    #[test]
    fn what_lies_outside_is_said_in_chinese() {
        let mut seen = 0;
        for recipe in [
            "model llama 1.3b < ctx 128k > budget 6e11 tokens on 64xH20 precision fp16",
            "model llama < layers 2  hidden 256 > budget 1B tokens on 2048xH100",
            "model llama 7b budget 1T tokens on 64xH100 layout < tp 2  sequence_parallel no >",
            "model llama 7b budget 1T tokens on 64xH100 layout < pp 2  cp 2  schedule zero_bubble >",
            "model llama 7b budget 1T tokens on 64xH100 layout < pp 2  zero 2  schedule zero_bubble >",
            "model llama 7b budget 1T tokens on 64xH100 precision fp8 layout < tp 2 >",
            "model llama 7b budget 1T tokens on 64xH100 optimizer adamw < state fp8 >",
            "model llama 7b < tied yes > budget 1T tokens on 64xH100 layout < pp 2 >",
            "model llama 7b budget 1T tokens on 64xH100 layout < pp 2  recompute full  offload activations >",
        ] {
            for said in crate::compile(recipe, &[], &crate::Nowhere).plan.unwrap().search.extrapolated {
                let chinese = extrapolated(&said);
                assert!(chinese.contains(|c| c > '\u{2e80}') && !chinese.contains("measured"), "{chinese}");
                seen += 1;
            }
        }
        assert_eq!(seen, 22);
    }
}
