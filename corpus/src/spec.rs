//! Reads `data.json` and checks everything that can be known without opening a source.

use crate::error::{Error, Result};
use llmc_plan::data::{DATA_FORMAT_VERSION, DataSpec, Packing, SourceSpec, TokenizerKind, readable_version};
use llmc_plan::lang::Said;
use llmc_plan::say;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Byte-level BPE starts from the 256 byte values.
const BYTE_ALPHABET: usize = 256;
/// The trainer counts pairs in `i32`; a quarter of that in bytes cannot overflow it.
const MAX_SAMPLE_BYTES: u64 = 1 << 29;
/// Ids are stored as `i32` at most (Megatron's dtype code 4).
const MAX_VOCAB: u32 = 1 << 30;

/// Reads and checks a specification. `root` in the result is absolute or relative to the caller's
/// working folder, no longer to the file.
///
/// # Errors
/// Unreadable file, invalid JSON (line and column), unknown major version, or a contradiction.
pub fn load(path: &Path) -> Result<DataSpec> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let in_file = |message: Said| Error::Spec { file: path.to_owned(), message };
    let mut spec: DataSpec = serde_json::from_str(&text).map_err(|e| in_file(Said::same(e)))?;
    check(&spec).map_err(|e| match e {
        Error::Spec { message, .. } => in_file(message),
        other => other,
    })?;
    let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = if spec.root == "." { base.to_owned() } else { base.join(&spec.root) };
    spec.root = root.to_string_lossy().into_owned();
    Ok(spec)
}

/// Checks a specification that came from anywhere.
///
/// # Errors
/// The first contradiction found, with the field's name.
pub fn check(spec: &DataSpec) -> Result<()> {
    if !readable_version(&spec.format_version) {
        return Err(Error::spec(say!(
            "format_version is {version:?}, this build reads {DATA_FORMAT_VERSION}: write the file with the same \
             version of llmc that reads it",
            "format_version 为 {version:?}，本程序读取 {DATA_FORMAT_VERSION}：请用同一版本的 llmc 写入和读取",
            version = spec.format_version
        )));
    }
    if spec.context == 0 {
        return Err(Error::spec(say!(
            "context is 0: give the tokens of a sample, such as 512",
            "context 为 0：请给出一个样本的词元数，例如 512"
        )));
    }
    if spec.sources.is_empty() {
        return Err(Error::spec(say!(
            "sources is empty: name at least one, with its globs",
            "sources 为空：请至少指定一个来源及其 globs"
        )));
    }
    if spec.packing == Packing::Buckets && !spec.document_mask {
        return Err(Error::spec(say!(
            "packing buckets puts several documents in a sample that must not see each other: set document_mask to \
             true",
            "buckets 打包将多个互不可见的文档放入一个样本：请将 document_mask 设为 true"
        )));
    }
    let mut names = BTreeSet::new();
    for source in &spec.sources {
        check_source(source)?;
        if source.in_place && spec.tokenizer.import.is_none() {
            return Err(Error::spec(say!(
                "source `{name}` is in_place, so its ids are of some tokenizer: name that one as tokenizer.import",
                "来源 `{name}` 为 in_place，其 id 属于某个分词器：请以 tokenizer.import 指定",
                name = source.name
            )));
        }
        if !names.insert(source.name.as_str()) {
            return Err(Error::spec(say!(
                "two sources are named `{name}`: rename one",
                "有两个来源名为 `{name}`：请将其中一个改名",
                name = source.name
            )));
        }
    }
    if !(0.0..=0.5).contains(&spec.validation.fraction) {
        return Err(Error::spec(say!(
            "validation.fraction is {fraction}: give a share from 0 to 0.5",
            "validation.fraction 为 {fraction}：请给出 0 到 0.5 的比例",
            fraction = spec.validation.fraction
        )));
    }
    let (window, stride) = windows(spec);
    if window > spec.context || stride > window {
        return Err(Error::spec(say!(
            "validation has windows of {window} tokens every {stride}, and the context is {context}: make the stride at \
             most the window, and the window at most the context",
            "验证窗口为 {window} 词元，步幅 {stride}，而上下文为 {context}：步幅不应超过窗口，窗口不应超过上下文",
            context = spec.context
        )));
    }
    if !(0.0..=10.0).contains(&spec.mix.temperature) {
        return Err(Error::spec(say!(
            "mix.temperature is {exponent}: the exponent lies from 0 (uniform) to 10, and 1 is proportional to size",
            "mix.temperature 为 {exponent}：该指数应在 0（均匀）到 10 之间，1 表示与大小成正比",
            exponent = spec.mix.temperature
        )));
    }
    check_dynamic(spec)?;
    let share = |field: &str, value: f64| match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(Error::spec(say!(
            "clean.{field} is {value}: give a share from 0 to 1",
            "clean.{field} 为 {value}：请给出 0 到 1 的比例"
        ))),
    };
    share("similarity", spec.clean.similarity)?;
    share("min_letters", spec.clean.min_letters)?;
    check_tokenizer(spec)
}

/// A mixture that follows losses.
fn check_dynamic(spec: &DataSpec) -> Result<()> {
    let Some(rule) = &spec.mix.dynamic else { return Ok(()) };
    let refuse = |what: Said| Err(Error::spec(say!("mix.dynamic {what}", "mix.dynamic {what}", what)));
    if spec.sources.len() < 2 {
        return refuse(say!(
            "needs several sources: one alone has every sample",
            "需要多个来源：只有一个时它占有全部样本"
        ));
    }
    if !(rule.rate >= 0.0 && rule.rate <= 100.0) {
        return refuse(say!(
            "has rate {rate}: give 0 to 100",
            "的 rate 为 {rate}：请给出 0 到 100",
            rate = rule.rate
        ));
    }
    if !(0.0..=1.0).contains(&rule.smoothing) {
        return refuse(say!(
            "has smoothing {share}: give a share from 0 to 1",
            "的 smoothing 为 {share}：请给出 0 到 1 的比例",
            share = rule.smoothing
        ));
    }
    for (name, loss) in &rule.references {
        if !spec.sources.iter().any(|source| source.name == *name) {
            return refuse(say!(
                "has a reference for `{name}`, which is no source",
                "为 `{name}` 给出了参考值，但它不是来源"
            ));
        }
        if !(loss.is_finite() && *loss >= 0.0) {
            return refuse(say!(
                "has reference {loss} for `{name}`: give nats a token, 0 or more",
                "中 `{name}` 的参考值为 {loss}：请给出每词元的 nat 数，不小于 0"
            ));
        }
    }
    Ok(())
}

/// Tokens of a validation window, and from one to the next.
pub fn windows(spec: &DataSpec) -> (u32, u32) {
    let given = |n: u32, otherwise: u32| if n == 0 { otherwise } else { n };
    let window = given(spec.validation.window, spec.context);
    (window, given(spec.validation.stride, window))
}

fn check_tokenizer(spec: &DataSpec) -> Result<()> {
    let tokenizer = &spec.tokenizer;
    let TokenizerKind::Bpe = tokenizer.kind;
    let Some(end) = tokenizer.special_tokens.first() else {
        return Err(Error::spec(say!(
            "tokenizer.special_tokens is empty: the first one ends every document, for instance <|endoftext|>",
            "tokenizer.special_tokens 为空：第一个用于结束每个文档，例如 <|endoftext|>"
        )));
    };
    if let Some(empty) = tokenizer.special_tokens.iter().position(String::is_empty) {
        return Err(Error::spec(say!(
            "tokenizer.special_tokens[{empty}] is the empty string",
            "tokenizer.special_tokens[{empty}] 是空字符串"
        )));
    }
    if tokenizer.special_tokens.iter().collect::<BTreeSet<_>>().len() != tokenizer.special_tokens.len() {
        return Err(Error::spec(say!(
            "tokenizer.special_tokens, from {end:?} on, holds one token twice",
            "tokenizer.special_tokens（从 {end:?} 起）中有重复的词元"
        )));
    }
    if tokenizer.vocab > MAX_VOCAB {
        return Err(Error::spec(say!(
            "tokenizer.vocab is {vocab}: at most {MAX_VOCAB}",
            "tokenizer.vocab 为 {vocab}：最多 {MAX_VOCAB}",
            vocab = tokenizer.vocab
        )));
    }
    if tokenizer.import.is_some() {
        return Ok(());
    }
    let least = BYTE_ALPHABET + tokenizer.special_tokens.len();
    if (tokenizer.vocab as usize) < least {
        return Err(Error::spec(say!(
            "tokenizer.vocab is {vocab}: byte-level BPE needs at least {least} entries, 256 bytes and {special} special \
             tokens",
            "tokenizer.vocab 为 {vocab}：字节级 BPE 至少需要 {least} 个词条，即 256 个字节和 {special} 个特殊词元",
            vocab = tokenizer.vocab,
            special = tokenizer.special_tokens.len()
        )));
    }
    if !tokenizer.byte_fallback {
        return Err(Error::spec(say!(
            "tokenizer.byte_fallback is false: byte-level BPE always holds the 256 bytes; write true",
            "tokenizer.byte_fallback 为 false：字节级 BPE 总是包含 256 个字节；请写 true"
        )));
    }
    if tokenizer.sample_bytes == 0 || tokenizer.sample_bytes > MAX_SAMPLE_BYTES {
        return Err(Error::spec(say!(
            "tokenizer.sample_bytes is {bytes}: give 1 to {MAX_SAMPLE_BYTES} bytes of text to train on",
            "tokenizer.sample_bytes 为 {bytes}：请给出 1 到 {MAX_SAMPLE_BYTES} 字节的训练文本",
            bytes = tokenizer.sample_bytes
        )));
    }
    Ok(())
}

fn check_source(source: &SourceSpec) -> Result<()> {
    let name = &source.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(plain) || name.len() > 64 {
        return Err(Error::spec(say!(
            "source name {name:?}: use 1 to 64 letters, digits, `_` and `-`, it becomes a file name",
            "来源名称 {name:?}：请用 1 到 64 个字母、数字、`_` 和 `-`，它会成为文件名"
        )));
    }
    if source.globs.is_empty() {
        return Err(Error::spec(say!(
            "source `{name}` has no globs: give at least one pattern",
            "来源 `{name}` 没有 globs：请至少给出一个模式"
        )));
    }
    let positive = |field: &str, value: Option<f64>, most: f64| match value {
        Some(v) if !(v.is_finite() && v > 0.0 && v <= most) => Err(Error::spec(say!(
            "source `{name}`: {field} is {v}: give a number above 0 and at most {most}",
            "来源 `{name}`：{field} 为 {v}：请给出大于 0 且不超过 {most} 的数"
        ))),
        _ => Ok(()),
    };
    positive("weight", source.weight, 1e6)?;
    positive("importance", source.importance, 1e6)?;
    positive("min_share", source.min_share, 1.0)?;
    positive("max_share", source.max_share, 1.0)?;
    positive("max_epochs", source.max_epochs, 1e6)?;
    if let (Some(min), Some(max)) = (source.min_share, source.max_share)
        && min > max
    {
        return Err(Error::spec(say!(
            "source `{name}`: min_share {min} exceeds max_share {max}",
            "来源 `{name}`：min_share {min} 超过 max_share {max}"
        )));
    }
    Ok(())
}

/// The folder globs start from.
pub fn root(spec: &DataSpec) -> PathBuf {
    PathBuf::from(&spec.root)
}
