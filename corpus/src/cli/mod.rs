//! The larger commands of `llmc-data`, one a file.

pub mod dedup;
pub mod export;
pub mod mount;
pub mod stats;
pub mod tokens;

use crate::Format;
use llmc_corpus::error::{Error, Result};
use llmc_corpus::folder::{Left, abandon};
use llmc_corpus::output::{HashingFile, with_suffix};
use llmc_plan::lang::{Lang, Said};
use llmc_plan::say;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// Refuses a device or a pipe as the place of a file: files appear by rename, which would replace it.
///
/// # Errors
/// Its name, and what to do.
pub fn refuse_special(path: &Path) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|old| !old.is_file() && !old.is_dir()) {
        let path = path.display();
        return Err(Error::Usage(say!(
            "{path} is a device or a pipe: name a file, or leave the option out",
            "{path} 是设备或管道：请指定文件，或去掉该选项"
        )));
    }
    Ok(())
}

/// Writes a file by rename.
///
/// # Errors
/// The system's; a device or a pipe.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    refuse_special(path)?;
    let partial = with_suffix(path, ".partial");
    let mut file = HashingFile::create(&partial)?;
    file.write(bytes)?;
    file.finish()?;
    std::fs::rename(&partial, path).map_err(|source| Error::Io { action: "write", file: path.into(), source })
}

/// Prints a report on stdout.
///
/// # Errors
/// The system's; a reader that has seen enough is none.
pub fn print<T: Serialize>(report: &T, format: Format, human: impl Fn(&T) -> String) -> Result<()> {
    let text = match format {
        Format::Human => human(report),
        Format::Json => serde_json::to_string_pretty(report).map_err(Error::inner)? + "\n",
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Io { action: "write", file: "stdout".into(), source: error })
        }
        _ => Ok(()),
    }
}

/// Says what is not an error.
pub fn warn(what: &Said, lang: Lang) {
    eprintln!("{}", say!("warning: {what}", "警告：{what}", what).text(lang));
}

/// What to add to what is said of a `what`, a build or an export.
pub fn how(up_to_date: bool, resumed: bool, what: Said) -> Said {
    match (up_to_date, resumed) {
        (true, _) => say!(" (up to date)", "（已是最新）"),
        (_, true) => say!(" (an unfinished {what} was continued)", "（继续了未完成的{what}）", what),
        _ => Said::default(),
    }
}

/// On Ctrl-C what is worth it stays in `out` for the same command to go on with, the rest goes.
///
/// # Errors
/// The system's.
pub fn keep_when_interrupted(out: &Path, lang: Lang) -> Result<()> {
    let folder = out.to_owned();
    let handler = ctrlc::set_handler(move || {
        let (_guard, left) = abandon(&folder);
        let left = match left {
            Left::Beginning => say!(
                "holds what it did; the same command goes on from here",
                "保存了已完成的部分；再次运行同一命令即可继续"
            ),
            Left::Everything => say!("is whole: it was done by then", "已完整：此时已经完成"),
            Left::Before => {
                say!("is as it was: nothing was done that is worth keeping", "保持原样：没有值得保留的部分")
            }
        };
        let said = say!(
            "llmc-data: interrupted; {folder} {left}",
            "llmc-data：已中断；{folder} {left}",
            folder = folder.display(),
            left
        );
        eprintln!("{}", said.text(lang));
        std::process::exit(130);
    });
    handler.map_err(|e| Error::Usage(say!("Ctrl-C cannot be caught: {e}", "无法捕获 Ctrl-C：{e}")))
}
