//! Clauses of the recipe and of `--set` become one view per keyword.
//!
//! Two sources of one value are an error unless one is a `--set`, which then overrides and says what it replaced.

use llmc_grammar::{Clause, Keyword, Opt, Value};

use super::cx::{Cx, span};
use super::training::{FROZEN, SCHEDULES};
use crate::check::syntax::clause as misspelt;
use crate::check::values::twice;
use crate::diag::{Source, Span, nearest};
use crate::ledger::Why;

/// A node with the text it is from.
#[derive(Clone, Debug)]
pub struct From<T> {
    /// The node.
    pub node: T,
    /// Recipe or `--set`.
    pub source: Source,
    /// What of the recipe it replaces.
    pub overrides: Option<Span>,
}

impl<T> From<T> {
    /// The reason of a value that stands at `at` in this node.
    pub fn why(&self, at: llmc_grammar::Span) -> Why {
        let span = span(self.source, at);
        match self.source {
            Source::Recipe => Why::Typed { span, overrides: None },
            Source::Set(index) => Why::Set { index, span, overrides: self.overrides },
        }
    }
}

/// An option with the overrides that reach into its block.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The option itself.
    pub opt: From<Opt>,
    /// Options of its block, merged.
    pub inner: Vec<Setting>,
}

/// One clause, whatever texts it comes from.
#[derive(Clone, Debug)]
pub struct View {
    /// Which.
    pub keyword: Keyword,
    /// Its keyword where it stands first.
    pub at: Span,
    /// Values before the block.
    pub heads: Vec<From<Value>>,
    /// Options of the block.
    pub options: Vec<Setting>,
}

/// Words that may stand after the first value of a head.
const HEAD_WORDS: &[&[&str]] = &[SCHEDULES, FROZEN];

/// Which place of a head a value takes: a `--set` replaces only the values of the places it names.
fn place(keyword: Keyword, value: &Value) -> &'static str {
    match (keyword, value) {
        (Keyword::Model, Value::Size(_)) => "size",
        (Keyword::Model, _) => "family",
        (Keyword::Lr, Value::Word(_) | Value::Call(_)) => "schedule",
        (Keyword::Lr, _) => "peak",
        (Keyword::Mix, Value::Call(call)) => match call.name.value.as_str() {
            "importance" => "importance",
            "dynamic" => "dynamic",
            _ => "all",
        },
        (Keyword::Budget, Value::Quantity(q)) => {
            match (q.currency, q.unit.as_ref().map(|u| u.value.as_str())) {
                (Some(_), _) | (_, Some("CNY" | "USD" | "EUR")) => "money",
                (None, Some("token" | "tokens")) => "tokens",
                (None, Some("FLOP" | "FLOPs")) => "flops",
                _ => "time",
            }
        }
        _ => "all",
    }
}

impl Cx {
    /// The merged clause of a keyword; marks keywords and brackets as consumed.
    pub fn view(&mut self, keyword: Keyword) -> Option<View> {
        let clauses: Vec<(Source, Clause)> = (self.trees())
            .flat_map(|(source, tree)| tree.clauses().iter().map(move |c| (source, c)))
            .filter(|(_, c)| c.keyword.value == keyword)
            .map(|(source, c)| (source, c.clone()))
            .collect();
        let mut view: Option<View> = None;
        for (source, mut clause) in clauses {
            self.cut_misspelt(source, &mut clause);
            let at = span(source, clause.keyword.span);
            match &mut view {
                Some(v) if v.at.source == source => {
                    self.report(twice::found(keyword.text(), span(source, clause.span), v.at));
                    continue;
                }
                Some(v) => {
                    self.mark(at);
                    self.override_heads(v, source, &clause);
                    let settings = self.settings(source, clause.options());
                    self.override_settings(&mut v.options, settings);
                }
                None => {
                    self.mark(at);
                    let heads = clause
                        .head
                        .iter()
                        .cloned()
                        .map(|node| From { node, source, overrides: None })
                        .collect();
                    let options = self.settings(source, clause.options());
                    view = Some(View { keyword, at, heads, options });
                }
            }
            self.brackets(source, clause.block.as_ref());
        }
        view
    }

    /// `seed 1` with `bugdet 1T tokens` on the next line is one clause to the parser. A word after the first value that
    /// no clause takes and that is near a keyword starts a misspelt clause: it, what follows and the block are its.
    fn cut_misspelt(&mut self, source: Source, clause: &mut Clause) {
        for (i, value) in clause.head.iter().enumerate().skip(1) {
            let Value::Word(word) = value else { continue };
            if HEAD_WORDS.iter().any(|list| list.contains(&word.value.as_str())) {
                continue;
            }
            let Some(near) = nearest(&word.value, Keyword::ALL.iter().map(|k| k.text())) else { continue };
            let whole = Span { source, start: word.span.start, end: clause.span.end };
            self.report(misspelt::found(whole, span(source, word.span), &word.value, Some(near)));
            clause.head.truncate(i);
            clause.block = None;
            return;
        }
    }

    /// Marks `<` and `>` of a block and of the blocks inside it.
    fn brackets(&mut self, source: Source, block: Option<&llmc_grammar::Block>) {
        let Some(block) = block else { return };
        self.mark(span(source, block.open));
        if !block.unclosed {
            let end = block.span.end;
            let start = self
                .slice(span(source, block.span))
                .char_indices()
                .next_back()
                .map_or(end, |(i, _)| block.span.start + i);
            self.mark(Span { source, start, end });
        }
        for opt in &block.options {
            self.brackets(source, opt.inner.as_ref());
        }
    }

    fn settings(&mut self, source: Source, options: &[Opt]) -> Vec<Setting> {
        let mut out: Vec<Setting> = Vec::new();
        let mut seen: std::collections::BTreeMap<&str, Span> = std::collections::BTreeMap::new();
        for opt in options {
            let name_at = span(source, opt.name.span);
            // `mix < at 50% < … > at 80% < … > >`: phases are told apart by their share, not by the name.
            if opt.name.value == "at" {
                out.push(Setting {
                    opt: From { node: opt.clone(), source, overrides: None },
                    inner: opt.inner.as_ref().map_or(Vec::new(), |b| self.settings(source, &b.options)),
                });
                continue;
            }
            if let Some(first) = seen.get(opt.name.value.as_str()) {
                self.report(twice::found(&opt.name.value, span(source, opt.span), *first));
                continue;
            }
            seen.insert(&opt.name.value, name_at);
            let inner = opt.inner.as_ref().map_or(Vec::new(), |b| self.settings(source, &b.options));
            out.push(Setting { opt: From { node: opt.clone(), source, overrides: None }, inner });
        }
        out
    }

    fn override_heads(&mut self, view: &mut View, source: Source, clause: &Clause) {
        let places: Vec<&str> = clause.head.iter().map(|v| place(view.keyword, v)).collect();
        let (replaced, kept): (Vec<_>, Vec<_>) =
            view.heads.drain(..).partition(|h| places.contains(&place(view.keyword, &h.node)));
        let mut overrides: Option<Span> = None;
        for head in replaced {
            let old = span(head.source, head.node.span());
            if let Source::Set(_) = head.source {
                self.report(twice::found(view.keyword.text(), span(source, clause.span), old));
                continue;
            }
            self.mark(old);
            overrides = Some(overrides.map_or(old, |o| o.join(old)));
        }
        view.heads = kept;
        view.heads.extend(clause.head.iter().cloned().map(|node| From { node, source, overrides }));
    }

    fn override_settings(&mut self, into: &mut Vec<Setting>, from: Vec<Setting>) {
        for new in from {
            let Some(old) = into.iter_mut().find(|s| s.opt.node.name.value == new.opt.node.name.value) else {
                into.push(new);
                continue;
            };
            if new.opt.node.values.is_empty() && !new.inner.is_empty() {
                self.mark(span(new.opt.source, new.opt.node.name.span));
                self.override_settings(&mut old.inner, new.inner);
                continue;
            }
            let (old_span, new_span) =
                (span(old.opt.source, old.opt.node.span), span(new.opt.source, new.opt.node.span));
            if let Source::Set(_) = old.opt.source {
                self.report(twice::found(&new.opt.node.name.value, new_span, old_span));
                continue;
            }
            let values = span(old.opt.source, old.opt.node.name.span);
            let last = old.opt.node.values.last().map_or(values, |v| span(old.opt.source, v.span()));
            self.mark(values.join(last));
            let inner = std::mem::take(&mut old.inner);
            *old = Setting { opt: From { overrides: Some(values.join(last)), ..new.opt }, inner };
            self.override_settings(&mut old.inner, new.inner);
        }
    }
}

/// `path=value` as the small recipe it stands for: `model.ctx=4k` is `model < ctx 4k >`.
/// `Err` holds the word that should have been a keyword.
pub fn recipe_of_set(typed: &str) -> Result<String, String> {
    let cut = typed.find(['=', '<', '>']).unwrap_or(typed.len());
    let (path, rest) = typed.split_at(cut);
    let mut names = path.trim().split('.');
    let head = names.next().unwrap_or("").to_owned();
    let options: Vec<&str> = names.collect();
    let (sign, value) = match rest {
        r if r.starts_with("<=") || r.starts_with(">=") => r.split_at(2),
        r if r.starts_with('=') => ("", r.get(1..).unwrap_or("")),
        _ => return Err(head),
    };
    let plain = |n: &&str| !n.is_empty() && n.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if Keyword::from_text(&head).is_none() || value.trim().is_empty() || !options.iter().all(plain) {
        return Err(head);
    }
    let mut text = head;
    let depth = options.len();
    for name in &options {
        text.push_str(" < ");
        text.push_str(name);
    }
    if !sign.is_empty() {
        text.push(' ');
        text.push_str(sign);
    }
    text.push(' ');
    text.push_str(value.trim());
    text.push_str(&" >".repeat(depth));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::recipe_of_set;

    #[test]
    fn sets_become_recipes() {
        assert_eq!(recipe_of_set("lr=3e-4").as_deref(), Ok("lr 3e-4"));
        assert_eq!(recipe_of_set("model.ctx=4k").as_deref(), Ok("model < ctx 4k >"));
        assert_eq!(recipe_of_set("data.code.epochs<=2").as_deref(), Ok("data < code < epochs <= 2 > >"));
        assert_eq!(recipe_of_set("budget=1T tokens").as_deref(), Ok("budget 1T tokens"));
        assert_eq!(recipe_of_set("modle.ctx=4k"), Err("modle".into()));
        assert_eq!(recipe_of_set("lr"), Err("lr".into()));
        assert_eq!(recipe_of_set("lr="), Err("lr".into()));
    }
}
