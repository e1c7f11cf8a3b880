//! Safe functions over `shim/core.cpp`: the counting CPU allocator, device memory statistics, and the ops that
//! tch does not bind (GEMM with alpha and beta, fused AdamW).
//!
//! `unsafe` is here and in `cuda` only. Not here: anything that needs libtorch_cuda at link time.
#![allow(unsafe_code)] // the foreign-function boundary itself: every pointer is checked or borrowed here

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;

use tch::Tensor;

use crate::error::{Error, Result};

mod ffi {
    use super::{c_char, c_void};

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    pub struct AllocatorStats {
        pub live_bytes: u64,
        pub peak_bytes: u64,
        pub allocations: u64,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    pub struct DeviceStats {
        pub live_bytes: u64,
        pub peak_bytes: u64,
        pub allocated_bytes: u64,
        pub peak_allocated_bytes: u64,
        pub reserved_bytes: u64,
        pub peak_reserved_bytes: u64,
        pub allocations: u64,
        pub device_allocations: u64,
    }

    unsafe extern "C" {
        pub fn llmc_free_error(error: *mut c_char);
        pub fn llmc_cpu_allocator_install() -> *mut c_char;
        pub fn llmc_cpu_allocator_stats() -> AllocatorStats;
        pub fn llmc_cpu_allocator_reset_peak();
        pub fn llmc_load_library(path: *const c_char) -> *mut c_char;
        pub fn llmc_device_stats(device_index: i8, out: *mut DeviceStats) -> *mut c_char;
        pub fn llmc_device_reset_peak(device_index: i8) -> *mut c_char;
        pub fn llmc_gemm(
            out: *mut c_void,
            a: *const c_void,
            b: *const c_void,
            beta: f64,
            alpha: f64,
        ) -> *mut c_char;
        pub fn llmc_upload(out: *mut c_void, values: *const c_void) -> *mut c_char;
        pub fn llmc_fused_adamw(
            params: *const *mut c_void,
            grads: *const *mut c_void,
            exp_avgs: *const *mut c_void,
            exp_avg_sqs: *const *mut c_void,
            steps: *const *mut c_void,
            count: usize,
            lr: *const c_void,
            beta1: f64,
            beta2: f64,
            weight_decay: f64,
            eps: f64,
            grad_scale: *const c_void,
            found_inf: *const c_void,
        ) -> *mut c_char;
        pub fn llmc_attention_forward(
            how: *const super::Fused,
            q: *const c_void,
            k: *const c_void,
            v: *const c_void,
            cu_seqlens: *const c_void,
            out: *mut c_void,
            lse: *mut c_void,
        ) -> *mut c_char;
        pub fn llmc_attention_backward(
            how: *const super::Fused,
            dout: *const c_void,
            q: *const c_void,
            k: *const c_void,
            v: *const c_void,
            out: *const c_void,
            lse: *const c_void,
            cu_seqlens: *const c_void,
            dq: *mut c_void,
            dk: *mut c_void,
            dv: *mut c_void,
        ) -> *mut c_char;
        pub fn llmc_cudnn_version(version: *mut i64) -> *mut c_char;
    }
}

/// Bytes of CPU tensor storage as requested from libtorch's allocator, since [`install_cpu_allocator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocatorStats {
    /// Bytes live now.
    pub live_bytes: u64,
    /// Most bytes live at once since the last [`reset_cpu_peak`].
    pub peak_bytes: u64,
    /// Allocations ever made.
    pub allocations: u64,
}

/// Bytes of one accelerator's caching allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceStats {
    /// Bytes requested by client code and live.
    pub live_bytes: u64,
    /// Peak of `live_bytes` since the last [`reset_device_peak`].
    pub peak_bytes: u64,
    /// Live bytes rounded up to the allocator's blocks.
    pub allocated_bytes: u64,
    /// Peak of `allocated_bytes`.
    pub peak_allocated_bytes: u64,
    /// Bytes taken from the device.
    pub reserved_bytes: u64,
    /// Peak of `reserved_bytes`.
    pub peak_reserved_bytes: u64,
    /// Allocations ever made.
    pub allocations: u64,
    /// Blocks ever taken from the device.
    pub device_allocations: u64,
}

/// The error text of a shim call as a `Result`; frees the text.
fn check(error: *mut c_char) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns NULL or a NUL-terminated string from strdup, which is ours to free.
    let text = unsafe { CStr::from_ptr(error).to_string_lossy().into_owned() };
    // SAFETY: as above; the pointer is not used again.
    unsafe { ffi::llmc_free_error(error) };
    Err(Error::Libtorch(text))
}

/// Makes the counting allocator libtorch's CPU allocator. Call once, before the first tensor: storage that
/// exists already is not counted. A second call changes nothing.
pub fn install_cpu_allocator() -> Result<()> {
    // `SetAllocator` is "not thread-safe, only called during initialization" (c10/core/Allocator.h).
    static ONCE: std::sync::Once = std::sync::Once::new();
    let mut outcome = Ok(());
    // SAFETY: takes no pointers; serialised by ONCE.
    ONCE.call_once(|| outcome = check(unsafe { ffi::llmc_cpu_allocator_install() }));
    outcome
}

/// What the CPU allocator counted so far.
pub fn cpu_stats() -> AllocatorStats {
    // SAFETY: reads three atomics.
    let s = unsafe { ffi::llmc_cpu_allocator_stats() };
    AllocatorStats { live_bytes: s.live_bytes, peak_bytes: s.peak_bytes, allocations: s.allocations }
}

/// Sets the CPU peak to the bytes live now.
pub fn reset_cpu_peak() {
    // SAFETY: writes one atomic.
    unsafe { ffi::llmc_cpu_allocator_reset_peak() }
}

/// Opens `libtorch_cuda.so`, which registers the CUDA back end. Call before the first question about CUDA
/// devices. Errors when the file or one of the libraries it needs does not load.
pub fn load_cuda(library: &Path) -> Result<()> {
    load_library(library)
}

/// Opens a shared library for the life of the process; its symbols serve whatever is loaded later.
/// Errors when it or one of the libraries it needs does not load.
pub fn load_library(library: &Path) -> Result<()> {
    let path = CString::new(library.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::Libtorch(format!("path with a NUL byte: {}", library.display())))?;
    // SAFETY: `path` is NUL-terminated and outlives the call.
    check(unsafe { ffi::llmc_load_library(path.as_ptr()) })
}

/// Memory statistics of CUDA device `index`. Errors when no CUDA back end is loaded.
pub fn device_stats(index: i8) -> Result<DeviceStats> {
    let mut s = ffi::DeviceStats::default();
    // SAFETY: `s` is valid for writes during the call.
    check(unsafe { ffi::llmc_device_stats(index, &raw mut s) })?;
    Ok(DeviceStats {
        live_bytes: s.live_bytes,
        peak_bytes: s.peak_bytes,
        allocated_bytes: s.allocated_bytes,
        peak_allocated_bytes: s.peak_allocated_bytes,
        reserved_bytes: s.reserved_bytes,
        peak_reserved_bytes: s.peak_reserved_bytes,
        allocations: s.allocations,
        device_allocations: s.device_allocations,
    })
}

/// Sets the peaks of CUDA device `index` to what is live now.
pub fn reset_device_peak(index: i8) -> Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { ffi::llmc_device_reset_peak(index) })
}

fn ptr(t: &Tensor) -> *const c_void {
    t.as_ptr().cast()
}

fn mut_ptr(t: &Tensor) -> *mut c_void {
    // An at::Tensor is a handle: writing the storage it points to does not change the handle, which is why
    // tch's own `_out` functions take `&Tensor` too.
    t.as_ptr().cast_mut().cast()
}

/// `out = beta·out + alpha·a·b` for matrices, or for equal batches of matrices when `out` has three dimensions.
/// With `beta` 0 the old content of `out` is not read. All three share one dtype, except that on CUDA a
/// matrix `out` may be f32 for bf16 operands; operands may be strided views.
/// Errors on shapes or dtypes that do not fit.
pub fn gemm(out: &Tensor, a: &Tensor, b: &Tensor, beta: f64, alpha: f64) -> Result<()> {
    // SAFETY: the three handles are borrowed for the call.
    check(unsafe { ffi::llmc_gemm(mut_ptr(out), ptr(a), ptr(b), beta, alpha) })
}

/// Copies `values` of the CPU to `out` on a CUDA device, equal in shape and dtype, without waiting for the device: they
/// go through page-locked memory, which libtorch's host allocator takes back once the copy has run.
/// Errors when there is no such device or no memory to lock.
pub fn upload(values: &Tensor, out: &Tensor) -> Result<()> {
    // SAFETY: both handles are borrowed for the call.
    check(unsafe { ffi::llmc_upload(mut_ptr(out), ptr(values)) })
}

/// One parameter tensor with its gradient and AdamW state, equal in shape and dtype; `step` is an f32 scalar on
/// the same device that already counts the step being made (1 for the first).
pub struct AdamwTensors<'a> {
    /// Weights, updated in place.
    pub param: &'a Tensor,
    /// Gradient; divided in place by `grad_scale` when that is given.
    pub grad: &'a Tensor,
    /// First moment.
    pub exp_avg: &'a Tensor,
    /// Second moment.
    pub exp_avg_sq: &'a Tensor,
    /// Steps made, this one included.
    pub step: &'a Tensor,
}

/// Constants and device scalars of an AdamW step.
pub struct AdamwScalars<'a> {
    /// Learning rate, a one-element f32 tensor.
    pub lr: &'a Tensor,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Gradients are divided by this one-element f32 tensor: the reciprocal of a clip factor.
    pub grad_scale: Option<&'a Tensor>,
    /// A one-element f32 tensor; 1 skips the whole update.
    pub found_inf: Option<&'a Tensor>,
}

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101) by libtorch's fused kernel `at::_fused_adamw_`, in place.
/// Errors when shapes or dtypes differ within a group.
pub fn fused_adamw(tensors: &[AdamwTensors<'_>], scalars: &AdamwScalars<'_>) -> Result<()> {
    let column = |f: fn(&AdamwTensors<'_>) -> *mut c_void| tensors.iter().map(f).collect::<Vec<_>>();
    let params = column(|t| mut_ptr(t.param));
    let grads = column(|t| mut_ptr(t.grad));
    let exp_avgs = column(|t| mut_ptr(t.exp_avg));
    let exp_avg_sqs = column(|t| mut_ptr(t.exp_avg_sq));
    let steps = column(|t| mut_ptr(t.step));
    // SAFETY: five arrays of `tensors.len()` live handles; optional handles are NULL or live.
    check(unsafe {
        ffi::llmc_fused_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            steps.as_ptr(),
            tensors.len(),
            ptr(scalars.lr),
            scalars.beta1,
            scalars.beta2,
            scalars.weight_decay,
            scalars.eps,
            scalars.grad_scale.map_or(std::ptr::null(), ptr),
            scalars.found_inf.map_or(std::ptr::null(), ptr),
        )
    })
}

/// Which library computes an attention, and over what.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fused {
    /// Equal sequences in the batch (cuDNN).
    pub sequences: i64,
    /// Most rows of a document (FlashAttention).
    pub longest: i64,
    /// FlashAttention 2 over the documents of `cu_seqlens`; else cuDNN over equal sequences.
    pub flash: bool,
    /// A fixed order of sums in the backward pass (FlashAttention only).
    pub deterministic: bool,
}

/// Queries, keys and values `[n, heads, head_dim]` of a CUDA device, bf16 or f16, rows contiguous; and the bounds
/// `[d+1]` i32 of the documents.
pub struct AttentionTensors<'a> {
    /// Queries.
    pub q: &'a Tensor,
    /// Keys.
    pub k: &'a Tensor,
    /// Values.
    pub v: &'a Tensor,
    /// Bounds of documents.
    pub cu_seqlens: &'a Tensor,
}

/// Causal attention into `out` `[n, heads, head_dim]` and the log-sum-exp `lse` `[heads, n]` f32.
/// Errors with the library's own sentence: it never falls to another one.
pub fn attention_forward(how: Fused, t: &AttentionTensors<'_>, out: &Tensor, lse: &Tensor) -> Result<()> {
    let (q, k, v, cu) = (ptr(t.q), ptr(t.k), ptr(t.v), ptr(t.cu_seqlens));
    // SAFETY: all handles are borrowed for the call; `how` is read during it.
    check(unsafe { ffi::llmc_attention_forward(&raw const how, q, k, v, cu, mut_ptr(out), mut_ptr(lse)) })
}

/// Gradients of queries, keys and values into `[dq, dk, dv]`, views that may be strided as theirs.
/// Errors as [`attention_forward`].
pub fn attention_backward(
    how: Fused,
    t: &AttentionTensors<'_>,
    dout: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    [dq, dk, dv]: [&Tensor; 3],
) -> Result<()> {
    let (q, k, v, cu) = (ptr(t.q), ptr(t.k), ptr(t.v), ptr(t.cu_seqlens));
    let (dout, out, lse) = (ptr(dout), ptr(out), ptr(lse));
    let (dq, dk, dv) = (mut_ptr(dq), mut_ptr(dk), mut_ptr(dv));
    // SAFETY: all handles are borrowed for the call; `how` is read during it.
    check(unsafe { ffi::llmc_attention_backward(&raw const how, dout, q, k, v, out, lse, cu, dq, dk, dv) })
}

/// Version of the cuDNN that libtorch loaded, as 91900 for 9.19.0; 0 without one.
pub fn cudnn_version() -> Result<i64> {
    let mut version = 0;
    // SAFETY: `version` is valid for writes during the call.
    check(unsafe { ffi::llmc_cudnn_version(&raw mut version) })?;
    Ok(version)
}
