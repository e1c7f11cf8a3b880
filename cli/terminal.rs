//! stdout for data, stderr for talk: language, colour, and pipes that close early.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};

use terminal_size::{Height, Width, terminal_size_of};
use textwrap::core::Word;
use textwrap::{WordSeparator, WordSplitter};

use crate::args::{Color, Format, Global, LangArg};
use crate::exit::Failure;

pub use llmc_compiler::diag::Lang;

/// How to speak, settled once from the command line and the environment.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Language of sentences.
    pub lang: Lang,
    /// Shape of output.
    pub format: Format,
    /// Whether to colour stderr.
    pub color: bool,
    /// Whether to say more.
    pub verbose: bool,
    /// Columns of stdout, where it is a terminal; `COLUMNS` counts first.
    pub columns: Option<usize>,
    /// Columns of stderr alike.
    pub talk_columns: Option<usize>,
}

impl Terminal {
    /// From the command line, the locale and `NO_COLOR`.
    pub fn new(global: &Global) -> Terminal {
        let lang = match global.lang {
            Some(LangArg::En) => Lang::En,
            Some(LangArg::Zh) => Lang::Zh,
            None => ours(),
        };
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        let (columns, talk_columns) = (
            columns_of(terminal_size_of(std::io::stdout())),
            columns_of(terminal_size_of(std::io::stderr())),
        );
        Terminal { lang, format: global.format, color, verbose: global.verbose, columns, talk_columns }
    }

    /// The language of data: what programs read stays English.
    pub fn data_lang(&self) -> Lang {
        if self.format == Format::Json { Lang::En } else { self.lang }
    }

    /// One of two sentences.
    pub fn say<'a>(&self, en: &'a str, zh: &'a str) -> &'a str {
        self.lang.say(en, zh)
    }
}

/// Columns of a stream that is a terminal; one that does not know its width says 0.
fn columns_of(size: Option<(Width, Height)>) -> Option<usize> {
    let (Width(columns), _) = size?;
    let given = std::env::var("COLUMNS").ok().and_then(|given| given.parse().ok());
    Some(given.unwrap_or(usize::from(columns))).filter(|columns| *columns > 0)
}

/// Long lines broken between words for a terminal of so many columns; what follows stands under the line's own indent, at
/// least `hang` columns in. Without a terminal nothing is broken.
pub fn fit(text: &str, columns: Option<usize>, hang: usize) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let fitted = |line: &str| {
        let own = line.chars().take_while(|c| *c == ' ').count();
        let indent = " ".repeat(own.max(hang).min(columns / 2));
        let options = textwrap::Options::new(columns).subsequent_indent(&indent).break_words(false);
        let options = options.word_splitter(WordSplitter::NoHyphenation);
        let options = options.word_separator(WordSeparator::Custom(words));
        textwrap::wrap(line, options).join("\n") + "\n"
    };
    text.lines().map(fitted).collect()
}

/// Where a line may be broken: after a space, and beside a Chinese character where Unicode (UAX 14) allows it. Names with
/// hyphens and figures with signs stay whole.
fn words(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    let wide = |c: Option<char>| c.is_some_and(|c| c >= '\u{2e80}');
    let (mut ends, mut at) = (Vec::new(), 0);
    for word in WordSeparator::UnicodeBreakProperties.find_words(line) {
        let before = line.get(..at).unwrap_or_default();
        if before.ends_with(' ') || wide(before.chars().next_back()) || wide(word.word.chars().next()) {
            ends.push(at);
        }
        at += word.word.len() + word.whitespace.len();
    }
    ends.push(line.len());
    let mut start = 0;
    Box::new(
        ends.into_iter().map(move |end| {
            Word::from(line.get(std::mem::replace(&mut start, end)..end).unwrap_or_default())
        }),
    )
}

/// The language that a command line asks for before it is read: what is wrong with one is said in it too.
pub fn asked(given: &[OsString]) -> Lang {
    let words: Vec<&str> = given.iter().filter_map(|word| word.to_str()).collect();
    let after = |pair: &[&str]| if let ["--lang", lang] = pair { Some((*lang).to_owned()) } else { None };
    let one = words.iter().find_map(|word| word.strip_prefix("--lang=")).map(str::to_owned);
    match one.or_else(|| words.windows(2).find_map(after)).as_deref() {
        Some("zh") => Lang::Zh,
        Some(_) => Lang::En,
        None => ours(),
    }
}

/// The language of the environment.
pub fn ours() -> Lang {
    Lang::of(|name| std::env::var(name).ok())
}

/// Writes data to stdout. A reader that has gone away (`llmc plan … | head`) is no failure.
pub fn data(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            format!("cannot write to stdout: {error}"),
            format!("无法写入标准输出：{error}"),
        )),
        _ => Ok(()),
    }
}

/// Writes talk to stderr; there is nobody to tell when that fails.
pub fn talk(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_keep_their_column() {
        let page = "memory     64.2 GiB of 79.1 GiB on the fullest device\n            1.4 GiB  context\n显存       最满设备六十四，剩余十四\n";
        let narrow = "memory     64.2 GiB of 79.1\n           GiB on the\n           fullest device\n            1.4 GiB  context\n显存       最满设备六十四，\n           剩余十四\n";
        assert_eq!(fit(page, Some(28), 11), narrow);
        assert_eq!(fit(page, None, 11), page);
        assert_eq!(fit("chinchilla-besiroglu, +¥7,264", Some(18), 0), "chinchilla-besiroglu,\n+¥7,264\n");
        assert_eq!(fit("a\n\nb", Some(80), 0), "a\n\nb\n");
    }
}
