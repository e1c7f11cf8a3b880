//! `llmc calibrate`: run tables, folders of our own runs and timings made here → fitted profiles and the page of their
//! errors.

use std::path::Path;

use llmc_compiler::columns;
use llmc_compiler::world::World;
use llmc_planner::accuracy::report;
use llmc_planner::calibrate::{add_slack, calibrate, file, peaks, rows};
use llmc_planner::fitted::{Fitted, read};
use llmc_planner::logs::{OWN, bench_case, case};
use llmc_planner::table::{Cases, cases};

use crate::args::{CalibrateArgs, Format, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::measure::measure;
use crate::score::warning;
use crate::terminal::{Lang, Terminal, data, talk};
use crate::world::Folder;

/// What a profile of one's own may be off by: repeated steps on one quiet machine differ by less, and the bar of a plan is
/// 3 % (docs/performance.md).
const SCATTER: f64 = 0.1;

/// `NAME` of a `NAME.bench.json`.
fn report_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(".bench.json")
}

/// Names of the profiles in `folder` that are not among `fitted`: those of our own runs, which run tables do not fit anew and
/// so stay listed, and all others, which no longer come of any.
fn others(folder: &Path, fitted: &[Fitted]) -> (Vec<String>, Vec<String>) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let toml = |path: &Path| path.extension().is_some_and(|extension| extension == "toml");
    let mut found: Vec<Fitted> = files
        .map(|file| file.path())
        .filter(|path| toml(path))
        .filter_map(|path| read(&files::read(&path).ok()?).ok())
        .filter(|old| fitted.iter().all(|new| new.name != old.name))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let (own, stale): (Vec<_>, Vec<_>) = found.into_iter().partition(|profile| profile.stack == OWN);
    let names = |profiles: Vec<Fitted>| profiles.into_iter().map(|p| format!("{}.toml", p.name)).collect();
    (names(own), names(stale))
}

/// Fits profiles on the tables and writes one file each.
pub fn run(terminal: &Terminal, global: &Global, args: &CalibrateArgs) -> Outcome {
    let failure = |error: String| Failure::new(error.clone(), error);
    let world = Folder::new(Path::new("-"), &global.hardware)?;
    let devices = world.hardware();
    let (mut tables, mut found) = (Vec::new(), Cases::default());
    let mut paths = args.tables.clone();
    if let Some(device) = &args.device {
        let (reports, stopped) = measure(terminal, global, device, &args.keep)?;
        if let Some(code) = stopped {
            return Ok(code.into());
        }
        paths.extend(reports);
    }
    for path in &paths {
        if let Some(name) = report_name(path) {
            let (plan, report) =
                (files::read(&path.with_file_name(format!("{name}.json")))?, files::read(path)?);
            match bench_case(name, &plan, &report, devices) {
                Ok(case) => found.cases.push(case),
                Err(reason) => found.refused.push((path.display().to_string(), reason)),
            }
        } else if path.is_dir() {
            let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            let summary = path.join("summary.json");
            let summary = if summary.exists() { Some(files::read(&summary)?) } else { None };
            let (plan, metrics) =
                (files::read(&path.join("plan.json"))?, files::read(&path.join("metrics.jsonl"))?);
            match case(&name, &plan, &metrics, summary.as_deref(), devices) {
                Ok(case) => found.cases.push(case),
                Err(reason) => found.refused.push((path.display().to_string(), reason)),
            }
        } else {
            let text = files::read(path)?;
            let table = cases(&text).map_err(|e| failure(format!("{}: {e}", path.display())))?;
            found.cases.extend(table.cases);
            found.refused.extend(table.refused);
            for doubt in &table.warnings {
                talk(&format!("{}\n", warning(terminal, doubt)));
            }
            tables.push(text);
        }
    }
    for (name, reason) in &found.refused {
        talk(&format!("{} {name}: {reason}\n", terminal.say("refused", "拒绝")));
    }
    if !found.refused.is_empty() {
        talk(&format!("{} {}\n", found.refused.len(), terminal.say("rows refused", "行被拒绝")));
    }
    let samples = rows(&found.cases);
    if samples.len() < 5 {
        return Err(Failure::new(
            format!("{} complete, timed rows: a profile needs at least 5", samples.len()),
            format!("完整且有计时的行只有 {}：拟合至少需要 5 行", samples.len()),
        ));
    }
    let wait = if samples.len() > 100 {
        terminal.say("rows; this takes minutes", "行；需要几分钟")
    } else {
        terminal.say("rows", "行")
    };
    talk(&format!("{} {wait}\n", samples.len()));
    let mut fitted = calibrate(&samples);
    add_slack(&mut fitted, &peaks(&found.cases));
    let mut list = String::from("/// Written by `llmc calibrate`.\nconst FITTED: &[&str] = &[\n");
    let head = match terminal.lang {
        Lang::En => ["profile", "rows", "numbers", "own rows", "held out"],
        Lang::Zh => ["档案", "行数", "参数", "自身误差", "留出误差"],
    };
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for profile in &fitted {
        let name = format!("{}.toml", profile.name);
        files::write(&args.output.join(&name), &file(profile).map_err(failure)?)?;
        list.push_str(&format!("    include_str!(\"{name}\"),\n"));
        let fit = &profile.fit;
        let percent = |share: f64| format!("{:.1}%", share * 100.0);
        table.push(vec![
            profile.name.clone(),
            fit.rows.to_string(),
            fit.knobs.len().to_string(),
            percent(fit.mape),
            percent(fit.cross_validated),
        ]);
    }
    let (own, stale) = others(&args.output, &fitted);
    own.iter().for_each(|name| list.push_str(&format!("    include_str!(\"{name}\"),\n")));
    for name in stale {
        let (path, says) = (
            args.output.join(name),
            terminal.say("not listed: these rows do not give it", "未列入：这些行得不出它"),
        );
        talk(&format!("{}: {says}\n", path.display()));
    }
    list.push_str("];\n");
    files::write(&args.output.join("list.rs"), &list)?;
    if let Some(page) = &args.report {
        files::write(
            Path::new(page),
            &report(&tables, &samples, &fitted).map_err(|e| failure(e.to_string()))?,
        )?;
    }
    data(&match terminal.format {
        Format::Markdown => columns::markdown(&table),
        _ => columns::table(&table, terminal.columns),
    })?;
    for profile in &fitted {
        let Some(device) = &profile.hardware else { continue };
        let path = args.output.join(format!("{}.toml", profile.name));
        let next = terminal.say("plans use it with", "在计划中使用");
        talk(&format!("{next} `on 1x{device} < profile \"{}\" >`\n", path.display()));
        if profile.fit.cross_validated > SCATTER {
            let (percent, folder) = (100.0 * profile.fit.cross_validated, args.keep.display());
            let en = format!(
                "held out by fold it is {percent:.0} % off: the timings scatter; remove {folder} and time again with \
                 the machine to itself\n"
            );
            let zh =
                format!("留出误差 {percent:.0} %：计时波动大；请删除 {folder}，并在机器空闲时重新计时\n");
            talk(terminal.say(&en, &zh));
        }
    }
    Ok(Exit::Ok.into())
}
