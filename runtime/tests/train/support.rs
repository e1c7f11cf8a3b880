//! A small corpus, plans to vary, runs in this process and in real worker processes.

#![allow(dead_code)] // each test file uses its share

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use llmc_corpus::Stream;
use llmc_plan::data::DataSpec;
use llmc_plan::plan::Plan;
use llmc_plan::program::Program;
use llmc_runtime::host::{Session, Source};
use llmc_runtime::interpret::{Machine, Pass};
use llmc_runtime::{prepare, schedule, shim};
use tch::{Device, Kind, Tensor};

#[path = "../../../plan/tests/support/mod.rs"]
mod plans;

/// The allocator's counters are one per process: one test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    shim::install_cpu_allocator().expect("install the counting allocator");
    tch::set_num_threads(1); // small tensors: a second thread would only wait
    guard
}

/// 3 layers, h = 48, 4 query heads on 2 key-value heads of 12, f = 80, vocabulary 300 padded to 320, context 24,
/// 2 sequences a micro-batch, 2 micro-batches a step, f32, 8 steps.
pub fn plan() -> Plan {
    let mut plan = plans::toy();
    let model = &mut plan.model;
    (model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim) = (3, 48, 4, 2, 12);
    (model.ffn, model.vocab, model.vocab_padded, model.context) = (80, 300, 320, 24);
    model.rope.original_context = 24;
    model.params = model.count_params();
    model.params_non_embedding = model.count_params_non_embedding();
    plan.batch.global_tokens = 4 * 24;
    plan.budget.steps = 8;
    plan.lr.peak = 3e-3;
    plan.lr.warmup_steps = 2;
    plan.schedule.checkpoint_every_steps = 2;
    plan.schedule.checkpoint_keep = 3;
    plan.schedule.eval_every_steps = 4;
    plan.schedule.eval_sequences = 6;
    plan
}

/// A built corpus of made-up sentences, shared by all tests of this process.
pub fn corpus() -> &'static (PathBuf, DataSpec) {
    static CORPUS: OnceLock<(PathBuf, DataSpec)> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("llmc-train-tests-{}", std::process::id()));
        let text = folder.join("text");
        std::fs::create_dir_all(&text).expect("create");
        let words =
            ["the", "loss", "of", "a", "small", "model", "falls", "when", "gradients", "flow", "through"];
        let mut state = 7u64;
        for document in 0..60 {
            let mut content = String::new();
            for _ in 0..80 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                content.push_str(words[(state >> 33) as usize % words.len()]);
                content.push(' ');
            }
            std::fs::write(text.join(format!("{document}.txt")), content).expect("write");
        }
        let json = r#"{"tokenizer": {"vocab": 300}, "context": 24, "seed": 3, "validation": {"fraction": 0.1},
            "sources": [{"name": "text", "globs": ["text/*.txt"]}]}"#;
        let mut spec: DataSpec = serde_json::from_str(json).expect("specification");
        spec.root = folder.to_string_lossy().into_owned();
        let built = folder.join("built");
        llmc_corpus::build(&spec, &built, &()).expect("build");
        (built, spec)
    })
}

/// The corpus, opened for a plan.
pub fn stream(plan: &Plan) -> Stream {
    let (folder, spec) = corpus();
    prepare::corpus(folder, plan, spec).expect("open")
}

/// The plan's program.
pub fn program(plan: &Plan) -> Program {
    prepare::lowered(plan, None).expect("lower")
}

/// An initialised machine.
pub fn machine<'p>(program: &'p Program, plan: &Plan) -> Machine<'p> {
    let mut machine = Machine::new(program, Device::Cpu, plan.seed).expect("allocate");
    let pass = Pass { list: "init", steps_done: 0 };
    machine.run(&program.init, pass, &mut Session::new(Source::None), None).expect("init");
    machine
}

/// One optimizer step, from 0; the loss.
pub fn step(machine: &mut Machine<'_>, plan: &Plan, stream: &Stream, done: u64) -> f64 {
    let weight = stream.step_weight(done).expect("weight");
    machine.set("lr", schedule::learning_rate(&plan.lr, plan.budget.steps, done + 1)).expect("lr");
    machine.set("inv_weight", 1.0 / weight).expect("inv_weight");
    machine.set("step", (done + 1) as f64).expect("step");
    let calls = &machine.program().step;
    let mut session = Session::new(Source::Train { stream, step: done });
    machine.run(calls, Pass { list: "step", steps_done: done }, &mut session, None).expect("step");
    machine.get("loss_sum").expect("loss") / weight
}

/// Every instance of every buffer whose name has this prefix, with the buffer's name.
pub fn tensors(machine: &Machine<'_>, prefix: &str) -> Vec<(String, Tensor)> {
    let program = machine.program();
    let mut out = Vec::new();
    for (id, buffer) in program.buffers.iter().enumerate().filter(|(_, b)| b.name.starts_with(prefix)) {
        for instance in 0..buffer.instances() {
            let tensor = machine.memory().instance(llmc_plan::program::BufferId(id as u32), instance);
            out.push((format!("{}[{instance}]", buffer.name), tensor.expect("instance").shallow_clone()));
        }
    }
    out
}

/// The bytes of a tensor.
pub fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut out = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.contiguous().copy_data_u8(&mut out, tensor.numel());
    out
}

/// Largest norm-wise relative error, in f64.
pub fn relative_error(got: &Tensor, want: &Tensor) -> f64 {
    let (got, want) = (got.to_kind(Kind::Double), want.to_kind(Kind::Double));
    let error = (&got - &want).norm().double_value(&[]) / want.norm().double_value(&[]).max(1e-300);
    if error.is_finite() { error } else { f64::INFINITY }
}

/// A run folder for worker processes.
pub fn run_folder(plan: &Plan) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (_, spec) = corpus();
    std::fs::write(folder.path().join("plan.json"), plan.to_json().expect("json")).expect("write");
    let data = serde_json::to_string_pretty(spec).expect("json");
    std::fs::write(folder.path().join("data.json"), data).expect("write");
    folder
}

/// `llmc-worker train` on a run folder.
pub fn worker(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc-worker"));
    command
        .env("LLMC_LANG", "en")
        .arg("train")
        .arg("--run")
        .arg(folder)
        .arg("--data")
        .arg(&corpus().0)
        .args(arguments);
    command
}

/// Runs the worker to its end.
pub fn train(folder: &Path, arguments: &[&str]) -> Output {
    worker(folder, arguments).output().expect("start the worker")
}

/// Its stderr.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the worker, which must succeed.
pub fn train_well(folder: &Path, arguments: &[&str]) -> String {
    let output = train(folder, arguments);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}
