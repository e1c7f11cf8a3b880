//! The rules by which the planner decides what a recipe left open: what each reads and writes, and where it is from.

/// One rule of derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Stable identifier, shown by `why`.
    pub id: &'static str,
    /// Paths of the plan or question it reads.
    pub reads: &'static [&'static str],
    /// Paths of the plan it writes.
    pub writes: &'static [&'static str],
    /// Paper, repository file or measurement.
    pub cite: &'static str,
    /// One sentence.
    pub doc: &'static str,
}

/// Every rule, in the order in which they run: a path is written before it is read.
pub const RULES: &[Rule] = &[
    Rule {
        id: "budget.chinchilla",
        reads: &["model.params_non_embedding"],
        writes: &["budget.tokens"],
        cite: "Hoffmann et al. 2022, arXiv 2203.15556, table 3; constants of Besiroglu et al. 2024, arXiv 2404.10102",
        doc: "Without a budget, 20 tokens a parameter, Hoffmann's compute-optimal ratio.",
    },
    Rule {
        id: "budget.from_flops",
        reads: &["model.params", "ask.flops"],
        writes: &["budget.tokens"],
        cite: "Kaplan et al. 2020, arXiv 2001.08361: C = 6·N·T",
        doc: "A budget of FLOPs buys C / (6·N) tokens.",
    },
    Rule {
        id: "budget.from_time",
        reads: &["model", "hardware", "precision", "ask.seconds"],
        writes: &["budget.tokens"],
        cite: "tokens = seconds × tokens per second × goodput",
        doc: "A budget of time buys the tokens the cluster trains in it, failures included.",
    },
    Rule {
        id: "budget.from_money",
        reads: &["model", "hardware", "precision", "ask.money", "ask.prices"],
        writes: &["budget.tokens"],
        cite: "hours = money / (GPUs × (rent + power × PUE × electricity price))",
        doc: "A budget of money buys hours of the cluster and those buy tokens.",
    },
    Rule {
        id: "cluster.derive",
        reads: &["budget.tokens", "model", "hardware", "precision", "ask.seconds", "ask.money"],
        writes: &["layout.nodes", "layout.gpus"],
        cite: "the smallest cluster whose best plan meets the budget; each size is planned",
        doc: "Without a device count, the fewest devices that train the tokens within the time or money; without tokens, as many as the money pays for the time.",
    },
    Rule {
        id: "batch.step_law",
        reads: &["budget.tokens"],
        writes: &["batch.global_tokens"],
        cite: "Step Law, Li et al. 2025, arXiv 2503.04715: B = 0.58·D^0.571 tokens",
        doc: "Global batch from the tokens of the run, capped by the critical batch, whole sequences on every rank; another where its layout reaches the same loss sooner, its extra tokens counted (`search.exchange`).",
    },
    Rule {
        id: "batch.critical",
        reads: &["model.params", "budget.tokens"],
        writes: &["batch.critical_tokens"],
        cite: "McCandlish et al. 2018, arXiv 1812.06162; Kaplan et al. 2020: B_crit = 2e8 / L^(1/0.21) tokens",
        doc: "Batch beyond which twice the batch no longer halves the steps.",
    },
    Rule {
        id: "batch.whole",
        reads: &["budget.tokens", "batch.global_tokens", "model.context"],
        writes: &[
            "budget.steps",
            "budget.trained_tokens",
            "budget.flops",
            "budget.flops_6nt",
            "batch.global_sequences",
            "batch.accumulation",
        ],
        cite: "steps = ⌈tokens / batch⌉; accumulation = sequences / (dp × micro-batch)",
        doc: "Whole steps of whole sequences.",
    },
    Rule {
        id: "lr.step_law",
        reads: &["model.params_non_embedding", "budget.tokens", "batch.global_tokens"],
        writes: &["lr.peak"],
        cite: "Step Law, arXiv 2503.04715: η = 1.79·N^−0.713·D^0.307, moved to the batch by √ (Malladi et al. 2022, arXiv 2205.10287), the lower of it and DeepSeek's",
        doc: "Peak learning rate; of two laws the lower, because the loss rises faster above the optimum than below.",
    },
    Rule {
        id: "lr.rewarm",
        reads: &["lr.peak"],
        writes: &["lr.peak"],
        cite: "Ibrahim et al. 2024, arXiv 2403.08763: re-warm and re-decay",
        doc: "Continued pre-training: a multiple of the base's peak, of the rule's where it is unknown.",
    },
    Rule {
        id: "lr.warmup",
        reads: &["budget.steps", "optimizer.beta2"],
        writes: &["lr.warmup_steps"],
        cite: "Ma & Yarats 2021, arXiv 1910.04209: 2/(1−β₂) steps at least; LLaMA and Llama 2 use 2,000 steps",
        doc: "2,000 steps, at most 1 % of the run but never under 2/(1−β₂) or over a tenth.",
    },
    Rule {
        id: "lr.schedule",
        reads: &[],
        writes: &["lr.schedule", "lr.final_fraction", "lr.decay_fraction"],
        cite: "Hoffmann et al. 2022 and Touvron et al. 2023: cosine to 10 % of the peak",
        doc: "Cosine to a tenth of the peak unless asked otherwise.",
    },
    Rule {
        id: "determinism.default",
        reads: &["hardware.name"],
        writes: &["determinism"],
        cite: "cuDNN's attention backward sums dQ in any order; measured on an H100, torch 2.11",
        doc: "Fast on a GPU, bitwise on a CPU.",
    },
    Rule {
        id: "search",
        reads: &["model", "hardware", "batch.global_tokens"],
        writes: &["layout", "batch.micro_batch_sequences"],
        cite: "every layout is enumerated; the cheapest step that fits wins, ties by less memory, then by simplicity",
        doc: "The layout search.",
    },
    Rule {
        id: "memory.closed_form",
        reads: &["layout", "batch.micro_batch_sequences"],
        writes: &["memory"],
        cite: "Korthikanti et al. 2022, arXiv 2205.05198, with fused attention; Rajbhandari et al. 2020, arXiv 1910.02054",
        doc: "Bytes of each stage by kind, in closed form.",
    },
    Rule {
        id: "memory.walk",
        reads: &["layout", "batch.micro_batch_sequences"],
        writes: &["memory"],
        cite: "the plan is lowered to its program, and the program walked instruction by instruction",
        doc: "Bytes of the program that runs, where it can be lowered.",
    },
    Rule {
        id: "time.cost_model",
        reads: &["layout", "hardware", "on.profile", "precision", "determinism"],
        writes: &["time"],
        cite: "matrix products by shape (tile and wave quantisation), NCCL's own tuning model, memory-bound operations by bytes",
        doc: "Seconds of a step as the sum of its exposed terms.",
    },
    Rule {
        id: "storage.mount",
        reads: &[
            "hardware",
            "layout",
            "batch.micro_batch_sequences",
            "batch.global_sequences",
            "time.step_seconds",
        ],
        writes: &["storage"],
        cite: "reads by threads and block size, and one write, measured by `llmc data bench`; bytes in flight: Little 1961",
        doc: "A rank's thread reads sample after sample, a latency and its bytes each; what is longer than the step is waited for. A checkpoint is written at the measured bandwidth.",
    },
    Rule {
        id: "goodput.daly",
        reads: &["time.step_seconds", "layout.gpus", "storage", "ask.mtbf_seconds", "ask.restart_seconds"],
        writes: &["time.goodput", "time.train_seconds", "schedule.checkpoint_every_steps"],
        cite: "Young 1974; Daly 2006, doi 10.1016/j.future.2004.11.016; failure rate of Llama 3, arXiv 2407.21783, table 5",
        doc: "Share of the time that trains, given failures, restarts and checkpoints at Daly's interval.",
    },
    Rule {
        id: "schedule.eval",
        reads: &["budget.steps"],
        writes: &["schedule.eval_every_steps"],
        cite: "fifty points on the validation curve",
        doc: "An evaluation every fiftieth of the run unless asked otherwise.",
    },
    Rule {
        id: "schedule.defaults",
        reads: &[],
        writes: &[
            "schedule.checkpoint_keep",
            "schedule.checkpoint_zstd",
            "schedule.eval_sequences",
            "schedule.skip_steps",
        ],
        cite: "Lightning and DeepSpeed users keep a few; compression costs time on the critical path of a save",
        doc: "Three checkpoints kept, stored as they are; the whole validation set; ten steps in a row left out.",
    },
    Rule {
        id: "cost.assumed",
        reads: &["hardware.name"],
        writes: &["cost.gpu_per_hour", "cost.power_kw", "cost.pue", "cost.electricity_per_kwh"],
        cite: "rent and power of the device's record; PUE 1.3, which new halls in China must keep (MIIT 2021); ¥0.8 a kWh, assumed 2026-11",
        doc: "A price that was not given is assumed, and marked.",
    },
    Rule {
        id: "cost.money",
        reads: &[
            "time.train_seconds",
            "layout.gpus",
            "cost.gpu_per_hour",
            "cost.power_kw",
            "cost.pue",
            "cost.electricity_per_kwh",
        ],
        writes: &["cost"],
        cite: "electricity = power × GPUs × PUE × hours × price; rent = GPUs × hours × price",
        doc: "Money over given prices, and over assumed ones that are marked.",
    },
    Rule {
        id: "loss.chinchilla",
        reads: &["model.params", "budget.trained_tokens", "batch.global_tokens"],
        writes: &["loss"],
        cite: "Besiroglu et al. 2024, arXiv 2404.10102: L = 1.8169 + 482.01/N^0.3478 + 2085.43/D^0.3658; Hoffmann et al. 2022, arXiv 2203.15556: 1.69 + 406.4/N^0.34 + 410.7/D^0.28; for comparison Kaplan et al. 2020, arXiv 2001.08361: [(6.4e13/N)^(0.076/0.103) + 1.8e13/D]^0.103",
        doc: "Loss of the run, with the interval that the constants' errors and the other fits span; a batch above or below the best counts as fewer tokens.",
    },
];

/// The rule of that identifier.
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a question gives: everything else must be written before it is read.
    const INPUTS: &[&str] = &["ask", "model", "hardware", "on.profile", "precision", "optimizer"];

    #[test]
    fn a_path_is_written_before_it_is_read() {
        let mut known: Vec<&str> = INPUTS.to_vec();
        let within = |path: &str, of: &str| path == of || path.starts_with(&format!("{of}."));
        for rule in RULES {
            for path in rule.reads {
                let there = known.iter().chain(rule.writes).any(|k| within(path, k) || within(k, path));
                assert!(there, "{} reads {path}, which nothing has written", rule.id);
            }
            known.extend(rule.writes);
        }
    }

    #[test]
    fn identifiers_are_unique_and_every_rule_is_cited() {
        for (i, rule) in RULES.iter().enumerate() {
            assert!(!rule.cite.is_empty() && rule.doc.ends_with('.'), "{}", rule.id);
            assert!(RULES[..i].iter().all(|other| other.id != rule.id), "{} twice", rule.id);
        }
    }
}
