//! Fused CUDA kernels: compiled by NVRTC at run time, cached, launched on torch's stream.
//!
//! Each function takes tensors of one CUDA device, checks them and launches; none waits for the device. Results
//! are deterministic: reductions have a fixed order and no float is added atomically. Sources are in `kernels/`.
//! Every kernel has a plain-tensor twin in `ops`, which runs on the CPU and is its test.
//!
//! The libraries are opened at run time: one binary serves machines with and without a GPU. Not here: cuBLASLt,
//! attention, which op calls which kernel.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

pub mod blas;
mod cache;
mod driver;
pub mod embedding;
pub mod flat;
mod launch;
pub mod loss;
pub mod norm;
pub mod nvrtc;
pub mod optimizer;
pub mod probe;
pub mod quantise;
pub mod rope;
pub mod source;
mod stopwatch;
pub mod streams;
pub mod swiglu;

use driver::Gpu;
pub use driver::Stream;
pub use stopwatch::{Mark, Stopwatch};

/// The kernels of every device asked for so far, or why there are none: a failure is not tried again.
static LOADED: Mutex<BTreeMap<usize, std::result::Result<&'static Gpu, String>>> =
    Mutex::new(BTreeMap::new());

/// The kernels for the device that `like` lives on: the first call for a device compiles them or reads them from
/// the cache (`llmc/kernels` in the user's cache folder).
///
/// # Errors
/// One sentence naming what was found and what is needed: no driver, no NVRTC, a card too old.
fn gpu(like: &Tensor) -> Result<&'static Gpu> {
    let Device::Cuda(index) = like.device() else {
        return Err(Error::Cuda("a kernel was called on tensors that are not on a CUDA device".into()));
    };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = loaded.entry(index).or_insert_with(|| {
        // Kept for the life of the process, as the context they live in is.
        Gpu::open(index).map(|gpu| &*Box::leak(Box::new(gpu))).map_err(|e| e.to_string())
    });
    entry.clone().map_err(Error::Cuda)
}

/// Compiles or loads what a run in the format of `kind` meets now, all at once, rather than at each first launch.
///
/// # Errors
/// As any launch: one sentence naming what was found and what is needed.
pub fn prepare(device: Device, kind: Kind) -> Result<()> {
    // A tensor makes torch set up the device's primary context, which the kernels share.
    let like = Tensor::f_empty([1], (kind, device))?;
    gpu(&like)?.load(&source::training(launch::element(&like, "prepare")?))
}

/// Whether the fused kernels serve this tensor: on a CUDA device, f32, bf16 or f16. Everything else runs on the
/// plain-tensor twins.
pub fn serves(t: &Tensor) -> bool {
    matches!(t.device(), Device::Cuda(_)) && matches!(t.kind(), Kind::Float | Kind::BFloat16 | Kind::Half)
}
