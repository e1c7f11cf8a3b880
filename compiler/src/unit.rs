//! Quantities as a recipe writes them: exact decimal numbers, suffixes, units and dimensions.
//!
//! A number keeps its decimal digits until somebody asks for an integer or a float, so `1.3B` is
//! exactly 1,300,000,000 and a count never passes through floating point. What a bare number or a
//! `k` means depends on the place it stands in; a [`Slot`] says so.
//! Not here: which option takes which slot (`resolve/`), and the sentences about mismatches (`check/`).

use serde::Serialize;

use crate::diag::{Lang, short_float};

/// What a number measures. Two dimensions never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// A plain number of things: layers, seeds, GPUs.
    Count,
    /// Tokens.
    Tokens,
    /// Packed training sequences, each one context long.
    Sequences,
    /// Optimizer steps.
    Steps,
    /// Bytes.
    Bytes,
    /// Floating-point operations.
    Flops,
    /// Seconds.
    Time,
    /// A sum of money, with its currency.
    Money,
    /// Kilowatt-hours.
    Energy,
    /// Kilowatts.
    Power,
    /// A share of one, written with `%` or as a bare fraction.
    Ratio,
    /// A factor, written `0.3x`.
    Multiplier,
    /// A learning rate.
    LearningRate,
    /// Money per hour.
    MoneyPerHour,
    /// Money per kilowatt-hour.
    MoneyPerKwh,
}

impl Dimension {
    /// The dimension's name for people, `(english, chinese)`.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Dimension::Count => ("a plain number", "纯数字"),
            Dimension::Tokens => ("tokens", "词元数（tokens）"),
            Dimension::Sequences => ("sequences", "序列数（sequences）"),
            Dimension::Steps => ("steps", "步数（steps）"),
            Dimension::Bytes => ("bytes", "字节（GiB）"),
            Dimension::Flops => ("FLOPs", "浮点运算次数（FLOPs）"),
            Dimension::Time => ("time", "时间"),
            Dimension::Money => ("money", "金额"),
            Dimension::Energy => ("energy", "电量（kWh）"),
            Dimension::Power => ("power", "功率（kW）"),
            Dimension::Ratio => ("a ratio", "比例（%）"),
            Dimension::Multiplier => ("a multiplier", "倍数（x）"),
            Dimension::LearningRate => ("a learning rate", "学习率"),
            Dimension::MoneyPerHour => ("money per hour", "每小时金额"),
            Dimension::MoneyPerKwh => ("money per kWh", "每千瓦时金额"),
        }
    }
}

/// An exact decimal number, `mantissa · 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Number {
    mantissa: i128,
    exponent: i32,
}

/// More digits or a wider exponent than this is refused: every quantity of the language stays far below.
const MAX_EXPONENT: i32 = 60;

impl Number {
    /// A whole number.
    pub const fn whole(value: i128) -> Self {
        Number { mantissa: value, exponent: 0 }
    }

    /// Reads `-?digits(_digits)*(.digits)?(e±digits)?`; `None` when it is anything else or too wide.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, body) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (digits, power) = match body.find(['e', 'E']) {
            Some(at) => (body.get(..at)?, body.get(at + 1..)?.parse::<i32>().ok()?),
            None => (body, 0),
        };
        let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if !integer.starts_with(|c: char| c.is_ascii_digit()) || integer.ends_with('_') {
            return None;
        }
        let mut mantissa: i128 = 0;
        for c in integer.chars().filter(|&c| c != '_').chain(fraction.chars()) {
            mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(c.to_digit(10)?))?;
        }
        let exponent = power.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        if exponent.abs() > MAX_EXPONENT {
            return None;
        }
        Some(Number { mantissa: if negative { -mantissa } else { mantissa }, exponent }.normal())
    }

    /// Drops trailing zeros of the mantissa so that equal numbers compare equal.
    fn normal(mut self) -> Self {
        if self.mantissa == 0 {
            return Number::whole(0);
        }
        while self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.exponent += 1;
        }
        self
    }

    /// The number times a whole factor and a power of ten, or `None` on overflow.
    pub fn scaled(self, factor: i128, power: i32) -> Option<Self> {
        let mantissa = self.mantissa.checked_mul(factor)?;
        Some(Number { mantissa, exponent: self.exponent.checked_add(power)? }.normal())
    }

    /// The value when it is whole and fits, else `None`.
    pub fn integer(self) -> Option<i128> {
        let power = u32::try_from(self.exponent).ok()?;
        self.mantissa.checked_mul(10i128.checked_pow(power)?)
    }

    /// The value as an unsigned count, else `None` (negative, fractional or above 2⁶⁴).
    pub fn count(self) -> Option<u64> {
        u64::try_from(self.integer()?).ok()
    }

    /// The nearest float: Rust's decimal parser rounds correctly and alike on every platform.
    pub fn to_f64(self) -> f64 {
        format!("{}e{}", self.mantissa, self.exponent).parse().unwrap_or(f64::NAN)
    }

    /// Below zero?
    pub fn is_negative(self) -> bool {
        self.mantissa < 0
    }

    /// Exactly zero?
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }
}

/// A unit word or sign behind a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    text: &'static str,
    dimension: Dimension,
    factor: i128,
    power: i32,
}

const fn unit(text: &'static str, dimension: Dimension, factor: i128, power: i32) -> Unit {
    Unit { text, dimension, factor, power }
}

/// The closed list of units. Base units: second, byte, kilowatt, kilowatt-hour, one.
const UNITS: &[Unit] = &[
    unit("tokens", Dimension::Tokens, 1, 0),
    unit("token", Dimension::Tokens, 1, 0),
    unit("sequences", Dimension::Sequences, 1, 0),
    unit("steps", Dimension::Steps, 1, 0),
    unit("step", Dimension::Steps, 1, 0),
    unit("samples", Dimension::Sequences, 1, 0),
    unit("FLOPs", Dimension::Flops, 1, 0),
    unit("FLOP", Dimension::Flops, 1, 0),
    unit("ms", Dimension::Time, 1, -3),
    unit("s", Dimension::Time, 1, 0),
    unit("min", Dimension::Time, 60, 0),
    unit("h", Dimension::Time, 3600, 0),
    unit("hours", Dimension::Time, 3600, 0),
    unit("hour", Dimension::Time, 3600, 0),
    unit("days", Dimension::Time, 86_400, 0),
    unit("day", Dimension::Time, 86_400, 0),
    unit("weeks", Dimension::Time, 604_800, 0),
    unit("week", Dimension::Time, 604_800, 0),
    unit("KiB", Dimension::Bytes, 1 << 10, 0),
    unit("MiB", Dimension::Bytes, 1 << 20, 0),
    unit("GiB", Dimension::Bytes, 1 << 30, 0),
    unit("TiB", Dimension::Bytes, 1 << 40, 0),
    unit("KB", Dimension::Bytes, 1, 3),
    unit("MB", Dimension::Bytes, 1, 6),
    unit("GB", Dimension::Bytes, 1, 9),
    unit("TB", Dimension::Bytes, 1, 12),
    unit("kWh", Dimension::Energy, 1, 0),
    unit("MWh", Dimension::Energy, 1000, 0),
    unit("MW", Dimension::Power, 1000, 0),
    unit("kW", Dimension::Power, 1, 0),
    unit("W", Dimension::Power, 1, -3),
    unit("%", Dimension::Ratio, 1, -2),
    unit("x", Dimension::Multiplier, 1, 0),
    unit("/h", Dimension::MoneyPerHour, 1, 0),
    unit("/kWh", Dimension::MoneyPerKwh, 1, 0),
];

/// Every unit word, for did-you-mean.
pub fn unit_words() -> Vec<&'static str> {
    UNITS.iter().map(|u| u.text).filter(|t| t.starts_with(|c: char| c.is_alphabetic())).collect()
}

/// Units of one dimension, the plural where there are two, for "write it with one of …".
pub fn units_of(dimension: Dimension) -> Vec<&'static str> {
    let plural = |text: &str| UNITS.iter().any(|u| u.text.strip_suffix('s') == Some(text));
    UNITS.iter().filter(|u| u.dimension == dimension && !plural(u.text)).map(|u| u.text).collect()
}

/// ISO 4217 code of a currency sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Currency {
    /// `¥`, Chinese yuan.
    #[serde(rename = "CNY")]
    Cny,
    /// `$`, United States dollar.
    #[serde(rename = "USD")]
    Usd,
    /// `€`, euro.
    #[serde(rename = "EUR")]
    Eur,
}

impl Currency {
    /// The ISO code.
    pub fn iso(self) -> &'static str {
        match self {
            Currency::Cny => "CNY",
            Currency::Usd => "USD",
            Currency::Eur => "EUR",
        }
    }

    /// The sign a recipe writes.
    pub fn sign(self) -> &'static str {
        match self {
            Currency::Cny => "¥",
            Currency::Usd => "$",
            Currency::Eur => "€",
        }
    }
}

/// A number as typed, not yet given a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantity {
    number: Number,
    suffix: Option<char>,
    unit: Option<Unit>,
    /// The currency sign before the number.
    pub currency: Option<Currency>,
}

/// Why a number's text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadQuantity {
    /// The digits are no number, or it is too wide.
    Number,
    /// The tail is neither a suffix nor a unit.
    Unit(String),
}

/// What a place of the language takes.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Dimensions a unit may name.
    pub accepts: &'static [Dimension],
    /// What a number without unit means; `None` demands a unit.
    pub bare: Option<Dimension>,
    /// `k` = 1,024 (context-like places) instead of 1,000.
    pub binary_k: bool,
}

/// A quantity that fits its slot, in base units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// In seconds, bytes, kW, kWh, tokens, or one.
    pub number: Number,
    /// What it measures.
    pub dimension: Dimension,
    /// For money only.
    pub currency: Option<Currency>,
}

impl Measure {
    /// The nearest float.
    pub fn to_f64(self) -> f64 {
        self.number.to_f64()
    }
}

/// The slot and the quantity disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What was written.
    pub found: Dimension,
    /// What the place takes.
    pub wanted: &'static [Dimension],
}

impl Quantity {
    /// Reads `currency? number suffix? unit?`; blanks may stand before a unit word. A currency may also stand behind, by
    /// its code: `3M CNY`, `18 CNY/h`.
    pub fn parse(text: &str) -> Result<Self, BadQuantity> {
        let mut rest = text.trim();
        let mut currency = None;
        for (sign, value) in
            [("¥", Currency::Cny), ("￥", Currency::Cny), ("$", Currency::Usd), ("€", Currency::Eur)]
        {
            if let Some(tail) = rest.strip_prefix(sign) {
                currency = Some(value);
                rest = tail;
            }
        }
        let (digits, tail) = rest.split_at(number_length(rest));
        let number = Number::parse(digits).ok_or(BadQuantity::Number)?;
        let (suffix, tail) = match tail.chars().next() {
            Some(c @ ('k' | 'M' | 'B' | 'T')) if !word_continues(tail.get(1..).unwrap_or("")) => {
                (Some(c), tail.get(1..).unwrap_or(""))
            }
            _ => (None, tail),
        };
        let mut word = tail.trim();
        for code in [Currency::Cny, Currency::Usd, Currency::Eur] {
            if let Some(rest) = word.strip_prefix(code.iso()).filter(|_| currency.is_none()) {
                (currency, word) = (Some(code), rest);
                break;
            }
        }
        let unit = match word {
            "" => None,
            "％" => UNITS.iter().find(|u| u.text == "%").copied(),
            "×" => UNITS.iter().find(|u| u.text == "x").copied(),
            _ => match UNITS.iter().find(|u| u.text == word) {
                Some(found) => Some(*found),
                None => return Err(BadQuantity::Unit(word.to_owned())),
            },
        };
        Ok(Quantity { number, suffix, unit, currency })
    }

    /// What the text itself says it measures; `Count` when it says nothing.
    pub fn dimension(&self) -> Dimension {
        match (self.unit, self.currency) {
            (Some(u), _) => u.dimension,
            (None, Some(_)) => Dimension::Money,
            (None, None) => Dimension::Count,
        }
    }

    /// The quantity in a place of the language, or what disagrees.
    /// A number that overflows is reported as a mismatch with itself by [`Number`] limits.
    pub fn in_slot(&self, slot: &Slot) -> Result<Measure, Mismatch> {
        let stated = self.dimension();
        let fail = Mismatch { found: stated, wanted: slot.accepts };
        let bare = self.unit.is_none() && self.currency.is_none();
        let dimension = match (bare, slot.bare) {
            (true, Some(d)) => d,
            (true, None) => return Err(fail),
            (false, _) if slot.accepts.contains(&stated) => stated,
            (false, _) => return Err(fail),
        };
        // `¥3 tokens` and `3/h` without a currency are no quantities of any kind.
        let priced = matches!(dimension, Dimension::Money | Dimension::MoneyPerHour | Dimension::MoneyPerKwh);
        if priced != self.currency.is_some() {
            return Err(fail);
        }
        let (factor, power) = match self.suffix {
            Some('k') if slot.binary_k => (1024, 0),
            Some('k') => (1, 3),
            Some('M') => (1, 6),
            Some('B') => (1, 9),
            Some('T') => (1, 12),
            _ => (1, 0),
        };
        let scaled = self.number.scaled(factor, power).and_then(|n| match self.unit {
            Some(u) => n.scaled(u.factor, u.power),
            None => Some(n),
        });
        scaled.map(|number| Measure { number, dimension, currency: self.currency }).ok_or(fail)
    }
}

/// Length in bytes of the numeric head of `text`; an `e` counts only before digits.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let mut i = usize::from(bytes.first() == Some(&b'-'));
    while digit(i) || (bytes.get(i) == Some(&b'_') && digit(i + 1)) {
        i += 1;
    }
    if bytes.get(i) == Some(&b'.') && digit(i + 1) {
        i += 1;
        while digit(i) {
            i += 1;
        }
    }
    if matches!(bytes.get(i), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(i + 1), Some(b'+' | b'-')));
        if digit(i + 1 + sign) {
            i += 1 + sign;
            while digit(i) {
                i += 1;
            }
        }
    }
    i
}

fn word_continues(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// `6738415616` as `6,738,415,616`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Any number of a plan for people: counts and what is larger than six digits grouped.
pub fn figure(number: &serde_json::Number) -> String {
    match (number.as_u64(), number.as_f64().unwrap_or(f64::NAN)) {
        (Some(count), _) => grouped(count),
        (None, x) if (1e6..1e15).contains(&x) => grouped(libm::round(x) as u64),
        (None, x) => short_float(x),
    }
}

/// Bytes for people: `76.0 GiB`, `512 MiB`, `17 B`.
pub fn human_bytes(bytes: u64) -> String {
    const STEPS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (size, name) in STEPS {
        if bytes >= size {
            return format!("{:.1} {name}", bytes as f64 / size as f64);
        }
    }
    format!("{bytes} B")
}

/// Seconds for people: `18.5 days`, `3.2 h`, `4.1 min`, `12.3 s`, `8.4 ms`; `18.5 天`.
pub fn human_time(seconds: f64, lang: Lang) -> String {
    let (value, digits, en, zh) = match seconds {
        s if s >= 172_800.0 => (s / 86_400.0, 1, "days", "天"),
        s if s >= 7_200.0 => (s / 3_600.0, 1, "h", "小时"),
        s if s >= 120.0 => (s / 60.0, 1, "min", "分钟"),
        s if s >= 1.0 => (s, 2, "s", "秒"),
        s => (s * 1e3, 2, "ms", "毫秒"),
    };
    format!("{value:.digits$} {}", if lang == Lang::En { en } else { zh })
}

/// A count for people: `1.00T`, `6.74B`, `4.19M`, `950`.
pub fn human_count(value: f64) -> String {
    const STEPS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")];
    for (size, name) in STEPS {
        if value >= size {
            return format!("{:.2}{name}", value / size);
        }
    }
    format!("{value:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: Slot = Slot { accepts: &[Dimension::Tokens], bare: None, binary_k: false };
    const CONTEXT: Slot =
        Slot { accepts: &[Dimension::Tokens], bare: Some(Dimension::Tokens), binary_k: true };
    const PRICE: Slot = Slot { accepts: &[Dimension::MoneyPerHour], bare: None, binary_k: false };

    fn count(text: &str, slot: &Slot) -> Option<u64> {
        Quantity::parse(text).ok()?.in_slot(slot).ok()?.number.count()
    }

    #[test]
    fn suffixes_are_exact() {
        assert_eq!(count("1T tokens", &TOKENS), Some(1_000_000_000_000));
        assert_eq!(count("4_194_304 tokens", &TOKENS), Some(4_194_304));
        assert_eq!(count("0.3k tokens", &TOKENS), Some(300));
        assert_eq!(count("8k", &CONTEXT), Some(8192));
        assert_eq!(count("1.5k", &CONTEXT), Some(1536));
        assert_eq!(count("8000", &CONTEXT), Some(8000));
        assert_eq!(count("0.0005k tokens", &TOKENS), None, "half a token is no count");
    }

    #[test]
    fn units_reach_their_base() {
        let read = |t: &str| Quantity::parse(t).unwrap();
        let slot = Slot {
            accepts: &[Dimension::Time, Dimension::Bytes, Dimension::Power, Dimension::Ratio],
            bare: None,
            binary_k: false,
        };
        let f = |t: &str| read(t).in_slot(&slot).unwrap().to_f64();
        assert_eq!(f("30 min"), 1800.0);
        assert_eq!(f("21 days"), 1_814_400.0);
        assert_eq!(f("76 GiB"), 76.0 * 1_073_741_824.0);
        assert_eq!(f("700 W"), 0.7);
        assert_eq!(f("10%"), 0.1);
        assert_eq!(f("10％"), 0.1);
        for text in ["¥18/h", "18 CNY/h"] {
            let price = read(text).in_slot(&PRICE).unwrap();
            assert_eq!((price.to_f64(), price.currency), (18.0, Some(Currency::Cny)));
        }
    }

    #[test]
    fn a_mismatch_names_both_sides() {
        let e = Quantity::parse("21 days").unwrap().in_slot(&TOKENS).unwrap_err();
        assert_eq!((e.found, e.wanted), (Dimension::Time, &[Dimension::Tokens][..]));
        assert!(Quantity::parse("7").unwrap().in_slot(&TOKENS).is_err());
        assert!(Quantity::parse("7/h").unwrap().in_slot(&PRICE).is_err());
        assert!(Quantity::parse("¥7 tokens").unwrap().in_slot(&TOKENS).is_err());
    }

    #[test]
    fn bad_tails_are_named() {
        assert_eq!(Quantity::parse("8kk"), Err(BadQuantity::Unit("kk".into())));
        assert_eq!(Quantity::parse("1t"), Err(BadQuantity::Unit("t".into())));
        assert_eq!(Quantity::parse("3 Days"), Err(BadQuantity::Unit("Days".into())));
        assert_eq!(Quantity::parse("x"), Err(BadQuantity::Number));
    }

    #[test]
    fn numbers_do_not_overflow() {
        assert_eq!(Number::parse(&"9".repeat(60)), None);
        assert_eq!(Number::parse("1e999999999"), None);
        assert_eq!(Number::parse("1e30").and_then(Number::count), None);
        assert_eq!(Number::parse("3e-4").map(Number::to_f64), Some(3e-4));
    }

    #[test]
    fn people_read_them() {
        assert_eq!(grouped(6_738_415_616), "6,738,415,616");
        assert_eq!(grouped(12), "12");
        assert_eq!(human_bytes(80 << 30), "80.0 GiB");
        assert_eq!(human_time(86_400.0 * 18.5, Lang::En), "18.5 days");
        assert_eq!(human_time(0.0084, Lang::Zh), "8.40 毫秒");
        assert_eq!(human_count(6.738e9), "6.74B");
    }
}
