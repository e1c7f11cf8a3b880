//! The CUDA driver: a device's primary context, its kernels, launches. All of the driver's unsafe calls are here.
#![allow(unsafe_code)] // a foreign-function boundary: what each call needs is stated beside it

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::source::Program;
use super::{cache, nvrtc};
use crate::error::{Error, Result};

/// Oldest card the kernels are written for: bf16 arithmetic came with compute capability 8.0 (PTX ISA 7.0).
const OLDEST: u32 = 80;
/// Bytes of dynamic shared memory that a block may have without asking: 48 KiB (CUDA C++ Programming Guide, "Shared
/// Memory") less what kernels here have statically.
const UNASKED_SHARED: u32 = 40 << 10;

/// A stream to launch on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream(usize);

thread_local! {
    static CURRENT: Cell<Stream> = const { Cell::new(Stream::DEFAULT) };
}

impl Stream {
    /// Torch's default stream, which is the legacy null stream: ordered with every blocking stream.
    pub const DEFAULT: Stream = Stream(0);

    /// The stream behind a `cudaStream_t`, as torch's `CUDAStream::stream()` gives it.
    pub fn from_raw(handle: usize) -> Stream {
        Stream(handle)
    }

    /// What the driver knows it by.
    pub(super) fn handle(self) -> sys::CUstream {
        self.0 as sys::CUstream
    }

    /// What this thread launches on; torch keeps its current stream by thread too.
    pub fn current() -> Stream {
        CURRENT.get()
    }

    /// Makes this thread launch on it. Whoever changes torch's current stream changes this one with it.
    pub fn make_current(self) {
        CURRENT.set(self);
    }
}

/// One device with its kernels.
pub struct Gpu {
    context: sys::CUcontext,
    nvrtc: (i32, i32),
    modules: Mutex<BTreeMap<Program, Module>>,
    functions: Mutex<BTreeMap<(Program, &'static str), Function>>,
    /// Compute capability, major and minor digit: 90 for Hopper.
    pub capability: u32,
}

/// A loaded cubin, never unloaded.
#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

/// A kernel in a loaded module.
#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: contexts, modules and functions are handles that the driver lets any thread use once the context is
// current there, which every method sees to.
unsafe impl Send for Gpu {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for Gpu {}

/// An error of the driver with what was being done.
fn failed(doing: &str, error: result::DriverError) -> Error {
    Error::Cuda(format!("the CUDA driver refused to {doing}: {error}"))
}

impl Gpu {
    /// Opens device `index` and loads every kernel. Torch must have made a tensor on the device before.
    pub fn open(index: usize) -> Result<Gpu> {
        // SAFETY: opens and closes a library; cudarc panics later if it is absent, hence the question.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Cuda(
                "no libcuda.so.1 was found: fused kernels need an NVIDIA driver for CUDA 13 (580 or newer)"
                    .into(),
            ));
        }
        result::init().map_err(|e| failed("start", e))?;
        let ordinal = i32::try_from(index).unwrap_or(i32::MAX);
        let device = result::device::get(ordinal).map_err(|e| failed("open the device", e))?;
        // SAFETY: `device` is valid; the primary context stays retained for the life of the process.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(|e| failed("share its context", e))?;
        // SAFETY: a context retained above.
        unsafe { result::ctx::set_current(context) }.map_err(|e| failed("make its context current", e))?;
        use sys::CUdevice_attribute_enum as attribute;
        let digit = |which| -> Result<u32> {
            // SAFETY: `device` is valid.
            let value = unsafe { result::device::get_attribute(device, which) };
            Ok(value.map_err(|e| failed("name its compute capability", e))?.unsigned_abs())
        };
        let capability = 10 * digit(attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
            + digit(attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if capability < OLDEST {
            return Err(Error::Cuda(format!(
                "the card has compute capability {}.{}, the fused kernels need 8.0 or newer",
                capability / 10,
                capability % 10
            )));
        }
        let nvrtc = nvrtc::version()?;
        Ok(Gpu { context, nvrtc, modules: Mutex::default(), functions: Mutex::default(), capability })
    }

    /// Loads programs, those not in the cache compiled all at once: each is a compilation of its own, on a core of
    /// its own.
    pub(super) fn load(&self, programs: &[Program]) -> Result<()> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<Program> = programs.iter().filter(|p| !modules.contains_key(p)).copied().collect();
        let arch = nvrtc::Arch(self.capability);
        let cubins: Vec<Result<Vec<u8>>> = std::thread::scope(|scope| {
            let started: Vec<_> = missing
                .iter()
                .map(|program| scope.spawn(|| cache::cubin(program, arch, self.nvrtc)))
                .collect();
            let stopped = |_| Err(Error::Cuda("a compilation stopped".into()));
            started.into_iter().map(|thread| thread.join().unwrap_or_else(stopped)).collect()
        });
        self.enter()?;
        for (program, cubin) in missing.into_iter().zip(cubins) {
            // SAFETY: a whole cubin, which the driver checks and copies.
            let module = unsafe { result::module::load_data(cubin?.as_ptr().cast()) }
                .map_err(|e| failed(&format!("load the kernels of {}", program.file), e))?;
            modules.insert(program, Module(module));
        }
        Ok(())
    }

    /// Makes the context current on this thread: torch's threads share it, a new thread has none.
    fn enter(&self) -> Result<()> {
        // SAFETY: a context retained in `open`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("make its context current", e))
    }

    fn function(&self, program: Program, kernel: &'static str) -> Result<Function> {
        if let Some(known) =
            self.functions.lock().unwrap_or_else(PoisonError::into_inner).get(&(program, kernel))
        {
            return Ok(*known);
        }
        self.load(&[program])?;
        let modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module =
            modules.get(&program).ok_or_else(|| Error::Cuda(format!("no module {}", program.file)))?;
        let name = CString::new(kernel).map_err(|e| Error::Cuda(e.to_string()))?;
        // SAFETY: a module that is never unloaded.
        let function = unsafe { result::module::get_function(module.0, name) }
            .map_err(|e| failed(&format!("find kernel {kernel} in {}", program.file), e))?;
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        functions.insert((program, kernel), Function(function));
        Ok(Function(function))
    }

    /// Launches a kernel of a program on the current stream: `grid` blocks (x, y) of `block` threads with `shared`
    /// bytes of dynamic shared memory. Each argument is the bits of a pointer, of an i64, or a
    /// 32-bit value in the low half.
    pub(super) fn launch(
        &self,
        program: Program,
        kernel: &'static str,
        grid: (u32, u32),
        block: u32,
        shared: u32,
        arguments: &mut [u64],
    ) -> Result<()> {
        let function = self.function(program, kernel)?;
        // The driver reads as many bytes as the parameter has: on little-endian machines (all that CUDA runs on)
        // the low half of a u64 is the 32-bit value.
        let mut pointers: Vec<*mut c_void> = arguments.iter_mut().map(|a| (a as *mut u64).cast()).collect();
        self.enter()?;
        if shared > UNASKED_SHARED {
            let bytes = i32::try_from(shared).unwrap_or(i32::MAX);
            let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a live function of the current context.
            unsafe { result::function::set_function_attribute(function.0, limit, bytes) }
                .map_err(|e| failed(&format!("give {kernel} {shared} bytes of shared memory"), e))?;
        }
        // SAFETY: the function lives in this context. The callers in `cuda` pass as many arguments as the kernel
        // takes, pointers into live tensors of checked shape; the driver copies the arguments before it returns.
        let done = unsafe {
            let stream = Stream::current().0 as sys::CUstream;
            result::launch_kernel(
                function.0,
                (grid.0, grid.1, 1),
                (block, 1, 1),
                shared,
                stream,
                &mut pointers,
            )
        };
        done.map_err(|e| failed(&format!("launch {kernel} with {grid:?} blocks of {block} threads"), e))
    }
}
