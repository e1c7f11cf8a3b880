//! Small corpora for the tests: from the Python standard library, or token by token.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use llmc_corpus::output::{Dtype, ShardWriter};
use llmc_plan::data::{DataSpec, Manifest, SourceInfo, SplitInfo, TokenizerInfo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The standard library's folder: megabytes of real text on every machine with Python.
pub fn stdlib() -> Option<PathBuf> {
    let script = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let found = Command::new("python3").args(["-c", script]).output().ok().filter(|o| o.status.success());
    let path = found.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
    if path.as_ref().is_none_or(|p| !p.join("argparse.py").is_file()) {
        eprintln!("skipped: no Python standard library here, which is the text of this test");
        return None;
    }
    path
}

pub fn llmc_data(args: &[&str], envs: &[(&str, &str)]) -> Output {
    let envs = envs.iter().copied();
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc-data"));
    command.args(args).env("LLMC_LANG", "en").envs(envs).output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A specification from its JSON text.
pub fn spec(json: &str) -> DataSpec {
    serde_json::from_str(json).unwrap()
}

/// A shard's split of documents, each a list of ids.
pub type Documents = Vec<Vec<u32>>;

/// Writes a built corpus of given tokens, without text or tokenizer.
pub fn write_corpus(dir: &Path, vocab: u32, sources: &[(&str, Documents, Documents)]) {
    let mut files = BTreeMap::new();
    let mut write = |name: String, documents: &Documents| {
        let mut writer = ShardWriter::create(&dir.join(&name), Dtype::for_vocab(vocab)).unwrap();
        documents.iter().for_each(|ids| writer.push(ids).unwrap());
        let (count, tokens) = (writer.documents, writer.tokens);
        let mut shards = Vec::new();
        if let Some((bin, idx)) = writer.finish().unwrap() {
            files.insert(format!("{name}.bin"), bin);
            files.insert(format!("{name}.idx"), idx);
            shards.push(name);
        }
        SplitInfo { shards, documents: count, tokens, ..SplitInfo::default() }
    };
    let infos: Vec<SourceInfo> = sources
        .iter()
        .map(|(name, train, validation)| SourceInfo {
            name: (*name).to_owned(),
            train: write(format!("{name}.train"), train),
            validation: write(format!("{name}.validation"), validation),
            ..SourceInfo::default()
        })
        .collect();
    let manifest = Manifest {
        format_version: "1.0".into(),
        tokenizer: TokenizerInfo { file: "none".into(), sha256: String::new(), vocab, end_of_document: 0 },
        sources: infos,
        train: SplitInfo::default(),
        validation: SplitInfo::default(),
        files,
    };
    std::fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// Every file below a folder by name, but not the receipt, which holds times.
pub fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| name != "inputs.json" && name != ".lock")
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect()
}
