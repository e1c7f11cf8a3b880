//! Compiled kernels in the user's cache folder, one file a program, named by what it was made from.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::nvrtc::{self, Arch};
use super::source::Program;
use crate::error::Result;

/// Hexadecimal digits of a SHA-256 sum.
fn hex(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// `llmc/kernels` under `$XDG_CACHE_HOME` or `~/.cache`; none when neither is set.
fn folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(base.join("llmc/kernels"))
}

/// The cubin of a program for `arch`, from the cache or compiled now by the NVRTC of this version.
///
/// # Errors
/// What the compiler says.
pub(super) fn cubin(program: &Program, arch: Arch, (major, minor): (i32, i32)) -> Result<Vec<u8>> {
    let (folder, text) = (folder(), program.text());
    let key = hex(&[text.as_bytes(), format!("\nsm_{} nvrtc {major}.{minor}", arch.0).as_bytes()]);
    let path = folder.as_ref().map(|f| f.join(format!("{}-{key}.cubin", program.file)));
    if let Some(cubin) = path.as_deref().and_then(read) {
        return Ok(cubin);
    }
    let cubin = nvrtc::compile(program.file, &text, arch)?;
    if let (Some(folder), Some(path)) = (folder, path) {
        // Without a cache every start compiles, which is slow and still right.
        let _ = write(&folder, &path, &cubin);
    }
    Ok(cubin)
}

/// A cached cubin: the sum of the rest in the first 64 bytes. Anything else there counts as absent.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (sum, cubin) = bytes.split_at_checked(64)?;
    (hex(&[cubin]).as_bytes() == sum).then(|| cubin.to_vec())
}

/// Writes by rename: a reader sees a whole file or none.
fn write(folder: &Path, path: &Path, cubin: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(hex(&[cubin]).as_bytes())?;
    file.write_all(cubin)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_counts_as_absent() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.cubin");
        write(folder.path(), &path, b"kernel").expect("write");
        assert_eq!(read(&path).as_deref(), Some(&b"kernel"[..]));
        let whole = std::fs::read(&path).expect("read");
        for cut in [0, 10, 64, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).expect("cut");
            assert_eq!(read(&path), None, "cut at {cut}");
        }
        let mut flipped = whole.clone();
        flipped[66] ^= 1;
        std::fs::write(&path, &flipped).expect("flip");
        assert_eq!(read(&path), None);
    }
}
