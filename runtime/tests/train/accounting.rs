//! What a run says of itself: where a step's time went, gradient noise, layers, fp16's loss scale, memory that ran out.

use std::path::Path;
use std::process::Command;

use llmc_plan::op::Op;
use llmc_plan::plan::{Plan, Precision};
use llmc_runtime::checkpoint::{MODEL_FILE, TensorFile};
use llmc_runtime::layers::LayersRecord;
use llmc_runtime::metrics::StepMetrics;
use llmc_runtime::report::Summary;
use serde_json::Value;

use crate::support::{alone, corpus, machine, plan, program, run_folder, said, step, stream, train_well};

fn summary(folder: &Path) -> Summary {
    let text = std::fs::read_to_string(folder.join("summary.json")).expect("summary");
    serde_json::from_str(&text).expect("json")
}

fn steps(folder: &Path) -> Vec<StepMetrics> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn every_millisecond_of_a_step_has_a_name() {
    let _alone = alone();
    let plan = plan();
    let folder = run_folder(&plan);
    let file = folder.path().join("step.json");
    let told = train_well(folder.path(), &["--threads", "1", "--profile", &file.to_string_lossy()]);
    assert!(told.contains("step 3 took") && told.contains("GEMM"), "{told}");
    let breakdown = summary(folder.path()).breakdown.expect("a watched step");
    assert_eq!(breakdown.step, 7);
    let sum: f64 = breakdown.terms.iter().map(|t| t.seconds.measured).sum();
    assert!((sum / breakdown.step_seconds.measured - 1.0).abs() < 1e-9, "{breakdown:?}");
    let logged = steps(folder.path())[6].seconds;
    assert!((sum / logged - 1.0).abs() < 1e-9, "the terms sum to step 7: {sum} {logged}");
    assert!(breakdown.terms.iter().filter(|t| t.seconds.measured > 0.0).count() >= 5, "{breakdown:?}");

    // The trace holds every instruction of the program once, one after the other.
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("read")).expect("json");
    let events = trace["traceEvents"].as_array().expect("events");
    let named = |kind: &str| events.iter().filter(|e| e["name"] == kind).collect::<Vec<_>>();
    assert_eq!(named("thread_name")[0]["args"]["name"], "compute");
    assert_eq!(named("process_name")[0]["args"]["name"], "step 3 on cpu");
    let program = program(&plan);
    let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
    let want: Vec<&str> = program.instrs(&program.step).map(|(_, _, _, i)| i.op.key()).collect();
    assert_eq!(spans.iter().map(|e| e["name"].as_str().unwrap()).collect::<Vec<_>>(), want);
    let (mut before, wall) = (0.0, 1e6 * steps(folder.path())[2].seconds);
    for span in spans {
        let (start, took) = (span["ts"].as_f64().unwrap(), span["dur"].as_f64().unwrap());
        assert!(start >= before && took >= 0.0 && start + took <= wall, "{span}");
        before = start + took - 1e-3; // microseconds printed from seconds
    }
}

/// The norm after the first of two micro-batches is that of a step which ends there.
#[test]
fn the_first_norm_is_that_of_the_first_micro_batch() {
    let _alone = alone();
    let plan = plan();
    let (two, stream) = (program(&plan), stream(&plan));
    let mut whole = machine(&two, &plan);
    step(&mut whole, &plan, &stream, 0);
    let mut first = two.clone();
    first.step.retain(|call| call.micro_batch == 0);
    let mut half = machine(&first, &plan);
    step(&mut half, &plan, &stream, 0);
    let (a, b) = (whole.get("grad_sq.first").expect("first"), half.get("grad_sq").expect("all"));
    assert_eq!(a.to_bits(), b.to_bits());
    assert_ne!(a, whole.get("grad_sq").expect("all"));
}

#[test]
fn noise_scale_and_layers_are_recorded_and_survive_a_resume() {
    let _alone = alone();
    let long = || {
        let mut plan = plan();
        (plan.budget.steps, plan.lr.peak) = (20, 1e-3);
        (plan.schedule.checkpoint_every_steps, plan.schedule.checkpoint_keep) = (1, 0);
        plan
    };
    let (whole, broken) = (run_folder(&long()), run_folder(&long()));
    let told = train_well(whole.path(), &["--threads", "1"]);
    train_well(broken.path(), &["--threads", "1", "--steps", "13"]);
    train_well(broken.path(), &["--threads", "1", "--resume"]);
    let noise = |folder: &Path| -> Vec<_> {
        steps(folder)
            .iter()
            .map(|m| (m.noise_scale.map(f64::to_bits), m.noise_scale_error.map(f64::to_bits)))
            .collect()
    };
    assert_eq!(noise(whole.path()), noise(broken.path()));
    assert!(noise(whole.path())[..4].iter().all(|n| n.0.is_none()));
    if let Some(found) = summary(whole.path()).noise_scale {
        assert!(told.contains("critical batch") && found.error > 0.0 && found.tokens.predicted > 0.0);
    }

    let text = std::fs::read_to_string(whole.path().join("layers.jsonl")).expect("layers");
    let records: Vec<LayersRecord> = text.lines().map(|l| serde_json::from_str(l).expect("json")).collect();
    assert_eq!(records.iter().map(|r| r.step).collect::<Vec<_>>(), [10, 20]);
    let again = std::fs::read_to_string(broken.path().join("layers.jsonl")).expect("layers");
    assert_eq!(text, again);
    let record = &records[0];
    let names: Vec<&str> = record.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["embed", "layers.0", "layers.1", "layers.2", "head", "norm_f"]);
    let squares: f64 = record.layers.iter().filter_map(|l| l.grad_norm).map(|norm| norm * norm).sum();
    let norm = steps(whole.path())[9].grad_norm.expect("finite");
    assert!((squares.sqrt() / norm - 1.0).abs() < 1e-5, "{} {norm}", squares.sqrt());

    // What one block did, from the checkpoints before and after.
    let (mut weight, mut update) = (0.0, 0.0);
    let open = |step: u64| {
        TensorFile::open(&whole.path().join(format!("checkpoints/step-{step}")).join(MODEL_FILE))
            .expect("open")
    };
    let (mut before, mut after) = (open(9), open(10));
    for name in [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "input_layernorm",
        "post_attention_layernorm",
    ] {
        let name = format!("model.layers.1.{name}.weight");
        let (a, b) = (values(&mut before, &name), values(&mut after, &name));
        weight += a.iter().map(|x| x * x).sum::<f64>();
        update += a.iter().zip(&b).map(|(x, y)| (y - x) * (y - x)).sum::<f64>();
    }
    let block = &record.layers[2];
    assert!((block.weight_norm.unwrap() / f64::sqrt(weight) - 1.0).abs() < 1e-5, "{block:?} {weight}");
    let ratio = f64::sqrt(update / weight);
    assert!((block.update_ratio.unwrap() / ratio - 1.0).abs() < 0.05, "{block:?} {ratio}");
}

fn values(file: &mut TensorFile, name: &str) -> Vec<f64> {
    let bytes = file.bytes(name).expect("read");
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

fn fp16() -> Plan {
    let mut plan = plan();
    (plan.precision, plan.budget.steps) = (Precision::Fp16, 12);
    plan
}

/// fp16 learns as f32 does; its scale is in the metrics and goes on after a resume.
#[test]
fn fp16_learns_and_resumes_bit_equal() {
    let _alone = alone();
    let (whole, broken) = (run_folder(&fp16()), run_folder(&fp16()));
    train_well(whole.path(), &["--threads", "1"]);
    train_well(broken.path(), &["--threads", "1", "--steps", "5"]);
    train_well(broken.path(), &["--threads", "1", "--resume"]);
    let bits = |folder: &Path| -> Vec<_> {
        steps(folder)
            .iter()
            .map(|m| (m.loss.map(f64::to_bits), m.grad_norm.map(f64::to_bits), m.loss_scale))
            .collect()
    };
    assert_eq!(bits(whole.path()), bits(broken.path()));
    let wide = run_folder(&Plan { precision: Precision::F32, ..fp16() });
    train_well(wide.path(), &["--threads", "1"]);
    for (narrow, wide) in steps(whole.path()).iter().zip(steps(wide.path())) {
        assert!(!narrow.skipped && narrow.loss_scale == Some(65_536.0), "{narrow:?}");
        let (a, b) = (narrow.loss.unwrap(), wide.loss.unwrap());
        assert!((a / b - 1.0).abs() < 2e-3, "step {}: {a} in fp16, {b} in f32", wide.step);
        let (a, b) = (narrow.grad_norm.unwrap(), wide.grad_norm.unwrap());
        assert!((a / b - 1.0).abs() < 2e-2, "step {}: norms {a} and {b}", wide.step);
    }
    let config =
        std::fs::read_to_string(whole.path().join("checkpoints/step-12/config.json")).expect("config");
    assert!(config.contains("float16"), "{config}");
}

/// A scale at which gradients overflow is halved until they do not; what overflowed was not applied.
#[test]
fn fp16_finds_its_scale() {
    let _alone = alone();
    let plan = fp16();
    let mut program = program(&plan);
    let tables = program.segment_named("init.tables").expect("segment").0 as usize;
    let first = &mut program.segments[tables].instrs[1].op;
    assert!(matches!(first, Op::Fill(fill) if fill.value == 65_536.0), "{first:?}");
    if let Op::Fill(fill) = first {
        fill.value = f64::from(1u32 << 26);
    }
    let folder = run_folder(&plan);
    let file = folder.path().join("program.json");
    std::fs::write(&file, serde_json::to_string(&program).expect("json")).expect("write");
    let told = train_well(folder.path(), &["--threads", "1", "--program", &file.to_string_lossy()]);
    let steps = steps(folder.path());
    let skipped = steps.iter().take_while(|m| m.skipped).count();
    assert!(skipped >= 2 && told.contains("update skipped; loss scale"), "{told}");
    assert!(steps[skipped..].iter().all(|m| !m.skipped), "{steps:?}");
    for (i, step) in steps.iter().enumerate() {
        assert_eq!(step.loss_scale, Some(f64::from((1u32 << 26) >> skipped.min(i + 1))), "{steps:?}");
    }
    assert!(steps[0].loss.is_some(), "the loss itself is finite");
    assert!(steps[11].loss < steps[0].loss, "{steps:?}");
    assert_eq!(summary(folder.path()).skipped_updates, skipped as u64);
}

/// A process that may not have the memory that the machine has: the plan is not at fault, and the report says so.
#[test]
fn memory_that_runs_out_leaves_a_report() {
    let _alone = alone();
    let mut plan = plan();
    // Embedding and head of 25 M elements each, four tensors of 4 bytes: 805 MB, which do not fit beside libtorch.
    (plan.model.vocab_padded, plan.batch.micro_batch_sequences, plan.batch.accumulation) = (1 << 19, 1, 4);
    plan.model.params = plan.model.count_params();
    let folder = run_folder(&plan);
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -v 1200000; exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_llmc-worker"),
            "train",
            "--threads",
            "1",
        ])
        .arg("--run")
        .arg(folder.path())
        .arg("--data")
        .arg(&corpus().0)
        .env("OMP_NUM_THREADS", "1")
        .output()
        .expect("start");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("out of memory")
            && said.contains("were predicted")
            && said.contains("out-of-memory.json"),
        "{said}"
    );
    let report = std::fs::read_to_string(folder.path().join("out-of-memory.json")).expect("report");
    let report: Value = serde_json::from_str(&report).expect("json");
    let predicted = report["predicted"]["total"].as_u64().expect("bytes");
    assert!(predicted > 700 << 20, "{report}");
    assert!(report["device"]["live_bytes"].as_u64().expect("bytes") < predicted, "{report}");
    assert!(!folder.path().join("metrics.jsonl").exists());
}
