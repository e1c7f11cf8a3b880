//! The kernel sources, embedded, and the ways to compile them.

/// What every source starts with.
const COMMON: &str = include_str!("../../kernels/common.cuh");

macro_rules! files {
    ($($name:literal,)*) => {
        /// Every source: name and text.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../kernels/", $name, ".cu"))),)*];
    };
}

files! {
    "norm",
    "rope",
    "swiglu",
}

/// Element type of operands, named as in `common.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// f32.
    F32,
    /// bf16.
    Bf16,
    /// IEEE half.
    F16,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Element::F32 => "float",
            Element::Bf16 => "bf16",
            Element::F16 => "f16",
        }
    }
}

/// A source with its macros: one program of NVRTC, one module of the driver. Kernels are compiled for the case that
/// is run, so that a run does not wait for cases it never meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// Name of the source.
    pub file: &'static str,
    /// `ELEMENT`.
    pub element: Element,
    /// `OTHER`.
    pub other: Element,
    /// `ALIGNED`.
    pub aligned: bool,
    /// `MODE`.
    pub mode: u8,
}

impl Program {
    /// The case of a source that has neither a second type nor modes.
    pub fn plain(file: &'static str, element: Element, aligned: bool) -> Program {
        Program { file, element, other: Element::F32, aligned, mode: 0 }
    }

    /// Its text, macros first.
    pub fn text(&self) -> String {
        let source = FILES.iter().find(|(name, _)| *name == self.file).map_or("", |(_, text)| text);
        format!(
            "#define ELEMENT {}\n#define OTHER {}\n#define ALIGNED {}\n#define MODE {}\n#line 1 \"common.cuh\"\n\
             {COMMON}\n#line 1 \"{}.cu\"\n{source}",
            self.element.name(),
            self.other.name(),
            self.aligned,
            self.mode,
            self.file
        )
    }
}

/// What a training run in one format launches.
pub fn training(element: Element) -> Vec<Program> {
    FILES.iter().map(|(file, _)| Program::plain(file, element, true)).collect()
}
