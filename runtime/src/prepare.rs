//! From a run's files to a checked program and an open corpus.

use std::path::Path;

use llmc_corpus::Stream;
use llmc_plan::batch::BatchShape;
use llmc_plan::data::DataSpec;
use llmc_plan::lang::Said;
use llmc_plan::lower::{Coordinates, LowerError, Options, lower_with};
use llmc_plan::op::Backend;
use llmc_plan::plan::Plan;
use llmc_plan::program::Program;
use llmc_plan::say;
use llmc_plan::{arena, verify};

use crate::device;
use crate::failure::{Failure, Outcome};
use crate::host::data_failure;

/// Attention segments a sequence may hold under a document mask: one for every 64 tokens. A property of the
/// run, not of its layout. (Own choice: the median document of web corpora is longer; what does not fit is
/// counted by the corpus.)
fn documents_per_sequence(data: &DataSpec) -> Option<u64> {
    data.document_mask.then(|| u64::from(data.context).div_ceil(64))
}

/// The plan's program with addresses.
///
/// # Errors
/// Exit code 2 when the plan cannot be lowered, 70 when lowering wrote something that does not verify.
pub fn lowered(plan: &Plan, data: Option<&DataSpec>) -> Outcome<Program> {
    lowered_for(plan, data, if device::is_cpu(plan) { Backend::Cpu } else { Backend::Cuda })
}

/// As [`lowered`], for the library that is asked for instead of the one of the plan's device.
///
/// # Errors
/// As [`lowered`].
pub fn lowered_for(plan: &Plan, data: Option<&DataSpec>, backend: Backend) -> Outcome<Program> {
    let options = Options {
        documents_per_sequence: data.and_then(documents_per_sequence),
        sources: data.map_or(1, |data| data.sources.len() as u64),
        ..Options::new(backend)
    };
    let mut program = lower_with(plan, &Coordinates::default(), &options).map_err(|error| match error {
        LowerError::Bug { .. } => Failure::bug(error.to_string()),
        _ => Failure::environment(say!("{error}", "该计划无法运行（{error}）：请重新生成计划")),
    })?;
    arena::assign(&mut program);
    let violations = violations(&program);
    if violations.is_empty() { Ok(program) } else { Err(Failure::bug(violations.join("\n"))) }
}

/// A program somebody edited: verified, with addresses of its own.
///
/// # Errors
/// Exit code 2 with every violation, or when the file is not a program.
pub fn edited(path: &Path) -> Outcome<Program> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    let mut program: Program = serde_json::from_str(&text).map_err(|e| {
        Failure::environment(say!(
            "{path} is not a program: {e}",
            "{path} 不是程序：{e}",
            path = path.display()
        ))
    })?;
    arena::assign(&mut program);
    let violations = violations(&program);
    if violations.is_empty() {
        return Ok(program);
    }
    let (path, violations) = (path.display(), violations.join("\n"));
    Err(Failure::environment(say!("{path} is refused:\n{violations}", "{path} 被拒绝：\n{violations}")))
}

fn violations(program: &Program) -> Vec<String> {
    verify::verify(program).iter().map(ToString::to_string).collect()
}

/// Opens the corpus for a plan.
///
/// # Errors
/// Exit code 2 with the corpus's sentence, or when corpus and plan do not fit each other, with both figures.
pub fn corpus(folder: &Path, plan: &Plan, data: &DataSpec) -> Outcome<Stream> {
    if u64::from(data.context) != plan.model.context {
        return Err(Failure::environment(say!(
            "data.json has samples of {tokens} tokens, the plan a context of {context}: plan and build from one recipe",
            "data.json 的样本为 {tokens} 个词元，而计划的上下文为 {context}：请用同一配方规划和构建",
            tokens = data.context,
            context = plan.model.context
        )));
    }
    let narrow = |what: Said, value: u64| {
        u32::try_from(value).map_err(|_| {
            Failure::environment(say!(
                "{what} of {value} exceeds 2^32 − 1",
                "{what} {value} 超过 2^32 − 1",
                what
            ))
        })
    };
    let sequences = narrow(say!("a micro-batch", "微批"), plan.batch.micro_batch_sequences)?;
    let documents = narrow(say!("a segment count", "段数"), documents_per_sequence(data).unwrap_or(1))?;
    let shape =
        BatchShape { sequences, context: data.context, max_documents: sequences.saturating_mul(documents) };
    let sequences = plan.batch.global_sequences;
    let data = DataSpec { mix: data.mix.at_steps(plan.budget.steps, sequences), ..data.clone() };
    let stream = llmc_corpus::open(folder, &data, shape, sequences).map_err(data_failure)?;
    let vocab = u64::from(stream.manifest().tokenizer.vocab);
    if vocab > plan.model.vocab {
        return Err(Failure::environment(say!(
            "the tokenizer of {folder} has {vocab} entries, the plan's vocabulary {planned}: plan again with `vocab {vocab}`",
            "{folder} 的分词器有 {vocab} 个词条，而计划的词表为 {planned}：请用 `vocab {vocab}` 重新规划",
            folder = folder.display(),
            planned = plan.model.vocab
        )));
    }
    Ok(stream)
}
