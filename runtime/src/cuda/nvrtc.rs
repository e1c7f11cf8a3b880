//! NVRTC: CUDA C++ to a cubin for one compute capability, in this process.
#![allow(unsafe_code)] // a foreign-function boundary: what each call needs is stated beside it

use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::nvrtc::{result, sys};

use crate::device::libtorch_folder;
use crate::error::{Error, Result};
use crate::shim;

/// The CUDA major version whose NVRTC is looked for: libtorch 2.11's.
const MAJOR: u32 = 13;

/// A compute capability, two digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch(pub u32);

/// Opens NVRTC, from beside libtorch if it lies there, and returns its version.
///
/// # Errors
/// One sentence with the folders searched.
pub fn version() -> Result<(i32, i32)> {
    static OPENED: OnceLock<PathBuf> = OnceLock::new();
    let searched = OPENED.get_or_init(open);
    // SAFETY: opens and closes a library; cudarc panics later if it is absent, hence the question.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Cuda(format!(
            "no libnvrtc.so.{MAJOR} was found in {} or on LD_LIBRARY_PATH: fused kernels need the wheel \
             nvidia-cuda-nvrtc 13.0, which `make libtorch` installs",
            searched.display()
        )));
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two valid places to write to.
    unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }
        .result()
        .map_err(|e| Error::Cuda(format!("NVRTC does not say its version: {e}")))?;
    Ok((major, minor))
}

/// Loads NVRTC from the wheel beside libtorch, so that the loader finds it by name from then on. Returns the
/// folder looked into.
fn open() -> PathBuf {
    let torch = libtorch_folder().unwrap_or_default();
    let folder = torch.join("../../nvidia/cu13/lib");
    // NVRTC opens its built-in functions by name and does not look beside itself: they come first.
    let mut libraries: Vec<PathBuf> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
            name.starts_with(&format!("libnvrtc-builtins.so.{MAJOR}"))
        })
        .collect();
    libraries.push(folder.join(format!("libnvrtc.so.{MAJOR}")));
    for library in libraries.iter().filter(|path| path.exists()) {
        // A library that does not load is reported by the question that follows.
        let _ = shim::load_library(library);
    }
    folder
}

/// A program that is destroyed on every way out.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by nvrtcCreateProgram, destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Compiles `source` for `arch`. `name` appears in messages. [`version`] must have succeeded.
///
/// # Errors
/// The compiler's own messages.
pub fn compile(name: &str, source: &str, arch: Arch) -> Result<Vec<u8>> {
    let broken = |what: &str, e: result::NvrtcError| Error::Cuda(format!("NVRTC {what} {name}: {e}"));
    let text = CString::new(source).map_err(|e| Error::Cuda(e.to_string()))?;
    let title = CString::new(name).map_err(|e| Error::Cuda(e.to_string()))?;
    let program =
        Program(result::create_program(&text, Some(&title)).map_err(|e| broken("does not take", e))?);
    // No fast-math: kernels name the fast functions where they are meant. No --restrict: some work in place.
    let options = [format!("--gpu-architecture=sm_{}", arch.0), "--std=c++17".into()];
    // SAFETY: `program` was made above and not compiled before.
    if let Err(e) = unsafe { result::compile_program(program.0, &options) } {
        // SAFETY: as above.
        let log = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.iter().map(|c| *c as u8).collect();
        let log = CStr::from_bytes_until_nul(&bytes).map(CStr::to_string_lossy).unwrap_or_default();
        return Err(Error::Cuda(format!("NVRTC does not compile {name} for sm_{}: {e}\n{log}", arch.0)));
    }
    let mut size = 0usize;
    // SAFETY: a compiled program and a valid place to write to.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut size) }
        .result()
        .map_err(|e| broken("has no cubin of", e))?;
    let mut cubin = vec![0u8; size];
    // SAFETY: room for the size that NVRTC just named.
    unsafe { sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast()) }
        .result()
        .map_err(|e| broken("does not give the cubin of", e))?;
    Ok(cubin)
}
