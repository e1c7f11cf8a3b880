//! Typed reading of values: each reader marks what it consumes and reports what does not fit.

use llmc_grammar::{Call, Cmp, Value};

use super::cx::{Cx, span};
use super::merge::{From, Setting, View};
use crate::check::names::{choice, option, unit as unit_rule};
use crate::check::syntax::valueless;
use crate::check::values::{dimension, kind, range, whole};
use crate::diag::{self, Source, Span, text};
use crate::ledger::{Fact, Why};
use crate::unit::{BadQuantity, Dimension, Measure, Quantity, Slot};

/// A value with its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Typed<T> {
    /// The value.
    pub value: T,
    /// Typed or set.
    pub why: Why,
    /// Where.
    pub span: Span,
}

/// Inclusive bounds of a count.
pub type Range = (u64, u64);

/// Places that recur.
pub const COUNT: Slot = Slot { accepts: &[Dimension::Count], bare: Some(Dimension::Count), binary_k: false };
/// Context-like: bare or tokens, `k` = 1,024.
pub const CONTEXT: Slot =
    Slot { accepts: &[Dimension::Tokens], bare: Some(Dimension::Tokens), binary_k: true };
/// A share: `10%` or `0.1`.
pub const SHARE: Slot = Slot { accepts: &[Dimension::Ratio], bare: Some(Dimension::Ratio), binary_k: false };
/// A plain real number.
pub const REAL: Slot = Slot { accepts: &[Dimension::Count], bare: Some(Dimension::Count), binary_k: false };
/// A stretch of the run.
pub const STRETCH: Slot = Slot {
    accepts: &[Dimension::Steps, Dimension::Tokens, Dimension::Ratio, Dimension::Time],
    bare: None,
    binary_k: false,
};

impl Cx {
    /// A quantity in its slot.
    pub fn measure<T>(
        &mut self,
        from: &From<T>,
        value: &Value,
        slot: &Slot,
        owner: &str,
    ) -> Option<Typed<Measure>> {
        let at = span(from.source, value.span());
        let words = self.slice(at).to_owned();
        match value {
            Value::Quantity(_) => {}
            // Reported where the token stands, by the syntax pass.
            Value::BadNumber(_) => return None,
            _ => {
                let wanted = if slot.bare.is_some() {
                    text("a number", "数字")
                } else {
                    text("a number with a unit", "带单位的数字")
                };
                self.report(kind::found(at, &words, owner, wanted));
                return None;
            }
        }
        match Quantity::parse(&words) {
            Ok(q) => match q.in_slot(slot) {
                Ok(m) => {
                    self.mark(at);
                    Some(Typed { value: m, why: from.why(value.span()), span: at })
                }
                Err(mismatch) => {
                    self.report(dimension::found(at, &words, owner, &mismatch));
                    None
                }
            },
            Err(BadQuantity::Unit(unit)) => {
                self.report(unit_rule::found(at, &unit, owner, slot.accepts));
                None
            }
            Err(BadQuantity::Number) => {
                self.report(crate::check::syntax::number::found(at, &words));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn count<T>(
        &mut self,
        from: &From<T>,
        value: &Value,
        slot: &Slot,
        bounds: Range,
        owner: &str,
    ) -> Option<Typed<u64>> {
        let m = self.measure(from, value, slot, owner)?;
        self.counted(m, bounds, owner)
    }

    /// A measure as a whole number within bounds.
    pub fn counted(&mut self, m: Typed<Measure>, bounds: Range, owner: &str) -> Option<Typed<u64>> {
        let Some(n) = m.value.number.count() else {
            let words = self.slice(m.span).to_owned();
            self.report(whole::found(m.span, &words, owner));
            return None;
        };
        if n < bounds.0 || n > bounds.1 {
            let v = diag::Value::Count;
            self.report(range::found(m.span, owner, v(n), v(bounds.0), v(bounds.1)));
            return None;
        }
        Some(Typed { value: n, why: m.why, span: m.span })
    }

    /// A real number within bounds.
    pub fn real<T>(
        &mut self,
        from: &From<T>,
        value: &Value,
        slot: &Slot,
        bounds: (f64, f64),
        owner: &str,
    ) -> Option<Typed<f64>> {
        let m = self.measure(from, value, slot, owner)?;
        let x = m.value.to_f64();
        if !(bounds.0..=bounds.1).contains(&x) {
            let v = |x: f64| {
                if m.value.dimension == Dimension::Ratio {
                    diag::Value::Ratio(x)
                } else {
                    diag::Value::Float(x)
                }
            };
            self.report(range::found(m.span, owner, v(x), v(bounds.0), v(bounds.1)));
            return None;
        }
        Some(Typed { value: x, why: m.why, span: m.span })
    }

    /// One of a closed list of words.
    pub fn choice<T>(
        &mut self,
        from: &From<T>,
        value: &Value,
        known: &[&'static str],
        owner: &str,
    ) -> Option<Typed<&'static str>> {
        let at = span(from.source, value.span());
        let words = self.slice(at).to_owned();
        let Some(word) = value.as_word() else {
            if !matches!(value, Value::BadNumber(_)) {
                self.report(kind::found(at, &words, owner, diag::Value::Text(known.join(" | "))));
            }
            return None;
        };
        match known.iter().find(|k| **k == word) {
            Some(found) => {
                self.mark(at);
                Some(Typed { value: found, why: from.why(value.span()), span: at })
            }
            None => {
                self.report(choice::found(at, word, owner, known));
                None
            }
        }
    }

    /// `yes` or `no`.
    pub fn switch<T>(&mut self, from: &From<T>, value: &Value, owner: &str) -> Option<Typed<bool>> {
        let word = self.choice(from, value, &["yes", "no"], owner)?;
        Some(Typed { value: word.value == "yes", why: word.why, span: word.span })
    }

    /// A string in quotes.
    pub fn string<T>(&mut self, from: &From<T>, value: &Value, owner: &str) -> Option<Typed<String>> {
        let at = span(from.source, value.span());
        match value {
            Value::String(s) => {
                self.mark(at);
                Some(Typed { value: s.value.clone(), why: from.why(s.span), span: at })
            }
            Value::BadNumber(_) => None,
            _ => {
                let words = self.slice(at).to_owned();
                self.report(kind::found(at, &words, owner, text("a path in quotes", "带引号的路径")));
                None
            }
        }
    }

    /// Marks the name, brackets and argument names of a call and hands out its arguments: `known` by name, in order;
    /// a nameless argument takes the first place.
    pub fn arguments<T>(
        &mut self,
        from: &From<T>,
        call: &Call,
        known: &[&'static str],
    ) -> Vec<(&'static str, Value)> {
        let source = from.source;
        let mut out: Vec<(&'static str, Value)> = Vec::new();
        self.mark(span(source, call.name.span));
        self.mark_punctuation(source, call);
        for (i, arg) in call.args.iter().enumerate() {
            let whole = span(source, arg.span);
            let typed = arg.name.as_ref().map(|n| n.value.as_str());
            let name = match typed {
                Some(name) => known.iter().find(|k| **k == name),
                None => known.get(i),
            };
            let Some(name) = name else {
                let words = typed.map_or_else(|| self.slice(whole).to_owned(), str::to_owned);
                self.report(crate::check::names::argument::found(whole, &words, &call.name.value, known));
                continue;
            };
            if let Some((_, first)) = out.iter().find(|(n, _)| n == name) {
                let first = span(source, first.span());
                self.report(crate::check::values::twice::found(name, whole, first));
                continue;
            }
            if let Some(n) = &arg.name {
                self.mark(Span { source, start: n.span.start, end: arg.value.span().start });
            }
            out.push((name, arg.value.clone()));
        }
        out
    }

    fn mark_punctuation(&mut self, source: Source, call: &Call) {
        let open = Span {
            source,
            start: call.name.span.end,
            end: call.args.first().map_or(call.span.end, |a| a.span.start),
        };
        let tail =
            Span { source, start: call.args.last().map_or(open.start, |a| a.span.end), end: call.span.end };
        for gap in [open, tail] {
            if call.junk.iter().all(|j| j.end <= gap.start || j.start >= gap.end) {
                self.mark(gap);
            } else {
                self.mark_brackets(gap);
            }
        }
    }

    /// Marks single brackets of a gap that also holds junk.
    fn mark_brackets(&mut self, gap: Span) {
        let places: Vec<(usize, usize)> = (self.slice(gap).char_indices())
            .filter(|(_, c)| "()（）".contains(*c))
            .map(|(i, c)| (gap.start + i, gap.start + i + c.len_utf8()))
            .collect();
        for (start, end) in places {
            self.mark(Span { source: gap.source, start, end });
        }
    }
}

/// The options of one block, each to be taken once.
pub struct Options {
    owner: String,
    left: Vec<Setting>,
    known: Vec<&'static str>,
}

impl Options {
    /// Of a clause.
    pub fn of(view: &mut View) -> Self {
        Options {
            owner: view.keyword.text().to_owned(),
            left: std::mem::take(&mut view.options),
            known: Vec::new(),
        }
    }

    /// Of the block inside an option.
    pub fn inside(setting: &mut Setting, owner: &str) -> Self {
        Options { owner: owner.to_owned(), left: std::mem::take(&mut setting.inner), known: Vec::new() }
    }

    /// The option of that name, with its name marked as consumed; `None` also when it has no value at all.
    pub fn take(&mut self, cx: &mut Cx, name: &'static str) -> Option<Setting> {
        self.known.push(name);
        let at = self.left.iter().position(|s| s.opt.node.name.value == name)?;
        Some(mark_name(cx, self.left.remove(at)))
    }

    /// The single value of an option that takes no bound.
    pub fn value(&mut self, cx: &mut Cx, name: &'static str) -> Option<(Setting, Value)> {
        let setting = self.take(cx, name)?;
        self.refuse_bound(cx, &setting);
        let value = first_value(cx, &setting)?;
        Some((setting, value))
    }

    fn refuse_bound(&self, cx: &mut Cx, setting: &Setting) {
        if let Some(cmp) = &setting.opt.node.cmp
            && !cmp.value.is_strict()
        {
            let at = span(setting.opt.source, cmp.span);
            cx.report(kind::found(
                at,
                cmp.value.text(),
                &setting.opt.node.name.value,
                text("a value without a bound", "不带界限的取值"),
            ));
        }
    }

    /// A whole number of things.
    pub fn count(&mut self, cx: &mut Cx, name: &'static str, bounds: Range) -> Option<Typed<u64>> {
        self.count_in(cx, name, &COUNT, bounds)
    }

    /// A whole number in a slot.
    pub fn count_in(
        &mut self,
        cx: &mut Cx,
        name: &'static str,
        slot: &Slot,
        bounds: Range,
    ) -> Option<Typed<u64>> {
        let (s, v) = self.value(cx, name)?;
        cx.count(&s.opt, &v, slot, bounds, name)
    }

    /// A real number in a slot.
    pub fn real(
        &mut self,
        cx: &mut Cx,
        name: &'static str,
        slot: &Slot,
        bounds: (f64, f64),
    ) -> Option<Typed<f64>> {
        let (s, v) = self.value(cx, name)?;
        cx.real(&s.opt, &v, slot, bounds, name)
    }

    /// One of a list of words.
    pub fn choice(
        &mut self,
        cx: &mut Cx,
        name: &'static str,
        known: &[&'static str],
    ) -> Option<Typed<&'static str>> {
        let (s, v) = self.value(cx, name)?;
        cx.choice(&s.opt, &v, known, name)
    }

    /// `yes` or `no`.
    pub fn switch(&mut self, cx: &mut Cx, name: &'static str) -> Option<Typed<bool>> {
        let (s, v) = self.value(cx, name)?;
        cx.switch(&s.opt, &v, name)
    }

    /// A quantity in a slot, not further bounded.
    pub fn measure(&mut self, cx: &mut Cx, name: &'static str, slot: &Slot) -> Option<Typed<Measure>> {
        let (s, v) = self.value(cx, name)?;
        cx.measure(&s.opt, &v, slot, name)
    }

    /// A path in quotes.
    pub fn string(&mut self, cx: &mut Cx, name: &'static str) -> Option<Typed<String>> {
        let (s, v) = self.value(cx, name)?;
        cx.string(&s.opt, &v, name)
    }

    /// All options, for blocks whose names the user chooses.
    pub fn all(&mut self, cx: &mut Cx) -> Vec<Setting> {
        std::mem::take(&mut self.left).into_iter().map(|s| mark_name(cx, s)).collect()
    }

    /// Reports what was not taken.
    pub fn finish(self, cx: &mut Cx) {
        for setting in self.left {
            let node = &setting.opt.node;
            let (whole, at) = (span(setting.opt.source, node.span), span(setting.opt.source, node.name.span));
            cx.report(option::found(whole, at, &node.name.value, &self.owner, &self.known));
        }
    }
}

fn mark_name(cx: &mut Cx, setting: Setting) -> Setting {
    cx.mark(span(setting.opt.source, setting.opt.node.name.span));
    if let Some(cmp) = &setting.opt.node.cmp
        && !cmp.value.is_strict()
    {
        cx.mark(span(setting.opt.source, cmp.span));
    }
    setting
}

/// The first value of an option, or a report that there is none.
pub fn first_value(cx: &mut Cx, setting: &Setting) -> Option<Value> {
    let node = &setting.opt.node;
    if node.values.is_empty() {
        cx.report(valueless::found(span(setting.opt.source, node.name.span), &node.name.value, None));
    }
    node.values.first().cloned()
}

/// The bound of an option, if it has one of the two the language has.
pub fn bound(setting: &Setting) -> Option<Cmp> {
    setting.opt.node.cmp.as_ref().map(|c| c.value).filter(|c| !c.is_strict())
}

/// The single value of a clause such as `seed 1`; reports a missing one.
pub fn only_head(cx: &mut Cx, view: &View, example: &str) -> Option<From<Value>> {
    if view.heads.is_empty() {
        cx.report(valueless::found(view.at, view.keyword.text(), Some(example)));
    }
    view.heads.first().cloned()
}

/// Facts of typed values.
impl Typed<u64> {
    /// As a fact.
    pub fn fact(&self) -> (Fact, Why) {
        (Fact::Count(self.value), self.why.clone())
    }
}

impl Typed<f64> {
    /// As a fact.
    pub fn fact(&self) -> (Fact, Why) {
        (Fact::Real(self.value), self.why.clone())
    }
}

impl Typed<bool> {
    /// As a fact.
    pub fn fact(&self) -> (Fact, Why) {
        (Fact::Flag(self.value), self.why.clone())
    }
}

impl Typed<&'static str> {
    /// As a fact.
    pub fn fact(&self) -> (Fact, Why) {
        (Fact::Word(self.value.to_owned()), self.why.clone())
    }
}

impl Typed<String> {
    /// As a fact.
    pub fn fact(&self) -> (Fact, Why) {
        (Fact::Word(self.value.clone()), self.why.clone())
    }
}
