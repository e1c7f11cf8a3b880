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
    "embedding",
    "flat",
    "loss",
    "norm",
    "optimizer",
    "quantise",
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
    let plain = |file| Program::plain(file, element, true);
    let mut programs: Vec<Program> = ["embedding", "norm", "rope", "swiglu"].map(plain).to_vec();
    programs.push(Program { mode: 1, ..plain("loss") });
    // Gradients are f32 whatever the format.
    programs.push(Program::plain("flat", Element::F32, true));
    // Weights in the format of the run, with a master unless that is f32.
    let mode = u8::from(element != Element::F32);
    for other in [Element::F32, Element::Bf16] {
        programs.push(Program { mode, other, ..Program::plain("optimizer", Element::F32, true) });
    }
    programs
}

/// Every case of every source that anything launches.
pub fn all() -> Vec<Program> {
    let types = [Element::F32, Element::Bf16, Element::F16];
    let mut programs = Vec::new();
    for aligned in [true, false] {
        for element in types {
            let plain = |file| Program::plain(file, element, aligned);
            programs.extend(["embedding", "flat", "norm", "rope", "swiglu"].map(plain));
            programs.extend([0, 1].map(|mode| Program { mode, ..plain("loss") }));
            if element != Element::F32 {
                programs.extend([0, 1].map(|mode| Program { mode, ..plain("quantise") }));
            }
            if element != Element::F16 {
                let moments = [Element::F32, Element::Bf16];
                let cases = moments.into_iter().flat_map(|other| (0..4).map(move |mode| (other, mode)));
                programs.extend(cases.map(|(other, mode)| Program { other, mode, ..plain("optimizer") }));
            }
        }
    }
    programs
}
