//! Matrix products by cuBLASLt: bf16, f16 and fp8 operands, bf16, f16 or f32 results, accumulation inside the
//! product, algorithms chosen by measuring.
//!
//! A product's algorithm is a property of its [`Shape`]. [`tune`] measures candidates before training and gives a
//! [`Table`] that is stored with the run: a resumed run takes the same algorithms and never measures again. A shape
//! that is not in the table gets cuBLASLt's first choice. No algorithm that adds in no fixed order is ever taken.
//!
//! Not here: how an algorithm is chosen ([`choose`]), which products there are (the program), f32 and f64 products
//! (libtorch's own).
#![allow(unsafe_code)] // a foreign-function boundary: what each call needs is stated beside it

mod choose;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;

use cudarc::cublaslt::{result, sys};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use choose::{QUICK, THOROUGH};

const OP: &str = "gemm";

/// Bytes of scratch a product may use: what NVIDIA recommends for Hopper (cuBLAS documentation, 2.1.8
/// cublasSetWorkspace). `plan::op::Gemm` declares the same.
pub const WORKSPACE: usize = 32 << 20;

/// What an algorithm depends on. The product is `d = (c +) op(a)·op(b)` of row-major matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Rows of c.
    pub m: u64,
    /// Columns of c.
    pub n: u64,
    /// Inner extent.
    pub k: u64,
    /// a is stored as `[k, m]`.
    pub transpose_a: bool,
    /// b is stored as `[n, k]`.
    pub transpose_b: bool,
    /// The product is added to c.
    pub accumulate: bool,
    /// Format of a.
    pub a: Format,
    /// Format of b.
    pub b: Format,
    /// Format of c.
    pub c: Format,
}

/// Number formats of operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names say it
pub enum Format {
    F32,
    Bf16,
    F16,
    F8E4m3,
    F8E5m2,
}

impl Format {
    /// Of a tensor; none for formats without products here.
    pub fn of(kind: Kind) -> Option<Format> {
        match kind {
            Kind::Float => Some(Format::F32),
            Kind::BFloat16 => Some(Format::Bf16),
            Kind::Half => Some(Format::F16),
            Kind::Float8e4m3fn => Some(Format::F8E4m3),
            Kind::Float8e5m2 => Some(Format::F8E5m2),
            _ => None,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Format::F32 => Kind::Float,
            Format::Bf16 => Kind::BFloat16,
            Format::F16 => Kind::Half,
            Format::F8E4m3 => Kind::Float8e4m3fn,
            Format::F8E5m2 => Kind::Float8e5m2,
        }
    }

    fn cuda(self) -> sys::cudaDataType {
        match self {
            Format::F32 => sys::cudaDataType::CUDA_R_32F,
            Format::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            Format::F16 => sys::cudaDataType::CUDA_R_16F,
            Format::F8E4m3 => sys::cudaDataType::CUDA_R_8F_E4M3,
            Format::F8E5m2 => sys::cudaDataType::CUDA_R_8F_E5M2,
        }
    }

    /// Whether it has 8 bits.
    pub fn is_f8(self) -> bool {
        matches!(self, Format::F8E4m3 | Format::F8E5m2)
    }
}

/// Algorithms of shapes, as cuBLASLt's opaque words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `cublasLtGetVersion`: the words mean nothing to another version.
    pub version: u64,
    /// Whether they were looked for at length.
    #[serde(default)]
    pub thorough: bool,
    /// One a shape.
    pub algorithms: Vec<(Shape, [u64; 8])>,
}

/// A shape ready to run.
struct Ready {
    operation: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    c: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// A handle and what has run on it. A process drives one device, from one thread; descriptors live as long as it.
struct Library {
    handle: sys::cublasLtHandle_t,
    ready: BTreeMap<Shape, Ready>,
    known: BTreeMap<Shape, [u64; 8]>,
}

thread_local! {
    static LIBRARY: RefCell<Option<Library>> = const { RefCell::new(None) };
}

/// Runs `f` on this thread's library, opened on first use.
fn with<T>(f: impl FnOnce(&mut Library) -> Result<T>) -> Result<T> {
    LIBRARY.with_borrow_mut(|slot| {
        if slot.is_none() {
            // SAFETY: looks the library up, calls nothing in it.
            if !unsafe { sys::is_culib_present() } {
                return Err(failed("libcublasLt.so.13 is not found: it comes with libtorch's CUDA wheels"));
            }
            let handle = result::create_handle().map_err(status)?;
            *slot = Some(Library { handle, ready: BTreeMap::new(), known: BTreeMap::new() });
        }
        slot.as_mut().map_or_else(|| Err(failed("no cuBLASLt handle")), f)
    })
}

fn failed(problem: impl Into<String>) -> Error {
    Error::Operand { op: OP, problem: problem.into() }
}

fn status(error: result::CublasError) -> Error {
    failed(format!("cuBLASLt: {error}"))
}

/// `d = op(a)·op(b)`, or with `accumulate` `d = c + op(a)·op(b)`, where c may be d itself. Row-major matrices whose
/// rows are contiguous. fp8 operands come with their scales, `[1]` f32 on the device, by which the product is
/// multiplied.
///
/// # Errors
/// A shape or format that cuBLASLt has no algorithm for.
pub fn matmul(
    shape: &Shape,
    (a, b): (&Tensor, &Tensor),
    (c, d): (&Tensor, &Tensor),
    scales: Option<[&Tensor; 2]>,
) -> Result<()> {
    let workspace = Tensor::f_empty([WORKSPACE as i64], (Kind::Uint8, d.device()))?;
    with(|library| library.run(shape, [a, b, c, d], scales, &workspace))
}

/// Takes the algorithms of a table measured before, if it is this library's.
///
/// # Errors
/// When there is no cuBLASLt.
pub fn adopt(table: &Table) -> Result<bool> {
    with(|library| {
        let same = table.version == version();
        if same {
            library.known.extend(table.algorithms.iter().copied());
        }
        Ok(same)
    })
}

/// Measures algorithms for every shape that has none yet, `thorough`ly or quickly, and returns all there are. Takes
/// scratch on `device` for one product at a time.
///
/// # Errors
/// When a product cannot be run at all.
pub fn tune(shapes: impl IntoIterator<Item = Shape>, device: tch::Device, thorough: bool) -> Result<Table> {
    let effort = if thorough { &THOROUGH } else { &QUICK };
    let workspace = Tensor::f_empty([WORKSPACE as i64], (Kind::Uint8, device))?;
    with(|library| {
        for shape in shapes {
            if !library.known.contains_key(&shape) {
                let best = library.measure(&shape, device, &workspace, effort)?;
                library.known.insert(shape, best);
                library.ready.remove(&shape);
            }
        }
        let algorithms = library.known.iter().map(|(shape, words)| (*shape, *words)).collect();
        Ok(Table { version: version(), thorough, algorithms })
    })
}

fn version() -> u64 {
    // SAFETY: takes no pointers; the library was found.
    unsafe { sys::cublasLtGetVersion() as u64 }
}

impl Library {
    fn run(
        &mut self,
        shape: &Shape,
        matrices: [&Tensor; 4],
        scales: Option<[&Tensor; 2]>,
        workspace: &Tensor,
    ) -> Result<()> {
        if !self.ready.contains_key(shape) {
            let ready = self.prepare(shape)?;
            self.ready.insert(*shape, ready);
        }
        let ready = self.ready.get(shape).ok_or_else(|| failed("lost a shape"))?;
        ready.run(self.handle, shape, matrices, scales, workspace)
    }

    /// Descriptors of a shape and its known algorithm, or cuBLASLt's first choice.
    fn prepare(&self, shape: &Shape) -> Result<Ready> {
        let mut ready = Ready::describe(shape)?;
        ready.algorithm = match self.known.get(shape) {
            Some(words) => sys::cublasLtMatmulAlgo_t { data: *words },
            None => {
                let found = self.candidates(&ready, 1, WORKSPACE)?;
                *found.first().ok_or_else(|| failed(format!("cuBLASLt has no algorithm for {shape:?}")))?
            }
        };
        Ok(ready)
    }
}

impl Ready {
    /// cuBLASLt thinks in columns: a row-major `[r, c]` is a column-major `[c, r]`, and `cᵀ = op(b)ᵀ·op(a)ᵀ`, so the
    /// operands change places and keep their transpositions.
    fn describe(shape: &Shape) -> Result<Ready> {
        let layout = |rows: u64, columns: u64, format: Format| {
            let leading = i64::try_from(columns).unwrap_or(i64::MAX);
            result::create_matrix_layout(format.cuda(), columns, rows, leading).map_err(status)
        };
        let operation = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType::CUDA_R_32F,
        )
        .map_err(status)?;
        let turn = |on: bool| i32::from(on); // cublasOperation_t: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1
        type Attribute = sys::cublasLtMatmulDescAttributes_t;
        set(operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &turn(shape.transpose_b))?;
        set(operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &turn(shape.transpose_a))?;
        if shape.a.is_f8() {
            // Partial sums of fp8 products are kept in fewer bits on Hopper when this is on (arXiv 2412.19437,
            // section 3.3.2): on for what is rounded to bf16 anyway, off for what is accumulated in f32.
            set(operation, Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &i8::from(shape.c != Format::F32))?;
        }
        let (ar, ac) = if shape.transpose_a { (shape.k, shape.m) } else { (shape.m, shape.k) };
        let (br, bc) = if shape.transpose_b { (shape.n, shape.k) } else { (shape.k, shape.n) };
        Ok(Ready {
            operation,
            a: layout(br, bc, shape.b)?,
            b: layout(ar, ac, shape.a)?,
            c: layout(shape.m, shape.n, shape.c)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        })
    }

    fn run(
        &self,
        handle: sys::cublasLtHandle_t,
        shape: &Shape,
        [a, b, c, d]: [&Tensor; 4],
        scales: Option<[&Tensor; 2]>,
        workspace: &Tensor,
    ) -> Result<()> {
        type Attribute = sys::cublasLtMatmulDescAttributes_t;
        if let Some([scale_a, scale_b]) = scales {
            set(self.operation, Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scale_b.data_ptr())?;
            set(self.operation, Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scale_a.data_ptr())?;
        }
        let (alpha, beta) = (1.0f32, if shape.accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: the tensors hold what the layouts say (the caller checked shapes, formats and strides); scalars
        // are read before the call returns; the null stream is libtorch's current one.
        unsafe {
            result::matmul(
                handle,
                self.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b.data_ptr(),
                self.a,
                a.data_ptr(),
                self.b,
                c.data_ptr(),
                self.c,
                d.data_ptr(),
                self.c,
                &raw const self.algorithm,
                workspace.data_ptr(),
                WORKSPACE,
                std::ptr::null_mut(),
            )
        }
        .map_err(|e| failed(format!("cuBLASLt: {e} for {shape:?}")))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // SAFETY: made by `describe`, not used again. A failure leaks a few hundred bytes of host memory.
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in [self.a, self.b, self.c] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// Sets one attribute of a product.
fn set<T>(
    operation: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<()> {
    let buffer: *const c_void = std::ptr::from_ref(value).cast();
    // SAFETY: `operation` is live and `value` has the type that cuBLASLt documents for the attribute.
    unsafe { result::set_matmul_desc_attribute(operation, attribute, buffer, size_of::<T>()) }.map_err(status)
}
