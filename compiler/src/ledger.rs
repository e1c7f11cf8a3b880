//! Values with their reasons: the blackboard that resolving fills and rules extend.
//!
//! A path is the value's JSON path in the plan (`model.layers`), or, for what a recipe says and a plan does not repeat,
//! a path of the same form (`budget.asked_seconds`). [`Facts`] holds both value and [`Why`] until the plan is settled;
//! then only the reasons stay, as the [`Ledger`]. Not here: which rule writes which path (`derive/`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::diag::Span;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Why {
    /// Typed in the recipe.
    Typed {
        /// Where.
        span: Span,
        /// What a preset would have said.
        #[serde(skip_serializing_if = "Option::is_none")]
        overrides: Option<String>,
    },
    /// Given by the n-th `--set`, counted from 1.
    Set {
        /// Which one.
        index: usize,
        /// Where in it.
        span: Span,
        /// The words of the recipe it replaces.
        #[serde(skip_serializing_if = "Option::is_none")]
        overrides: Option<Span>,
    },
    /// A row of a table that is shipped.
    Preset {
        /// Table, for example `models/llama`.
        table: String,
        /// Row, for example `7b`.
        row: String,
        /// Source of the row.
        cite: String,
    },
    /// Derived by a rule of [`crate::derive`].
    Rule {
        /// Which one.
        id: &'static str,
    },
    /// Chosen by the planner's search.
    Search {
        /// Which one.
        id: &'static str,
    },
}

/// Reason of every leaf of a plan but `search.*`, by JSON path (`memory.stages.0.parameters`).
pub type Ledger = BTreeMap<String, Why>;

/// A plain value on the blackboard.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// Yes or no.
    Flag(bool),
    /// A whole number.
    Count(u64),
    /// A real number.
    Real(f64),
    /// A choice or a name.
    Word(String),
}

impl std::fmt::Display for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fact::Flag(b) => f.write_str(if *b { "yes" } else { "no" }),
            Fact::Count(n) => f.write_str(&crate::unit::grouped(*n)),
            Fact::Real(x) => f.write_str(&crate::diag::short_float(*x)),
            Fact::Word(w) => f.write_str(w),
        }
    }
}

/// Values with reasons, by path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    map: BTreeMap<String, (Fact, Why)>,
}

impl Facts {
    /// Writes or replaces one value.
    pub fn put(&mut self, path: impl Into<String>, fact: Fact, why: Why) {
        self.map.insert(path.into(), (fact, why));
    }

    /// Notes what a preset would have said where somebody typed another value.
    pub fn note_override(&mut self, path: &str, instead_of: String) {
        if let Some((_, Why::Typed { overrides, .. })) = self.map.get_mut(path) {
            *overrides = Some(instead_of);
        }
    }

    /// The value at a path.
    pub fn get(&self, path: &str) -> Option<&Fact> {
        self.map.get(path).map(|(fact, _)| fact)
    }

    /// The reason at a path.
    pub fn why(&self, path: &str) -> Option<&Why> {
        self.map.get(path).map(|(_, why)| why)
    }

    /// Is there a value?
    pub fn has(&self, path: &str) -> bool {
        self.map.contains_key(path)
    }

    /// A whole number.
    pub fn count(&self, path: &str) -> Option<u64> {
        match self.get(path)? {
            Fact::Count(n) => Some(*n),
            _ => None,
        }
    }

    /// A real or whole number.
    pub fn real(&self, path: &str) -> Option<f64> {
        match self.get(path)? {
            Fact::Real(x) => Some(*x),
            Fact::Count(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// A word.
    pub fn word(&self, path: &str) -> Option<&str> {
        match self.get(path)? {
            Fact::Word(w) => Some(w),
            _ => None,
        }
    }

    /// Yes or no.
    pub fn flag(&self, path: &str) -> Option<bool> {
        match self.get(path)? {
            Fact::Flag(b) => Some(*b),
            _ => None,
        }
    }

    /// Where a value was typed, in the recipe or in a `--set`.
    pub fn span(&self, path: &str) -> Option<Span> {
        match self.why(path)? {
            Why::Typed { span, .. } | Why::Set { span, .. } => Some(*span),
            _ => None,
        }
    }

    /// All paths with values and reasons, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Fact, &Why)> {
        self.map.iter().map(|(path, (fact, why))| (path.as_str(), fact, why))
    }
}
