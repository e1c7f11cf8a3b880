//! A stopped run goes on as if it had not stopped. Real processes, real signals.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use llmc_plan::plan::{Master, Plan, Precision};
use llmc_runtime::checkpoint::{MODEL_FILE, OPTIMIZER_FILE, TensorFile};
use llmc_runtime::metrics::StepMetrics;

use crate::support::{alone, plan, run_folder, said, train, train_well, worker};

pub const STEPS: u64 = 40;

fn long_plan() -> Plan {
    let mut plan = plan();
    plan.budget.steps = STEPS;
    plan.model.dropout = 0.1;
    plan
}

/// Loss and gradient norm bits of every step.
pub fn losses(folder: &Path) -> BTreeMap<u64, (Option<u64>, Option<u64>)> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let lines = text.lines().filter_map(|l| serde_json::from_str::<StepMetrics>(l).ok());
    lines.map(|m| (m.step, (m.loss.map(f64::to_bits), m.grad_norm.map(f64::to_bits)))).collect()
}

/// Weights as they are stored; masters and moments by name, whether they are compressed or not.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let last = folder.join("checkpoints").join(format!("step-{STEPS}"));
    let mut states = TensorFile::open(&last.join(OPTIMIZER_FILE)).expect("open");
    let names = states.names();
    let mut read = |name: String| (name.clone(), states.bytes(&name).expect("read"));
    let mut files: BTreeMap<String, Vec<u8>> = names.into_iter().map(&mut read).collect();
    files.insert(MODEL_FILE.to_owned(), std::fs::read(last.join(MODEL_FILE)).expect("read"));
    files
}

pub fn until_step(child: &mut Child, folder: &Path, step: u64) {
    let begun = Instant::now();
    while losses(folder).keys().next_back().is_none_or(|last| *last < step) {
        if child.try_wait().expect("wait").is_some() || begun.elapsed() > Duration::from_secs(120) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_and_resumed_is_bit_equal() {
    let _alone = alone();
    let mut compressed = long_plan();
    compressed.schedule.checkpoint_zstd = 1;
    let (whole, broken) = (run_folder(&long_plan()), run_folder(&compressed));
    train_well(whole.path(), &["--threads", "1"]);
    let mut kills = 0;
    for target in [3, 9, 10, 17, 24, 25, 33] {
        let mut child = worker(broken.path(), &["--resume", "--threads", "1"])
            .stderr(Stdio::null())
            .spawn()
            .expect("start the worker");
        until_step(&mut child, broken.path(), target);
        kills += u64::from(child.try_wait().expect("wait").is_none());
        let _ = child.kill(); // SIGKILL
        child.wait().expect("wait");
    }
    assert!(kills >= 3, "only {kills} of 7 workers were still running when killed");
    let stored = broken.path().join("checkpoints").join(format!("step-{STEPS}"));
    train_well(broken.path(), &["--resume", "--threads", "1"]);
    assert_eq!(losses(whole.path()), losses(broken.path()));
    assert_eq!(losses(whole.path()).len() as u64, STEPS);
    assert!(stored.join(format!("{OPTIMIZER_FILE}.zst")).exists() && !stored.join(OPTIMIZER_FILE).exists());
    assert!(files(whole.path()) == files(broken.path()), "weights, masters and moments");
}

#[test]
fn terminated_saves_and_says_how_to_go_on() {
    let _alone = alone();
    let whole = run_folder(&long_plan());
    train_well(whole.path(), &["--threads", "1"]);
    // On a machine that gives this test no time, a worker may be done before its signal: then all over again.
    let broken = (0..10).map(|_| run_folder(&long_plan())).find(|broken| {
        [("-TERM", 143), ("-INT", 130)].into_iter().all(|(signal, code)| {
            let mut child = worker(broken.path(), &["--resume", "--threads", "1"])
                .stderr(Stdio::piped())
                .spawn()
                .expect("start the worker");
            let done = losses(broken.path()).len() as u64;
            until_step(&mut child, broken.path(), done + 3);
            Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
            let output = child.wait_with_output().expect("wait");
            if output.status.success() {
                return false;
            }
            assert_eq!(output.status.code(), Some(code), "{}", said(&output));
            assert!(said(&output).contains("`--resume` goes on from here"), "{}", said(&output));
            true
        })
    });
    let broken = broken.expect("every worker had ended before its signal");
    let said = train_well(broken.path(), &["--resume", "--threads", "1"]);
    assert!(said.contains("resumed at step"), "{said}");
    assert_eq!(losses(whole.path()), losses(broken.path()));
    assert!(files(whole.path()) == files(broken.path()));
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over() {
    let _alone = alone();
    let folder = run_folder(&plan());
    train_well(folder.path(), &["--steps", "4"]);
    let path = folder.path().join("checkpoints/step-4").join(OPTIMIZER_FILE);
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("write");
    let told = train_well(folder.path(), &["--resume"]);
    assert!(told.contains("passed over") && told.contains(OPTIMIZER_FILE), "{told}");
    assert!(told.contains("resumed at step 2"), "{told}");

    for step in ["step-4", "step-6", "step-8"] {
        std::fs::write(folder.path().join("checkpoints").join(step).join("state.json"), "{}").expect("write");
    }
    let output = train(folder.path(), &["--resume"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("state.json"), "{}", said(&output));
}

#[test]
fn a_run_is_not_mixed_with_another() {
    let _alone = alone();
    let folder = run_folder(&plan());
    train_well(folder.path(), &["--steps", "2"]);
    let output = train(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("add --resume"), "{}", said(&output));
    let mut other = plan();
    other.lr.peak = 1e-4;
    std::fs::write(folder.path().join("plan.json"), other.to_json().expect("json")).expect("write");
    let output = train(folder.path(), &["--resume"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("another plan"), "{}", said(&output));
    // Another order of samples is another run too.
    std::fs::write(folder.path().join("plan.json"), plan().to_json().expect("json")).expect("write");
    let data = std::fs::read_to_string(folder.path().join("data.json")).expect("read");
    std::fs::write(folder.path().join("data.json"), data.replace("\"seed\": 3", "\"seed\": 4"))
        .expect("write");
    let output = train(folder.path(), &["--resume"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("other data"), "{}", said(&output));
    std::fs::write(folder.path().join("data.json"), data).expect("write");
    // What only decides how the run is executed may change: fewer sequences at a time, other recompute.
    let mut layout = plan();
    (layout.batch.micro_batch_sequences, layout.batch.accumulation) = (1, 4);
    layout.layout.recompute = llmc_plan::plan::Recompute::Full;
    std::fs::write(folder.path().join("plan.json"), layout.to_json().expect("json")).expect("write");
    train_well(folder.path(), &["--resume"]);
}

/// A run with split masters goes on to the bit from its own checkpoint; and from one of whole masters, and the other way
/// round: the files hold f32 masters.
#[test]
fn a_split_master_resumes_and_changes_form() {
    let _alone = alone();
    let with = |master| {
        let mut plan = plan();
        plan.precision = Precision::Bf16;
        plan.optimizer.master = master;
        plan.budget.steps = STEPS;
        plan
    };
    let (split, whole) = (with(Master::Split), with(Master::F32));
    let straight = run_folder(&split);
    train_well(straight.path(), &["--threads", "1"]);
    for forms in [[&split, &split], [&whole, &split], [&split, &whole]] {
        let folder = run_folder(forms[0]);
        let mut child =
            worker(folder.path(), &["--threads", "1"]).stderr(Stdio::null()).spawn().expect("start");
        until_step(&mut child, folder.path(), 7);
        let _ = child.kill(); // SIGKILL
        child.wait().expect("wait");
        let text = forms[1].to_json().expect("json");
        std::fs::write(folder.path().join("plan.json"), text).expect("write");
        let said = train_well(folder.path(), &["--resume", "--threads", "1"]);
        assert!(said.contains("resumed at step"), "{said}");
        let (want, got) = (losses(straight.path()), losses(folder.path()));
        if forms[0] == forms[1] {
            assert_eq!(want, got);
            assert!(files(straight.path()) == files(folder.path()), "weights, masters and moments");
        }
        // Halves are rounded in two ways, so that the forms part in the last bits.
        for (step, (loss, _)) in want {
            let value = |bits: Option<u64>| f64::from_bits(bits.expect("finite"));
            let other = got.get(&step).map_or(f64::NAN, |(loss, _)| value(*loss));
            assert!((value(loss) / other - 1.0).abs() < 1e-3, "step {step}: {} {other}", value(loss));
        }
    }
}
