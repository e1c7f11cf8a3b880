//! Accelerators: the figures the cost model reads, and a strict reader for the TOML files that hold them.
//!
//! A figure is `{ value = "3.35 TB/s", source = "…" }`: a quantity with its unit and where it comes from. A missing
//! figure, a wrong unit or a negative value is an error that names line, field and what was expected.

use std::collections::BTreeMap;
use std::fmt;

use llmc_plan::lang::Said;
use llmc_plan::say;
use serde::Deserialize;
use toml::Spanned;

use crate::profile::{self, Profile};

/// What executes the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An NVIDIA GPU.
    #[default]
    Cuda,
    /// The host processor; "GPU" then means one process.
    Cpu,
}

/// One accelerator with its machine and network. Bytes, bytes per second, FLOP per second, seconds, kilowatts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hardware {
    /// Name as written in a recipe ("H100").
    pub name: String,
    /// Vendor's name.
    pub title: String,
    /// GPU or CPU.
    pub kind: Kind,
    /// Efficiency profile the cost model uses for it.
    pub profile: String,
    /// Devices in one machine.
    pub gpus_per_node: u64,
    /// Devices joined by the fast link: a machine, or a rack (NVL72).
    pub link_domain: u64,
    /// Streaming multiprocessors (cores on a CPU).
    pub multiprocessors: u64,
    /// Device memory a process can see in total.
    pub memory_bytes: u64,
    /// Device memory bandwidth, vendor's peak.
    pub memory_bandwidth: f64,
    /// Dense peak of f32 without tensor cores.
    pub peak_f32: f64,
    /// Dense peak of TF32 products.
    pub peak_tf32: f64,
    /// Dense peak of bf16 products (also fp16).
    pub peak_bf16: f64,
    /// Dense peak of fp8 products, where the part has them.
    pub peak_fp8: Option<f64>,
    /// Dense bf16 rate at the clock that the power limit allows under load, where that is far below the peak's.
    pub sustained_bf16: Option<f64>,
    /// Link inside the machine, one direction per device.
    pub link_bandwidth: f64,
    /// Devices that share their links out among each other without a switch; `None`: a switch gives all to any.
    pub mesh: Option<u64>,
    /// "nvlink", "pcie" or "memory".
    pub link_kind: String,
    /// The switch can reduce (NVLS).
    pub nvls: bool,
    /// Network between machines, one direction per device.
    pub network_bandwidth: f64,
    /// Host memory per machine.
    pub host_memory_bytes: u64,
    /// Host link, one direction per device.
    pub host_bandwidth: f64,
    /// Board power.
    pub power_kw: f64,
    /// Assumed rent per device-hour in CNY, used and marked when the recipe gives no price.
    pub rent_cny_hour: f64,
    /// Source of each figure, by field.
    pub sources: BTreeMap<String, String>,
    /// The file's own efficiencies, used instead of the profile of that name.
    pub efficiencies: Option<Profile>,
}

impl Hardware {
    /// Clock under load ÷ the clock of the peaks, as far as the power limit alone decides it.
    pub fn clock(&self) -> f64 {
        self.sustained_bf16.map_or(1.0, |rate| rate / self.peak_bf16)
    }
}

/// A hardware file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardwareError {
    /// Line in the file, from 1.
    pub line: usize,
    /// Field in question; empty when the file is not TOML.
    pub field: Box<str>,
    /// What should have stood there.
    pub expected: Said,
    /// What stands there.
    pub found: Said,
}

impl HardwareError {
    /// The error as a sentence.
    pub fn said(&self) -> Said {
        let HardwareError { line, field, expected, found } = self;
        if field.is_empty() {
            return say!(
                "line {line}: expected {expected}, found {found}",
                "第 {line} 行：应为{expected}，实为 {found}",
                line,
                expected,
                found
            );
        }
        say!(
            "line {line}: `{field}`: expected {expected}, found {found}",
            "第 {line} 行：`{field}`：应为{expected}，实为 {found}",
            line,
            field,
            expected,
            found
        )
    }

    /// What the TOML reader says of `text`, with line and key.
    pub(crate) fn of_toml(text: &str, error: &toml::de::Error) -> HardwareError {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
        let key = text.lines().nth(line - 1).and_then(|l| l.split_once('=')).map(|(key, _)| key.trim());
        let message = error.message();
        let name = |text: &str| text.split('`').nth(1).unwrap_or_default().to_owned();
        let nothing = || say!("nothing", "没有");
        if message.starts_with("missing field") {
            return HardwareError {
                line,
                field: name(message).into(),
                expected: say!("a value", "一个值"),
                found: nothing(),
            };
        }
        if message.starts_with("unknown field") {
            let known =
                message.split_once("expected ").map_or("", |(_, known)| known.trim_start_matches("one of "));
            let expected = say!("one of {known}", "下列之一 {known}", known);
            return HardwareError {
                line,
                field: name(message).into(),
                expected,
                found: Said::same(name(message)),
            };
        }
        let field: Box<str> = key.unwrap_or_default().into();
        match message.split_once(", expected ") {
            Some((found, kind)) => {
                let expected = match kind {
                    "i64" | "u64" => say!("a whole number", "整数"),
                    "f64" => say!("a number", "数字"),
                    "a string" => say!("text in quotes", "引号中的文字"),
                    "a boolean" => say!("true or false", "true 或 false"),
                    _ => Said::same(format!(" {kind}").trim()),
                };
                let found = found.trim_start_matches("invalid type: ").trim_start_matches("unknown variant ");
                HardwareError { line, field, expected, found: Said::same(found) }
            }
            None => HardwareError {
                line,
                field,
                expected: say!(
                    "TOML as `llmc explain hardware` shows it",
                    "TOML，写法见 `llmc explain hardware`"
                ),
                found: Said::same(message),
            },
        }
    }
}

impl fmt::Display for HardwareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said().en)
    }
}

impl std::error::Error for HardwareError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    title: String,
    kind: Kind,
    profile: Spanned<String>,
    link_kind: Spanned<String>,
    nvls: bool,
    gpus_per_node: Spanned<i64>,
    link_domain: Option<Spanned<i64>>,
    multiprocessors: Spanned<i64>,
    figures: Spanned<BTreeMap<String, Figure>>,
    efficiencies: Option<Profile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    value: Spanned<String>,
    source: Spanned<String>,
}

/// Numbers of a figure lie between these, in every unit it may be written in.
const LEAST: f64 = 0.001;
const MOST: f64 = 1e6;

/// Dimension of a figure and the units it may be written in (factor to the base unit).
struct Dimension {
    /// Kind in both languages, and an example.
    name: [&'static str; 3],
    units: &'static [(&'static str, f64)],
}

impl Dimension {
    fn said(&self) -> Said {
        let [en, zh, like] = self.name;
        Said { en: format!("{en} such as \"{like}\""), zh: format!("{zh}，如 \"{like}\"") }
    }
}

const BYTES: Dimension = Dimension {
    name: ["bytes", "字节数", "80 GiB"],
    units: &[("GiB", 1073741824.0), ("GB", 1e9), ("MiB", 1048576.0), ("TiB", 1099511627776.0)],
};
const BANDWIDTH: Dimension = Dimension {
    name: ["a bandwidth", "带宽", "3.35 TB/s"],
    units: &[("TB/s", 1e12), ("GB/s", 1e9), ("Gbit/s", 1.25e8)],
};
const RATE: Dimension = Dimension {
    name: ["a FLOP rate", "算力", "989.4 TFLOP/s"],
    units: &[("TFLOP/s", 1e12), ("PFLOP/s", 1e15), ("GFLOP/s", 1e9)],
};
const POWER: Dimension =
    Dimension { name: ["a power", "功率", "700 W"], units: &[("W", 1e-3), ("kW", 1.0)] };
const RENT: Dimension = Dimension { name: ["a rent", "租价", "18 CNY/h"], units: &[("CNY/h", 1.0)] };

/// Reads one hardware file.
///
/// # Errors
/// [`HardwareError`] for anything that is not a complete, positive, correctly dimensioned record.
pub fn read(text: &str) -> Result<Hardware, HardwareError> {
    let line_of = |offset: usize| 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count();
    let file: File = toml::from_str(text).map_err(|e| HardwareError::of_toml(text, &e))?;
    let count = |field: &str, v: &Spanned<i64>| {
        u64::try_from(*v.get_ref()).ok().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(|| HardwareError {
            line: line_of(v.span().start),
            field: field.into(),
            expected: say!("a count from 1 to 1048576", "1 至 1048576 的整数"),
            found: Said::same(v.get_ref()),
        })
    };
    let link = file.link_kind.get_ref().clone();
    if !["nvlink", "pcie", "memory"].contains(&link.as_str()) {
        return Err(HardwareError {
            line: line_of(file.link_kind.span().start),
            field: "link_kind".into(),
            expected: say!("\"nvlink\", \"pcie\" or \"memory\"", " \"nvlink\"、\"pcie\" 或 \"memory\""),
            found: Said::same(format!("\"{link}\"")),
        });
    }
    let name = file.name.get_ref().clone();
    let typed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(typed) {
        return Err(HardwareError {
            line: line_of(file.name.span().start),
            field: "name".into(),
            expected: say!(
                "a name that `on 8xNAME` can say: a letter, then letters, digits, - or _",
                "`on 8xNAME` 写得出的名字：字母开头，其后为字母、数字、- 或 _"
            ),
            found: Said::same(format!("\"{name}\"")),
        });
    }
    let efficiencies = file.efficiencies;
    let family = file.profile.get_ref().clone();
    if efficiencies.is_none() && profile::preset(&family).is_none() {
        return Err(HardwareError {
            line: line_of(file.profile.span().start),
            field: "profile".into(),
            expected: say!(
                "one of {names}, or a table [efficiencies] of its own",
                "下列之一 {names}，或自带 [efficiencies] 表",
                names = profile::names().join(", ")
            ),
            found: Said::same(format!("\"{family}\"")),
        });
    }
    if let Some(own) = &efficiencies {
        let start = text.find("[efficiencies").unwrap_or(0);
        profile::check(own, text.get(start..).unwrap_or(text)).map_err(|wrong| HardwareError {
            line: line_of(start) + wrong.line - 1,
            field: format!("efficiencies.{}", wrong.field).into(),
            ..wrong
        })?;
    }
    let table_line = line_of(file.figures.span().start);
    let gpus_per_node = count("gpus_per_node", &file.gpus_per_node)?;
    let link_domain = match &file.link_domain {
        Some(ranks) => count("link_domain", ranks)?,
        None => gpus_per_node,
    };
    let multiprocessors = count("multiprocessors", &file.multiprocessors)?;
    let mut figures = file.figures.into_inner();
    let mut sources = BTreeMap::new();
    let mut optional = |field: &str, dimension: &Dimension| -> Result<Option<f64>, HardwareError> {
        let Some(figure) = figures.remove(field) else { return Ok(None) };
        if figure.source.get_ref().trim().is_empty() {
            return Err(HardwareError {
                line: line_of(figure.source.span().start),
                field: format!("figures.{field}.source").into(),
                expected: say!("where the figure comes from", "该数值的来源"),
                found: say!("an empty string", "空字符串"),
            });
        }
        let wrong = || HardwareError {
            line: line_of(figure.value.span().start),
            field: format!("figures.{field}").into(),
            expected: say!(
                "{name}, from {least} to {most}, in {units}",
                "{name}，数值 {least} 至 {most}，单位 {units}",
                name = dimension.said(),
                least = LEAST,
                most = MOST,
                units = dimension.units.iter().map(|u| u.0).collect::<Vec<_>>().join(", ")
            ),
            found: Said::same(format!("\"{}\"", figure.value.get_ref())),
        };
        let (number, unit) = figure.value.get_ref().trim().split_once(' ').ok_or_else(wrong)?;
        let factor = dimension.units.iter().find(|u| u.0 == unit.trim()).ok_or_else(wrong)?.1;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        if !(LEAST..=MOST).contains(&number) {
            return Err(wrong());
        }
        sources.insert(field.to_string(), figure.source.get_ref().clone());
        Ok(Some(number * factor))
    };
    let mut need = |field: &str, dimension: &Dimension| {
        optional(field, dimension)?.ok_or_else(|| HardwareError {
            line: table_line,
            field: format!("figures.{field}").into(),
            expected: dimension.said(),
            found: say!("nothing", "没有"),
        })
    };
    let memory_bytes = need("memory", &BYTES)? as u64;
    let memory_bandwidth = need("memory_bandwidth", &BANDWIDTH)?;
    let peak_f32 = need("peak_f32", &RATE)?;
    let peak_tf32 = need("peak_tf32", &RATE)?;
    let peak_bf16 = need("peak_bf16", &RATE)?;
    let link_bandwidth = need("link_bandwidth", &BANDWIDTH)?;
    let network_bandwidth = need("network_bandwidth", &BANDWIDTH)?;
    let host_memory_bytes = need("host_memory", &BYTES)? as u64;
    let host_bandwidth = need("host_bandwidth", &BANDWIDTH)?;
    let power_kw = need("power", &POWER)?;
    let rent_cny_hour = need("rent", &RENT)?;
    let peak_fp8 = optional("peak_fp8", &RATE)?;
    let sustained_bf16 = optional("sustained_bf16", &RATE)?;
    // Figures that cannot both be right: a unit or a digit is wrong in one.
    let apart = |field: &str, what: Said, value: String| HardwareError {
        line: 1 + text.lines().position(|l| l.trim_start().starts_with(field)).unwrap_or(0),
        field: field.into(),
        expected: what,
        found: Said::same(value),
    };
    let rates = [
        ("peak_tf32", peak_tf32, peak_f32, say!("no less than peak_f32", "不低于 peak_f32")),
        ("peak_bf16", peak_bf16, peak_f32, say!("no less than peak_f32", "不低于 peak_f32")),
        (
            "peak_fp8",
            peak_fp8.unwrap_or(peak_bf16),
            peak_bf16,
            say!("no less than peak_bf16", "不低于 peak_bf16"),
        ),
        (
            "sustained_bf16",
            peak_bf16,
            sustained_bf16.unwrap_or(0.0),
            say!("no more than peak_bf16", "不高于 peak_bf16"),
        ),
    ];
    for (field, more, less, what) in rates {
        if more < less {
            let value = if field == "sustained_bf16" { less } else { more };
            return Err(apart(field, what, format!("{} TFLOP/s", value / 1e12)));
        }
    }
    if link_domain < gpus_per_node {
        let what = say!("no less than gpus_per_node", "不少于 gpus_per_node");
        return Err(apart("link_domain", what, link_domain.to_string()));
    }
    if let Some((field, figure)) = figures.iter().next() {
        return Err(HardwareError {
            line: line_of(figure.value.span().start),
            field: format!("figures.{field}").into(),
            expected: say!("a figure the planner knows", "规划器认识的数值"),
            found: Said::same(format!("\"{}\"", figure.value.get_ref())),
        });
    }
    Ok(Hardware {
        name,
        title: file.title,
        kind: file.kind,
        profile: family,
        gpus_per_node,
        link_domain,
        multiprocessors,
        memory_bytes,
        memory_bandwidth,
        peak_f32,
        peak_tf32,
        peak_bf16,
        peak_fp8,
        sustained_bf16,
        link_bandwidth,
        mesh: None,
        link_kind: link,
        nvls: file.nvls,
        network_bandwidth,
        host_memory_bytes,
        host_bandwidth,
        power_kw,
        rent_cny_hour,
        sources,
        efficiencies,
    })
}

/// Embedded files: accepted names (any case), then the text.
const PRESETS: &[(&[&str], &str)] = &[
    (&["H100", "H100-SXM"], include_str!("../data/hardware/h100.toml")),
    (&["H100-PCIe"], include_str!("../data/hardware/h100-pcie.toml")),
    (&["H800"], include_str!("../data/hardware/h800.toml")),
    (&["H200"], include_str!("../data/hardware/h200.toml")),
    (&["H20"], include_str!("../data/hardware/h20.toml")),
    (&["A100", "A100-80G", "A100-80GB"], include_str!("../data/hardware/a100-80g.toml")),
    (&["A100-40G", "A100-40GB"], include_str!("../data/hardware/a100-40g.toml")),
    (&["A100-PCIe"], include_str!("../data/hardware/a100-pcie.toml")),
    (&["A800"], include_str!("../data/hardware/a800.toml")),
    (&["B200"], include_str!("../data/hardware/b200.toml")),
    (&["B300"], include_str!("../data/hardware/b300.toml")),
    (&["L40S"], include_str!("../data/hardware/l40s.toml")),
    (&["RTX4090", "RTX-4090", "4090"], include_str!("../data/hardware/rtx4090.toml")),
    (&["RTX5090", "RTX-5090", "5090"], include_str!("../data/hardware/rtx5090.toml")),
    (&["RTX3090", "RTX-3090", "3090"], include_str!("../data/hardware/rtx3090.toml")),
    (&["A6000", "RTX-A6000"], include_str!("../data/hardware/a6000.toml")),
    (&["A40"], include_str!("../data/hardware/a40.toml")),
    (&["A10"], include_str!("../data/hardware/a10.toml")),
    (&["A10G"], include_str!("../data/hardware/a10g.toml")),
    (&["L4"], include_str!("../data/hardware/l4.toml")),
    (&["V100", "V100-32G"], include_str!("../data/hardware/v100-32g.toml")),
    (&["V100-16G", "V100-16GB"], include_str!("../data/hardware/v100-16g.toml")),
    (&["GB200"], include_str!("../data/hardware/gb200.toml")),
    (&["GB300"], include_str!("../data/hardware/gb300.toml")),
    (&["GH200"], include_str!("../data/hardware/gh200.toml")),
    (&["H100-96G", "H100-HBM2e"], include_str!("../data/hardware/h100-96g.toml")),
    (&["CPU"], include_str!("../data/hardware/cpu.toml")),
];

/// Names of all presets, the first of each being the canonical one.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().filter_map(|(names, _)| names.first().copied())
}

/// The file of that preset, in any case; `None` for an unknown one.
pub fn file(name: &str) -> Option<&'static str> {
    let of_name = |(names, _): &&(&[&str], _)| names.iter().any(|n| n.eq_ignore_ascii_case(name));
    PRESETS.iter().find(of_name).map(|(_, text)| *text)
}

/// The preset of that name, in any case; `None` for an unknown one.
pub fn preset(name: &str) -> Option<Hardware> {
    read(file(name)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_reads_and_every_figure_has_a_source() {
        for (names, text) in PRESETS {
            let hardware = read(text).unwrap_or_else(|e| panic!("{names:?}: {e}"));
            assert_eq!(hardware.name, names[0]);
            assert!(hardware.sources.len() >= 11, "{names:?}");
        }
    }

    #[test]
    fn a_file_may_bring_its_own_efficiencies() {
        let profile = include_str!("../data/profiles/h100.toml");
        let own: String = (profile.lines().filter(|l| !l.starts_with('#')))
            .map(|l| {
                l.strip_prefix('[').map_or(l.to_string(), |table| format!("[efficiencies.{table}")) + "\n"
            })
            .collect();
        let text = format!("{}\n[efficiencies]\n{own}", include_str!("../data/hardware/h100.toml"));
        let hardware = read(&text).unwrap();
        assert_eq!(crate::profile::of(&hardware), crate::profile::preset("h100"));
        for (from, to) in [("overlap = 0", "overlap = -0"), ("k0 = ", "k0 = -")] {
            let error = read(&text.replacen(from, to, 1)).unwrap_err();
            let line = text.lines().position(|l| l.starts_with(from)).unwrap() + 1;
            assert_eq!(error.line, line, "{error}");
            assert!(error.field.starts_with("efficiencies."), "{error}");
        }
    }

    #[test]
    fn errors_name_line_field_and_expectation() {
        let text = include_str!("../data/hardware/h100.toml");
        for (from, to, field, found) in [
            ("3.35 TB/s", "3.35 TB", "figures.memory_bandwidth", "\"3.35 TB\""),
            ("3.35 TB/s", "-3.35 TB/s", "figures.memory_bandwidth", "\"-3.35 TB/s\""),
            ("3.35 TB/s", "nan TB/s", "figures.memory_bandwidth", "\"nan TB/s\""),
            ("memory_bandwidth", "memory_bandwith", "figures.memory_bandwidth", "nothing"),
            ("3.35 TB/s", "1e-30 TB/s", "figures.memory_bandwidth", "\"1e-30 TB/s\""),
            ("profile = \"h100\"", "profile = \"zzz\"", "profile", "\"zzz\""),
            ("name = \"H100\"", "name = \"8 H\"", "name", "\"8 H\""),
            ("gpus_per_node = 8", "gpus_per_node = -8", "gpus_per_node", "-8"),
            ("link_kind = \"nvlink\"", "link_kind = \"wire\"", "link_kind", "\"wire\""),
            ("1978.9 TFLOP/s", "197.89 TFLOP/s", "peak_fp8", "197.89 TFLOP/s"),
            ("989.4 TFLOP/s", "989.4 GFLOP/s", "peak_bf16", "0.9894 TFLOP/s"),
            ("multiprocessors = 132", "multiprocessors = 132.5", "multiprocessors", "floating point `132.5`"),
            ("kind = \"cuda\"", "kind = \"tpu\"", "kind", "`tpu`"),
            ("nvls = true", "nvls = true\nlink_domain = 4", "link_domain", "4"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = read(&text.replacen(from, to, 1)).unwrap_err();
            assert_eq!((&*error.field, error.found.en.as_str()), (field, found), "{error}");
            let zh = error.said().zh;
            assert!(zh.contains("应为") && !zh.contains("expected"), "{zh}");
            let line = text.lines().position(|l| l.contains(from)).unwrap() + 1 + to.matches('\n').count();
            assert!(error.line == line || found == "nothing", "{error}");
        }
    }
}
