//! `llmc score`: the cost model against published runs. Every row becomes a question with everything pinned; the
//! prediction is compared with what was measured.
//!
//! No rule reads `id`, `source` or `model_name` except to select a profile. A row that makes no sense is refused with
//! the reason and never counted as predicted.

use std::collections::BTreeMap;

use llmc_plan::model::{Model, Rope, RopeMethod};
use llmc_plan::plan::{Determinism, Offload, Precision, Recompute, Schedule};
use serde::Serialize;

use crate::cost::memory::stage_memory;
use crate::cost::{Point, Setting};
use crate::question::*;
use crate::search::evaluate;
use crate::solve::setting;
use crate::{hardware, settle};

/// Errors of a set of rows, as fractions.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    /// Rows with a prediction.
    pub predicted: u64,
    /// Rows without.
    pub refused: u64,
    /// Mean absolute relative error of tokens per second (or iteration time).
    pub time_mape: Option<f64>,
    /// Its median.
    pub time_median_ape: Option<f64>,
    /// Its maximum.
    pub time_max_ape: Option<f64>,
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
    /// Predicted ÷ measured − 1 of tokens per second.
    pub time_error: Option<f64>,
    /// Predicted ÷ measured − 1 of peak memory.
    pub memory_error: Option<f64>,
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
}

/// A row as a map of its non-empty cells.
struct Row(BTreeMap<String, String>);

impl Row {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn count(&self, key: &str) -> Result<u64, String> {
        let text = self.text(key).ok_or_else(|| format!("{key} is not given"))?;
        let value: f64 = text.parse().map_err(|_| format!("{key} is no number: {text}"))?;
        if value >= 1.0 && value.fract() == 0.0 && value < 1e12 {
            Ok(value as u64)
        } else {
            Err(format!("{key} is no count: {text}"))
        }
    }

    fn count_or(&self, key: &str, otherwise: u64) -> Result<u64, String> {
        if self.0.contains_key(key) { self.count(key) } else { Ok(otherwise) }
    }

    fn positive(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let value: f64 = text.parse().map_err(|_| format!("{key} is no number: {text}"))?;
        if value > 0.0 && value.is_finite() {
            Ok(Some(value))
        } else {
            Err(format!("{key} is not positive: {text}"))
        }
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.text(key) == Some(value)
    }
}

/// A row's question, its only point, and what was measured.
pub struct Case {
    /// Column `id`.
    pub id: String,
    /// Column `source`.
    pub source: String,
    /// Shared figures.
    pub setting: Setting,
    /// The layout.
    pub point: Point,
    /// Measured seconds a step, where given.
    pub seconds: Option<f64>,
    /// Measured peak, bytes.
    pub peak_bytes: Option<f64>,
    /// What the peak means: allocated on the last rank, or reserved over ranks.
    pub allocated: bool,
}

/// Scores a table in one of the three published schemas.
///
/// # Errors
/// A sentence when the text is not such a table; bad rows are refused one by one instead.
pub fn score(text: &str) -> Result<Scores, String> {
    let mut rows = Vec::new();
    let mut samples: BTreeMap<String, (u64, Vec<f64>, Vec<f64>, u64)> = BTreeMap::new();
    for row in read(text)? {
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
    Ok(Scores { overall: summary(all.0, all.3, all.1, all.2), by_source, rows })
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
        time_mape: mean(&time),
        time_median_ape: middle(&time),
        time_max_ape: most(&time),
        memory_mape: mean(&memory),
        memory_median_ape: middle(&memory),
        memory_max_ape: most(&memory),
    }
}

fn predict(case: &Case, score: &mut RowScore) {
    let costed = evaluate(&case.setting, &case.point);
    let s = &case.setting;
    let tokens = (s.sequences * s.shape.context) as f64 / s.gpus() as f64;
    let seconds = costed.step.total;
    score.profile = s.profile.name.clone();
    score.predicted_iteration_ms = Some(settle(seconds * 1e3));
    score.predicted_tokens_per_s_per_gpu = Some(settle(tokens / seconds));
    // Tokens per second is what the tables are judged on: its error is measured ÷ predicted seconds − 1.
    score.time_error = case.seconds.map(|measured| settle(measured / seconds - 1.0));
    let stage = |i: u64| stage_memory(s, &case.point, i);
    let peak = if case.allocated {
        stage(case.point.pp - 1).allocated
    } else {
        (0..case.point.pp).map(|i| stage(i).reserved).max().unwrap_or(0)
    };
    score.predicted_peak_mem_gib = Some(settle(peak as f64 / 1073741824.0));
    score.memory_error = case.peak_bytes.map(|measured| settle(peak as f64 / measured - 1.0));
}

/// All readable cases of a table, for fitting.
///
/// # Errors
/// As [`score`].
pub fn cases(text: &str) -> Result<Vec<Case>, String> {
    Ok(read(text)?.iter().filter_map(|row| case(row).ok()).collect())
}

fn read(text: &str) -> Result<Vec<Row>, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let head = reader.headers().map_err(|e| format!("not a run table: {e}"))?.clone();
    if !head.iter().any(|h| h == "layers") || !head.iter().any(|h| h == "n_gpus") {
        return Err("not a run table: columns `layers` and `n_gpus` are missing".into());
    }
    let mut rows = Vec::new();
    for (line, record) in reader.records().enumerate() {
        let record = record.map_err(|e| format!("row {}: {e}", line + 1))?;
        let cells = head.iter().zip(record.iter()).filter(|(_, v)| !v.trim().is_empty());
        rows.push(Row(cells.map(|(k, v)| (k.to_string(), v.trim().to_string())).collect()));
    }
    Ok(rows)
}

fn source(row: &Row) -> String {
    match row.text("source") {
        Some(source) => source.to_string(),
        None if row.count("n_gpus").unwrap_or(0) > 8 => "vTrain multi".into(),
        None => "vTrain single".into(),
    }
}

/// Hardware names of the tables.
fn card(name: &str) -> Option<&'static str> {
    Some(match name {
        "H100-80GB-SXM" | "H100-SXM" => "H100",
        "H100-96GB-HBM2e-SXM-500W" => "H100-96G",
        "H200-141GB-SXM" => "H200",
        "A100-80GB-SXM" | "A100-80GB" => "A100",
        "A100-40GB-SXM" => "A100-40G",
        "A800-80GB-SXM" => "A800",
        "V100-32GB" => "V100",
        "B200" => "B200",
        "GB200" => "GB200",
        other => return hardware::names().find(|known| known.eq_ignore_ascii_case(other)),
    })
}

/// Turns a row into its case.
fn case(row: &Row) -> Result<Case, String> {
    // vTrain: GPT in Megatron-LM on A100-80GB, fp16, full recompute off, flash attention absent, vocabulary 51200.
    let vtrain = !row.0.contains_key("source") && row.0.contains_key("iteration_ms");
    let name = row.text("hardware").unwrap_or(if vtrain { "A100-80GB-SXM" } else { "" });
    let card = card(name).ok_or_else(|| format!("hardware {name:?} is unknown"))?;
    let card = hardware::preset(card).ok_or_else(|| format!("hardware {name:?} has no record"))?;
    let gpus = row.count("n_gpus")?;
    let per_node = row.count_or("gpus_per_node", card.gpus_per_node)?.min(gpus);
    let (layers, hidden, heads) = (row.count("layers")?, row.count("hidden")?, row.count("heads")?);
    let context = row.count("seq")?;
    let (tp, pp, cp) = (row.count_or("tp", 1)?, row.count_or("pp", 1)?, row.count_or("cp", 1)?);
    let vp = row.count_or("vp", 1)?;
    let micro = row.count("micro_batch_seqs")?;
    let sequences = row.count("global_batch_seqs")?;
    let ranks = tp * pp * cp;
    if gpus % ranks != 0 {
        return Err(format!("tp·pp·cp = {ranks} does not divide {gpus} devices"));
    }
    let dp = gpus / ranks;
    if row.0.contains_key("dp") && row.count("dp")? != dp {
        return Err(format!("dp = {} where the other ranks leave {dp}", row.count("dp")?));
    }
    if sequences % (dp * micro) != 0 {
        return Err(format!("{sequences} sequences are not whole micro-batches of {micro} on {dp} ranks"));
    }
    if layers < pp || heads % tp != 0 {
        return Err(format!("{layers} layers on {pp} stages, {heads} heads on {tp} ranks"));
    }
    let gated = row.is("glu", "1");
    let ffn = row.count_or("ffn", 4 * hidden)?;
    let vocab = row.count_or("vocab", 51200)?;
    let precision = match row.text("precision").unwrap_or(if vtrain { "fp16" } else { "bf16" }) {
        "bf16" => Precision::Bf16,
        "fp16" => Precision::Fp16,
        "fp8" | "mxfp8" if card.peak_fp8.is_some() => Precision::Fp8,
        "fp32" => Precision::F32,
        other => return Err(format!("precision {other} on {}", card.name)),
    };
    let zero = match row.text("zero_stage") {
        Some(stage) => stage.parse::<u64>().ok().filter(|z| *z <= 3).ok_or(format!("zero_stage {stage}"))?,
        None => 0,
    };
    let recompute = match row.text("act_ckpt") {
        Some("full") => Recompute::Full,
        Some("selective") => Recompute::Selective,
        None | Some("none") => Recompute::None,
        Some(other) => return Err(format!("act_ckpt {other}")),
    };
    let notes = row.text("notes").unwrap_or_default();
    let attention = row.text("attn_impl").unwrap_or_default();
    let unfused = vtrain || notes.contains("attention-backend=unfused") || attention == "unfused";
    let model = Model {
        family: "gpt".into(),
        params: 0,
        params_non_embedding: 0,
        layers,
        hidden,
        heads,
        kv_heads: row.count_or("kv_heads", heads)?,
        head_dim: hidden / heads,
        ffn,
        vocab,
        vocab_padded: vocab.div_ceil(128 * tp) * 128 * tp,
        context,
        rope: Rope { method: RopeMethod::None, factor: 1.0, original_context: context, theta: 10000.0 },
        tied: row.is("tied", "1") || vtrain,
        norm_eps: 1e-5,
        dropout: if vtrain { 0.1 } else { 0.0 },
        init_std: 0.02,
    };
    let model = Model {
        params: model.count_params(),
        params_non_embedding: model.count_params_non_embedding(),
        ..model
    };
    let nodes = gpus.div_ceil(per_node);
    let q = Question {
        variant: Variant {
            plain_ffn: !gated,
            bias: !gated && !notes.contains("disable-bias-linear"),
            layer_norm: !gated,
            learned_positions: !gated,
            unfused_attention: unfused,
            eager: row.is("compile", "0"),
            whole_logits: true,
        },
        hardware: card,
        cluster: Some(Cluster { nodes, gpus_per_node: per_node }),
        precision,
        determinism: Some(Determinism::Fast),
        ..Question::of(model)
    };
    let setting = setting(&q, Cluster { nodes, gpus_per_node: per_node }, sequences)
        .ok_or_else(|| format!("no profile for {name}"))?;
    let point = Point {
        tp,
        pp,
        cp,
        vp: if pp > 1 { vp } else { 1 },
        dp,
        zero: if dp * cp > 1 { zero } else { 0 },
        shard: shard_group(row.text("dp_shard").unwrap_or_default(), dp, zero),
        micro,
        recompute,
        offload: if notes.contains("CPU-offloaded") { Offload::Optimizer } else { Offload::None },
        schedule: match (pp, vp) {
            (1, _) => Schedule::None,
            (_, 1) => Schedule::OneFOneB,
            _ => Schedule::Interleaved,
        },
        sp: tp > 1 && !vtrain && zero > 0,
    };
    let step_tokens = (sequences * context) as f64 / gpus as f64;
    let seconds = match row.positive("iteration_ms")? {
        Some(ms) => Some(ms / 1e3),
        None => row.positive("tokens_per_s_per_gpu")?.map(|rate| step_tokens / rate),
    };
    let peak_bytes = row.positive("peak_mem_gib")?.map(|gib| gib * 1073741824.0);
    Ok(Case {
        id: row.text("id").unwrap_or_default().into(),
        source: source(row),
        setting,
        point,
        seconds,
        peak_bytes,
        allocated: notes.contains("allocated_bytes"),
    })
}

/// Ranks of a shard group as the tables write it: `zero1 group=8`, `fsdp8 x dp16`, else all of dp.
fn shard_group(text: &str, dp: u64, zero: u64) -> u64 {
    if zero == 0 {
        return 1;
    }
    let after = |key: &str| {
        let digits: String = text.split_once(key)?.1.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok().filter(|g| *g > 0 && dp.is_multiple_of(*g))
    };
    if text.contains(" x dp") { after("fsdp") } else { after("group=") }.unwrap_or(dp)
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
}
