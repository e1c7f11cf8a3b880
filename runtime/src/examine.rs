//! `llmc-worker eval`: loss, perplexity and bits a byte of a checkpoint, on a built corpus or on texts.

use std::path::{Path, PathBuf};

use llmc_corpus::Stream;
use llmc_plan::batch::Batch;
use llmc_plan::data::{DataSpec, MixSpec, SourceSpec, ValidationSpec};
use llmc_plan::lang::Lang;
use llmc_plan::plan::Plan;
use llmc_plan::say;
use serde::Serialize;

use crate::checkpoint::{self, Checkpoint, DATA_FILE, PLAN_FILE};
use crate::failure::{Failure, Outcome};
use crate::host::{Session, Source, data_failure};
use crate::interpret::{Machine, Pass};
use crate::run_folder::{read_data, read_plan};
use crate::snapshot::restore;
use crate::start::passed_over;
use crate::{device, prepare};

/// What `eval` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Examination {
    /// Optimizer steps the checkpoint has behind it.
    pub step: u64,
    /// Tokens that counted.
    pub tokens: u64,
    /// Mean, nats a token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Loss in bits over the bytes of the text: comparable between tokenizers.
    pub bits_per_byte: f64,
    /// Entropy of the token frequencies of the same text, nats a token.
    pub unigram_entropy: f64,
}

/// A `step-N` folder itself, or the newest good checkpoint of a run.
fn chosen(folder: &Path, lang: Lang) -> Outcome<Checkpoint> {
    let (found, damaged) = match folder.join("checkpoints") {
        checkpoints if checkpoints.is_dir() => checkpoint::newest(&checkpoints)?,
        _ => (None, Vec::new()),
    };
    for sentence in damaged {
        eprintln!("{}", passed_over(&sentence).text(lang));
    }
    found.map_or_else(|| checkpoint::open(folder), Ok)
}

/// Evaluates a checkpoint (a `step-N` folder, or a run's newest) on `data`: one built corpus (its validation split)
/// or text files. With none, on the corpus of the run it belongs to.
///
/// # Errors
/// Exit code 2 when a file is missing or damaged.
pub fn examine(folder: &Path, data: &[PathBuf], threads: Option<usize>, lang: Lang) -> Outcome<Examination> {
    let checkpoint = chosen(folder, lang)?;
    let (mut plan, _) = read_plan(&checkpoint.folder.join(PLAN_FILE))?;
    let (spec, _) = read_data(&checkpoint.folder.join(DATA_FILE))?;
    // One sequence at a time reads every sample once and none twice; memory is of no concern here.
    (plan.batch.micro_batch_sequences, plan.batch.global_sequences, plan.batch.accumulation) = (1, 1, 1);
    plan.batch.global_tokens = plan.model.context;
    plan.model.dropout = 0.0;
    let run = checkpoint.folder.ancestors().nth(2).unwrap_or(Path::new("."));
    let (text, _scratch) = match data {
        [] => (Text::Validation(prepare::corpus(&run.join("data"), &plan, &spec)?), None),
        [built] if built.join("manifest.json").is_file() => {
            (Text::Validation(prepare::corpus(built, &plan, &spec)?), None)
        }
        files => texts(files, &run.join("data"), &plan, &spec)?,
    };
    let device = device::prepare(&plan, 0, threads)?;
    let program = prepare::lowered(&plan, Some(&spec))?;
    let mut machine = Machine::new(&program, device, plan.seed)?;
    let begin = Pass { list: "init", steps_done: 0 };
    machine.run(&program.init, begin, &mut Session::new(Source::None), None)?;
    restore(&program, machine.memory(), &checkpoint, plan.model.vocab)?;
    let (mut loss, mut tokens) = (0.0, 0.0);
    for index in 0..text.batches() {
        let batch = text.batch(index)?;
        tokens += batch.weight();
        let pass = Pass { list: "eval", steps_done: checkpoint.state.step };
        machine.run(&program.eval, pass, &mut Session::new(Source::Given(batch)), None)?;
        loss += machine.get("loss_sum")?;
    }
    if tokens == 0.0 {
        return Err(Failure::environment(say!(
            "there is no text to evaluate on: name files or a built corpus",
            "没有可供评估的文本：请指定文件或已构建的语料"
        )));
    }
    let mean = loss / tokens;
    let info = text.info();
    Ok(Examination {
        step: checkpoint.state.step,
        tokens: tokens as u64,
        loss: mean,
        perplexity: libm::exp(mean),
        bits_per_byte: loss / std::f64::consts::LN_2 / (info.bytes.max(1) as f64),
        unigram_entropy: info.unigram_entropy,
    })
}

/// What is evaluated on.
enum Text {
    /// The validation split of a corpus.
    Validation(Stream),
    /// A corpus built from the given files, all of it.
    All(Stream),
}

impl Text {
    fn stream(&self) -> &Stream {
        match self {
            Text::Validation(stream) | Text::All(stream) => stream,
        }
    }

    fn info(&self) -> &llmc_plan::data::SplitInfo {
        match self {
            Text::Validation(stream) => &stream.manifest().validation,
            Text::All(stream) => &stream.manifest().train,
        }
    }

    /// Batches of one sequence each.
    fn batches(&self) -> u64 {
        match self {
            Text::Validation(stream) => stream.validation_batches(),
            Text::All(stream) => stream.sources().iter().map(|(_, _, samples)| samples).sum(),
        }
    }

    fn batch(&self, index: u64) -> Outcome<Batch> {
        match self {
            Text::Validation(stream) => stream.validation_batch(index),
            // One source: its first epoch holds every sample once.
            Text::All(_) => self.stream().batch(index, 0, 0, 1),
        }
        .map_err(data_failure)
    }
}

/// Builds a corpus of the files with the run's tokenizer, in a folder that goes when evaluation ends.
fn texts(
    files: &[PathBuf],
    run_data: &Path,
    plan: &Plan,
    spec: &DataSpec,
) -> Outcome<(Text, Option<tempfile::TempDir>)> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|e| Failure::io("find", path, &e));
    let scratch = tempfile::tempdir().map_err(|e| Failure::io("create", &std::env::temp_dir(), &e))?;
    let globs =
        files.iter().map(|f| Ok(absolute(f)?.to_string_lossy().into_owned())).collect::<Outcome<_>>()?;
    let mut spec = DataSpec {
        root: "/".to_owned(),
        sources: vec![SourceSpec { name: "text".to_owned(), globs, ..SourceSpec::default() }],
        validation: ValidationSpec { fraction: 0.0, ..ValidationSpec::default() },
        // Its stages name the sources of the run.
        mix: MixSpec::default(),
        ..spec.clone()
    };
    let tokenizer = absolute(&run_data.join("tokenizer.json"))?;
    spec.tokenizer.import = Some(tokenizer.to_string_lossy().into_owned());
    spec.tokenizer.vocab = 0;
    llmc_corpus::build(&spec, scratch.path(), &()).map_err(data_failure)?;
    let stream = prepare::corpus(scratch.path(), plan, &spec)?;
    Ok((Text::All(stream), Some(scratch)))
}
