//! `llmc-worker` as a user meets it: traces, edited programs, outputs, refusals.

use std::path::{Path, PathBuf};
use std::process::Command;

use llmc_plan::plan::{Plan, Recompute};
use llmc_plan::program::Program;
use llmc_plan::walk::{self, Instant};
use llmc_runtime::report::Summary;
use llmc_runtime::trace::TraceLine;

use crate::support::{alone, corpus, plan, program, run_folder, said, train, train_well, worker};

fn trace_of(path: &Path) -> Vec<TraceLine> {
    let text = std::fs::read_to_string(path).expect("trace");
    text.lines().map(|l| serde_json::from_str(l).expect("a trace line")).collect()
}

/// Same instructions, same order, same live bytes as the simulation.
fn assert_trace_is(program: &Program, trace: &[TraceLine]) {
    let simulated = walk::walk(program, &program.step, &Instant).records;
    assert_eq!(trace.len(), 2 * simulated.len(), "two steps");
    for (line, record) in trace.iter().zip(simulated.iter().chain(&simulated)) {
        assert_eq!((&line.place, line.op.as_str()), (&record.place, record.op));
        assert_eq!(line.stream, program.streams[record.stream.0 as usize], "{}", line.place);
        assert_eq!(line.live_bytes, record.live_bytes, "{}", line.place);
        assert_eq!(line.workspace, record.workspace, "{}", line.place);
        assert!(line.end >= line.start && line.allocator_bytes <= line.workspace + 4096, "{}", line.place);
    }
}

fn summary(folder: &Path) -> Summary {
    serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).expect("summary"))
        .expect("json")
}

fn write_program(folder: &Path, program: &Program) -> PathBuf {
    let path = folder.join("program.json");
    std::fs::write(&path, serde_json::to_string(program).expect("json")).expect("write");
    path
}

#[test]
fn a_trace_equals_the_simulation() {
    let _alone = alone();
    for (policy, dropout) in [(Recompute::None, 0.0), (Recompute::Selective, 0.1), (Recompute::Full, 0.0)] {
        let mut plan = plan();
        (plan.layout.recompute, plan.model.dropout) = (policy, dropout);
        let folder = run_folder(&plan);
        let trace = folder.path().join("trace.jsonl");
        train_well(folder.path(), &["--steps", "3", "--trace", &trace.to_string_lossy()]);
        assert_trace_is(&program(&plan), &trace_of(&trace));
    }
}

#[test]
fn predicted_and_measured_peak_agree_in_every_variation() {
    let _alone = alone();
    type Edit<'a> = &'a dyn Fn(&mut Plan);
    let edits: [(&str, Edit<'_>); 8] = [
        ("base", &|_| ()),
        ("selective", &|p| p.layout.recompute = Recompute::Selective),
        ("full", &|p| p.layout.recompute = Recompute::Full),
        ("bf16", &|p| p.precision = llmc_plan::plan::Precision::Bf16),
        ("wide", &|p| (p.model.hidden, p.model.ffn) = (96, 256)),
        ("deep", &|p| p.model.layers = 7),
        ("micro-batch", &|p| (p.batch.micro_batch_sequences, p.batch.accumulation) = (4, 1)),
        ("dropout, tied", &|p| (p.model.dropout, p.model.tied) = (0.2, true)),
    ];
    for (name, edit) in edits {
        let mut plan = plan();
        edit(&mut plan);
        let folder = run_folder(&plan);
        train_well(folder.path(), &["--steps", "3", "--threads", "1"]);
        let summary = summary(folder.path());
        let (simulated, measured) = (summary.simulated_peak_bytes as f64, summary.peak_memory_bytes.measured);
        eprintln!(
            "{name}: simulated {simulated} measured {measured} {:+.2} %",
            100.0 * (measured / simulated - 1.0)
        );
        assert!(
            (measured / simulated - 1.0).abs() <= 0.02,
            "{name}: {measured} measured, {simulated} simulated"
        );
    }
}

#[test]
fn an_edited_program_moves_memory_as_simulated() {
    let _alone = alone();
    let plan = plan();
    let folder = run_folder(&plan);
    let shown = Command::new(env!("CARGO_BIN_EXE_llmc-worker"))
        .args(["program", "--plan"])
        .arg(folder.path().join("plan.json"))
        .output()
        .expect("start the worker");
    let original: Program = serde_json::from_slice(&shown.stdout).expect("a program on stdout");
    assert_eq!(original, program(&plan));
    train_well(folder.path(), &["--threads", "1"]);
    let before = summary(folder.path());

    let mut edited = original.clone();
    for (from, to) in [("forward.none", "forward.full"), ("backward.none", "backward.full")] {
        let from = edited.segment_named(&format!("block.{from}")).expect("segment");
        let to = edited.segment_named(&format!("block.{to}")).expect("segment");
        for call in edited.step.iter_mut().filter(|c| c.layer == 1 && c.segment == from) {
            call.segment = to;
        }
    }
    assert_ne!(edited.step, original.step);
    let other = run_folder(&plan);
    let (file, trace) = (write_program(other.path(), &edited), other.path().join("trace.jsonl"));
    let arguments =
        ["--threads", "1", "--program", &file.to_string_lossy(), "--trace", &trace.to_string_lossy()];
    train_well(other.path(), &arguments);
    assert_trace_is(&edited, &trace_of(&trace));
    let after = summary(other.path());
    let saved = before.simulated_peak_bytes - after.simulated_peak_bytes;
    let really = before.peak_memory_bytes.measured - after.peak_memory_bytes.measured;
    eprintln!("saves {saved} bytes simulated, {really} measured");
    assert!(saved > 0 && (really - saved as f64).abs() <= 0.02 * before.peak_memory_bytes.measured);
    assert_eq!(before.loss.map(f64::to_bits), after.loss.map(f64::to_bits), "recomputing changes no bit");
}

#[test]
fn a_deleted_accumulate_is_refused_and_a_deleted_rotation_changes_the_loss() {
    let _alone = alone();
    let plan = plan();
    let sound = program(&plan);
    let delete = |segment: &str, key: &str| {
        let mut program = sound.clone();
        let segment = program.segment_named(segment).expect("segment").0 as usize;
        let instrs = &mut program.segments[segment].instrs;
        let index = instrs.iter().position(|i| i.op.key() == key).expect("instruction");
        let deleted = instrs.remove(index);
        let before = instrs.get_mut(index - 1).expect("an instruction before");
        before.frees.extend(deleted.frees);
        program
    };
    let folder = run_folder(&plan);
    // Without it neither the last norm's weight nor what lies below has a gradient.
    let file = write_program(folder.path(), &delete("head.loss", "norm.backward"));
    let output = train(folder.path(), &["--program", &file.to_string_lossy()]);
    eprintln!("{}", said(&output));
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("is refused"), "{}", said(&output));
    assert!(!folder.path().join("metrics.jsonl").exists(), "nothing was run");

    train_well(folder.path(), &["--threads", "1", "--steps", "2"]);
    let sound_loss = summary(folder.path()).loss;
    let other = run_folder(&plan);
    let file = write_program(other.path(), &delete("block.forward.none", "rope.rotate"));
    let output =
        train(other.path(), &["--threads", "1", "--steps", "2", "--program", &file.to_string_lossy()]);
    let refused = output.status.code() == Some(2);
    assert!(refused || summary(other.path()).loss != sound_loss, "{}", said(&output));
}

#[test]
fn a_run_leaves_what_it_promises() {
    let _alone = alone();
    let folder = run_folder(&plan());
    let told = train_well(folder.path(), &[]);
    assert!(told.contains("validation loss") && told.contains("predicted"), "{told}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
    let lines: Vec<serde_json::Value> =
        read("metrics.jsonl").lines().map(|l| serde_json::from_str(l).expect("json")).collect();
    let evals = lines.iter().filter(|l| l.get("eval_loss").is_some()).count();
    assert_eq!((lines.len() - evals, evals), (8, 2));
    assert_eq!(std::fs::read_dir(folder.path().join("events")).expect("events").count(), 1);
    assert_eq!(read("checkpoints/latest"), "step-8\n");
    let config: serde_json::Value =
        serde_json::from_str(&read("checkpoints/step-8/config.json")).expect("json");
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    let kept = ["step-4", "step-6", "step-8"].map(|s| folder.path().join("checkpoints").join(s).is_dir());
    assert_eq!(kept, [true; 3]);
    assert!(!folder.path().join("checkpoints/step-2").exists());

    let file = folder.path().join("checkpoints/step-8/model.safetensors");
    let file = llmc_runtime::checkpoint::TensorFile::open(&file).expect("open");
    let describe = |name: &str| file.describe(name).expect("tensor").1;
    assert_eq!(describe("model.embed_tokens.weight"), [300, 48], "without padding");
    assert_eq!(describe("model.layers.2.self_attn.q_proj.weight"), [48, 48]);
    assert_eq!(describe("model.layers.2.self_attn.k_proj.weight"), [24, 48]);
    assert_eq!(describe("model.layers.2.mlp.up_proj.weight"), [80, 48]);
    assert_eq!(describe("model.norm.weight"), [48]);

    // The same plan gives the same losses again.
    let again = run_folder(&plan());
    train_well(again.path(), &[]);
    let losses = |folder: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(folder.join("metrics.jsonl")).expect("read");
        let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("json"));
        lines.map(|l| format!("{} {} {}", l["loss"], l["grad_norm"], l["eval_loss"])).collect()
    };
    assert_eq!(losses(folder.path()), losses(again.path()));

    let told = train_well(folder.path(), &["--resume"]);
    assert!(told.contains("complete"), "{told}");
}

/// What people read is in their language, from the command line, from `llmc` or from the locale; what programs read is not.
#[test]
fn a_run_speaks_chinese() {
    let _alone = alone();
    let folder = run_folder(&plan());
    let told = train_well(folder.path(), &["--lang", "zh", "--steps", "3"]);
    for part in [
        "第 3/3 步  损失 ",
        " 词元/秒  MFU ",
        "剩余 ",
        "第 3 步用时 ",
        "矩阵乘 ",
        "第 3 步  验证损失 ",
        "预测",
        "峰值显存",
        "3 步，",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("step") && !told.contains("loss"), "{told}");
    for file in ["metrics.jsonl", "summary.json", "layers.jsonl"] {
        let text = std::fs::read_to_string(folder.path().join(file)).expect("read");
        assert!(text.is_ascii(), "{file}: {text}");
    }
    let refused = |lang: &str, locale: &str| {
        let output = worker(folder.path(), &[]).env("LLMC_LANG", lang).env("LC_ALL", locale).output();
        let output = output.expect("start the worker");
        assert_eq!(output.status.code(), Some(2));
        said(&output)
    };
    let zh = format!(
        "llmc-worker: {} 中已有运行到第 3 步：加上 --resume 继续，或另选运行名称\n",
        folder.path().display()
    );
    let en = format!("llmc-worker: {} holds a run at step 3", folder.path().display());
    assert_eq!(refused("", "zh_CN.UTF-8"), zh);
    assert_eq!(refused("zh", "C"), zh);
    assert!(refused("en", "zh_CN.UTF-8").starts_with(&en) && refused("", "C").starts_with(&en));
}

#[test]
fn bad_environments_are_one_sentence() {
    let _alone = alone();
    let refused = |folder: &Path, arguments: &[&str], code: i32, parts: &[&str]| {
        let output = train(folder, arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "{said}"));
        assert!(!folder.join("metrics.jsonl").exists());
    };
    let folder = run_folder(&plan());
    refused(Path::new("/nonexistent"), &[], 2, &["cannot read", "/nonexistent/plan.json"]);
    refused(folder.path(), &["--program", "/nonexistent"], 2, &["/nonexistent"]);

    let mut gpu = plan();
    gpu.hardware.name = "H100".into();
    refused(run_folder(&gpu).path(), &[], 2, &["1 × H100", "0 CUDA devices"]);

    let mut huge = plan();
    (huge.model.hidden, huge.model.head_dim, huge.model.ffn, huge.model.layers) = (16_384, 4096, 65_536, 200);
    refused(run_folder(&huge).path(), &[], 2, &["needs", "MiB available"]);

    let mut longer = plan();
    longer.model.context = 48;
    refused(run_folder(&longer).path(), &[], 2, &["24", "48"]);

    let mut vocab = plan();
    (vocab.model.vocab, vocab.model.vocab_padded) = (200, 256);
    refused(run_folder(&vocab).path(), &[], 2, &["300", "200"]);

    // The recipe asks for more text than there is.
    let short = run_folder(&plan());
    let path = short.path().join("data.json");
    let mut data: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).expect("read")).expect("json");
    data["sources"][0]["max_epochs"] = 1e-3.into();
    std::fs::write(&path, data.to_string()).expect("write");
    refused(short.path(), &[], 1, &["limit of 0.001 epochs", "raise its limit"]);

    let mut ranks = worker(folder.path(), &[]);
    let output = ranks.env("WORLD_SIZE", "8").env("RANK", "3").output().expect("start");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("WORLD_SIZE is 8"), "{}", said(&output));

    std::fs::write(folder.path().join("plan.json"), "{\"format_version\": \"2.0\"}").expect("write");
    refused(folder.path(), &[], 2, &["plan format 2.0"]);
}

/// A model that has blown up is not trained on in silence: updates are skipped, counted, and the run ends.
#[test]
fn a_diverged_run_stops_with_its_samples() {
    let _alone = alone();
    let mut plan = plan();
    (plan.lr.peak, plan.budget.steps) = (1e30, 40);
    let folder = run_folder(&plan);
    let output = train(folder.path(), &["--threads", "1"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("not finite") && said.contains("samples") && said.contains("number 11 in a row"),
        "{said}"
    );
    let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).expect("metrics");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).expect("json")).collect();
    let skipped = lines.iter().filter(|l| l["skipped"] == true).count();
    assert_eq!(skipped, 11, "ten are left out, the next one ends the run");
    assert!(lines.iter().any(|l| l["loss"].is_null()), "{skipped} skipped");

    // `optimizer < skip 0 >` stops at the first.
    plan.schedule.skip_steps = 0;
    let strict = run_folder(&plan);
    let output = train(strict.path(), &["--threads", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let text = std::fs::read_to_string(strict.path().join("metrics.jsonl")).expect("metrics");
    let skipped = text.lines().filter(|l| l.contains("\"skipped\":true")).count();
    assert_eq!(skipped, 1, "{text}");
}

fn examine(arguments: &[&Path]) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc-worker"));
    let output = command.args(["eval", "--threads", "1"]).args(arguments).output().expect("start the worker");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("json")
}

#[test]
fn a_checkpoint_is_evaluated_on_its_corpus_and_on_texts() {
    let _alone = alone();
    let mut plan = plan();
    plan.schedule.eval_sequences = 0;
    let folder = run_folder(&plan);
    train_well(folder.path(), &["--threads", "1"]);
    let checkpoint = folder.path().join("checkpoints/step-8");
    let (built, spec) = corpus();
    let own = examine(&[&checkpoint, built]);
    assert_eq!(own, examine(&[folder.path(), built]), "the newest of a run");
    let during = summary(folder.path()).eval_loss.expect("evaluated");
    let loss = own["loss"].as_f64().expect("loss");
    assert!((loss / during - 1.0).abs() < 1e-5, "the last evaluation said {during}, this one {loss}");
    assert_eq!(own["step"], 8);

    // A copy of the corpus in the run's folder gives the tokenizer for new text.
    std::os::unix::fs::symlink(built, folder.path().join("data")).expect("link");
    let text = Path::new(&spec.root).join("text/7.txt");
    let single = examine(&[&checkpoint, &text]);
    let bytes = std::fs::metadata(&text).expect("text").len() as f64;
    let (loss, tokens) = (single["loss"].as_f64().expect("loss"), single["tokens"].as_f64().expect("tokens"));
    let bits = single["bits_per_byte"].as_f64().expect("bits");
    assert!((bits * bytes * std::f64::consts::LN_2 - loss * tokens).abs() < 1e-6 * loss * tokens);
    assert!(bits > 0.0 && bits < 8.0, "{single}");
}

/// A trained model is the base of another run: same shapes, other optimizer steps, bf16 this time.
#[test]
fn a_checkpoint_is_a_base_model() {
    let _alone = alone();
    let folder = run_folder(&plan());
    train_well(folder.path(), &["--threads", "1"]);
    let trained = summary(folder.path()).loss.expect("loss");
    let first_loss = |folder: &Path| -> f64 {
        let text = std::fs::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
        let line: serde_json::Value =
            serde_json::from_str(text.lines().next().expect("a line")).expect("json");
        line["loss"].as_f64().expect("loss")
    };
    let untrained = first_loss(folder.path());
    for precision in [llmc_plan::plan::Precision::F32, llmc_plan::plan::Precision::Bf16] {
        let mut next = plan();
        next.precision = precision;
        next.from = Some(folder.path().join("checkpoints/step-8").to_string_lossy().into_owned());
        let other = run_folder(&next);
        train_well(other.path(), &["--threads", "1", "--steps", "1"]);
        let loss = first_loss(other.path());
        assert!((loss - trained).abs() < 0.5 * (loss - untrained).abs(), "{untrained} {trained} {loss}");
    }
    let mut wider = plan();
    wider.model.ffn = 96;
    wider.from = Some(folder.path().join("checkpoints/step-8").to_string_lossy().into_owned());
    let output = train(run_folder(&wider).path(), &["--threads", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("[80, 48]") && said(&output).contains("[96, 48]"), "{}", said(&output));
}

/// The self-test of a device, with the CPU as the device: every comparison must then be exact.
#[test]
fn selftest_finds_no_difference_between_a_cpu_and_itself() {
    let _alone = alone();
    let output = Command::new(env!("CARGO_BIN_EXE_llmc-worker"))
        .args(["selftest", "--device", "cpu"])
        .env("OMP_NUM_THREADS", "1")
        .output()
        .expect("start the worker");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    let ops = report["ops"].as_object().expect("ops");
    let alone_on_one_device =
        ["load_batch", "snapshot", "gather", "reduce_scatter", "all_reduce", "send", "recv"];
    for key in llmc_plan::op::Op::KEYS.iter().filter(|key| !alone_on_one_device.contains(key)) {
        for format in ["f32", "bf16"] {
            let result =
                ops.get(&format!("{key} {format}")).unwrap_or_else(|| panic!("{key} is not compared"));
            assert_eq!(result["worst"], 0.0, "{key} {format}");
        }
    }
    for format in ["f32", "bf16", "fp8"] {
        assert_eq!(report["training"][format]["repeats"], true);
        assert_eq!(report["bitwise"][format!("tiny {format}")]["ok"], true, "{}", report["bitwise"]);
    }
}
