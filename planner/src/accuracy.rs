//! The planner's own error, as a page: by profile on held-out fifths, by source with that source left out, and the
//! worst rows. `llmc calibrate --report` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::calibrate::{Row, refit};
use crate::cost::step::{breakdown, compute, step};
use crate::fit::{Sample, residuals};
use crate::fitted::{Fitted, Scale, closest, scaled};
use crate::score::score;

/// Rows listed as worst.
const WORST: usize = 20;

/// ln(predicted ÷ measured) of `row` under the closest of `fitted`.
fn error(row: &Row, fitted: &[Fitted]) -> f64 {
    let (stack, family, precision) = &row.key;
    let none = Scale::new();
    let scale = closest(fitted, stack, family, *precision).map_or(&none, |f| &f.scale);
    residuals(&[&row.sample], scale).first().copied().unwrap_or(0.0)
}

/// Error of tokens per second from ln(predicted ÷ measured) seconds.
fn ape(residual: f64) -> f64 {
    (libm::exp(-residual) - 1.0).abs()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Error of each row of each source, predicted without any row of that source.
pub fn left_out(rows: &[Row], fitted: &[Fitted]) -> BTreeMap<String, Vec<f64>> {
    let sources: BTreeSet<&str> = rows.iter().map(|r| r.source.as_str()).collect();
    let mut errors = BTreeMap::new();
    for source in sources {
        let rest: Vec<Row> = rows.iter().filter(|r| r.source != source).cloned().collect();
        let own: Vec<&Row> = rows.iter().filter(|r| r.source == source).collect();
        let stacks: Vec<&str> = own.iter().map(|r| r.key.0).collect();
        let without = refit(&rest, Some(fitted), Some(&stacks));
        errors.insert(source.to_string(), own.iter().map(|r| ape(error(r, &without))).collect());
    }
    errors
}

/// The largest term of a predicted step.
fn largest(sample: &Sample, scale: &Scale) -> String {
    let mut setting = sample.setting.clone();
    setting.profile = scaled(&setting.profile, scale);
    let c = compute(&setting, &sample.point);
    let terms = breakdown(&c, &step(&setting, &sample.point, &c));
    terms.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(String::new(), |(name, _)| name)
}

/// The page, in Markdown.
///
/// # Errors
/// Never, in practice: writing to a string.
pub fn report(tables: &[String], rows: &[Row], fitted: &[Fitted]) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "# How wrong the planner is\n\nWritten by `llmc calibrate RUNS… --report docs/accuracy.md`; run it again after a \
         change of model or tables. Errors are of tokens per second, measured ÷ predicted − 1, absolute.\n\n\
         ## By profile\n\nEach profile starts from the wider one above it and changes at most one number per five rows. \
         *held out*: five parts, each predicted by numbers fitted on the other four (the choice of numbers is made \
         once, on all).\n\n| profile | rows | numbers | on its own rows | held out |\n|---|---|---|---|---|"
    )?;
    for f in fitted {
        writeln!(
            out,
            "| {} | {} | {} | {:.1} % | {:.1} % |",
            f.name,
            f.fit.rows,
            f.fit.knobs.len(),
            f.fit.mape * 100.0,
            f.fit.cross_validated * 100.0
        )?;
    }
    writeln!(
        out,
        "\n## By source\n\n*source left out*: every row of the source is predicted by profiles fitted without any of \
         them, which is what a source never seen before gets: the stack's profile where another source has the same \
         stack, else the pooled one.\n\n| source | rows | mean | median | most | source left out: mean | median |\n\
         |---|---|---|---|---|---|---|"
    )?;
    let without = left_out(rows, fitted);
    let mut all: (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    for (source, held) in &without {
        let own: Vec<f64> =
            rows.iter().filter(|r| r.source == *source).map(|r| ape(error(r, fitted))).collect();
        line(&mut out, source, &own, held)?;
        all.0.extend(own);
        all.1.extend(held);
    }
    line(&mut out, "**all**", &all.0, &all.1)?;
    writeln!(
        out,
        "\n## Peak memory by source\n\nWith the profiles this llmc was built with. What a peak means differs: allocated \
         on the last rank (Megatron's golden values), reserved, or what the driver reports.\n\n\
         | source | rows with a peak | mean | median | most |\n|---|---|---|---|---|"
    )?;
    for table in tables {
        memory(&mut out, table)?;
    }
    writeln!(
        out,
        "\n## Worst rows\n\nThe {WORST} largest errors, with the largest term of the prediction and the run's own \
         remark, which is mostly the reason.\n\n| row | source | predicted ÷ measured seconds | largest term | remark |\n\
         |---|---|---|---|---|"
    )?;
    let mut worst: Vec<(f64, &Row)> = rows.iter().map(|r| (error(r, fitted), r)).collect();
    worst.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    for (residual, row) in worst.into_iter().take(WORST) {
        let (stack, family, precision) = &row.key;
        let scale = closest(fitted, stack, family, *precision).map(|f| f.scale.clone()).unwrap_or_default();
        let term = largest(&row.sample, &scale);
        let remark: String = row.remark.replace('|', "/").chars().take(120).collect();
        let ratio = libm::exp(residual);
        writeln!(out, "| {} | {} | {ratio:.2} | {term} | {remark} |", row.sample.id, row.source)?;
    }
    Ok(out)
}

/// Lines of the memory table: sources of one run table.
fn memory(out: &mut String, table: &str) -> std::fmt::Result {
    let Ok(scores) = score(table) else { return Ok(()) };
    for (source, s) in &scores.by_source {
        if let (Some(mean), Some(median), Some(most)) = (s.memory_mape, s.memory_median_ape, s.memory_max_ape)
        {
            let percent = |x: f64| format!("{:.1} %", x * 100.0);
            let (mean, median, most) = (percent(mean), percent(median), percent(most));
            writeln!(out, "| {source} | {} | {mean} | {median} | {most} |", s.peaks)?;
        }
    }
    Ok(())
}

fn line(out: &mut String, name: &str, own: &[f64], held: &[f64]) -> std::fmt::Result {
    let percent = |x: f64| format!("{:.1} %", x * 100.0);
    let most = own.iter().copied().fold(0.0, f64::max);
    writeln!(
        out,
        "| {name} | {} | {} | {} | {} | {} | {} |",
        own.len(),
        percent(mean(own)),
        percent(median(own)),
        percent(most),
        percent(mean(held)),
        percent(median(held))
    )
}
