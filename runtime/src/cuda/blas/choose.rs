//! Choosing an algorithm by measuring: what cuBLASLt names, and under load settings of the best that it does not name.

use std::mem::MaybeUninit;

use cudarc::cublaslt::{result, sys};
use tch::{Kind, Tensor};

use super::{Format, Library, Ready, Shape, WORKSPACE, failed, status};
use crate::cuda::Stopwatch;
use crate::error::Result;
use crate::report::median;

/// How long algorithms are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Candidates asked of cuBLASLt, for each of these limits of scratch.
    candidates: usize,
    workspaces: &'static [usize],
    /// Of which so many are measured at length.
    finalists: usize,
    /// Whether settings of the best that cuBLASLt names no candidate for are candidates too.
    settings: bool,
    /// Seconds of load before that: a card at its power limit lowers its clock only after a while.
    load: f64,
    /// Turns of a finalist, of which the median counts, and seconds of a turn.
    turns: usize,
    turn: f64,
}

/// Two runs a turn: 1 to 2 s for all products of a model, most of it loading kernels. cuBLASLt names the fast ones early:
/// 12, 32 and 300 candidates gave the same step within the difference of cards (2026-11, H100, 3B).
pub(super) const QUICK: Effort = Effort {
    candidates: 12,
    workspaces: &[WORKSPACE],
    finalists: 4,
    settings: false,
    load: 0.0,
    turns: 4,
    turn: 0.0,
};
/// Under the clocks of a training step: 3 to 5 s a shape. Scratch limits change which split sums are offered; settings gave
/// 0.3 to 0.4 % of a step (2026-11-30, H200, 3B at micro-batch 4, before and after in turns).
pub(super) const THOROUGH: Effort = Effort {
    candidates: 100,
    workspaces: &[WORKSPACE, 8 << 20, 0],
    finalists: 8,
    settings: true,
    load: 0.5,
    turns: 5,
    turn: 0.06,
};
/// Options of an algorithm that are tried, at most.
const MOST_OPTIONS: u32 = 31;
/// Fewest runs of a turn.
const RUNS: usize = 2;

/// An algorithm and the seconds it took.
type Timed = (f64, sys::cublasLtMatmulAlgo_t);

impl Library {
    /// Up to `count` algorithms that take at most `bytes` of scratch, the one cuBLASLt thinks fastest first.
    pub(super) fn candidates(
        &self,
        ready: &Ready,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>> {
        let preference = result::create_matmul_pref().map_err(status)?;
        // Split sums may go through scratch, but not be added in place in the order blocks happen to finish.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        type Attribute = sys::cublasLtMatmulPreferenceAttributes_t;
        let mut found = Vec::with_capacity(count);
        let mut given = 0;
        // SAFETY: the attributes are a size_t and a uint32_t (cublasLt.h); descriptors are live; the result array holds
        // `count` entries, of which the first `given` are initialised on success.
        let outcome = unsafe {
            prefer(preference, Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes)
                .and_then(|()| {
                    prefer(preference, Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes)
                })
                .and_then(|()| {
                    let mut results =
                        vec![MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(); count];
                    sys::cublasLtMatmulAlgoGetHeuristic(
                        self.handle,
                        ready.operation,
                        ready.a,
                        ready.b,
                        ready.c,
                        ready.c,
                        preference,
                        i32::try_from(count).unwrap_or(1),
                        results.as_mut_ptr().cast(),
                        &raw mut given,
                    )
                    .result()?;
                    for entry in results.iter().take(usize::try_from(given).unwrap_or(0)) {
                        let entry = entry.assume_init();
                        if entry.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
                            found.push(entry.algo);
                        }
                    }
                    Ok(())
                })
        };
        // SAFETY: made above, not used again.
        unsafe { result::destroy_matmul_pref(preference) }.map_err(status)?;
        match outcome {
            Ok(()) => Ok(found),
            Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => Ok(Vec::new()),
            Err(other) => Err(status(other)),
        }
    }

    /// An algorithm with every order of its blocks and every option of its own that the library takes for the product.
    fn settings(
        &self,
        ready: &Ready,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> Vec<sys::cublasLtMatmulAlgo_t> {
        type Config = sys::cublasLtMatmulAlgoConfigAttributes_t;
        let mut most = 0u32;
        // SAFETY: the attribute is an i32 or u32 of 4 bytes (cublasLt.h); a refusal leaves 0.
        let _ = unsafe {
            sys::cublasLtMatmulAlgoCapGetAttribute(
                algorithm,
                sys::cublasLtMatmulAlgoCapAttributes_t::CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX,
                (&raw mut most).cast(),
                size_of::<u32>(),
                std::ptr::null_mut(),
            )
        };
        let choices =
            (0..=1u32).flat_map(|swizzle| (0..=most.min(MOST_OPTIONS)).map(move |option| (swizzle, option)));
        choices
            .filter_map(|(swizzle, option)| {
                let mut changed = *algorithm;
                let set = |changed: &mut sys::cublasLtMatmulAlgo_t, what, value: u32| {
                    // SAFETY: both attributes are u32 (cublasLt.h).
                    unsafe {
                        sys::cublasLtMatmulAlgoConfigSetAttribute(
                            changed,
                            what,
                            (&raw const value).cast(),
                            size_of::<u32>(),
                        )
                    }
                    .result()
                };
                set(&mut changed, Config::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, swizzle).ok()?;
                set(&mut changed, Config::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, option).ok()?;
                let mut found = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit();
                // SAFETY: descriptors are live; the result is read only where the library says that it wrote it.
                let found = unsafe {
                    sys::cublasLtMatmulAlgoCheck(
                        self.handle,
                        ready.operation,
                        ready.a,
                        ready.b,
                        ready.c,
                        ready.c,
                        &raw const changed,
                        found.as_mut_ptr(),
                    )
                    .result()
                    .ok()?;
                    found.assume_init()
                };
                (found.workspaceSize <= WORKSPACE).then_some(changed)
            })
            .collect()
    }

    /// The fastest algorithm of a shape on random operands: zeros draw less power and run faster than data does.
    pub(super) fn measure(
        &self,
        shape: &Shape,
        device: tch::Device,
        workspace: &Tensor,
        effort: &Effort,
    ) -> Result<[u64; 8]> {
        let mut ready = Ready::describe(shape)?;
        let matrix = |rows: u64, columns: u64, format: Format| -> Result<Tensor> {
            let extents = [rows, columns].map(|x| i64::try_from(x).unwrap_or(i64::MAX));
            let values = Tensor::f_randn(extents, (Kind::BFloat16, device))?;
            Ok(values.f_to_kind(format.kind())?)
        };
        let turned = |turn: bool, rows, columns| if turn { (columns, rows) } else { (rows, columns) };
        let (ar, ac) = turned(shape.transpose_a, shape.m, shape.k);
        let (br, bc) = turned(shape.transpose_b, shape.k, shape.n);
        let (a, b) = (matrix(ar, ac, shape.a)?, matrix(br, bc, shape.b)?);
        let c = matrix(shape.m, shape.n, shape.c)?;
        let one = Tensor::f_ones([1i64], (Kind::Float, device))?;
        let scales = shape.a.is_f8().then_some([&one, &one]);
        let mut time = |algorithm: &sys::cublasLtMatmulAlgo_t, runs: usize| -> Result<f64> {
            ready.algorithm = *algorithm;
            let watch = Stopwatch::start()?;
            for _ in 0..runs {
                ready.run(self.handle, shape, [&a, &b, &c, &c], scales, workspace)?;
            }
            Ok(watch.stop()? / runs as f64)
        };
        let mut timed: Vec<Timed> = Vec::new();
        let mut try_all =
            |timed: &mut Vec<Timed>, candidates: Vec<sys::cublasLtMatmulAlgo_t>| -> Result<()> {
                for algorithm in candidates {
                    if timed.iter().all(|(_, known)| known.data != algorithm.data) {
                        time(&algorithm, 1)?; // loads the kernel
                        timed.push((time(&algorithm, RUNS)?, algorithm));
                    }
                }
                timed.sort_by(|x, y| x.0.total_cmp(&y.0));
                Ok(())
            };
        let described = Ready::describe(shape)?;
        for bytes in effort.workspaces {
            try_all(&mut timed, self.candidates(&described, effort.candidates, *bytes)?)?;
        }
        timed.truncate(effort.finalists);
        if effort.settings {
            let settings =
                timed.iter().flat_map(|(_, algorithm)| self.settings(&described, algorithm)).collect();
            try_all(&mut timed, settings)?;
            timed.truncate(effort.finalists);
        }
        let runs = |seconds: f64, of: f64| ((seconds / of.max(1e-6)) as usize).max(RUNS);
        if let Some((one, algorithm)) = timed.first().filter(|_| effort.load > 0.0) {
            time(algorithm, runs(effort.load, *one))?;
        }
        // In turns, so that a clock that drifts meets all of them alike.
        let mut finalists: Vec<_> = timed.iter().map(|_| Vec::with_capacity(effort.turns)).collect();
        for _ in 0..effort.turns {
            for ((one, algorithm), seconds) in timed.iter().zip(&mut finalists) {
                seconds.push(time(algorithm, runs(effort.turn, *one))?);
            }
        }
        let medians = finalists.iter().map(|seconds| median(seconds));
        let best = timed.iter().zip(medians).min_by(|x, y| x.1.total_cmp(&y.1));
        best.map(|((_, algorithm), _)| algorithm.data)
            .ok_or_else(|| failed(format!("cuBLASLt has no algorithm for {shape:?}")))
    }
}

/// Sets an attribute of a preference.
///
/// # Safety
/// The preference is live, and `V` is what cublasLt.h gives the attribute.
unsafe fn prefer<V>(
    preference: sys::cublasLtMatmulPreference_t,
    attribute: sys::cublasLtMatmulPreferenceAttributes_t,
    value: &V,
) -> std::result::Result<(), result::CublasError> {
    // SAFETY: as the caller says.
    unsafe {
        result::set_matmul_pref_attribute(
            preference,
            attribute,
            std::ptr::from_ref(value).cast(),
            size_of::<V>(),
        )
    }
}
