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
        let script = String::from_utf8_lossy(&output.stdout);
        // Also what siblings take.
        assert!(script.contains("why-not") && script.contains("tar-mib"), "{shell}");
    }
}

#[test]
fn help_and_usage_are_chinese_too() {
    let folder = folder(&[]);
    for command in [&["--help"][..], &["plan", "-h"], &["sweep", "lr", "--help"], &["data", "--help"]] {
        let help = run(folder.path(), &[command, &["--lang", "zh"]].concat());
        assert_eq!(help.status.code(), Some(0), "{}", show(&help));
        let said = String::from_utf8_lossy(&help.stdout);
        assert!(said.contains("\n用法：llmc") && said.contains("所有命令的选项:"), "{said}");
        // A line of words and no Chinese among them is a command to type, indented.
        let english =
            said.lines().find(|line| line.is_ascii() && line.starts_with(|c: char| c.is_alphabetic()));
        assert_eq!(english, None, "{said}");
    }
    for (args, told) in [
        (&["plan"][..], "错误：缺少参数：<RECIPE>\n"),
        (&["paln"], "错误：没有命令 `paln`；是否想写 `plan`？\n"),
        (
            &["plan", "a.llm", "--format", "xml"],
            "错误：`--format <FORMAT>` 不能取 `xml`；可选：human、json、markdown\n",
        ),
        (
            &["sweep", "lr", "a.llm", "--lr", "2..1"],
            "错误：`--lr <LOW..HIGH>` 不能取 `2..1`：2 is not below 1\n",
        ),
    ] {
        let wrong = run(folder.path(), &[args, &["--lang=zh"]].concat());
        assert_eq!(wrong.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&wrong.stderr).starts_with(told), "{}", show(&wrong));
    }
    let locale = llmc(folder.path(), &["plan", "-h"]).env("LANG", "zh_CN.UTF-8").output().unwrap();
    assert!(String::from_utf8_lossy(&locale.stdout).contains("用法："), "{}", show(&locale));
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
        "exit: 2\n--- stdout\n\n--- stderr\nllmc: cannot read none.llm: there is no such file or folder\n"
    );
    let near = run(folder.path(), &["plan", "dab.llm", "--lang", "zh"]);
    assert_eq!(
        show(&near),
        "exit: 2\n--- stdout\n\n--- stderr\nllmc: 无法读取 dab.llm：没有这个文件或目录；是否想写 bad.llm？\n"
    );
    let bad = run(folder.path(), &["fmt", "bad.llm", "--lang", "zh"]);
    assert_eq!(
        show(&bad),
        "exit: 2\n--- stdout\n\n--- stderr\nllmc: 无法读取 bad.llm：第 5 字节不是 UTF-8：请另存为 UTF-8 文本\n"
    );
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
    fn a_missing_libtorch_is_one_sentence() {
        let folder = folder(&[]);
        let sibling = script(
            folder.path(),
            "echo 'error while loading shared libraries: libtorch_cpu.so' >&2; exit 127",
        );
        let output = llmc(folder.path(), &["eval", "step-1"]).env("LLMC_WORKER", &sibling).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(talk.ends_with(
            "llmc: llmc-worker finds no libtorch: `make worker` fetches it, or set LIBTORCH to its folder\n"
        ));
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

const WORDS: &str = "{\"text\": \"one two three\"}\n";
const SMALL: &str = "model llama < layers 2  hidden 64  vocab 512  ctx 64 >\nbudget 8192 tokens\non 1xCPU\n\
                     data < web \"web.jsonl\" >\nbatch 512 tokens\nprecision f32\n";

#[test]
fn check_tells_programs_where() {
    let folder = folder(&[("a.llm", "model llama 7b < ctxx 8k >\n"), ("b.llm", NEAT)]);
    let output = run(folder.path(), &["check", "a.llm", "b.llm", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1);
    let label = &lines[0]["labels"][0];
    assert_eq!((&label["start"], &label["line"], &label["column"]), (&17.into(), &1.into(), &18.into()));
    assert_eq!(lines[0]["fixes"][0]["replacement"], "ctx");
    assert_eq!(run(folder.path(), &["check", "b.llm"]).status.code(), Some(0));
}

#[test]
fn an_endless_line_is_not_drawn() {
    let folder =
        folder(&[("a.llm", &"<".repeat(1 << 20)), ("b.llm", &format!("seed 1.5 # {}", "x".repeat(5000)))]);
    for recipe in ["a.llm", "b.llm"] {
        let output = run(folder.path(), &["check", recipe]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stderr.len() < 1000, "{}", show(&output));
    }
}

#[test]
fn a_wrong_recipe_writes_nothing() {
    let folder = folder(&[("a.llm", "model llama 7b < ctxx 8k >\n")]);
    let output = run(folder.path(), &["plan", "a.llm", "-o", "plan.json"]);
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true));
    assert!(!folder.path().join("plan.json").exists());
}

#[test]
fn a_plan_is_written_and_compared() {
    let folder = folder(&[("a.llm", NEAT), ("old.json", "{\"format_version\": \"2.0\"}"), ("no.json", "{")]);
    assert_eq!(run(folder.path(), &["plan", "a.llm", "-o", "out/plan.json"]).status.code(), Some(0));
    let plan: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("out/plan.json")).unwrap()).unwrap();
    assert_eq!(plan["model"]["params"], 6_738_415_616_u64);
    assert!(plan["facts"]["lr.peak"]["why"].is_object());
    // The laws that were not taken stand beside the one that was.
    let spread = run(folder.path(), &["why", "a.llm", "lr.peak"]);
    let spread = String::from_utf8_lossy(&spread.stdout).into_owned();
    assert!(
        ["step_law", "deepseek", "sqrt_scaling", "linear_scaling"].iter().all(|law| spread.contains(law)),
        "{spread}"
    );
    let same = run(folder.path(), &["plan", "a.llm", "--against", "out/plan.json"]);
    assert_eq!(show(&same), "exit: 0\n--- stdout\nno difference\n--- stderr\n\n");
    let other = run(folder.path(), &["plan", "a.llm", "--against", "out/plan.json", "--set", "seed=2"]);
    assert_eq!(show(&other), "exit: 3\n--- stdout\nseed: 1 → 2\n--- stderr\n\n");
    for bad in ["old.json", "no.json", "none.json"] {
        let output = run(folder.path(), &["plan", "a.llm", "--against", bad]);
        assert_eq!(output.status.code(), Some(2), "{bad}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{bad}");
    }
    let diff = run(folder.path(), &["diff", "out/plan.json", "a.llm"]);
    assert_eq!(show(&diff), "exit: 0\n--- stdout\nno difference\n--- stderr\n\n");
}

#[test]
fn reasons_are_answered() {
    let folder = folder(&[("a.llm", NEAT)]);
    let why = run(folder.path(), &["why", "a.llm", "layout.gpus"]);
    assert!(
        String::from_utf8_lossy(&why.stdout).starts_with("layout.gpus = 64  ← typed at 3:4"),
        "{}",
        show(&why)
    );
    let json = run(folder.path(), &["why", "a.llm", "lr.peak", "--format", "json"]);
    let node: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(!node["reads"].as_array().unwrap().is_empty());
    let unknown = run(folder.path(), &["why", "a.llm", "lr.peek"]);
    assert_eq!(
        show(&unknown),
        "exit: 2\n--- stdout\n\n--- stderr\nllmc: no value is called `lr.peek`: did you mean `lr.peak`?\n"
    );
    // A question is answered without the warnings in full, which are not about it.
    std::fs::write(folder.path().join("b.llm"), format!("{NEAT}data < web \"none/*.txt\" >\n")).unwrap();
    for (args, told) in [
        (&["why", "b.llm", "layout.gpus"][..], "1 warning in b.llm; -v shows more\n"),
        (&["diff", "b.llm", "a.llm", "--lang", "zh"], "b.llm 中有 1 个警告；加 -v 查看内容\n"),
    ] {
        let asked = run(folder.path(), args);
        assert_eq!((asked.status.code(), String::from_utf8_lossy(&asked.stderr).as_ref()), (Some(0), told));
    }
    let (two, quoted) = (["why-not", "a.llm", "tp=8", "zero=3"], ["why-not", "a.llm", "tp=8 zero=3"]);
    assert_eq!(show(&run(folder.path(), &two)), show(&run(folder.path(), &quoted)));
    // A value of two words needs no quotes; no choice, and one of the wrong kind, is no question.
    let words = run(folder.path(), &["why-not", "a.llm", "budget=2", "days"]);
    assert!(String::from_utf8_lossy(&words.stdout).starts_with("LLM0502"), "{}", show(&words));
    for wrong in ["", "tp=x", "tp=0"] {
        assert_eq!(run(folder.path(), &["why-not", "a.llm", wrong]).status.code(), Some(2), "{wrong}");
    }
    let refused = run(folder.path(), &["why-not", "a.llm", "tp=7"]);
    assert_eq!(refused.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("does not divide"), "{}", show(&refused));
}

#[test]
fn hardware_files_are_read_first() {
    let folder = folder(&[("a.llm", NEAT), ("bad.toml", "name = 3\n")]);
    let bad = run(folder.path(), &["plan", "a.llm", "--hardware", "bad.toml"]);
    assert_eq!(bad.status.code(), Some(2), "{}", show(&bad));
    assert!(String::from_utf8_lossy(&bad.stderr).starts_with("llmc: bad.toml: "), "{}", show(&bad));
}

#[cfg(unix)]
mod runs {
    //! What `llmc run` does around the programs it starts; `tests/training.rs` runs the real ones.

    use super::*;

    /// A folder with a recipe, and programs that say how they were called.
    fn prepared(files: &[(&str, &str)]) -> (TempDir, String) {
        let folder = folder(files);
        let path = folder.path().join("sibling");
        let body = "#!/bin/sh\necho \"$@\" | sed \"s/127.*//\"\nif [ $1 = train ]; then echo $RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR; fi\n";
        std::fs::write(&path, body).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    fn run(folder: &Path, sibling: &str, args: &[&str]) -> Output {
        let mut command = llmc(folder, &[&["run"], args].concat());
        command.env("LLMC_DATA", sibling).env("LLMC_WORKER", sibling).output().unwrap()
    }

    #[test]
    fn a_run_has_its_folder() {
        let (folder, sibling) = prepared(&[("r/small.llm", SMALL), ("r/web.jsonl", WORDS)]);
        let first = run(folder.path(), &sibling, &["r/small.llm", "--trace"]);
        assert_eq!(
            show(&first),
            "exit: 0\n--- stdout\nbuild --spec runs/small/data.json --out runs/small/data\n\
             train --run runs/small --trace runs/small/trace.jsonl\n0/1 0 127.0.0.1\n--- stderr\n\n"
        );
        let data: serde_json::Value = serde_json::from_str(
            &std::fs::read_to_string(folder.path().join("runs/small/data.json")).unwrap(),
        )
        .unwrap();
        assert_eq!(data["root"], "../../r");
        // The same plan again, from the recipe or from itself; another one is refused, and nothing is touched.
        let plan = folder.path().join("runs/small/plan.json");
        let bytes = std::fs::read(&plan).unwrap();
        assert_eq!(run(folder.path(), &sibling, &["r/small.llm"]).status.code(), Some(0));
        assert_eq!(run(folder.path(), &sibling, &["runs/small/plan.json"]).status.code(), Some(0));
        let other = run(folder.path(), &sibling, &["r/small.llm", "--set", "seed=2"]);
        assert_eq!(other.status.code(), Some(2), "{}", show(&other));
        assert!(String::from_utf8_lossy(&other.stderr).contains("runs/small holds another plan"));
        assert_eq!(std::fs::read(&plan).unwrap(), bytes);
        // A run that has trained goes on only on request.
        std::fs::create_dir_all(folder.path().join("runs/small/checkpoints/step-1")).unwrap();
        assert_eq!(run(folder.path(), &sibling, &["r/small.llm"]).status.code(), Some(2));
        assert_eq!(run(folder.path(), &sibling, &["r/small.llm", "--resume"]).status.code(), Some(0));
    }

    #[test]
    fn without_a_card_calibration_says_where_to_go() {
        let (folder, sibling) = prepared(&[]);
        std::fs::write(
            &sibling,
            "#!/bin/sh\necho llmc-worker: no CUDA device here: no NVIDIA driver >&2\nexit 2\n",
        )
        .unwrap();
        let calibrate = |args: &[&str]| {
            let mut command = llmc(folder.path(), &[&["calibrate", "--device"], args].concat());
            command.env("LLMC_WORKER", &sibling).output().unwrap()
        };
        assert_eq!(
            show(&calibrate(&[])),
            "exit: 2\n--- stdout\n\n--- stderr\nllmc: no CUDA device here: no NVIDIA driver; run this on the machine with \
             the card, or calibrate this processor with --device cpu\n"
        );
        // A card without a preset, and one whose plans all fail.
        let card = |name: &str| {
            let body = format!(
                "#!/bin/sh\n[ $1 = device ] || exit 70\necho '{{\"name\": \"{name}\", \"memory_bytes\": 85000000000}}'\n"
            );
            std::fs::write(&sibling, body).unwrap();
            show(&calibrate(&[]))
        };
        assert!(card("NVIDIA Z9000").contains("none of the devices that have a preset (H100, "));
        let failed = card("NVIDIA H100 80GB HBM3");
        assert!(failed.contains("1/10 1b-4k: failed, left out: code 70\n"), "{failed}");
        assert!(failed.contains("0 complete, timed rows: a profile needs at least 5"), "{failed}");
    }

    #[test]
    fn a_corpus_is_built_from_a_recipe() {
        let (folder, sibling) = prepared(&[("small.llm", SMALL), ("web.jsonl", WORDS)]);
        let data = |args: &[&str]| llmc(folder.path(), args).env("LLMC_DATA", &sibling).output().unwrap();
        assert_eq!(
            show(&data(&["data", "build", "small.llm"])),
            "exit: 0\n--- stdout\nbuild --spec runs/small/data.json --out runs/small/data\n--- stderr\n\n"
        );
        assert_eq!(
            show(&data(&["tokenizer", "train", "small.llm", "--out", "t.json"])),
            "exit: 0\n--- stdout\ntokenizer train --spec runs/small/data.json --out t.json\n--- stderr\n\n"
        );
    }

    #[test]
    fn absent_text_is_refused_with_its_place() {
        let (folder, sibling) = prepared(&[("small.llm", SMALL)]);
        let output = run(folder.path(), &sibling, &["small.llm"]);
        assert_eq!(output.status.code(), Some(1), "{}", show(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no file matches `web.jsonl`"));
        assert!(!folder.path().join("runs").exists());
    }

    #[test]
    fn a_device_gets_a_process() {
        let recipe = SMALL.replace("1xCPU", "2xCPU");
        let (folder, sibling) = prepared(&[("small.llm", &recipe), ("web.jsonl", WORDS)]);
        let output = run(folder.path(), &sibling, &["small.llm"]);
        let mut lines: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
        lines.sort_unstable();
        assert!(
            lines.contains(&"0/2 0 127.0.0.1") && lines.contains(&"1/2 1 127.0.0.1"),
            "{}",
            show(&output)
        );
    }
}

/// What a diagnostic says to type is typed: each way out plans.
#[test]
fn every_way_out_that_is_named_works() {
    let recipes = [
        "model llama 7b\nbudget 1T tokens ¥200_000 on 64xH100",
        "model llama 7b\nbudget 1T tokens 8 days ¥300_000 on 64xH100",
        "model llama 7b\nbudget 1T tokens on 64xH100\nlayout < tp 7 >",
        "model llama 7b\nbudget 1T tokens on 64xH100\nlayout < pp 16 vp 4 >",
        "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nbatch 500 sequences\nlayout < dp 64 >",
        "model llama 13b < ctx 8k >\nbudget 1B tokens on 1xH100\noptimizer paged_adamw < state bf16 >",
    ];
    for recipe in recipes {
        let folder = folder(&[("a.llm", recipe)]);
        let refused = run(folder.path(), &["plan", "a.llm"]);
        assert_eq!(refused.status.code(), Some(1), "{recipe}");
        let said = String::from_utf8_lossy(&refused.stderr).replace("\n", " ");
        let ways: Vec<&str> = said.split('`').filter(|piece| piece.starts_with("--set ")).collect();
        assert!(!ways.is_empty(), "{said}");
        for way in ways {
            let sets = way.split("--set ").skip(1).map(|set| set.trim().trim_matches('"'));
            let mut args = vec!["plan", "a.llm"];
            args.extend(sets.flat_map(|set| ["--set", set]));
            let output = run(folder.path(), &args);
            assert_eq!(output.status.code(), Some(0), "{way}: {}", show(&output));
        }
    }
}

#[test]
fn score_tells_of_odd_rows_and_goes_on() {
    let head = "id,source,hardware,n_gpus,layers,hidden,heads,seq,micro_batch_seqs,global_batch_seqs,mfu_pct";
    let run_cells = "x,H100-SXM,8,32,4096,32,4096,1,128";
    let table = format!("{head}\na,{run_cells},41\na,{run_cells},300\n");
    let folder = folder(&[("runs.csv", table.as_str())]);
    for (lang, told) in [
        (
            "en",
            "warning: row 2: id \"a\" is also that of row 1; both count, rename or remove one\n\
             warning: row 2 (a): mfu_pct = 300, expected above 0 and at most 100; the row counts, the cell is not read\n",
        ),
        (
            "zh",
            "警告：第 2 行：id \"a\" 与第 1 行相同；两行都计入，请改名或删去其一\n\
             警告：第 2 行（a）：mfu_pct = 300，应大于 0 且不超过 100；该行计入，此格不读取\n",
        ),
    ] {
        let output = run(folder.path(), &["score", "runs.csv", "--lang", lang]);
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), told));
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(if lang == "en" { "overall" } else { "总计" }),
            "{lang}"
        );
    }
    let json = run(folder.path(), &["score", "runs.csv", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["overall"]["predicted"], &json["warnings"][1]["mfu_pct"]), (&2.into(), &"300".into()));
}
