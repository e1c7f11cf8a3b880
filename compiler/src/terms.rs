//! The names that a plan's figures stand under, in words: terms of a step, rules and bounds that left layouts out.
//!
//! Not here: what refuses a recipe (`check::meaning::impossible` says the planner's rules; they are the same names).

use crate::check::meaning::impossible;
use crate::diag::{Text, text};

/// What a name says, and where in a plan it stands.
pub fn find(name: &str) -> Option<(Text, Text)> {
    let of = |table: &'static [(&str, Text)], place| {
        table.iter().find(|(known, _)| *known == name).map(|(_, words)| (*words, place))
    };
    let rule = || impossible::words(name).map(|words| (words, REJECTED));
    of(STEP, TERM).or_else(|| of(BOUNDS, PRUNED)).or_else(|| of(FIT, REJECTED)).or_else(rule)
}

/// Every name.
pub fn names() -> impl Iterator<Item = &'static str> {
    [STEP, BOUNDS, FIT].into_iter().flatten().map(|(name, _)| *name).chain(impossible::names())
}

const TERM: Text = text("a term of `time.breakdown`", "`time.breakdown` 中的一项");
const PRUNED: Text = text(
    "counted in `search.pruned_by`: layouts that no longer had to be costed",
    "计入 `search.pruned_by`：无需再计算代价的布局",
);
const REJECTED: Text = text(
    "counted in `search.rejected_by`: layouts that cannot be",
    "计入 `search.rejected_by`：不可行的布局",
);

/// Terms of a step (`llmc_planner::cost::step::breakdown`). `optimizer` is a clause of the recipe too, and explained as one.
const STEP: &[(&str, Text)] = &[
    ("gemm", text("Matrix products of the blocks, forward and backward.", "各层的矩阵乘法，前向与反向。")),
    ("attention", text("Attention's own kernels, forward and backward.", "注意力自身的核函数，前向与反向。")),
    (
        "pointwise",
        text(
            "Norms, activations, rotary positions and residual sums: passes that memory bandwidth bounds.",
            "归一化、激活、旋转位置与残差求和：受显存带宽限制的逐元素运算。",
        ),
    ),
    ("recompute", text("What the backward pass computes again.", "反向时重新计算的部分。")),
    (
        "tensor_parallel",
        text(
            "Exchanges between tensor-parallel ranks that computation does not hide.",
            "张量并行各卡之间未被计算掩盖的通信。",
        ),
    ),
    (
        "context_parallel",
        text(
            "Exchanges of keys and values between context-parallel ranks that computation does not hide.",
            "上下文并行各卡之间未被计算掩盖的键值通信。",
        ),
    ),
    ("head", text("Embedding, head and loss.", "词嵌入、输出头与损失。")),
    (
        "launch",
        text(
            "The rest of a stage: kernel launches, and a host that enqueues slower than the device computes.",
            "流水级的其余部分：核函数启动，以及主机下发慢于设备计算。",
        ),
    ),
    (
        "pipeline_bubble",
        text("Pipeline ranks that wait while a step fills and drains.", "一步开始与结束时流水线各级的等待。"),
    ),
    (
        "pipeline_send",
        text(
            "Messages between pipeline stages that computation does not hide.",
            "流水级之间未被计算掩盖的传输。",
        ),
    ),
    (
        "data_parallel",
        text(
            "Gradients reduced and weights gathered, as far as computation does not hide it.",
            "梯度归约与权重收集中未被计算掩盖的部分。",
        ),
    ),
    ("interference", text("Computation that communication beside it slows down.", "被并行通信拖慢的计算。")),
    (
        "offload",
        text(
            "Copies to and from host memory that computation does not hide.",
            "与主机内存之间未被计算掩盖的拷贝。",
        ),
    ),
    (
        "overhead",
        text(
            "What every step takes whatever the model: scalars, logging, handing over data.",
            "与模型无关、每步都有的开销：标量、日志、数据交接。",
        ),
    ),
    ("straggler", text("Waiting for the slowest device.", "等待最慢的设备。")),
];

/// Bounds of the search.
const BOUNDS: &[(&str, Text)] = &[
    (
        "compute_bound",
        text(
            "Their computation alone takes longer than a plan that was found.",
            "仅计算部分就已慢于找到的计划。",
        ),
    ),
    (
        "uneven_bound",
        text(
            "Stages of unequal layers, whose best split could not beat the plan that was found.",
            "各级层数不等：最好的划分也胜不过找到的计划。",
        ),
    ),
    (
        "uneven_memory",
        text("Stages of unequal layers, of which no split fits.", "各级层数不等：没有放得下的划分。"),
    ),
    (
        "uneven_work",
        text(
            "Stages of unequal layers, left out as more promising ones took the search's share.",
            "各级层数不等：更有希望的布局已用完搜索额度。",
        ),
    ),
];

/// The one rule that is not about divisibility or pins.
const FIT: &[(&str, Text)] = &[(
    "memory",
    text(
        "The fullest device would need more memory than it has, or than `expect memory` allows.",
        "最满的设备所需显存超过其容量，或超过 `expect memory` 的限制。",
    ),
)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_a_plan_shows_is_explained() {
        for recipe in [
            "model llama 7b < ctx 8k > budget 1T tokens on 64xH100",
            "model llama 70b < ctx 8k > budget 1T tokens on 512xH100 layout < pp 8  offload optimizer >",
            "model llama 7b < ctx 64k > budget 1T tokens on 64xH100 layout < cp 4  tp 2  recompute full >",
        ] {
            let plan = crate::compile(recipe, &[], &crate::Nowhere).plan.unwrap();
            let s = &plan.search;
            let shown = plan.time.breakdown.keys().chain(s.rejected_by.keys()).chain(s.pruned_by.keys());
            for name in shown.filter(|name| *name != "optimizer") {
                assert!(find(name).is_some(), "{name}");
            }
        }
        assert!(names().all(|name| find(name).is_some()));
    }
}
