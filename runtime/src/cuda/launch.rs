//! One launch under construction: arguments in the order of the kernel's parameters, operands checked.

use tch::{Kind, Tensor};

use super::driver::Gpu;
use super::gpu;
use super::source::{Element, Program};
use crate::error::{Error, Result};
use crate::ops::philox::Stream;
use crate::ops::unsigned;

/// Bytes of one vector access.
pub const ACCESS: usize = 16;

/// The element type of a tensor.
///
/// # Errors
/// A format that the kernels do not have.
pub fn element(t: &Tensor, op: &'static str) -> Result<Element> {
    match t.kind() {
        Kind::Float => Ok(Element::F32),
        Kind::BFloat16 => Ok(Element::Bf16),
        Kind::Half => Ok(Element::F16),
        other => Err(Error::Operand { op, problem: format!("no fused kernel for {other:?}") }),
    }
}

/// Elements of one vector access.
pub fn chunk(element: Element) -> i64 {
    if element == Element::F32 { 4 } else { 8 }
}

/// Whether rows of `width` elements of every tensor start on whole accesses.
pub fn aligned(tensors: &[&Tensor], width: i64) -> bool {
    tensors.iter().all(|t| {
        let bytes = i64::try_from(t.kind().elt_size_in_bytes()).unwrap_or(1);
        (t.data_ptr() as usize).is_multiple_of(ACCESS)
            && unsigned(width * bytes).is_multiple_of(ACCESS as u64)
    })
}

/// `a ÷ b` rounded up, for extents.
pub fn ceil(a: i64, b: i64) -> i64 {
    let b = b.max(1);
    a / b + i64::from(a % b > 0)
}

/// A launch.
pub struct Launch {
    gpu: &'static Gpu,
    program: Program,
    kernel: &'static str,
    op: &'static str,
    device: tch::Device,
    arguments: Vec<u64>,
    problem: Option<String>,
}

impl Launch {
    /// Of `kernel` in `program`, on the device of `like`, for `op`.
    pub fn new(like: &Tensor, op: &'static str, program: Program, kernel: &'static str) -> Result<Launch> {
        let (gpu, device) = (gpu(like)?, like.device());
        Ok(Launch { gpu, program, kernel, op, device, arguments: Vec::with_capacity(16), problem: None })
    }

    /// A tensor of this format, contiguous, on the launch's device.
    pub fn tensor(mut self, t: &Tensor, kind: Kind) -> Launch {
        if t.kind() != kind || t.device() != self.device || !t.is_contiguous() {
            self.problem.get_or_insert_with(|| {
                let layout = if t.is_contiguous() { "contiguous" } else { "strided" };
                format!(
                    "operand {} of {} must be contiguous {kind:?} on {:?}, is {layout} {:?} on {:?}",
                    self.arguments.len(),
                    self.kernel,
                    self.device,
                    t.kind(),
                    t.device()
                )
            });
        }
        self.arguments.push(t.data_ptr() as u64);
        self
    }

    /// An address inside a tensor that the caller has checked, or null.
    pub fn address(mut self, address: usize) -> Launch {
        self.arguments.push(address as u64);
        self
    }

    /// A one-element tensor of this format, or null.
    pub fn optional(self, t: Option<&Tensor>, kind: Kind) -> Launch {
        match t {
            Some(t) => self.tensor(t, kind),
            None => self.address(0),
        }
    }

    /// An i64.
    pub fn int(mut self, value: i64) -> Launch {
        self.arguments.push(value.cast_unsigned());
        self
    }

    /// An f32.
    pub fn float(mut self, value: f64) -> Launch {
        self.arguments.push(u64::from((value as f32).to_bits()));
        self
    }

    /// An f64.
    pub fn double(mut self, value: f64) -> Launch {
        self.arguments.push(value.to_bits());
        self
    }

    /// A u32.
    pub fn word(mut self, value: u32) -> Launch {
        self.arguments.push(u64::from(value));
        self
    }

    /// Key and step of a stream of random words: four u32.
    pub fn stream(self, stream: &Stream) -> Launch {
        let ([key0, key1], [step0, step1]) = stream.words_of_key();
        self.word(key0).word(key1).word(step0).word(step1)
    }

    /// Launches `blocks` blocks of `threads` threads; none when there are no blocks.
    pub fn run(self, blocks: i64, threads: i64) -> Result<()> {
        self.run_with((blocks, 1), threads, 0)
    }

    /// Launches a grid (x, y) with `shared` bytes of dynamic shared memory.
    pub fn run_with(mut self, (x, y): (i64, i64), threads: i64, shared: i64) -> Result<()> {
        if let Some(problem) = self.problem {
            return Err(Error::Operand { op: self.op, problem });
        }
        if x == 0 || y == 0 {
            return Ok(());
        }
        let word = |value: i64| {
            u32::try_from(value).map_err(|_| Error::Operand {
                op: self.op,
                problem: format!("a launch of {x} × {y} blocks of {threads} threads is too large"),
            })
        };
        let (grid, block, shared) = ((word(x)?, word(y)?), word(threads)?, word(shared)?);
        self.gpu.launch(self.program, self.kernel, grid, block, shared, &mut self.arguments)
    }
}
