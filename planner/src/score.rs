//! `llmc score`: the cost model against published runs. Every row becomes a question with everything pinned; the
//! prediction is compared with what was measured.
//!
//! No rule reads `id`, `source` or `model_name` except to select a profile. A row that makes no sense is refused with
//! the reason and never counted as predicted.

use std::collections::BTreeMap;

use llmc_plan::plan::StageMemory;
use serde::Serialize;

use crate::cost::memory::{first_step, stage_memory};
use crate::fitted::{scaled, select};
use crate::row::{Row, read};
use crate::search::evaluate;
use crate::settle;
use crate::table::{Case, Peak, case, source};

/// Errors of a set of rows, as fractions.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    /// Rows with a prediction.
    pub predicted: u64,
    /// Rows without.
    pub refused: u64,
    /// Rows with a measured time.
    pub timed: u64,
    /// Mean absolute relative error of tokens per second (or iteration time).
    pub time_mape: Option<f64>,
    /// Its median.
    pub time_median_ape: Option<f64>,
    /// Its maximum.
    pub time_max_ape: Option<f64>,
    /// Rows with a measured peak.
    pub peaks: u64,
    /// Mean absolute relative error of peak memory.
    pub memory_mape: Option<f64>,
    /// Its median.
    pub memory_median_ape: Option<f64>,
    /// Its maximum.
    pub memory_max_ape: Option<f64>,
}

/// One row's prediction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowScore {
    /// The table's own name of the row.
    pub id: String,
    /// Tokens a second and device.
    pub predicted_tokens_per_s_per_gpu: Option<f64>,
    /// Milliseconds an optimizer step.
    pub predicted_iteration_ms: Option<f64>,
    /// Peak memory in the sense of its source, GiB.
    pub predicted_peak_mem_gib: Option<f64>,
    /// Profile used.
    pub profile: String,
    /// Why there is no prediction.
    pub refused: Option<String>,
    /// Predicted ÷ measured − 1 of tokens per second, or of the step's time where the table gives that.
    pub time_error: Option<f64>,
    /// Predicted ÷ measured − 1 of peak memory.
    pub memory_error: Option<f64>,
}

/// A row that is scored although a cell of it cannot be right.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Doubt {
    /// Place in the table, from 1.
    pub row: u64,
    /// The table's own name of the row.
    pub id: String,
    /// What is odd about it.
    #[serde(flatten)]
    pub what: Odd,
}

/// What is odd about a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Odd {
    /// An earlier row has the same name, so the run may count twice.
    DuplicateId {
        /// Place of that row, from 1.
        first: u64,
    },
    /// A utilisation that no run can have: not above 0 % and at most 100 %.
    Mfu {
        /// Column `mfu_pct` as it stands.
        mfu_pct: String,
    },
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Over all rows.
    pub overall: Summary,
    /// By the table's source column; "vTrain single" and "vTrain multi" for its schema.
    pub by_source: BTreeMap<String, Summary>,
    /// Each row, in order.
    pub rows: Vec<RowScore>,
    /// Rows whose cells cannot all be right; they are scored all the same.
    pub warnings: Vec<Doubt>,
}

/// Scores a table in one of the three published schemas.
///
/// # Errors
/// A sentence when the text is not such a table; bad rows are refused one by one instead.
pub fn score(text: &str) -> Result<Scores, String> {
    let mut rows = Vec::new();
    let mut samples: BTreeMap<String, (u64, Vec<f64>, Vec<f64>, u64)> = BTreeMap::new();
    let table = read(text)?;
    let warnings = doubts(&table);
    for row in table {
        let id = row.text("id").unwrap_or_default().to_string();
        let case = case(&row);
        let source = source(&row);
        let entry = samples.entry(source).or_default();
        entry.0 += 1;
        let mut score = RowScore {
            id,
            predicted_tokens_per_s_per_gpu: None,
            predicted_iteration_ms: None,
            predicted_peak_mem_gib: None,
            profile: String::new(),
            refused: None,
            time_error: None,
            memory_error: None,
        };
        match case {
            Err(reason) => {
                score.refused = Some(reason);
                entry.3 += 1;
            }
            Ok(case) => {
                predict(&case, &mut score);
                entry.1.extend(score.time_error.map(f64::abs));
                entry.2.extend(score.memory_error.map(f64::abs));
            }
        }
        rows.push(score);
    }
    let mut all = (0, Vec::new(), Vec::new(), 0);
    let mut by_source = BTreeMap::new();
    for (source, (count, time, memory, refused)) in samples {
        all.0 += count;
        all.1.extend(&time);
        all.2.extend(&memory);
        all.3 += refused;
        by_source.insert(source, summary(count, refused, time, memory));
    }
    Ok(Scores { overall: summary(all.0, all.3, all.1, all.2), by_source, rows, warnings })
}

/// Names used twice and utilisations outside (0, 100]: neither is read by a prediction, both tell of a mistake.
pub(crate) fn doubts(table: &[Row]) -> Vec<Doubt> {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut doubts = Vec::new();
    for (at, row) in (1..).zip(table) {
        let id = row.text("id").unwrap_or_default();
        let mut doubt = |what| doubts.push(Doubt { row: at, id: id.to_owned(), what });
        if !id.is_empty() {
            match seen.get(id) {
                Some(first) => doubt(Odd::DuplicateId { first: *first }),
                None => drop(seen.insert(id, at)),
            }
        }
        let Some(mfu) = row.text("mfu_pct") else { continue };
        if !mfu.parse::<f64>().is_ok_and(|percent| percent > 0.0 && percent <= 100.0) {
            doubt(Odd::Mfu { mfu_pct: mfu.to_owned() });
        }
    }
    doubts
}

fn summary(rows: u64, refused: u64, mut time: Vec<f64>, mut memory: Vec<f64>) -> Summary {
    time.sort_by(f64::total_cmp);
    memory.sort_by(f64::total_cmp);
    let mean =
        |v: &[f64]| if v.is_empty() { None } else { Some(settle(v.iter().sum::<f64>() / v.len() as f64)) };
    let middle = |v: &[f64]| v.get(v.len() / 2).map(|m| settle(*m));
    let most = |v: &[f64]| v.last().map(|m| settle(*m));
    Summary {
        rows,
        predicted: rows - refused,
        refused,
        timed: time.len() as u64,
        time_mape: mean(&time),
        time_median_ape: middle(&time),
        time_max_ape: most(&time),
        peaks: memory.len() as u64,
        memory_mape: mean(&memory),
        memory_median_ape: middle(&memory),
        memory_max_ape: most(&memory),
    }
}

fn predict(case: &Case, score: &mut RowScore) {
    let mut setting = case.setting.clone();
    if let Some(fitted) = select(case.stack, &setting.profile.name, setting.precision) {
        setting.profile = scaled(&setting.profile, &fitted.scale);
        setting.profile.name = fitted.name.clone();
    }
    if let Some(slack) = case.slack {
        setting.profile.fixed.slack = slack;
    }
    let s = &setting;
    let costed = evaluate(s, &case.point);
    let tokens = (s.sequences * s.shape.context) as f64 / s.gpus() as f64;
    let seconds = costed.step.total;
    score.profile = s.profile.name.clone();
    score.predicted_iteration_ms = Some(settle(seconds * 1e3));
    score.predicted_tokens_per_s_per_gpu = Some(settle(tokens / seconds));
    // Of what the table gives: the error of tokens per second is measured ÷ predicted seconds − 1.
    let error = |measured: f64| if case.by_time { seconds / measured } else { measured / seconds } - 1.0;
    score.time_error = case.seconds.filter(|_| !case.memory_only).map(|measured| settle(error(measured)));
    let stage = |i: u64| match case.late_moments {
        Some(moments) => first_step(s, &case.point, i, moments),
        None => stage_memory(s, &case.point, i),
    };
    let most = |of: fn(StageMemory) -> u64| (0..case.point.pp).map(|i| of(stage(i))).max().unwrap_or(0);
    let peak = match case.peak {
        Peak::LastAllocated => stage(case.point.pp - 1).allocated,
        Peak::Allocated => most(|m| m.allocated),
        // Where memory runs out, the allocator gives back what it holds in vain.
        Peak::Reserved => most(|m| m.reserved).min(s.hardware.memory_bytes.max(most(|m| m.allocated))),
        Peak::Device => most(|m| m.device).min(s.hardware.memory_bytes.max(most(|m| m.allocated))),
    };
    score.predicted_peak_mem_gib = Some(settle(peak as f64 / 1073741824.0));
    score.memory_error = case.peak_bytes.map(|measured| settle(peak as f64 / measured - 1.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_make_no_sense_are_refused_by_name() {
        let head = "id,source,hardware,n_gpus,layers,hidden,heads,seq,micro_batch_seqs,global_batch_seqs,tp,tokens_per_s_per_gpu";
        let rows = [
            ("a,x,H100-SXM,8,32,4096,32,4096,1,128,1,9000", None),
            ("b,x,H100-SXM,8,32,4096,32,4096,1,100,1,9000", Some("whole micro-batches")),
            ("c,x,H100-SXM,8,32,4096,32,4096,1,128,3,9000", Some("does not divide")),
            ("d,x,TPUv5,8,32,4096,32,4096,1,128,1,9000", Some("unknown")),
            ("e,x,H100-SXM,8,,4096,32,4096,1,128,1,9000", Some("layers is not given")),
            ("f,x,H100-SXM,8,32,4096,32,4096,1,128,1,-3", Some("not positive")),
        ];
        let text: String =
            std::iter::once(head).chain(rows.iter().map(|r| r.0)).collect::<Vec<_>>().join("\n");
        let scores = score(&text).unwrap();
        assert_eq!((scores.overall.rows, scores.overall.refused), (6, 5));
        for (row, (_, reason)) in scores.rows.iter().zip(rows) {
            match reason {
                None => assert!(row.predicted_tokens_per_s_per_gpu.unwrap() > 3000.0),
                Some(part) => assert!(row.refused.as_ref().unwrap().contains(part), "{row:?}"),
            }
        }
        assert!(score("a,b\n1,2").is_err());
    }

    /// Milliseconds a step and GiB of a GPT of 2.7B on two of the cards, with `cells` of the base row replaced.
    fn predicted(replaced: &[(&str, &str)]) -> (f64, f64) {
        let base = [
            ("id", "x"),
            ("source", "somebody"),
            ("hardware", "A100-80GB-SXM"),
            ("n_gpus", "8"),
            ("layers", "32"),
            ("hidden", "2560"),
            ("heads", "32"),
            ("ffn", "10240"),
            ("vocab", "50257"),
            ("glu", "0"),
            ("tied", "1"),
            ("seq", "2048"),
            ("micro_batch_seqs", "2"),
            ("global_batch_seqs", "64"),
            ("tp", "2"),
            ("zero_stage", ""),
            ("precision", "bf16"),
            ("act_ckpt", "none"),
            ("attn_impl", "flash"),
            ("notes", ""),
        ];
        let cell = |(name, value): &(&str, &str)| {
            let new = replaced.iter().find(|(n, _)| n == name);
            format!("\"{}\"", new.map_or(*value, |(_, v)| *v))
        };
        let names: Vec<&str> = base.iter().map(|(name, _)| *name).collect();
        let cells: Vec<String> = base.iter().map(cell).collect();
        let scores = score(&format!("{}\n{}\n", names.join(","), cells.join(","))).unwrap();
        let row = &scores.rows[0];
        assert_eq!(row.refused, None, "{replaced:?}");
        (row.predicted_iteration_ms.unwrap(), row.predicted_peak_mem_gib.unwrap())
    }

    #[test]
    fn a_row_expresses_what_published_runs_differ_in() {
        let (time, memory) = predicted(&[]);
        // Scores in memory cost time and space; so do Megatron's dropout (0.1 where the table is of that stack) and its
        // masks; three matrices of the same width cost half as much again as two.
        let unfused = predicted(&[("attn_impl", "unfused")]);
        assert!(unfused.0 > 1.1 * time && unfused.1 > 1.5 * memory, "{unfused:?} {time} {memory}");
        let gated = predicted(&[("glu", "1")]);
        assert!(gated.0 > 1.15 * time && gated.1 > memory, "{gated:?}");
        // LayerNorm, biases and learned positions are parameters: 2,048 rows of 2,560 and their states.
        let alibi = predicted(&[("notes", "ALiBi")]);
        assert!(alibi.1 < memory && alibi.1 > 0.99 * memory, "{alibi:?}");
        let plain = predicted(&[("notes", "flags: sequence-parallel,disable-bias-linear")]);
        let bias = predicted(&[("notes", "flags: sequence-parallel")]);
        assert!(plain.1 < bias.1, "{plain:?} {bias:?}");
        let ends = |cells: &[(&str, &str)]| predicted(cells).0;
        // Megatron-LM hides tensor-parallel traffic and gradients only where its flags say so.
        let flags =
            |notes| ends(&[("source", "Megatron-LM"), ("hardware", "H100-80GB-SXM"), ("notes", notes)]);
        let alone = flags("flags: sequence-parallel");
        assert!(flags("flags: sequence-parallel,tp-comm-overlap") < alone);
        assert!(flags("flags: sequence-parallel,overlap-grad-reduce,overlap-param-gather") < alone);
        for (card, precision) in [
            ("V100-32GB", "fp16"),
            ("GB200", "mxfp8"),
            ("GB200", "bf16"),
            ("H100-96GB-HBM2e-SXM-500W", "fp8"),
            ("H100-80GB-SXM", "fp8"),
            ("A800-80GB-SXM", "fp16"),
        ] {
            let micro = ("micro_batch_seqs", "1");
            assert!(ends(&[("hardware", card), ("precision", precision), micro]) > 0.0);
        }
        assert!(ends(&[("hardware", "V100-32GB"), ("precision", "fp16"), ("act_ckpt", "full")]) > 1.5 * time);
        let (h100, slow) = ("H100-80GB-SXM", "H100-96GB-HBM2e-SXM-500W");
        assert!(ends(&[("hardware", slow)]) > ends(&[("hardware", h100)]));
        assert!(ends(&[("hardware", h100), ("precision", "fp8")]) < ends(&[("hardware", h100)]));
    }

    #[test]
    fn what_stacks_keep_beside_the_rest_is_counted() {
        let gib = |cells: &[(&str, &str)]| predicted(cells).1;
        let llama = [("glu", "1"), ("tied", "0"), ("seq", "4096"), ("zero_stage", "1")];
        let of = |more: &[(&'static str, &'static str)]| gib(&[more, &llama].concat());
        // Copies and gathered norms, which tensor ranks do not share.
        let (core, nano) = (of(&[("source", "Megatron-LM")]), of(&[("source", "nanotron")]));
        assert!(nano > 1.1 * core, "{nano} {core}");
        let legacy = of(&[("source", "Megatron-LM"), ("notes", "Megatron-LM of 2023")]);
        assert!(legacy > 1.1 * core && legacy < nano, "{legacy} {core} {nano}");
        // Scores that fused attention does not keep cannot be saved.
        let selective = of(&[("source", "Megatron-LM"), ("act_ckpt", "selective")]);
        assert_eq!(selective, core);
        // Norms of queries and keys keep what they read; moments come after the first step's activations, and may be 16 bits wide.
        let [norms, first, bf16, aware] = [
            "flags: sequence-parallel,disable-bias-linear,qk-layernorm",
            "flags: sequence-parallel,disable-bias-linear; after 1 iterations",
            "flags: sequence-parallel,disable-bias-linear,exp-avg-dtype=bf16,exp-avg-sq-dtype=bf16",
            "flags: sequence-parallel,disable-bias-linear,use-precision-aware-optimizer",
        ]
        .map(|notes| of(&[("source", "Megatron-LM"), ("notes", notes)]));
        assert!(
            norms > core && first < bf16 && bf16 < aware && aware < core,
            "{norms} {first} {bf16} {aware}"
        );
        // 4 bytes a logit until Megatron Core 0.8: 2 x 4,096 x 50,257 / 2 of them, less what of a layer is gone by then.
        let releases = ["core_v0.6.0; max_allocated", "core_r0.8.0; max_allocated"]
            .map(|notes| of(&[("source", "Megatron-LM"), ("notes", notes)]));
        let copies = 4.0 * 2.0 * 4096.0 * 50304.0 / 2.0 / 1073741824.0;
        let more = releases[0] - releases[1];
        assert!(more > 0.5 * copies && more < 1.01 * copies, "{releases:?} {copies}");
        // Transformer Engine's fp8: 2 bytes a weight more, a byte less for what most products read.
        let h100 = |precision: &'static str| {
            of(&[
                ("source", "Megatron-LM"),
                ("hardware", "H100-80GB-SXM"),
                ("precision", precision),
                ("ffn", "2560"),
            ])
        };
        assert!(h100("fp8") > h100("bf16"));
        // Paddle's products copy what tensor ranks share: 3 of 5 columns more than two norm outputs, of 16 bits.
        let paddle = |tp: &'static str| of(&[("source", "PaddleNLP"), ("precision", "fp16"), ("tp", tp)]);
        let copies = 3.0 * 2.0 * 2.0 * 4096.0 * 2560.0 * 32.0 / 1073741824.0;
        assert!(2.0 * paddle("2") - paddle("1") > copies, "{} {} {copies}", paddle("2"), paddle("1"));
        // Communicators of all devices and of a model are the driver's.
        let seen = |source: &'static str| {
            of(&[("source", source), ("notes", "nvidia-smi")]) - of(&[("source", source)])
        };
        assert!(seen("Megatron-LM") > seen("nanotron") + 0.7);
        // An update that is not fused takes 14 bytes a weight more, once activations are gone.
        let few = [
            ("tp", "1"),
            ("act_ckpt", "full"),
            ("micro_batch_seqs", "1"),
            ("seq", "1024"),
            ("zero_stage", "0"),
        ];
        let intern = of(&[&few[..], &[("source", "InternEvo"), ("notes", "max_allocated")]].concat());
        let weights = 32.0 * (4.0 + 12.0) * 2560.0 * 2560.0 + 2.0 * 50304.0 * 2560.0;
        assert!(intern > 30.0 * weights / 1073741824.0 && intern < 33.0 * weights / 1073741824.0, "{intern}");
        // PyTorch's data parallelism holds gradients twice: here 4 bytes each.
        let buckets = |zero| {
            of(&[("source", "PyTorch"), ("tp", "1"), ("zero_stage", zero), ("notes", "max_allocated")])
        };
        assert!(buckets("0") > buckets("1") + 4.0 * weights / 1073741824.0);
        // Flags of recipes: a recomputed feed-forward, gradients of 16 bits, no transposes.
        let nemo = |policy: &'static str, notes: &'static str| {
            let card =
                [("hardware", "H100-80GB-SXM"), ("precision", "fp8"), ("act_ckpt", policy), ("notes", notes)];
            of(&[&card[..], &[("source", "NeMo")]].concat())
        };
        let plain = nemo("selective (core_attn)", "");
        assert_eq!(plain, nemo("none", ""));
        assert!(nemo("selective (mlp)", "") < 0.9 * plain);
        // NeMo sums and reduces in 16 bits unless told otherwise.
        assert_eq!(nemo("none", "grad_reduce_in_fp32=False"), plain);
        assert!(nemo("none", "grad_reduce_in_fp32=True") > plain);
        assert!(nemo("none", "disable_parameter_transpose_cache") < plain);
        // Dropout where the notes give it.
        assert!(of(&[("source", "Megatron-LM"), ("notes", "hidden-dropout=0.1")]) > core);
        assert_eq!(of(&[("source", "Megatron-LM"), ("notes", "hidden-dropout=0.0")]), core);
        // 16-bit accumulation, and weights of a product that stay gathered.
        let sharded = |stage, notes| {
            of(&[("source", "DeepSpeed"), ("tp", "1"), ("zero_stage", stage), ("notes", notes)])
        };
        let neox = |notes: &'static str| of(&[("source", "GPT-NeoX"), ("notes", notes)]);
        assert!(neox("grad_accum_dtype=bf16") < neox(""));
        let held = sharded("3", "mem_efficient_linear=False") - sharded("3", "");
        let weights = 2.0 * 30.0 * (4.0 + 12.0) * 2560.0 * 2560.0 / 1073741824.0;
        assert!((held - weights).abs() < 0.1 * weights, "{held} {weights}");
    }

    #[test]
    fn rows_of_one_name_stay_apart_when_fitted_on() {
        let head = "id,source,hardware,n_gpus,layers,hidden,heads,seq,micro_batch_seqs,global_batch_seqs";
        let run = "x,H100,8,32,4096,32,4096,1,128";
        let found = crate::table::cases(&format!("{head}\na,{run}\na,{run}\nb,{run}\n")).unwrap();
        let names: Vec<&str> = found.cases.iter().map(|case| case.id.as_str()).collect();
        assert_eq!((names, found.warnings.len()), (vec!["a", "a (row 2)", "b"], 1));
    }

    #[test]
    fn mixtures_of_experts_are_refused() {
        let head = "id,source,hardware,n_gpus,layers,hidden,heads,seq,micro_batch_seqs,global_batch_seqs,ep,params_b";
        let run = "x,H100,8,32,4096,32,4096,1,128";
        let text = format!("{head}\na,{run},8,\nb,{run},1,6.7\nc,{run},,46.7\n");
        let rows = score(&text).unwrap().rows;
        assert!(rows[0].refused.as_ref().unwrap().contains("mixtures of experts"));
        assert_eq!(rows[1].refused, None);
        assert!(rows[2].refused.as_ref().unwrap().contains("experts, or a cell is wrong"));
    }

    #[test]
    fn names_used_twice_and_impossible_utilisations_are_told_and_scored() {
        let head =
            "id,source,hardware,n_gpus,layers,hidden,heads,seq,micro_batch_seqs,global_batch_seqs,mfu_pct";
        let run = "x,H100-SXM,8,32,4096,32,4096,1,128";
        let cells = [
            ("a", "41.5"),
            ("b", "100"),
            ("a", ""),
            ("c", "300"),
            ("d", "0"),
            ("a", "-3"),
            ("", "12"),
            ("", "half"),
        ];
        let rows: Vec<String> = cells.iter().map(|(id, mfu)| format!("{id},{run},{mfu}")).collect();
        let scores = score(&format!("{head}\n{}\n", rows.join("\n"))).unwrap();
        let mfu = |text: &str| Odd::Mfu { mfu_pct: text.into() };
        let told = [
            (3, "a", Odd::DuplicateId { first: 1 }),
            (4, "c", mfu("300")),
            (5, "d", mfu("0")),
            (6, "a", Odd::DuplicateId { first: 1 }),
            (6, "a", mfu("-3")),
            (8, "", mfu("half")),
        ];
        let told: Vec<Doubt> = told.map(|(row, id, what)| Doubt { row, id: id.into(), what }).into();
        assert_eq!(scores.warnings, told);
        assert_eq!((scores.overall.rows, scores.overall.predicted), (8, 8));
        let json = serde_json::to_string(&scores.warnings).unwrap();
        assert!(
            json.starts_with(r#"[{"row":3,"id":"a","kind":"duplicate_id","first":1},{"row":4,"#),
            "{json}"
        );
    }

    #[test]
    fn torn_rows_and_figures_that_no_run_has_are_refused() {
        let head = "id,source,hardware,n_gpus,layers,hidden,heads,seq,micro_batch_seqs,global_batch_seqs,\
                    tp,pp,cp,gpus_per_node,tokens_per_s_per_gpu,peak_mem_gib,notes";
        let rows = [
            ("x,H100,8,32,4096,32,4096,1,128,1,1,1,8,9000,70,", None),
            ("x,H100,8,32,4096,32,4096,1,128,1,1,1,8,9000,70,,,", None),
            ("x,H100,8,32,4096,32,4096,1,128", Some("row 3 has 10 cells where the table has 17 columns")),
            ("x,H100,8,32,4096,32,4,096,1,128,1,1,1,8,9000,70,a,b", Some("row 4 has 19 cells")),
            (
                "x,H100,8,32,4096,32,4096,1,128,4294967296,4294967296,1,8,9000,,",
                Some("tp is no count from 1 to"),
            ),
            ("x,H100,8,32,4096,32,4096,1048577,1048577,1,1,1,8,,,", Some("not whole micro-batches")),
            (
                "x,H100,999999999989,32,4096,32,4096,1,128,1,1,1,999999999988,,,",
                Some("n_gpus is no count from 1"),
            ),
            (
                "x,H100,8,10000,1048576,1,4096,1,128,1,1,1,8,,,microbatch-group-size-per-virtual-pipeline-stage=18446744073709551615",
                None,
            ),
            (
                "x,H100,8,32,4096,33,4096,1,128,1,1,1,8,9000,70,",
                Some("33 heads do not share a width of 4096"),
            ),
            ("x,H100,8,32,4096,33,4096,1,128,1,1,1,8,9000,70,head_dim=128", None),
            ("x,H100,8,32,4096,32,4095,1,128,1,1,2,8,,,", Some("4095 tokens are not shared")),
            ("x,H100,8,32,4096,32,4096,1,128,1,1,1,8,5,,", Some("time, batch or shape is wrong")),
            ("x,H100,8,32,4096,32,4096,1,128,1,1,1,8,5,70,launch-bound; use memory only", None),
            ("x,H100,8,32,4096,32,4096,1,128,1,1,1,8,,1e-9,", Some("a peak of 1e-9 GiB")),
            ("x,H100,8,32,4096,32,4096,1,128,1,1,1,8,NaN,70,", Some("not positive: NaN")),
        ];
        let mut text = format!("\u{feff}{head}\r\n");
        for (at, (row, _)) in rows.iter().enumerate() {
            text += &format!("{at},{row}\r\n");
        }
        let scores = score(&text).unwrap();
        for (found, (row, reason)) in scores.rows.iter().zip(rows) {
            let refused = found.refused.as_deref();
            assert!(refused.is_some() == reason.is_some(), "{row}: {refused:?}");
            assert!(reason.is_none_or(|part| refused.unwrap().contains(part)), "{row}: {refused:?}");
        }
        // A quote that stays open swallows the rest of the table: it is no row of it.
        let open = score(&format!("{head}\na,\"x,H100,8\nb,x,H100,8\n")).unwrap();
        assert!(open.rows[0].refused.as_ref().unwrap().contains("a quote does not close"));
        let error = |text: &str| score(text).unwrap_err();
        assert!(error("").contains("columns `layers`, `hidden`"));
        assert!(error(&head.replace(",seq", "")).contains("column `seq` missing"));
        assert!(error(&head.replace("source", "layers")).contains("`layers` stands there twice"));
        assert!(error(head).contains("no row"));
        assert!(score(&text.replace("id,source,", " id, source ,")).is_ok());
    }

    #[test]
    fn rates_above_the_peak_are_refused() {
        let text = "id,source,hardware,n_gpus,layers,hidden,heads,seq,micro_batch_seqs,global_batch_seqs,\
                    tokens_per_s_per_gpu\na,x,H100-SXM,8,32,4096,32,4096,1,128,90000\n";
        let scores = score(text).unwrap();
        assert!(scores.rows[0].refused.as_ref().unwrap().contains("TFLOP/s a device where"));
    }
}
