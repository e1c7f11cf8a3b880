//! Reading what the command line names, and writing by rename.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use llmc_compiler::diag::nearest;

use crate::exit::Failure;

/// Larger files are no recipes, plans or tables; reading them would only exhaust memory.
const LARGEST: u64 = 64 << 20;

/// The text of a file; `-` is stdin.
pub fn read(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
    };
    result.map_err(|error| {
        let failure = Failure::io(("read", "读取"), path, &error);
        match beside(path).filter(|_| error.kind() == ErrorKind::NotFound) {
            None => failure,
            Some(near) => {
                let (Failure { en, zh }, near) = (failure, near.display());
                Failure::new(format!("{en}; did you mean {near}?"), format!("{zh}；是否想写 {near}？"))
            }
        }
    })?;
    if bytes.len() as u64 > LARGEST {
        let (path, most) = (path.display(), LARGEST >> 20);
        return Err(Failure::new(
            format!("cannot read {path}: it is larger than {most} MiB"),
            format!("无法读取 {path}：它大于 {most} MiB"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let (path, at) = (path.display(), error.utf8_error().valid_up_to());
        Failure::new(
            format!("cannot read {path}: no UTF-8 at byte {at}: save it as UTF-8 text"),
            format!("无法读取 {path}：第 {at} 字节不是 UTF-8：请另存为 UTF-8 文本"),
        )
    })
}

/// The file in the same folder that a mistyped name is nearest to.
fn beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    // As many as a folder that people look through has.
    let names = entries.flatten().take(10_000).filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let near = nearest(name, names.iter().map(String::as_str))?;
    Some(folder.map_or_else(|| PathBuf::from(near), |folder| folder.join(near)))
}

/// Writes a file so that it appears whole or not at all; folders on the way are created.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_bytes(path, text.as_bytes()).map_err(|error| Failure::io(("write", "写入"), path, &error))
}

fn write_bytes(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // A link is followed, so that the file it names is replaced and not the link.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // A device or a pipe is written to; a rename would put a file in its place.
    if std::fs::metadata(&path).is_ok_and(|old| !old.is_file() && !old.is_dir()) {
        return std::fs::OpenOptions::new().write(true).open(&path)?.write_all(bytes);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".llmc-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A temporary file is private by default; a replaced file keeps its mode, a new one gets the usual one.
        let mode = std::fs::metadata(&path).map_or(0o644, |old| old.permissions().mode() & 0o777);
        builder.permissions(std::fs::Permissions::from_mode(mode));
    }
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_appear_whole_and_leave_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.txt");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn unreadable_files_are_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.llm");
        assert!(read(&path).unwrap_err().en.starts_with("cannot read "));
        std::fs::write(&path, b"seed \xff").unwrap();
        assert!(read(&path).unwrap_err().en.ends_with("no UTF-8 at byte 5: save it as UTF-8 text"));
    }
}
