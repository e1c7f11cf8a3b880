//! What a recipe leaves open and needs no search: an ordered list of rules over the blackboard.
//!
//! A rule sees only what it declares to read and writes only what it declares to write, and only where nothing stands
//! yet: what was typed is never changed. The planner's own rules continue the list (`llmc_planner::rules`).

mod model;
mod rope;
mod text;
mod training;

use crate::ledger::{Fact, Facts, Why};

/// One rule of derivation.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Stable identifier, shown by `why`.
    pub id: &'static str,
    /// Paths it reads.
    pub reads: &'static [&'static str],
    /// Paths it writes where they are empty.
    pub writes: &'static [&'static str],
    /// Paper, repository file or table.
    pub cite: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// The derivation.
    pub run: fn(&Reader, &mut Writer),
}

/// Every rule in the order in which they run.
pub const RULES: &[&Rule] = &[
    &training::EDITION,
    &training::SEED,
    &model::FAMILY,
    &model::VOCAB,
    &model::TIED,
    &model::PRESET,
    &model::SHAPE,
    &model::CONSTANTS,
    &model::DROPOUT,
    &rope::BASE,
    &rope::CONTEXT,
    &rope::THETA,
    &rope::SCALING,
    &model::COUNTS,
    &training::PRECISION,
    &training::OPTIMIZER,
    &training::BETAS,
    &training::DECAY,
    &training::BATCH,
    &training::TOKENIZER,
    &training::HOLDOUT,
    &text::FORMAT,
    &text::TEXT,
    &text::FREEZE,
];

/// The rule of that identifier.
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id).copied()
}

/// What a rule may see.
pub struct Reader<'a> {
    facts: &'a Facts,
    reads: &'static [&'static str],
}

impl Reader<'_> {
    fn allowed(&self, path: &str) -> bool {
        let declared = self.reads.contains(&path);
        debug_assert!(declared, "a rule read `{path}` without declaring it");
        declared
    }

    /// A whole number.
    pub fn count(&self, path: &str) -> Option<u64> {
        self.allowed(path).then(|| self.facts.count(path)).flatten()
    }

    /// A real number.
    pub fn real(&self, path: &str) -> Option<f64> {
        self.allowed(path).then(|| self.facts.real(path)).flatten()
    }

    /// A word.
    pub fn word(&self, path: &str) -> Option<&str> {
        if self.allowed(path) { self.facts.word(path) } else { None }
    }

    /// Yes or no.
    pub fn flag(&self, path: &str) -> Option<bool> {
        self.allowed(path).then(|| self.facts.flag(path)).flatten()
    }

    /// Was it given or derived before?
    pub fn has(&self, path: &str) -> bool {
        self.allowed(path) && self.facts.has(path)
    }
}

/// What a rule writes.
pub struct Writer {
    rule: &'static Rule,
    out: Vec<(&'static str, Fact, Why)>,
}

impl Writer {
    fn push(&mut self, path: &'static str, fact: Fact, why: Why) {
        debug_assert!(
            self.rule.writes.contains(&path),
            "`{}` wrote `{path}` without declaring it",
            self.rule.id
        );
        self.out.push((path, fact, why));
    }

    /// A value this rule derives.
    pub fn put(&mut self, path: &'static str, fact: Fact) {
        self.push(path, fact, Why::Rule { id: self.rule.id });
    }

    /// A value from a row of a shipped table.
    pub fn preset(&mut self, path: &'static str, fact: Fact, table: &str, row: &str, cite: &str) {
        self.push(
            path,
            fact,
            Why::Preset { table: table.to_owned(), row: row.to_owned(), cite: cite.to_owned() },
        );
    }
}

/// Runs every rule once, in order. Values that stand already stay.
pub fn run(facts: &mut Facts) {
    for rule in RULES {
        let mut writer = Writer { rule, out: Vec::new() };
        (rule.run)(&Reader { facts, reads: rule.reads }, &mut writer);
        for (path, fact, why) in writer.out {
            match (facts.get(path), &why) {
                (None, _) => facts.put(path, fact, why),
                (Some(typed), Why::Preset { table, row, .. }) if *typed != fact => {
                    facts.note_override(path, format!("{fact} of {table}/{row}"));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::{Source, Span};

    /// Paths a recipe, a base model or the hardware gives; no rule writes them.
    const GIVEN: &[&str] = &[
        "from",
        "hardware.kind",
        "model.asked_params",
        "model.size",
        "base.config_context",
        "batch.asked_tokens",
        "batch.asked_sequences",
        "eval.ppl",
        "tokenizer.import",
    ];

    fn typed() -> Why {
        Why::Typed { span: Span { source: Source::Recipe, start: 0, end: 0 }, overrides: None }
    }

    fn example() -> Facts {
        let mut facts = Facts::default();
        for (path, fact) in [
            ("model.family", Fact::Word("llama".into())),
            ("model.size", Fact::Word("7b".into())),
            ("model.asked_params", Fact::Count(7_000_000_000)),
            ("model.context", Fact::Count(8192)),
            ("model.rope.method", Fact::Word("yarn".into())),
            ("model.rope.factor", Fact::Real(2.0)),
            ("hardware.kind", Fact::Word("cuda".into())),
        ] {
            facts.put(path, fact, typed());
        }
        facts
    }

    #[test]
    fn identifiers_are_unique_and_every_rule_is_cited() {
        for (i, rule) in RULES.iter().enumerate() {
            assert!(!rule.cite.is_empty() && rule.doc.ends_with('.'), "{}", rule.id);
            assert!(RULES[..i].iter().all(|other| other.id != rule.id), "{} twice", rule.id);
            assert!(llmc_planner::rules::find(rule.id).is_none(), "{} is the planner's", rule.id);
        }
    }

    #[test]
    fn reads_precede_writes() {
        let mut written: Vec<&str> = GIVEN.to_vec();
        for rule in RULES {
            for path in rule.reads {
                let typed_only = !RULES.iter().any(|r| r.writes.contains(path));
                let own = rule.writes.contains(path);
                assert!(
                    written.contains(path) || own || typed_only && GIVEN.contains(path),
                    "{} reads {path} too early",
                    rule.id
                );
            }
            written.extend(rule.writes);
        }
    }

    #[test]
    fn what_a_rule_does_not_read_never_changes_what_it_writes() {
        let mut full = example();
        run(&mut full);
        let paths: Vec<String> = full.iter().map(|(p, _, _)| p.to_owned()).collect();
        for rule in RULES {
            let answer = |facts: &Facts| {
                let mut writer = Writer { rule, out: Vec::new() };
                (rule.run)(&Reader { facts, reads: rule.reads }, &mut writer);
                writer.out
            };
            // What the rule writes itself counts as open, or there would be nothing to compare.
            let before = answer(&full);
            for path in paths.iter().filter(|p| !rule.reads.contains(&p.as_str())) {
                let mut changed = full.clone();
                let other = match full.get(path) {
                    Some(Fact::Count(n)) => Fact::Count(n + 64),
                    Some(Fact::Real(x)) => Fact::Real(x + 0.25),
                    Some(Fact::Flag(b)) => Fact::Flag(!b),
                    _ => Fact::Word("another".into()),
                };
                changed.put(path.clone(), other, typed());
                assert_eq!(before, answer(&changed), "{} depends on {path} in secret", rule.id);
            }
        }
    }

    #[test]
    fn typed_values_stay() {
        let mut facts = example();
        facts.put("optimizer.beta2", Fact::Real(0.99), typed());
        run(&mut facts);
        assert_eq!(facts.real("optimizer.beta2"), Some(0.99));
        assert_eq!(facts.why("optimizer.beta2"), Some(&typed()));
        assert_eq!(facts.count("model.rope.original_context"), Some(4096));
        assert_eq!(facts.count("model.params"), Some(6_738_415_616));
    }
}
