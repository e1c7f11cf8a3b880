//! Diagnostics on a terminal: miette draws the source with its labels. One JSON object a line for programs.

use std::fmt;

use llmc_compiler::diag::{self, Diagnostic, Severity, Source, Sources, Span};
use miette::{LabeledSpan, MietteHandlerOpts, NamedSource, ReportHandler};

use crate::args::Format;
use crate::terminal::{Lang, Terminal, fit};

/// Bytes of a line that is still drawn.
const LONGEST: usize = 1000;

/// All findings of one recipe and how many there are, in the terminal's format.
pub fn all(terminal: &Terminal, name: &str, sources: &Sources, found: &[Diagnostic]) -> String {
    match terminal.format {
        Format::Json => each(terminal, name, sources, found),
        _ => each(terminal, name, sources, found) + &summary(terminal, name, found),
    }
}

/// The same for a question about a plan: warnings are only counted, unless more is asked for.
pub fn brief(terminal: &Terminal, name: &str, sources: &Sources, found: &[Diagnostic]) -> String {
    let warning = |d: &&Diagnostic| d.severity == Severity::Warning;
    if terminal.verbose || terminal.format == Format::Json || !found.iter().any(|d| warning(&d)) {
        return all(terminal, name, sources, found);
    }
    let rest: Vec<Diagnostic> = found.iter().filter(|d| !warning(d)).cloned().collect();
    let counted = summary(terminal, name, found);
    let hint = match terminal.lang {
        Lang::En => format!("{}; -v shows more\n", counted.trim_end()),
        Lang::Zh => format!("{}；加 -v 查看内容\n", counted.trim_end()),
    };
    each(terminal, name, sources, &rest) + &hint
}

/// The findings alone.
pub fn each(terminal: &Terminal, name: &str, sources: &Sources, found: &[Diagnostic]) -> String {
    match terminal.format {
        Format::Json => found.iter().map(|d| format!("{}\n", diag::to_json(d, sources))).collect(),
        _ => found.iter().map(|d| one(terminal, name, sources, d)).collect(),
    }
}

/// `2 errors, 1 warning in recipe.llm`; nothing when there is nothing.
fn summary(terminal: &Terminal, name: &str, found: &[Diagnostic]) -> String {
    let count = |severity| found.iter().filter(|d| d.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if errors + warnings == 0 {
        return String::new();
    }
    let plural = |n| if n == 1 { "" } else { "s" };
    match terminal.lang {
        Lang::En => {
            let parts = [(errors, "error"), (warnings, "warning")].into_iter().filter(|(n, _)| *n > 0);
            let parts: Vec<String> = parts.map(|(n, word)| format!("{n} {word}{}", plural(n))).collect();
            format!("{} in {name}\n", parts.join(", "))
        }
        Lang::Zh => {
            let parts = [(errors, "个错误"), (warnings, "个警告")].into_iter().filter(|(n, _)| *n > 0);
            let parts: Vec<String> = parts.map(|(n, word)| format!("{n} {word}")).collect();
            format!("{name} 中有 {}\n", parts.join("、"))
        }
    }
}

fn one(terminal: &Terminal, name: &str, sources: &Sources, found: &Diagnostic) -> String {
    // miette prints the lines around a label whole: of an endless one, the place and a few words must do.
    let long = |span: &Span| sources.text(span.source).lines().any(|line| line.len() > LONGEST);
    if found.labels.iter().any(long) {
        return diag::render(found, sources, terminal.lang) + "\n";
    }
    // miette draws one source a diagnostic: labels in another one (a `--set`) become a related drawing.
    let mut drawings: Vec<Drawing> = Vec::new();
    for (span, sentence) in diag::labels(found, terminal.lang) {
        let at = drawings.iter().position(|drawing| drawing.of == span.source).unwrap_or(drawings.len());
        if at == drawings.len() {
            let title = match span.source {
                Source::Recipe => name.to_owned(),
                Source::Set(n) => format!("--set #{n}"),
            };
            drawings.push(Drawing::new(
                terminal,
                found,
                span.source,
                NamedSource::new(title, text_of(sources, span.source)),
            ));
        }
        let label = (!sentence.is_empty()).then_some(sentence);
        if let Some(drawing) = drawings.get_mut(at) {
            let (start, length) = visible(&text_of(sources, span.source), span);
            drawing.labels.push(LabeledSpan::new(label, start, length));
        }
    }
    if drawings.is_empty() {
        drawings.push(Drawing::new(terminal, found, Source::Recipe, NamedSource::new(name, String::new())));
    }
    let options = MietteHandlerOpts::new().color(terminal.color).unicode(true).terminal_links(false);
    let handler = match terminal.talk_columns {
        Some(columns) => options.width(columns).build(),
        None => options.build(),
    };
    let mut out: String = drawings.iter().map(|drawing| format!("{}\n", Drawn(&handler, drawing))).collect();
    if let Some(help) = diag::help(found, terminal.lang) {
        let help = format!("  {}{help}\n", terminal.say("help: ", "建议："));
        out.push_str(&fit(&help, terminal.talk_columns, 8));
        out.push('\n');
    }
    out
}

/// The text of a source, of at least one byte: miette draws nothing over an empty one.
fn text_of(sources: &Sources, source: Source) -> String {
    Some(sources.text(source)).filter(|text| !text.is_empty()).unwrap_or("\n").to_owned()
}

/// Start and length of a label, at least one character long and inside the text, which miette insists on.
fn visible(text: &str, span: Span) -> (usize, usize) {
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let last = span.start.min(text.len().saturating_sub(1));
    let start = (0..=last).rev().find(boundary).unwrap_or(0);
    let end = (span.end.clamp(start + 1, text.len().max(start + 1))..text.len())
        .find(boundary)
        .unwrap_or(text.len());
    (start, end - start)
}

/// One diagnostic over one source.
#[derive(Debug)]
struct Drawing {
    of: Source,
    source: NamedSource<String>,
    code: &'static str,
    severity: Severity,
    message: String,
    labels: Vec<LabeledSpan>,
}

impl Drawing {
    fn new(terminal: &Terminal, found: &Diagnostic, of: Source, source: NamedSource<String>) -> Drawing {
        let message = diag::message(found, terminal.lang);
        Drawing { of, source, code: found.code, severity: found.severity, message, labels: Vec::new() }
    }
}

impl fmt::Display for Drawing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Drawing {}

impl miette::Diagnostic for Drawing {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
            Severity::Advice => miette::Severity::Advice,
        })
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        (!self.labels.is_empty()).then_some(&self.source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

struct Drawn<'a>(&'a miette::MietteHandler, &'a Drawing);

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug(self.1, f)
    }
}
