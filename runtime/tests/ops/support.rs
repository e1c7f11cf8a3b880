//! The bench that every op test runs on: seeded tensors, comparison, measured temporaries.

use std::sync::{Mutex, MutexGuard, PoisonError};

use llmc_runtime::shim;
use tch::{Device, Kind, Tensor};

static LOCK: Mutex<()> = Mutex::new(());

/// Installs the counting allocator, fixes threads and seed, and keeps other tests out until dropped.
pub fn bench() -> MutexGuard<'static, ()> {
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    shim::install_cpu_allocator().expect("install the counting allocator");
    tch::set_num_threads(2);
    tch::manual_seed(7);
    guard
}

/// Peak bytes allocated above what was live, while `f` runs.
pub fn temporaries<T>(f: impl FnOnce() -> T) -> (u64, T) {
    let before = shim::cpu_stats().live_bytes;
    shim::reset_cpu_peak();
    let value = f();
    (shim::cpu_stats().peak_bytes - before, value)
}

/// Standard normal numbers.
pub fn randn(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Double, Device::Cpu)).to_kind(kind)
}

/// Largest norm-wise relative error of `got` against `want`, computed in f64; infinite when not finite.
pub fn relative_error(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.size(), want.size(), "shapes differ");
    let (got, want) = (got.detach().to_kind(Kind::Double), want.detach().to_kind(Kind::Double));
    let difference = (&got - &want).norm().double_value(&[]);
    let scale = want.norm().double_value(&[]);
    let error = if scale > 0.0 { difference / scale } else { difference };
    if error.is_finite() { error } else { f64::INFINITY }
}
