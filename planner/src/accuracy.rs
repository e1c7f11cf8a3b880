//! The planner's own error, as a page: by profile on held-out fifths, by source with that source left out, and the
//! worst rows. `llmc calibrate --report` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use llmc_plan::plan::Precision;

use crate::calibrate::{Row, refit};
use crate::cost::step::{breakdown, compute, step};
use crate::fit::{Sample, off, residuals};
use crate::fitted::{Fitted, Scale, closest, scaled};
use crate::score::{Summary, score};
use crate::stack::kin;

/// Rows listed as worst.
const WORST: usize = 20;

/// ln(predicted ÷ measured) of `row` under the closest of `fitted`.
fn error(row: &Row, fitted: &[Fitted]) -> f64 {
    let (stack, family, precision) = &row.key;
    let none = Scale::new();
    let scale = closest(fitted, stack, family, *precision).map_or(&none, |f| &f.scale);
    residuals(&[&row.sample], scale).first().copied().unwrap_or(0.0)
}

fn ape(row: &Row, residual: f64) -> f64 {
    off(&row.sample, residual)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Error of each row of each source, predicted without any row of that source.
pub fn left_out(rows: &[Row], fitted: &[Fitted]) -> BTreeMap<String, Vec<f64>> {
    let sources: BTreeSet<&str> = rows.iter().map(|r| r.source.as_str()).collect();
    let mut errors = BTreeMap::new();
    for source in sources {
        let rest: Vec<Row> = rows.iter().filter(|r| r.source != source).cloned().collect();
        let own: Vec<&Row> = rows.iter().filter(|r| r.source == source).collect();
        let stacks: Vec<&str> = own.iter().flat_map(|r| [Some(r.key.0), kin(r.key.0)]).flatten().collect();
        let without = refit(&rest, Some(fitted), Some(&stacks));
        errors.insert(source.to_string(), own.iter().map(|r| ape(r, error(r, &without))).collect());
    }
    errors
}

/// Held-out error of a set of rows: each row's profile, on parts of its rows that it was not fitted on.
fn folded(rows: &[&Row], fitted: &[Fitted]) -> f64 {
    let of = |row: &&Row| {
        let (stack, family, precision) = &row.key;
        closest(fitted, stack, family, *precision).map_or(0.0, |f| f.fit.cross_validated)
    };
    mean(&rows.iter().map(of).collect::<Vec<f64>>())
}

/// Rows that ask the same question, a model on a number of devices, answered by predicted instead of measured time:
/// what the choice loses, by group.
fn regret(rows: &[&Row], fitted: &[Fitted]) -> Vec<(String, f64)> {
    let mut groups: BTreeMap<(u64, u64, u64), Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows {
        let s = &row.sample.setting;
        let measured = row.sample.seconds;
        let predicted = measured * libm::exp(error(row, fitted));
        let key = (s.gpus(), s.shape.hidden, s.shape.layers);
        groups.entry(key).or_default().push((predicted, measured));
    }
    let lost = |times: &[(f64, f64)]| {
        let chosen = times.iter().min_by(|a, b| a.0.total_cmp(&b.0))?.1;
        let best = times.iter().map(|t| t.1).min_by(f64::total_cmp)?;
        Some(chosen / best - 1.0)
    };
    let named = groups.iter().filter_map(|((gpus, hidden, layers), times)| {
        Some((format!("{layers} layers of {hidden} on {gpus}"), lost(times)?))
    });
    named.collect()
}

/// What the planner is judged on, over the rows it was fitted on.
fn measures(out: &mut String, rows: &[Row], fitted: &[Fitted]) -> std::fmt::Result {
    writeln!(
        out,
        "## By measure\n\n| measure | rows | bar | on its own rows | held out by fold |\n|---|---|---|---|---|"
    )?;
    let published = |r: &&Row| !r.source.starts_with("vTrain");
    let h100 = |r: &&Row| published(r) && r.key.1 == "h100" && r.key.2 == Precision::Bf16;
    let multi = |r: &&Row| r.source == "vTrain multi";
    let single = |r: &&Row| r.source == "vTrain single";
    let sets: [(&str, f64, Vec<&Row>); 4] = [
        ("time, Hopper bf16", 8.0, rows.iter().filter(h100).collect()),
        ("time, all published rows", 12.0, rows.iter().filter(published).collect()),
        ("time, vTrain multi-node", 6.0, rows.iter().filter(multi).collect()),
        ("time, vTrain single-node", 7.0, rows.iter().filter(single).collect()),
    ];
    for (name, bar, of) in &sets {
        let own = mean(&of.iter().map(|r| ape(r, error(r, fitted))).collect::<Vec<f64>>()) * 100.0;
        let held = folded(of, fitted) * 100.0;
        writeln!(out, "| {name} | {} | {bar} % | {own:.1} % | {held:.1} % |", of.len())?;
    }
    let multi: Vec<&Row> = rows.iter().filter(multi).collect();
    // The same as a rate, which counts a step predicted too short for more.
    let rates: Vec<f64> = multi.iter().map(|r| libm::exp(-error(r, fitted)) - 1.0).map(f64::abs).collect();
    writeln!(
        out,
        "| time, vTrain multi-node, as tokens per second | {} | | {:.1} % | |",
        rates.len(),
        mean(&rates) * 100.0
    )?;
    for (group, lost) in regret(&multi, fitted) {
        writeln!(out, "| regret, vTrain: {group} | | 2 % | {:.1} % | |", lost * 100.0)?;
    }
    writeln!(out)
}

/// The run in few words, for rows whose table says nothing.
fn layout(row: &Row) -> String {
    let (s, p) = (&row.sample.setting, &row.sample.point);
    format!(
        "the table says no more than {} {}, tp {}, pp {}, cp {}, dp {}, micro-batch {}",
        s.gpus(),
        s.hardware.name,
        p.tp,
        p.pp,
        p.cp,
        p.dp,
        p.micro
    )
}

/// The largest term of a predicted step.
fn largest(sample: &Sample, scale: &Scale) -> String {
    let mut setting = sample.setting.clone();
    setting.profile = scaled(&setting.profile, scale);
    let c = compute(&setting, &sample.point);
    let terms = breakdown(&c, &step(&setting, &sample.point, &c));
    terms.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(String::new(), |(name, _)| name)
}

/// The page, in Markdown.
///
/// # Errors
/// Never, in practice: writing to a string.
pub fn report(tables: &[String], rows: &[Row], fitted: &[Fitted]) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "# How wrong the planner is\n\nWritten by `llmc calibrate RUNS… --report docs/accuracy.md`; run it again after a \
         change of model or tables. Errors are of what a table gives, absolute: predicted ÷ measured − 1 \
         of tokens per second, for vTrain of the iteration time, which is what its authors give errors of.\n\n\
"
    )?;
    measures(&mut out, rows, fitted)?;
    writeln!(
        out,
        "## By profile\n\nEach profile starts from the wider one above it and changes at most one number per five rows; \
         in the pooled ones a source counts as one row, so they are the middle of stacks, not of rows. *held out*: five parts, each predicted by numbers fitted on the other four (the choice of numbers is made \
         once, on all).\n\n| profile | rows | numbers | on its own rows | held out |\n|---|---|---|---|---|"
    )?;
    for f in fitted {
        writeln!(
            out,
            "| {} | {} | {} | {:.1} % | {:.1} % |",
            f.name,
            f.fit.rows,
            f.fit.knobs.len(),
            f.fit.mape * 100.0,
            f.fit.cross_validated * 100.0
        )?;
    }
    writeln!(
        out,
        "\n## By source\n\n*source left out*: every row of the source is predicted by profiles fitted without any of \
         them, which is what a source never seen before gets: the stack's profile where other sources have the same \
         stack on this family of cards or on several, else the pooled one.\n\n| source | rows | mean | median | most | source left out: mean | median |\n\
         |---|---|---|---|---|---|---|"
    )?;
    let without = left_out(rows, fitted);
    let mut all: (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    for (source, held) in &without {
        let own: Vec<f64> =
            rows.iter().filter(|r| r.source == *source).map(|r| ape(r, error(r, fitted))).collect();
        line(&mut out, source, &own, held)?;
        all.0.extend(own);
        all.1.extend(held);
    }
    line(&mut out, "**all**", &all.0, &all.1)?;
    writeln!(
        out,
        "\nWhy some sources are far from all others. torchao says H100-SXM, but its rates are torchtitan's on the 500 W part: of \
         700 W its cards would be a quarter faster. stas00/ml-engineering keeps the optimizer in host memory under Hugging Face's \
         models, B200 with a beta of FlashAttention 4 among them: no other source does. SimuMax's B200 is slower than any \
         other: its own table of products has 0.49 of the peak as median and 0.65 at most, where NeMo's GB200 runs need more \
         than that over whole steps. BigScience tr3m-1B3 is of V100s with clocks of whole seconds; JAX-Toolbox Pax states no \
         recomputation and has a model of 126M. Llama 3's table gives TFLOP/s, here divided by causal FLOPs a token."
    )?;
    writeln!(
        out,
        "\n## Peak memory by source\n\nWith the profiles this llmc was built with. What a peak means differs: allocated \
         on the last rank (Megatron's golden values), reserved, or what the driver reports.\n\n\
         | source | rows with a peak | mean | median | most |\n|---|---|---|---|---|"
    )?;
    for table in tables {
        memory(&mut out, table)?;
    }
    write!(out, "\n{}\n{}\n{}", held_out()?, held_out_peaks()?, peers()?)?;
    writeln!(
        out,
        "\n## Worst rows\n\nThe {WORST} largest errors, with the largest term of the prediction and the run's own \
         remark, which is mostly the reason: other steps timed (fine-tuning), an offloaded optimizer, whole-second \
         clocks, a model too small to keep the card busy. vTrain's multi-node run with a micro-batch of 64 takes \
         1.8 times what the same model takes with 32, with no cause in its columns. Its runs of 39B models with tp \
         below 8 and dp above 8 are 16 to 56 % slower than the same model with tp 8; `comm.contention` describes them \
         (one number, each of the three rows met within 4 % by the other two) without explaining them. All are kept.\n\n| row | source | predicted ÷ measured seconds | largest term | remark |\n\
         |---|---|---|---|---|"
    )?;
    let mut worst: Vec<(f64, &Row)> = rows.iter().map(|r| (error(r, fitted), r)).collect();
    worst.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    for (residual, row) in worst.into_iter().take(WORST) {
        let (stack, family, precision) = &row.key;
        let scale = closest(fitted, stack, family, *precision).map(|f| f.scale.clone()).unwrap_or_default();
        let term = largest(&row.sample, &scale);
        let remark = if row.remark.is_empty() { layout(row) } else { row.remark.replace('|', "/") };
        let remark: String = remark.chars().take(160).collect();
        let ratio = libm::exp(residual);
        writeln!(out, "| {} | {} | {ratio:.2} | {term} | {remark} |", row.sample.id, row.source)?;
    }
    Ok(out)
}

/// Published runs that no profile was fitted on (planner/data/held-out.csv): the question that a stranger's table asks.
pub const HELD_OUT: &str = include_str!("../data/held-out.csv");

/// The section about them.
///
/// # Errors
/// Never, in practice: writing to a string.
pub fn held_out() -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "## Rows never fitted\n\nOn 2026-11-24 and 2026-11-30, after all profiles of the day had been fitted, 56 and 80 runs were \
         collected of sources that are in none of the tables, each with its citation. Every second one of a source is in \
         `planner/data/held-out.csv` and no profile has seen it; the others, `planner/data/collected.csv`, are among the \
         rows fitted since. What the profiles of the day before said, blind: 21.1 % for KempnerForge, 16.4 % for \
         Megatron-Bridge and 5.4 % for fms-fsdp (28 held out, 17.0 %); 14.3 % for FlagPerf, 24.0 % for Llama 3's table, \
         19.9 % for MegaScale's runs of Megatron-LM, 10.0 % for those of arXiv 2205.05198 and 22.7 % for SimuMax's on B200 \
         (all 80, 16.7 %). What was learned from the errors is no number of a row: parameters sharded by FSDP beside \
         tensor ranks are PyTorch's; tensor-parallel collectives run beside products only where a stack cuts them up (NeMo, \
         XLA), so that plain Megatron-LM and DTensor pay them in full; Megatron-LM overlaps gradients only when asked; a board of four \
         cards has no switch; PyTorch's recomputation leaves a block's last product out, and under a pipeline it reduces \
         once a step. With \
         traffic and recomputation alone, before any number was fitted anew, the 80 came to 12.4 %. Megatron-Turing NLG's three runs came last: 16.1 % as Megatron-LM's; they \
         are of the fork that BigScience trained with.\n\nLater on 2026-11-30 came 55 more of sources that were in no table, split alike. The \
         profiles of the day said, blind: 9.4 % for Google's gpu-recipes (11 runs), 8.1 % for MLPerf's logs of GPT-3 and Llama 3.1 on \
         Hopper (20), 1.9 % for NVIDIA's recipe of Llama 3 in MaxText (10), 8.6 % for OLMo-core (8), 10.8 % for Nemotron-4 340B (3), \
         9.5 % for Hugging Face's training playbook (2), 1.1 % for Colossal-AI (1): all 55, 7.4 %; the 18 on Hopper in bf16, 6.8 %. The \
         stacks of the first three had profiles, the others got PyTorch's, Megatron's or NeMo's. What was learned: NeMo reduces \
         gradients in 16 bits; an interleaved pipeline reduces a chunk's while it works on the others; `tp_comm_overlap` may be off; \
         torchtitan's selective recomputation repeats products; nanotron is PyTorch, eager; KempnerForge's states are bf16. Which \
         readings to keep was decided by folds with these held-out rows in sight: the table is no longer blind. Now:\n\n\
         | source | rows | mean | median | most |\n|---|---|---|---|---|"
    )?;
    let Ok(scores) = score(HELD_OUT) else { return Ok(out) };
    let percent = |x: Option<f64>| x.map_or(String::new(), |x| format!("{:.1} %", x * 100.0));
    let all = [("**all**".to_string(), scores.overall)];
    for (source, s) in scores.by_source.into_iter().chain(all).filter(|(_, s)| s.timed > 0) {
        let (mean, median, most) =
            (percent(s.time_mape), percent(s.time_median_ape), percent(s.time_max_ape));
        writeln!(out, "| {source} | {} | {mean} | {median} | {most} |", s.timed)?;
    }
    writeln!(
        out,
        "\nThe worst is a 70B model on eight cards of KempnerForge, which its authors call bound by memory. Their peaks are \
         left out: the first, 75 GiB for 8.03B parameters on one card, is of states narrower than the text says."
    )?;
    Ok(out)
}

/// The section about their peaks.
///
/// # Errors
/// Never, in practice: writing to a string.
pub fn held_out_peaks() -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "## Peaks never seen\n\n{PEAKS}\n\n{MEGATRON}\n\n{TORCH}\n\n{LAST}\n\n{PLANNERS}\n\n{TRAINERS} Now:\n\n| source | rows | mean | median | most |\n|---|---|---|---|---|"
    )?;
    let Ok(scores) = score(HELD_OUT) else { return Ok(out) };
    let all = [("**all**".to_string(), scores.overall)].into();
    memory_lines(&mut out, &scores.by_source)?;
    memory_lines(&mut out, &all)?;
    Ok(out)
}

/// Peaks of Hugging Face's and litgpt's models that we ran ourselves (benches/gpu/peer_memory.py): every setting is known.
pub const PEERS: &str = include_str!("../data/peers.csv");

/// The section about them.
///
/// # Errors
/// Never, in practice: writing to a string.
pub fn peers() -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "## Peaks of peers that we ran\n\n{RAN}\n\n| program | peak | runs | mean | median | most |\n|---|---|---|---|---|---|"
    )?;
    let (head, rows) = PEERS.split_once('\n').unwrap_or_default();
    for (program, kind) in
        ["transformers", "litgpt"].into_iter().flat_map(|p| [(p, "allocated"), (p, "reserved")])
    {
        let of = |row: &&str| row.contains(program) && row.contains(&format!("memory_{kind}"));
        let table: Vec<&str> = std::iter::once(head).chain(rows.lines().filter(of)).collect();
        if let Ok(scores) = score(&table.join("\n")) {
            memory_lines(&mut out, &[(format!("{program} | {kind}"), scores.overall)].into())?;
        }
    }
    Ok(out)
}

/// What they are and what was learned from them.
const RAN: &str = "\
A published peak seldom says whether weights were f32 under autocast, which release computed the loss or what a peak is of, so a wrong \
term and a wrong reading look alike. On 2026-12-01 51 runs that say all of it were made on H200s under torch 2.11: 39 of LLaMA's and GPT-2's \
of transformers 5.17, 12 of litgpt 0.5.3 (`benches/gpu/peer_memory.py`, the rows in `planner/data/peers.csv`; repeated on another machine, \
15 allocated the same to 0.003 GiB and reserved the same within 2 %). Before anything was learned from them the planner was 10.2 % \
off what the first 20 of transformers allocate and 9.2 % off what they reserve; 1.9 % off what litgpt's allocate, whose published peaks it \
knew. What was learned: under autocast each product keeps its own 16-bit copy of its input and of its weight beside an f32 stream; \
since transformers 4.46 a logit takes 12 bytes, compiled 6; keys and values are repeated until 4.54 alone; GPT-2's GELU is five tensors, \
and scores are kept in f32 and in 16 bits; litgpt's norms keep f32 twice; what is reserved beside is 0.05 of all, and 0.9 of the lesser of \
states and logits where layers are recomputed, because the first update makes the moments in the blocks that the logits have left. \
The last two numbers were fitted on the runs of transformers.";

/// What is known of them besides.
const PEAKS: &str = "\
On 2026-11-30 the peaks of 45 runs more were collected, of five sources that are in none of the tables and of cards that \
FlagPerf's were not: logs of nanotron's benchmark (23), a table of DeepSpeed's stages (7), Megatron-LM's pull request 482 (4), \
universal-llm-trainer (4), issues of torchtitan (3), FlagPerf on 40 GB (4). They state no times here. What the planner of the \
day before said, blind: 28.4 %, 17.5 %, 9.8 %, 4.5 %, 4.8 % and 13.3 %, all 45 together 20.0 %; the 31 held-out peaks known \
until then stood at 10.7 %. Every second run of a source is held out as above. What was learned from the others and from the \
programs themselves: nanotron keeps the gathered inputs of its products and copies of keys, values and attention's output; \
models of Megatron-LM before its core, and both of these, keep a third tensor of SwiGLU; until Megatron Core 0.8 a logit was \
copied once more; Megatron's selective recomputation saves nothing where attention is fused; Paddle's level O2 has 16-bit \
gradients and a copy of each product's input where tensor ranks share it; a run of DeepSpeed whose linear layers are PyTorch's \
(`mem_efficient_linear=False`) keeps every gathered weight; Transformer Engine keeps weights in 8 bits both ways round; \
Megatron-LM has communicators of all devices and of a model too. \
Segments that do not grow cost 0.27 of the states and next to nothing of activations, in nvidia-smi's figures of three \
stacks alike; that one number took the place of a fitted factor a stack. Farthest off are a 13B model of Paddle whose first \
stage grows by 11 GiB a micro-batch, as if it recomputed nothing, pipelines of Megatron-LM without tensor ranks, which the \
allocator serves without loss, and a run of DeepSpeed that takes 25 GiB more when it accumulates twice. Five runs of \
Megatron-Bridge's notes came last: 20.6 % by what had been learned until then (12.3 % by the planner of the day before); 9.2 % \
once the flags of their recipe are read, 16-bit gradients, no cached transposes and a feed-forward that is recomputed.";

/// What was collected of PyTorch's other trainers, and learned from it.
const TORCH: &str = "\
As many came of PyTorch's, DeepSpeed's and Colossal-AI's trainers: 54 peaks, every second run held out. What the planner of the day \
before said, blind: 17.9 % for issues of lightning-thunder with litgpt's models (20), 16.7 % for Qwen's README (9), 25.3 % for \
Colossal-AI's examples (6), 65.8 % for the other rows of torchtune's README (5), 8.3 % for ms-swift's examples (5), 16.4 % for NeMo \
Automodel's guide (4), 56.4 % for torchao's tutorial (3), 12.3 % for DeepSpeed's examples (2); all 54 together 23.9 %, the held-out half \
20.6 %, which is 11.1 % now (median 5.6 %). What was learned from the others and from the programs: without accumulation gradients come \
as activations go, so the peak is at the loss, in the last layer's backward pass or at the end, not the sum of all; a norm that \
upcasts keeps its input in f32 instead of 16 bits, not beside it; litgpt's values are a view that holds queries and keys before \
rotation; PyTorch's own attention keeps keys and values repeated for every query head; an eager loss takes 8 bytes a logit over 16 bits, \
14 over f32 and 16 in Hugging Face's models; ZeRO's update makes f32 of a rank's gradients, DeepSpeed's third stage of 1e9 at a time; \
8-bit and paged moments, updates inside the backward pass, chunked losses and offloaded activations are read from notes; Liger's SwiGLU \
works in place; what is reserved besides is the pool of the stream that reduces (sharded gradients, and what is reduced into \
them), which serves no other, and then 1.6 % where torchtitan's segments grow. That came last, from six runs of torchao's \
float8nocompile, blind 15.5 % and 1.7 % since: what they ask for beyond what is allocated is the same with all, half and no \
layers recomputed. Farthest off are Qwen's runs, the same at 256 tokens as at 2,048, Colossal-AI's with the optimizer in host memory, \
which take less with twice the batch, torchao's tutorial, whose torchtitan of June 2025 reserves 6 GiB less than those before and after, \
and a float8 run whose gathered weights are 8-bit.";

/// What a source never seen gets after all of that, and what was learned from it.
const LAST: &str = "\
With all of this learned, and before anything was learned of them, came 28 peaks of nine sources more: what a source never seen gets \
is 14.5 % (median 9). Of logs of Megatron-LM, of its forks and of OLMo, 11.0 % (14, median 5.0): 8.1 % for llm-action's (6), 3.1 % for \
KISTI's tutorial (2), 13.7 % for notes on OLMo (4), 39.3 % and 4.8 % for single logs. Of PyTorch's trainers, 17.9 % (14): 17.4 % for \
prime-rl's benchmarks (4), 12.4 % for fms-acceleration's (5), 45.7 % for a benchmark of GPT-2 under Lightning (2), 9.3 % for a course's \
report (3). The 19 that have an address to cite are in the tables, every second one held out. What was learned from the others: a \
cross entropy that is fused without the head leaves the logits, in Hugging Face's models of before 4.45 with their f32 copy; under \
DeepSpeed models other than LLaMA's keep theirs in 16 bits; prime-rl, unsloth, llama-recipes and GaLore train Hugging Face's models; a \
width of heads in the notes is read. The log 39.3 % off was read before the optimizer had states, and nvidia-smi shows less beside \
llm-action's older Megatron-LM than beside others.";

/// What was collected of the peaks that other planners are checked with, of NVIDIA's recipes and of logs, and learned from it.
const PLANNERS: &str = "\
On 2026-12-01 came what other planners are checked with, NVIDIA's recipes and logs: 44 peaks. What the planner of the day before said, \
blind: 0.4 % for SimuMax's dense runs on A100 without links (24; its page gives errors alone, its program the estimates they are of), 3.0 % \
for Mist's on L4 (1), 12.2 % for ms-swift's examples of Megatron (5), 5.0 % for a course on Megatron-Bridge (1), 8.2 % for logs in \
dgxc-benchmarking's readmes (4, found later and scored with the first of the mends below, but for NeMo's), 3.4 % for figure 1 of arXiv \
2205.05198, which is no measurement (4), 10.0 % for single logs (5); without SimuMax's, 8.3 % (20). Two runs more got none: one on a card \
that has no record, one on a 4090 of 48 GB. The 35 of measured runs that have an address to cite are in the tables, every second one held \
out of all fits; but the mends were looked for with all of them in view, so what the tables say of these rows now is not blind. What was \
learned: a log read when the first step was done has no moments beside its activations; norms of queries and keys keep their inputs; moments \
of 16 bits and precision-aware optimizers are read from flags; NeMo before 25.04 has Megatron's fused loss and f32 master copies; ms-swift's \
figures were first read as PyTorch's reserve and are, since the errors were seen, taken to be the driver's, as its earlier rows are. Of \
times, SimuMax's were 20.2 % off: two halves of a machine without links send each other no more than 0.6 of one device's PCIe, which all \
rings that cross share (its own measured rates), and the 24 came to 8.4 %. Not explained are an optimizer in host memory that leaves 7 GiB \
more on the device, ms-swift's DeepSpeed run, and steps on H20, whose tensor cores reach a larger share of their peak than H100's.";

/// What was collected last of PyTorch's trainers, at other commits of sources known and of sources not known, and learned from it.
const TRAINERS: &str = "\
On 2026-12-01 came 96 runs more of PyTorch's trainers and of BigScience's earlier experiments, of other commits of documents that are in \
the tables and of documents that are not; rows that a document's cited commit has and the tables lack were left alone. \
What the planner of the day before said, blind, of 64 peaks: 9.9 % for fms-acceleration's benchmarks of Hugging \
Face's Trainer (22), 8.1 % for torchtitan's issues (14), 8.7 % for litgpt under Thunder in spring 2024 (11), 14.3 % for torchao's runs on B200 \
(5), 15.1 % for torchtune's README of 2024 (3), 8.5 % and 12.0 % for BigScience's 104B and 52B (7), 42 % for torchtitan on AWS (2): all 64, \
10.8 % (median 9.0). Of 95 times: 3.9 % for llm-foundry in July 2023 (8), 7.0 % for fms-acceleration (22), 9.0 % for litgpt (11), 13.2 % for \
fms-fsdp compiled (12), 14.9 % for torchtitan's asynchronous tensor ranks (12), 15.8 % for its issues (14), 33 % for V100 of a network whose \
users call it good to 40 % (5), 87 % for B200 of a power limit that is not told (5): all 95, 17.3 % (median 9.3). Every row was predicted. Every second run is held out; the others are collected without their times, as no profile was fitted anew. \
Left out of the tables are the two runs on AWS, whose peaks are those of two sequences a device where the recipe says one, and times that are \
of a limit or a network not told, or of moments that are paged. What was learned from \
the others and from the programs: Hugging Face's Trainer lets logits go before the backward pass, GPTs of its library without autocast keep \
16-bit ones throughout, a fused loss before 4.46 holds two f32 copies; kernels for norms and rotation alone leave SwiGLU as it is; gathered weights \
are gone when the update begins; tensor ranks that share logits take 16 bytes each in DTensor's eager loss; data parallelism \
has its buckets when compiled too, unless by Thunder; fms-fsdp's selective recomputation is of whole blocks; float8 with a scale a row is \
slower by 0.7; FSDP may hold all states in host memory. With this the same rows stand at 7.7 % (median 4.7) of peaks and 15.4 % (median 7.8) of times. \
Farthest off remain torchtitan's compiled runs of August 2025 on B200, which reserve 5 GiB less than is said, \
tensor ranks that run eagerly, a third slower than when compiled, and allocators of before November 2024, whose segments did not grow. Torchao's \
tutorial is explained: its logs grow by 3.7 GiB when the moments come, where f32 moments on eight devices are 7.5, so its states are of \
sixteen devices or of 16 bits, and its peaks are those of either. Last came twelve times of PyTorch's FSDP in YaFSDP's README, of models of 7B to 34B on 64 to \
256 A100: 29.9 % off, up to 57 % where a device has 2,048 tokens. Its network is not told; with 800 Gbit/s a machine all twelve stand at \
4.9 %, so that it is left out for what is not told and not for what was predicted.";

/// What was collected of Megatron-LM and its descendants, and learned from it.
const MEGATRON: &str = "\
Later on 2026-11-30 came 63 peaks of Megatron-LM more. What the planner of the day before said, blind: 4.0 % for values of its \
continuous integration on other machines and layouts than the table has (25), 7.6 % for a tutorial's tables on H100 (25), 12.6 % for \
Sea AI Lab's artifact of vocabulary parallelism (8), 16.4 % for logs of Jean Zay of April 2021 (5); all 63 together 7.5 %. \
Every second run is held out. What was learned from the others and from the programs: fp16 gradients stay 16 bits wide, and f32 \
copies of them exist in the update alone (in 2021 they stayed); the fusion of cross entropy called \"native\" takes 4 bytes a logit \
more; a recomputed layer's tensors come when the logits are gone; gradients of the head may be deferred, chunks of a pipeline \
run in groups of another size; a ring of context-parallel ranks holds all keys and values that came by; gpustat's figures are \
the driver's, and none exceeds the card, as the allocator gives back what it holds in vain. Since Core 0.8 what is reserved \
beside is 0.08 of what is allocated, not 0.27 of the states. Farthest off are a pipeline of a single micro-batch, whose last \
stage the tutorial seems not to have looked at, and the artifact's largest vocabulary on its shorter sequences, which reserves more than on longer ones. \
Four sources came last, each scored before anything was learned from it. NeMo on 8 B200 (3 figures of one run): 7.3 %, and 1.7 % \
once read that Transformer Engine's cross entropy writes its gradient over the logits and that a master copy is 16 bits beside the \
weight. A guide to Megatron-LM with 8-bit products (2): 17.4 %, and 0.5 % once read that its weights and gradients are in fp16, as \
its flags say, and that segments that grow leave 0.01 over; the guide's other log is left out, whose throughput says half the \
sequence it states. A readme of Megatron-LM's newest core on H100 (4): 4.4 %, and 1.7 % once known that Transformer Engine keeps a \
tensor of every weight's shape that nobody reads. A journal of Megatron-Bridge (3): 18.1 %, and 6.7 % by the same and by its own \
flags, f32 masters and the \"native\" fusion; its processes hold 3.9 GiB beside what PyTorch reserves.";

/// Lines of the memory table: sources of one run table.
fn memory(out: &mut String, table: &str) -> std::fmt::Result {
    score(table).map_or(Ok(()), |scores| memory_lines(out, &scores.by_source))
}

fn memory_lines(out: &mut String, by_source: &BTreeMap<String, Summary>) -> std::fmt::Result {
    for (source, s) in by_source {
        if let (Some(mean), Some(median), Some(most)) = (s.memory_mape, s.memory_median_ape, s.memory_max_ape)
        {
            let percent = |x: f64| format!("{:.1} %", x * 100.0);
            let (mean, median, most) = (percent(mean), percent(median), percent(most));
            writeln!(out, "| {source} | {} | {mean} | {median} | {most} |", s.peaks)?;
        }
    }
    Ok(())
}

fn line(out: &mut String, name: &str, own: &[f64], held: &[f64]) -> std::fmt::Result {
    let percent = |x: f64| format!("{:.1} %", x * 100.0);
    let most = own.iter().copied().fold(0.0, f64::max);
    writeln!(
        out,
        "| {name} | {} | {} | {} | {} | {} | {} |",
        own.len(),
        percent(mean(own)),
        percent(median(own)),
        percent(most),
        percent(mean(held)),
        percent(median(held))
    )
}
