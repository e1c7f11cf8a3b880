//! Megatron shards that stay where they are: checked once from end to end, then linked beside the manifest, where
//! the side index of a packing lies too. Their own folder is only read.

use crate::build::Observer;
use crate::encode::{Built, Target, restore, split_info};
use crate::error::{BadContent, Error, Result};
use crate::indexed::Indexed;
use crate::inputs::{Input, hash_file};
use crate::journal::{Done, Note};
use crate::output::with_suffix;
use crate::read::Place;
use crate::stats::Tally;
use crate::tokenizer::Encoder;
use llmc_plan::data::{DataSpec, FileInfo, SourceInfo, SplitInfo};
use llmc_plan::lang::Said;
use llmc_plan::say;
use std::collections::BTreeMap;
use std::path::Path;

/// Tokens looked at together.
const PIECE: usize = 1 << 16;

/// What to do about a shard that lacks something.
fn copy() -> Said {
    say!(
        "leave in_place out: the copy that is made then has what is missing here",
        "请去掉 in_place：那样生成的副本会补上这里所缺的"
    )
}

/// One split of a source.
struct Split {
    shards: Vec<String>,
    documents: u64,
    tokens: u64,
    counts: Tally,
}

/// Links the shards of a source, or takes over what a note says of them.
///
/// # Errors
/// A file that is no shard, a shard that is damaged, of another tokenizer, or has documents without their end.
pub fn adopt_source(
    spec: &DataSpec,
    name: &str,
    inputs: &[Input],
    encoder: &Encoder,
    observer: &dyn Observer,
    target: &mut Target,
) -> Result<Built> {
    if let Some(Note::Done(done)) = target.journal.note(name) {
        observer.advance(inputs.iter().map(|input| input.bytes).sum());
        return Ok(restore(*done, target));
    }
    let vocab = encoder.vocab();
    let none = |_| Split { shards: Vec::new(), documents: 0, tokens: 0, counts: Tally::new(vocab) };
    let mut splits = [0, 1].map(none);
    let (mut files, mut hashes) = (BTreeMap::new(), Vec::new());
    for input in inputs {
        let [train, validation] = &mut splits;
        let (split, kind) = if input.validation { (validation, "validation") } else { (train, "train") };
        let number = split.shards.len();
        let shard = if number == 0 { format!("{name}.{kind}") } else { format!("{name}.{kind}.{number}") };
        let (bin, idx) = adopt(input, encoder, split, observer, &target.partial.join(&shard))?;
        hashes.push(bin.xxh3.clone());
        files.insert(format!("{shard}.bin"), bin);
        files.insert(format!("{shard}.idx"), idx);
        split.shards.push(shard);
    }
    let [(train, train_counts), (validation, validation_counts)] = splits.map(|split| {
        let mut counts = vec![0; vocab as usize];
        split.counts.add_to(&mut counts);
        (split_info(split.shards, split.documents, split.tokens, 0, &counts), counts)
    });
    let warnings = held_out(spec, name, &train, &validation)?;
    let info = SourceInfo { name: name.to_owned(), train, validation, ..SourceInfo::default() };
    let built = Built { info, train_counts, validation_counts, hashes };
    let note = Note::Done(Box::new(Done { built, files, warnings }));
    target.journal.put(name, &note)?;
    let Note::Done(done) = note else { return Err(Error::Stopped) };
    Ok(restore(*done, target))
}

fn held_out(spec: &DataSpec, name: &str, train: &SplitInfo, validation: &SplitInfo) -> Result<Vec<Said>> {
    if train.tokens == 0 {
        return Err(Error::spec(say!(
            "source `{name}` has no training document: all its files are validation files; add one that is not",
            "来源 `{name}` 没有训练文档：其所有文件都是验证文件；请加入一个不是的"
        )));
    }
    let missing = spec.validation.fraction > 0.0 && validation.tokens == 0;
    Ok(missing
        .then(|| {
            say!(
                "source `{name}` is read in place, so that none of its documents can be held out: name some of its \
                 files in validation.globs, or leave in_place out",
                "来源 `{name}` 原地读取，因此无法留出任何文档：请在 validation.globs 中指定其部分文件，或去掉 in_place"
            )
        })
        .into_iter()
        .collect())
}

/// Checks a shard, counts its tokens and links it as `prefix`.
fn adopt(
    input: &Input,
    encoder: &Encoder,
    split: &mut Split,
    observer: &dyn Observer,
    prefix: &Path,
) -> Result<(FileInfo, FileInfo)> {
    let bad = |place: Option<u64>, expected: Said, found: Said, hint: Said| -> Error {
        let place = Place { offset: place, ..Place::default() };
        BadContent { file: input.path.clone(), place, found, expected, hint }.into()
    };
    let Some(stem) = input.path.to_str().and_then(|path| path.strip_suffix(".bin")) else {
        return Err(bad(
            None,
            say!(
                "a .bin with its .idx beside it, since the source is in_place",
                "带 .idx 的 .bin，因为该来源为 in_place"
            ),
            say!("another file", "其他文件"),
            say!("leave in_place out: text is to be encoded", "请去掉 in_place：文本需要编码"),
        ));
    };
    let foreign = |error: Error| match error {
        Error::Content(mut bad) => {
            bad.hint = say!(
                "write it again with the program that made it; what is read in place cannot be skipped",
                "请用生成它的程序重新写入；原地读取的内容无法略去"
            );
            Error::Content(bad)
        }
        other => other,
    };
    let shard = Indexed::open(Path::new(stem), encoder.vocab()).map_err(foreign)?;
    let mut piece = vec![0; PIECE];
    for from in (0..shard.tokens()).step_by(PIECE) {
        let length = (shard.tokens() - from).min(PIECE as u64);
        let ids = piece.get_mut(..length as usize).unwrap_or_default();
        shard.read(from, ids).map_err(foreign)?;
        split.counts.count(ids.iter().copied(), 1);
        observer.advance(length * shard.width());
    }
    let (end, mut last, mut result) = (encoder.end_of_document(), [0], Ok(()));
    shard
        .document_starts(0, shard.tokens(), |next| {
            if result.is_err() {
                return;
            }
            split.documents += 1;
            result = shard.read(next - 1, &mut last);
            if result.is_ok() && last != [end] {
                let expected = say!(
                    "the id {end}, which ends a document, before token {next}",
                    "词元 {next} 之前是结束文档的 id {end}"
                );
                let [found] = last;
                result =
                    Err(bad(Some((next - 1) * shard.width()), expected, say!("{found}", " {found}"), copy()));
            }
        })
        .and(result)
        .map_err(|error| match error {
            Error::Content(bad) if bad.hint == copy() => Error::Content(bad),
            other => foreign(other),
        })?;
    split.tokens += shard.tokens();
    let link = |suffix: &str| -> Result<FileInfo> {
        let path = with_suffix(Path::new(stem), suffix);
        let whole = std::fs::canonicalize(&path).map_err(Error::io("read", &path))?;
        let xxh3 = hash_file(&whole, &|_| {}).map_err(Error::io("read", &path))?;
        let bytes = std::fs::metadata(&whole).map_err(Error::io("read", &path))?.len();
        let to = with_suffix(prefix, suffix);
        // A build that was stopped may have left one.
        let _ = std::fs::remove_file(&to);
        std::os::unix::fs::symlink(&whole, &to).map_err(Error::io("link", &to))?;
        Ok(FileInfo { bytes, xxh3 })
    };
    Ok((link(".bin")?, link(".idx")?))
}
