//! The binary from outside: streams, exit codes, files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A scratch folder with files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

/// `llmc` with an environment that depends on nothing outside.
fn llmc(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc"));
    command.args(args).current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    llmc(folder, args).output().unwrap()
}

/// Exit code, stdout and stderr as one text for a snapshot.
fn show(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let code = output.status.code().map_or("signal".to_owned(), |code| code.to_string());
    format!("exit: {code}\n--- stdout\n{}\n--- stderr\n{}\n", text(&output.stdout), text(&output.stderr))
}

const MESSY: &str = "model llama 7b<ctx 8k,rope yarn(s=2)>budget 1T tokens on 64×H100";
const NEAT: &str = "model llama 7b < ctx 8k  rope yarn(s=2) >\nbudget 1T tokens\non 64xH100\n";

#[test]
fn fmt_rewrites_in_place_and_check_tells() {
    let folder = folder(&[("a.llm", MESSY), ("b.llm", NEAT)]);
    let check = run(folder.path(), &["fmt", "--check", "a.llm", "b.llm"]);
    assert_eq!(show(&check), "exit: 3\n--- stdout\na.llm\n--- stderr\n\n");
    assert_eq!(std::fs::read_to_string(folder.path().join("a.llm")).unwrap(), MESSY);
    assert_eq!(
        show(&run(folder.path(), &["fmt", "a.llm", "b.llm"])),
        "exit: 0\n--- stdout\n\n--- stderr\n\n"
    );
    assert_eq!(std::fs::read_to_string(folder.path().join("a.llm")).unwrap(), NEAT);
    assert_eq!(run(folder.path(), &["fmt", "--check", "a.llm"]).status.code(), Some(0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file is left");
}

#[test]
fn fmt_reads_stdin() {
    let folder = folder(&[]);
    let mut child =
        llmc(folder.path(), &["fmt", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(MESSY.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), NEAT);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = folder(&[]);
    let mut child = llmc(folder.path(), &["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut talk = String::new();
    child.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
    assert_eq!((child.wait().unwrap().code(), talk.as_str()), (Some(0), ""));
}

#[test]
fn completions_for_every_shell() {
    let folder = folder(&[]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(folder.path(), &["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("why-not"), "{shell}");
    }
}

#[test]
fn usage_and_unreadable_files_end_with_2() {
    let folder = folder(&[("bad.llm", "")]);
    std::fs::write(folder.path().join("bad.llm"), b"seed \xff").unwrap();
    assert_eq!(run(folder.path(), &["paln"]).status.code(), Some(2));
    assert_eq!(run(folder.path(), &["fmt"]).status.code(), Some(2));
    let missing = run(folder.path(), &["fmt", "none.llm"]);
    assert_eq!(
        show(&missing),
        "exit: 2\n--- stdout\n\n--- stderr\nllmc: cannot read none.llm: No such file or directory (os error 2)\n"
    );
    let bad = run(folder.path(), &["fmt", "bad.llm", "--lang", "zh"]);
    assert_eq!(show(&bad), "exit: 2\n--- stdout\n\n--- stderr\nllmc: 无法读取 bad.llm:no UTF-8 at byte 5\n");
}

#[test]
fn a_missing_sibling_says_how_to_build_it() {
    let folder = folder(&[]);
    let mut command = llmc(folder.path(), &["tokenizer", "train"]);
    let output = command.env("LLMC_DATA", "/nowhere/llmc-data").output().unwrap();
    assert_eq!(
        show(&output),
        "exit: 2\n--- stdout\n\n--- stderr\nllmc: /nowhere/llmc-data is not there: build it with `cargo build --release -p llmc-corpus`\n"
    );
}

#[cfg(unix)]
mod siblings {
    //! What `llmc` owes to the programs it starts, with shell scripts in their place: arguments, codes, signals.

    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn script(folder: &Path, body: &str) -> String {
        let path = folder.join("sibling");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn arguments_and_codes_pass_through() {
        let folder = folder(&[]);
        let sibling = script(folder.path(), "echo \"$@\"; exit 7");
        let mut command = llmc(folder.path(), &["tokenizer", "train", "--spec", "data.json"]);
        let output = command.env("LLMC_DATA", &sibling).output().unwrap();
        assert_eq!(show(&output), "exit: 7\n--- stdout\ntokenizer train --spec data.json\n--- stderr\n\n");
        let output =
            llmc(folder.path(), &["data", "stats", "-x"]).env("LLMC_DATA", &sibling).output().unwrap();
        assert_eq!(show(&output), "exit: 7\n--- stdout\nstats -x\n--- stderr\n\n");
    }

    #[test]
    fn a_killed_sibling_gives_the_code_of_a_shell() {
        let folder = folder(&[]);
        let sibling = script(folder.path(), "kill -KILL $$");
        let output = llmc(folder.path(), &["data", "stats"]).env("LLMC_DATA", &sibling).output().unwrap();
        assert_eq!(output.status.code(), Some(137));
    }

    #[test]
    fn signals_pass_through_once() {
        let folder = folder(&[]);
        let body = "trap 'echo int >> log' INT; trap 'echo term >> log; exit 5' TERM; echo ready > ready\n\
                    while :; do sleep 0.01; done";
        let sibling = script(folder.path(), body);
        let mut child = llmc(folder.path(), &["data", "stats"]).env("LLMC_DATA", &sibling).spawn().unwrap();
        let until = |file: &str, text: &str| {
            for _ in 0..1000 {
                if std::fs::read_to_string(folder.path().join(file)).is_ok_and(|found| found == text) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("{file} never held {text:?}");
        };
        let kill = |signal: &str| {
            assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success())
        };
        until("ready", "ready\n");
        kill("-INT");
        until("log", "int\n");
        kill("-TERM");
        until("log", "int\nterm\n");
        assert_eq!(child.wait().unwrap().code(), Some(5));
    }
}
