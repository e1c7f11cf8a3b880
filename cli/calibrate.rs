//! `llmc calibrate`: run tables → fitted profiles and the page of their errors.

use std::path::Path;

use llmc_planner::accuracy::report;
use llmc_planner::calibrate::{add_slack, calibrate, file, peaks, rows};

use crate::args::CalibrateArgs;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::terminal::{Terminal, data, talk};

/// Fits profiles on the tables and writes one file each.
pub fn run(terminal: &Terminal, args: &CalibrateArgs) -> Outcome {
    let failure = |error: String| Failure::new(error.clone(), error);
    let tables = args.tables.iter().map(|t| files::read(t)).collect::<Result<Vec<_>, _>>()?;
    let samples = rows(&tables).map_err(failure)?;
    if samples.len() < 5 {
        return Err(Failure::new(
            format!("{} complete, timed rows: a profile needs at least 5", samples.len()),
            format!("完整且有计时的行只有 {}：拟合至少需要 5 行", samples.len()),
        ));
    }
    talk(&format!("{} {}\n", samples.len(), terminal.say("rows; this takes minutes", "行；需要几分钟")));
    let mut fitted = calibrate(&samples);
    add_slack(&mut fitted, &peaks(&tables).map_err(failure)?);
    let mut list = String::from("/// Written by `llmc calibrate`.\nconst FITTED: &[&str] = &[\n");
    let mut lines = String::new();
    for profile in &fitted {
        let name = format!("{}.toml", profile.name);
        files::write(&args.output.join(&name), &file(profile).map_err(failure)?)?;
        list.push_str(&format!("    include_str!(\"{name}\"),\n"));
        let fit = &profile.fit;
        lines.push_str(&format!(
            "{:<24} {:>4} {:>3} {:>6.1}% {:>6.1}%\n",
            profile.name,
            fit.rows,
            fit.knobs.len(),
            fit.mape * 100.0,
            fit.cross_validated * 100.0
        ));
    }
    list.push_str("];\n");
    files::write(&args.output.join("list.rs"), &list)?;
    if let Some(page) = &args.report {
        files::write(
            Path::new(page),
            &report(&tables, &samples, &fitted).map_err(|e| failure(e.to_string()))?,
        )?;
    }
    let head =
        terminal.say("profile, rows, numbers, own rows, held out", "档案、行数、参数、自身误差、留出误差");
    data(&format!("{head}\n{lines}"))?;
    Ok(Exit::Ok.into())
}
