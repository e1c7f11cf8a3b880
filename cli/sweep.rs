//! `llmc sweep lr`: short runs over learning rates and batches, and the map of their losses.
//!
//! Every point is a real run of the recipe with three values changed: peak learning rate, batch, and a budget of the
//! same tokens for all, over which the schedule runs to its end. Not here: the map ([`crate::heatmap`]).

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use llmc_compiler::unit::grouped;
use llmc_plan::say;
use serde::{Deserialize, Serialize};

use crate::args::{Color, Format, Global, SweepArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::heatmap::Grid;
use crate::prepare::{Prepared, prepare, prepare_with, pretty};
use crate::run::{name_of, places};
use crate::sibling::{DATA, WORKER};
use crate::terminal::{Terminal, data, talk};
use crate::{corpus, files};

/// Steps of a point unless told: enough to rank learning rates, few enough to wait for.
const STEPS: u64 = 100;

/// Shortest warm-up of a point, as a share of it: short runs magnify the first steps. (Own choice; the recipe's share
/// counts where it is longer.)
const WARMUP: f64 = 0.05;

/// What a sweep measures where there is validation text.
const VALIDATION: &str = "validation loss";

/// Share of the last steps whose training loss is averaged where there is no validation text.
const TAIL: f64 = 0.1;

/// `1e-4..1e-2`, or rates one by one.
#[derive(Debug, Clone, PartialEq)]
pub enum Rates {
    /// Both ends; points between them in equal ratios.
    Range(f64, f64),
    /// These.
    List(Vec<f64>),
}

/// Reads `--lr`.
pub fn rates(text: &str) -> Result<Rates, String> {
    let rate = |text: &str| {
        let value: f64 = text.trim().parse().map_err(|_| format!("`{text}` is no learning rate"))?;
        if value > 0.0 && value <= 10.0 { Ok(value) } else { Err(format!("{value} is outside 0..10")) }
    };
    if let Some((low, high)) = text.split_once("..") {
        let (low, high) = (rate(low)?, rate(high)?);
        return if low < high {
            Ok(Rates::Range(low, high))
        } else {
            Err(format!("{low} is not below {high}"))
        };
    }
    Ok(Rates::List(text.split(',').map(rate).collect::<Result<_, _>>()?))
}

/// Reads one `--batch`: tokens, written as in a recipe.
pub fn tokens(text: &str) -> Result<u64, String> {
    let plain = text.trim().replace('_', "");
    let (digits, unit) = match plain.strip_suffix(['k', 'K']) {
        Some(digits) => (digits.to_owned(), 1000),
        None => plain.strip_suffix('M').map_or((plain.clone(), 1), |digits| (digits.to_owned(), 1_000_000)),
    };
    let number: Option<u64> = digits.parse().ok();
    let number = number.and_then(|n| n.checked_mul(unit)).filter(|n| (1..=1 << 40).contains(n));
    number.ok_or_else(|| format!("`{text}` is no number of tokens"))
}

/// `sweep.json`.
#[derive(Debug, Serialize)]
struct Sweep {
    format_version: &'static str,
    recipe: PathBuf,
    /// `validation loss` or `training loss`.
    measure: &'static str,
    /// Tokens a point trains.
    tokens: u64,
    lr: Vec<f64>,
    batch_tokens: Vec<u64>,
    points: Vec<Point>,
    /// The smallest loss; none when every point diverged.
    best: Option<Point>,
    /// What the recipe itself would use.
    recipe_lr: f64,
    recipe_batch_tokens: u64,
    critical_batch_tokens: u64,
}

/// One finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Point {
    lr: f64,
    batch_tokens: u64,
    steps: u64,
    /// None when it diverged.
    loss: Option<f64>,
    validation: bool,
    seconds: f64,
    folder: PathBuf,
}

/// What a point ended as.
enum Ended {
    Finished(Point),
    Stopped(ExitCode),
}

/// Runs what is not finished yet and draws the map.
pub fn run(terminal: &Terminal, global: &Global, args: &SweepArgs) -> Outcome {
    let name = args.name.clone().map_or_else(|| name_of(&args.recipe), Ok)?;
    DATA.find()?;
    WORKER.find()?;
    let Some(base) = prepare(terminal, global, &args.recipe)? else { return Ok(Exit::Recipe.into()) };
    let folder = Path::new("sweeps").join(&name);
    let asked = &base.plan.batch.global_tokens;
    let batches = if args.batch.is_empty() { vec![*asked] } else { args.batch.clone() };
    let peak = base.plan.lr.peak;
    let lrs = spaced(args.lr.clone().unwrap_or(Rates::Range(peak / 10.0, peak * 10.0)), args.points);
    let steps = args.steps.unwrap_or(STEPS.min(base.plan.budget.steps)).max(1);
    let tokens = steps.saturating_mul(*asked);
    let count = lrs.len() * batches.len();

    let mut points = Vec::new();
    for batch in &batches {
        for lr in &lrs {
            let set = settings(&base, global, *lr, *batch, tokens);
            let Some(prepared) = prepare_with(terminal, global, &set, &args.recipe)? else {
                return Ok(Exit::Recipe.into());
            };
            let at = folder.join(format!("lr-{}_batch-{batch}", written(*lr)));
            let (point, known) = match finished(&at, &prepared.json)? {
                Some(point) => (point, true),
                None => match train(terminal, &folder, &at, &prepared, *lr, *batch)? {
                    Ended::Finished(point) => (point, false),
                    Ended::Stopped(code) => {
                        talk(terminal.say(
                            "llmc: stopped; the same command goes on with what is not finished\n",
                            "llmc: 已停止；再次运行同一命令将继续未完成的点\n",
                        ));
                        return Ok(code);
                    }
                },
            };
            points.push(point.clone());
            talk(&format!(
                "{}/{count}  {}{}\n",
                points.len(),
                line(terminal, &point),
                if known { terminal.say("  (known)", "  （已有）") } else { "" }
            ));
        }
    }
    let best = points
        .iter()
        .filter(|p| p.loss.is_some())
        .min_by(|a, b| a.loss.unwrap_or(f64::MAX).total_cmp(&b.loss.unwrap_or(f64::MAX)));
    let validation = points.iter().all(|p| p.validation || p.loss.is_none());
    let sweep = Sweep {
        format_version: "1.0",
        recipe: args.recipe.clone(),
        measure: if validation { VALIDATION } else { "training loss" },
        tokens,
        best: best.cloned(),
        lr: lrs,
        batch_tokens: batches,
        points,
        recipe_lr: peak,
        recipe_batch_tokens: *asked,
        critical_batch_tokens: base.plan.batch.critical_tokens,
    };
    show(terminal, global, &folder, &sweep)
}

/// Rates in order, three significant digits each.
fn spaced(rates: Rates, points: u32) -> Vec<f64> {
    let mut all = match rates {
        Rates::List(list) => list,
        Rates::Range(low, high) if points < 2 => vec![libm::sqrt(low * high)],
        Rates::Range(low, high) => {
            let step = |i: u32| libm::pow(high / low, f64::from(i) / f64::from(points - 1));
            (0..points).map(|i| low * step(i)).collect()
        }
    };
    all = all.iter().map(|lr| format!("{lr:.2e}").parse().unwrap_or(*lr)).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

/// `3.16e-3`.
fn written(lr: f64) -> String {
    format!("{lr:e}")
}

/// What a point changes in the recipe, beside the user's own `--set`.
fn settings(base: &Prepared, global: &Global, lr: f64, batch: u64, tokens: u64) -> Vec<String> {
    let (plan, text) = (&base.plan, &base.plan.recipe.text);
    // Whole steps: the nearest number that trains no fewer tokens.
    let steps = tokens.div_ceil(batch);
    let share = plan.lr.warmup_steps as f64 / plan.budget.steps.max(1) as f64;
    let warmup = ((share.max(WARMUP) * steps as f64).round() as u64).max(1);
    let option = if text.contains("rewarm") { "rewarm" } else { "warmup" };
    let mine = [
        ("lr", format!("lr={}", written(lr))),
        ("batch", format!("batch={batch} tokens")),
        ("budget", format!("budget={} tokens", steps * batch)),
        ("lr.", format!("lr.{option}={warmup} steps")),
        ("checkpoint.keep", "checkpoint.keep=1".to_owned()),
    ];
    let given = |path: &str| {
        global.set.iter().filter_map(|set| set.split('=').next()).any(|theirs| match path {
            "lr." => theirs.starts_with("lr.warmup") || theirs.starts_with("lr.rewarm"),
            "lr" => theirs == "lr" || theirs == "lr.peak",
            _ => theirs == path,
        })
    };
    let mut all = global.set.clone();
    all.extend(mine.into_iter().filter(|(path, _)| !given(path)).map(|(_, set)| set));
    all
}

/// The result of a point that was run before. A folder that holds another plan is refused.
fn finished(at: &Path, json: &str) -> Result<Option<Point>, Failure> {
    let plan = at.join("plan.json");
    if !plan.exists() {
        return Ok(None);
    }
    if files::read(&plan)? != json {
        let at = at.display();
        return Err(Failure::new(
            format!(
                "{at} belongs to another sweep (recipe, steps or version differ): choose another --name, or remove the folder"
            ),
            format!("{at} 属于另一次扫描（配方、步数或版本不同）：请另选 --name，或删除该目录"),
        ));
    }
    let result = at.join("result.json");
    if !result.exists() {
        return Ok(None);
    }
    let point = serde_json::from_str(&files::read(&result)?).map_err(|error| {
        let result = result.display();
        Failure::new(format!("{result}: {error}"), format!("{result}：{error}"))
    })?;
    Ok(Some(point))
}

/// Runs one point to its end.
fn train(
    terminal: &Terminal,
    folder: &Path,
    at: &Path,
    prepared: &Prepared,
    lr: f64,
    batch: u64,
) -> Result<Ended, Failure> {
    let begun = Instant::now();
    files::write(&at.join("plan.json"), &prepared.json)?;
    let spec = corpus::write_spec(&prepared.data, &prepared.root, at)?;
    let log_path = at.join("log.txt");
    let log = || {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log_path);
        file.map_err(|error| Failure::io(("write", "写入"), &log_path, &error))
    };
    // One corpus for all points: it depends on neither rate nor batch.
    let built_at = folder.join("data");
    let mut build = DATA.command(terminal.lang)?;
    build.arg("build").arg("--spec").arg(&spec).arg("--out").arg(&built_at);
    if folder.join("sweep.json").exists() || built_at.exists() {
        build.stderr(log()?);
    }
    let built = DATA.run(build)?;
    if built != ExitCode::SUCCESS {
        return Ok(Ended::Stopped(built));
    }
    let mut workers = Vec::new();
    for place in places(&prepared.plan.layout)? {
        let mut command = WORKER.command(terminal.lang)?;
        command.envs(place).stderr(log()?);
        command.arg("train").arg("--run").arg(at).arg("--data").arg(&built_at).arg("--resume");
        workers.push(command);
    }
    let code = WORKER.run_all(workers)?;
    let diverged = code == ExitCode::from(Exit::Recipe as u8) && ended_unmade(&at.join("metrics.jsonl"))?;
    if code != ExitCode::SUCCESS && !diverged {
        let log = files::read(&log_path)?;
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        talk(&last.into_iter().rev().map(|line| format!("{line}\n")).collect::<String>());
        return Ok(Ended::Stopped(code));
    }
    let (loss, validation) = if diverged { (None, false) } else { loss(at)? };
    let seconds = begun.elapsed().as_secs_f64();
    let steps = prepared.plan.budget.steps;
    let point = Point { lr, batch_tokens: batch, steps, loss, validation, seconds, folder: at.to_owned() };
    files::write(&at.join("result.json"), &pretty(&point)?)?;
    // A sweep keeps figures, not weights.
    let _ = std::fs::remove_dir_all(at.join("checkpoints"));
    Ok(Ended::Finished(point))
}

/// Whether the last step of a run's metrics was not finite: what ended it with [`Exit::Recipe`], then.
fn ended_unmade(metrics: &Path) -> Result<bool, Failure> {
    if !metrics.exists() {
        return Ok(false);
    }
    let text = files::read(metrics)?;
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let last = lines.rfind(|line| line.get("loss").is_some());
    Ok(last.is_some_and(|line| line["loss"].is_null() || line["skipped"] == true))
}

/// Validation loss at the end where there is one, else the mean training loss of the last steps.
fn loss(at: &Path) -> Result<(Option<f64>, bool), Failure> {
    #[derive(Deserialize)]
    struct Line {
        loss: Option<f64>,
        eval_loss: Option<f64>,
    }
    let text = files::read(&at.join("metrics.jsonl"))?;
    let lines: Vec<Line> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if let Some(loss) = lines.iter().rev().find_map(|line| line.eval_loss) {
        return Ok((Some(loss), true));
    }
    let losses: Vec<f64> = lines.iter().filter_map(|line| line.loss).collect();
    let tail = ((TAIL * losses.len() as f64).ceil() as usize).max(1);
    let last: Vec<f64> = losses.into_iter().rev().take(tail).collect();
    Ok(((!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64), false))
}

fn line(terminal: &Terminal, point: &Point) -> String {
    let loss = point.loss.map_or(say!("diverged", "发散"), |loss| say!("loss {loss:.4}", "损失 {loss:.4}"));
    let (lr, batch, seconds) = (written(point.lr), grouped(point.batch_tokens), point.seconds);
    let said = say!(
        "lr {lr}  batch {batch} tokens  {loss}  {seconds:.0} s",
        "学习率 {lr}  批大小 {batch} 词元  {loss}  {seconds:.0} 秒",
        loss
    );
    said.text(terminal.lang).to_owned()
}

/// Writes `sweep.json` and `sweep.svg`, and shows the map.
fn show(terminal: &Terminal, global: &Global, folder: &Path, sweep: &Sweep) -> Outcome {
    let losses: Vec<Vec<Option<f64>>> =
        sweep.points.chunks(sweep.lr.len().max(1)).map(|row| row.iter().map(|p| p.loss).collect()).collect();
    let measure = match sweep.measure {
        VALIDATION => say!("validation loss", "验证损失"),
        _ => say!("training loss", "训练损失"),
    };
    let tokens = grouped(sweep.tokens);
    let title = say!("{measure} after {tokens} tokens", "{tokens} 词元后的{measure}", measure, tokens);
    let grid = Grid {
        title: title.text(terminal.lang).to_owned(),
        lang: terminal.lang,
        columns: sweep.lr.iter().map(|lr| written(*lr)).collect(),
        rows: sweep.batch_tokens.iter().map(|batch| grouped(*batch)).collect(),
        losses: &losses,
    };
    let json = pretty(sweep)?;
    files::write(&folder.join("sweep.json"), &json)?;
    files::write(&folder.join("sweep.svg"), &grid.svg())?;
    if terminal.format == Format::Json {
        data(&json)?;
        return Ok(Exit::Ok.into());
    }
    let colour = terminal.color && (std::io::stdout().is_terminal() || global.color == Color::Always);
    let mut text = grid.text(colour && terminal.format == Format::Human);
    if terminal.format == Format::Markdown {
        text = format!("```\n{text}```\n");
    }
    data(&(text + &verdict(terminal, folder, sweep)))?;
    Ok(Exit::Ok.into())
}

/// The best point, and whether the map says that it is one.
fn verdict(terminal: &Terminal, folder: &Path, sweep: &Sweep) -> String {
    let shown = folder.display();
    let Some(best) = &sweep.best else {
        return terminal.say("every point diverged: lower --lr\n", "所有点均发散：请降低 --lr\n").to_owned();
    };
    let (lr, batch) = (written(best.lr), grouped(best.batch_tokens));
    let (own_lr, own_batch) = (written(sweep.recipe_lr), grouped(sweep.recipe_batch_tokens));
    let loss = best.loss.unwrap_or(f64::NAN);
    let mut text = match terminal.lang {
        crate::terminal::Lang::En => format!(
            "best: lr {lr}, batch {batch} tokens, loss {loss:.4} (recipe: lr {own_lr}, batch {own_batch}); {shown}/sweep.svg\n"
        ),
        crate::terminal::Lang::Zh => format!(
            "最佳：学习率 {lr}，批大小 {batch} 词元，损失 {loss:.4}（配方：学习率 {own_lr}，批大小 {own_batch}）；{shown}/sweep.svg\n"
        ),
    };
    let edge =
        sweep.lr.len() > 2 && (sweep.lr.first() == Some(&best.lr) || sweep.lr.last() == Some(&best.lr));
    if edge {
        text += terminal.say(
            "the best rate is at the edge of --lr: widen it\n",
            "最佳学习率位于 --lr 的边缘：请扩大范围\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_batches_as_typed() {
        assert_eq!(rates("1e-4..1e-2"), Ok(Rates::Range(1e-4, 1e-2)));
        assert_eq!(rates("1e-3, 3e-4"), Ok(Rates::List(vec![1e-3, 3e-4])));
        for wrong in ["", "1e-2..1e-4", "0..1", "x", "1e-4..", "20"] {
            assert!(rates(wrong).is_err(), "{wrong}");
        }
        assert_eq!(spaced(Rates::Range(1e-4, 1e-2), 5), [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2]);
        assert_eq!(spaced(Rates::Range(1e-4, 1e-2), 1), [1e-3]);
        assert_eq!(spaced(Rates::List(vec![1e-3, 3e-4, 1e-3]), 9), [3e-4, 1e-3]);
        assert_eq!(["8k", "4_096", "512", "1M"].map(tokens), [Ok(8000), Ok(4096), Ok(512), Ok(1_000_000)]);
        assert!(["", "k", "-1", "0", "1e9", "99999999999999M"].into_iter().all(|text| tokens(text).is_err()));
        assert_eq!((written(3.16e-3).as_str(), grouped(1_234_567).as_str()), ("3.16e-3", "1,234,567"));
    }
}
