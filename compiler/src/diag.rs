//! Diagnostics as data, and the rules that own their words.
//!
//! A [`Diagnostic`] holds a code, spans and named arguments, no sentences. Its [`Rule`] (one file each
//! under `check/`) holds the sentences in both languages, and the long page that `explain` prints.
//! [`message`], [`labels`] and [`help`] join the two; drawing them is the command line's job.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// JSON always stays English.
pub use llmc_plan::lang::Lang;

use crate::unit::{Dimension, grouped, human_bytes, human_count, human_time};

/// One sentence in both languages, with `{name}` for arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// English.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

/// Shorthand for [`Text`].
pub const fn text(en: &'static str, zh: &'static str) -> Text {
    Text { en, zh }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Value::Both(text.en.to_owned(), text.zh.to_owned())
    }
}

impl Text {
    /// The template in one language.
    pub fn get(&self, lang: Lang) -> &'static str {
        match lang {
            Lang::En => self.en,
            Lang::Zh => self.zh,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No plan comes out.
    Error,
    /// A plan comes out, but look at this.
    Warning,
    /// Worth knowing.
    Advice,
}

/// The long page of a code, printed by `llmc explain`.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// What the rule finds.
    pub what: Text,
    /// Why it matters.
    pub why: Text,
    /// A recipe (or part of one) that has the fault.
    pub example: &'static str,
    /// What to write instead.
    pub instead: &'static str,
}

/// One diagnostic's fixed part. Registered once, in [`crate::check::RULES`].
#[derive(Debug)]
pub struct Rule {
    /// `LLM0123`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Every argument a diagnostic of this code may carry.
    pub args: &'static [&'static str],
    /// The headline.
    pub message: Text,
    /// One sentence for each label, in order; further labels reuse the last.
    pub labels: &'static [Text],
    /// Next steps; the first whose arguments are all present is shown.
    pub help: &'static [Text],
    /// The long page.
    pub page: Page,
}

/// Which text a span points into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The recipe file.
    Recipe,
    /// The n-th `--set`, counted from 1.
    Set(usize),
}

/// Bytes `start..end` of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// Which text.
    pub source: Source,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// Does the span hold all of `other`?
    pub fn contains(&self, other: &Span) -> bool {
        self.source == other.source && self.start <= other.start && other.end <= self.end
    }

    /// The smallest span over both; spans of different sources stay as the first.
    pub fn join(self, other: Span) -> Span {
        if self.source != other.source {
            return self;
        }
        Span { source: self.source, start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// An argument of a diagnostic.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Words from the recipe or a name.
    Text(String),
    /// A count.
    Count(u64),
    /// A large count, shown short (`1.00T`).
    Large(f64),
    /// A plain real number.
    Float(f64),
    /// A share of one, shown as a percentage.
    Ratio(f64),
    /// Bytes.
    Bytes(u64),
    /// Seconds.
    Seconds(f64),
    /// Money: amount and ISO code.
    Money(f64, String),
    /// Dimensions, named in the reader's language.
    Dimensions(Vec<Dimension>),
    /// A list of words.
    List(Vec<String>),
    /// A list of anything else.
    Each(Vec<Value>),
    /// Words that differ by language.
    Both(String, String),
}

impl Value {
    /// For people.
    pub fn show(&self, lang: Lang) -> String {
        let join = |parts: Vec<String>| match lang {
            Lang::En => parts.join(", "),
            Lang::Zh => parts.join("、"),
        };
        match self {
            Value::Text(t) => t.clone(),
            Value::Count(n) => grouped(*n),
            Value::Large(x) => human_count(*x),
            Value::Float(x) => short_float(*x),
            // A tenth of a per cent is as fine as anybody reads a share, unless it is finer itself.
            Value::Ratio(x) if libm::fabs(*x) >= 0.001 => {
                format!("{}%", short_float(libm::round(x * 1000.0) / 10.0))
            }
            Value::Ratio(x) => format!("{}%", short_float(x * 100.0)),
            Value::Bytes(n) => human_bytes(*n),
            Value::Seconds(x) => human_time(*x, lang),
            Value::Money(amount, currency) => money(*amount, currency),
            Value::Dimensions(ds) => {
                let names = ds.iter().map(|d| if lang == Lang::En { d.names().0 } else { d.names().1 });
                let names: Vec<String> = names.map(str::to_owned).collect();
                names.join(if lang == Lang::En { " or " } else { "或" })
            }
            Value::List(items) => join(items.clone()),
            Value::Each(items) => join(items.iter().map(|item| item.show(lang)).collect()),
            Value::Both(en, zh) => {
                if lang == Lang::En {
                    en.clone()
                } else {
                    zh.clone()
                }
            }
        }
    }
}

/// A float without trailing noise: six significant digits.
pub fn short_float(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return x.to_string();
    }
    let magnitude = libm::floor(libm::log10(libm::fabs(x)));
    if !(-4.0..15.0).contains(&magnitude) {
        let text = format!("{x:.3e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", trim_zeros(digits));
    }
    let decimals = (5.0 - magnitude).clamp(0.0, 10.0) as usize;
    trim_zeros(&format!("{x:.decimals$}")).to_owned()
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Money for people: `¥2,345,678` or `$12.50`.
pub fn money(amount: f64, currency: &str) -> String {
    let sign = match currency {
        "CNY" => "¥".to_owned(),
        "USD" => "$".to_owned(),
        "EUR" => "€".to_owned(),
        other => format!("{other} "),
    };
    if amount >= 1000.0 {
        format!("{sign}{}", grouped(amount.round() as u64))
    } else {
        format!("{sign}{amount:.2}")
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(t) => s.serialize_str(t),
            Value::Count(n) | Value::Bytes(n) => s.serialize_u64(*n),
            Value::Large(x) | Value::Float(x) | Value::Ratio(x) | Value::Seconds(x) => s.serialize_f64(*x),
            Value::Money(amount, currency) => {
                let mut map = s.serialize_map(Some(2))?;
                map.serialize_entry("amount", amount)?;
                map.serialize_entry("currency", currency)?;
                map.end()
            }
            Value::Dimensions(ds) => s.collect_seq(ds),
            Value::List(items) => s.collect_seq(items),
            Value::Each(items) => s.collect_seq(items),
            Value::Both(en, _) => s.serialize_str(en),
        }
    }
}

/// A replacement that removes the fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What to replace.
    pub span: Span,
    /// With what.
    pub replacement: String,
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnostic {
    /// `LLM0123`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Places, the main one first.
    pub labels: Vec<Span>,
    /// Named values for the sentences and for machines.
    pub args: BTreeMap<&'static str, Value>,
    /// Replacements that would remove it.
    pub fixes: Vec<Fix>,
}

impl Diagnostic {
    /// A finding of `rule`, without places and arguments yet.
    pub fn new(rule: &Rule) -> Self {
        Diagnostic {
            code: rule.code,
            severity: rule.severity,
            labels: Vec::new(),
            args: BTreeMap::new(),
            fixes: Vec::new(),
        }
    }

    /// Adds a place.
    pub fn at(mut self, span: Span) -> Self {
        self.labels.push(span);
        self
    }

    /// Adds a place, if there is one.
    pub fn at_maybe(self, span: Option<Span>) -> Self {
        match span {
            Some(s) => self.at(s),
            None => self,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, name: &'static str, value: Value) -> Self {
        self.args.insert(name, value);
        self
    }

    /// Adds a text argument.
    pub fn text(self, name: &'static str, value: impl Into<String>) -> Self {
        self.arg(name, Value::Text(value.into()))
    }

    /// Adds a count argument.
    pub fn count(self, name: &'static str, value: u64) -> Self {
        self.arg(name, Value::Count(value))
    }

    /// Adds the near name of a did-you-mean, and the replacement, when there is one.
    pub fn near(self, span: Span, near: Option<&str>) -> Self {
        match near {
            Some(name) => {
                let mut out = self.text("near", name);
                out.fixes.push(Fix { span, replacement: name.to_owned() });
                out
            }
            None => self,
        }
    }

    /// Adds a replacement.
    pub fn fix(mut self, span: Span, replacement: impl Into<String>) -> Self {
        self.fixes.push(Fix { span, replacement: replacement.into() });
        self
    }
}

/// The nearest candidate to a misspelt name; `None` when none is near or the name is one of them.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    llmc_grammar::nearest(name, candidates).first().copied().filter(|near| *near != name)
}

/// Words short enough for a sentence.
pub fn shorten(words: &str) -> String {
    let flat: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.chars().count() <= 40 { flat } else { flat.chars().take(39).chain(['…']).collect() }
}

/// Names between braces of a template.
pub fn names(template: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((_, tail)) = rest.split_once('{') {
        let Some((name, after)) = tail.split_once('}') else { break };
        out.push(name);
        rest = after;
    }
    out
}

fn fill(template: &str, args: &BTreeMap<&'static str, Value>, lang: Lang) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((head, tail)) = rest.split_once('{') {
        out.push_str(head);
        let Some((name, after)) = tail.split_once('}') else {
            rest = tail;
            break;
        };
        match args.get(name) {
            Some(value) => out.push_str(&value.show(lang)),
            // Only a bug of ours leaves one open; the fuzz tests look for this mark.
            None => out.push_str(&format!("⟨{name}⟩")),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn has_all(template: &Text, args: &BTreeMap<&'static str, Value>) -> bool {
    names(template.en).iter().all(|n| args.contains_key(n))
}

/// The headline.
pub fn message(d: &Diagnostic, lang: Lang) -> String {
    crate::check::rule(d.code).map_or_else(|| d.code.to_owned(), |r| fill(r.message.get(lang), &d.args, lang))
}

/// Each place with its sentence (empty when the rule has none, or an argument of it is missing).
pub fn labels(d: &Diagnostic, lang: Lang) -> Vec<(Span, String)> {
    let rule = crate::check::rule(d.code);
    let sentence = |i: usize| -> String {
        let Some(texts) = rule.map(|r| r.labels) else { return String::new() };
        match texts.get(i).or(texts.last()) {
            Some(t) if has_all(t, &d.args) => fill(t.get(lang), &d.args, lang),
            _ => String::new(),
        }
    };
    d.labels.iter().enumerate().map(|(i, span)| (*span, sentence(i))).collect()
}

/// The next step, if the rule names one for these arguments.
pub fn help(d: &Diagnostic, lang: Lang) -> Option<String> {
    let rule = crate::check::rule(d.code)?;
    let chosen = rule.help.iter().find(|t| has_all(t, &d.args))?;
    Some(fill(chosen.get(lang), &d.args, lang))
}

/// The texts that spans point into.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The recipe.
    pub recipe: String,
    /// Each `--set` as the small recipe it stands for.
    pub sets: Vec<String>,
}

impl Sources {
    /// Text of a source; empty when there is no such `--set`.
    pub fn text(&self, source: Source) -> &str {
        match source {
            Source::Recipe => &self.recipe,
            Source::Set(n) => n.checked_sub(1).and_then(|i| self.sets.get(i)).map_or("", String::as_str),
        }
    }

    /// Line and column, both from 1; the column counts characters.
    pub fn position(&self, span: Span) -> (usize, usize) {
        let text = self.text(span.source);
        let before = text.get(..span.start.min(text.len())).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        (line, column)
    }

    /// The words a span covers.
    pub fn slice(&self, span: Span) -> &str {
        self.text(span.source).get(span.start..span.end).unwrap_or("")
    }
}

/// Plain lines, without colour: for snapshots, logs and pipes.
pub fn render(d: &Diagnostic, sources: &Sources, lang: Lang) -> String {
    let kind = match (d.severity, lang) {
        (Severity::Error, Lang::En) => "error",
        (Severity::Warning, Lang::En) => "warning",
        (Severity::Advice, Lang::En) => "advice",
        (Severity::Error, Lang::Zh) => "错误",
        (Severity::Warning, Lang::Zh) => "警告",
        (Severity::Advice, Lang::Zh) => "提示",
    };
    let mut out = format!("{kind}[{}]: {}\n", d.code, message(d, lang));
    for (span, sentence) in labels(d, lang).into_iter().filter(|(span, _)| span.start < span.end) {
        let (line, column) = sources.position(span);
        let place = match span.source {
            Source::Recipe => format!("{line}:{column}"),
            Source::Set(n) => format!("--set #{n}, {line}:{column}"),
        };
        let words: String = sources.slice(span).split_whitespace().collect::<Vec<_>>().join(" ");
        let shown: String =
            if words.chars().count() > 60 { words.chars().take(59).chain(['…']).collect() } else { words };
        let tail = if sentence.is_empty() { String::new() } else { format!("  {sentence}") };
        out.push_str(&format!("  {place}  `{shown}`{tail}\n"));
    }
    if let Some(step) = help(d, lang) {
        let word = if lang == Lang::En { "help" } else { "建议" };
        out.push_str(&format!("  {word}: {step}\n"));
    }
    out
}

/// One diagnostic as a JSON object: English, with byte offsets, line and column.
pub fn to_json(d: &Diagnostic, sources: &Sources) -> serde_json::Value {
    let places: Vec<serde_json::Value> = labels(d, Lang::En)
        .into_iter()
        .map(|(span, sentence)| {
            let (line, column) = sources.position(span);
            serde_json::json!({
                "source": span.source, "start": span.start, "end": span.end,
                "line": line, "column": column, "message": sentence,
            })
        })
        .collect();
    serde_json::json!({
        "code": d.code, "severity": d.severity, "message": message(d, Lang::En),
        "help": help(d, Lang::En), "labels": places, "args": d.args, "fixes": d.fixes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_lose_their_noise() {
        assert_eq!(short_float(0.1 + 0.2), "0.3");
        assert_eq!(short_float(3e-4), "0.0003");
        assert_eq!(short_float(8192.0), "8192");
        assert_eq!(short_float(2.5e-7), "2.5e-7");
        assert_eq!(short_float(f64::NAN), "NaN");
    }

    #[test]
    fn positions_count_characters() {
        let sources = Sources { recipe: "budget 1T\n# 中文 x\n".into(), sets: vec![] };
        let span = Span { source: Source::Recipe, start: 19, end: 20 };
        assert_eq!(sources.slice(span), "x");
        assert_eq!(sources.position(span), (2, 6));
    }
}
