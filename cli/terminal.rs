//! stdout for data, stderr for talk: language, colour, and pipes that close early.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};

use terminal_size::{Width, terminal_size_of};

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
        let columns = terminal_size_of(std::io::stdout()).map(|(Width(columns), _)| {
            let given = std::env::var("COLUMNS").ok().and_then(|given| given.parse().ok());
            given.unwrap_or(usize::from(columns))
        });
        // A terminal that does not know its width says 0.
        let columns = columns.filter(|columns| *columns > 0);
        Terminal { lang, format: global.format, color, verbose: global.verbose, columns }
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
