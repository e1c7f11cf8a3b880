//! The two languages that users read, and sentences that exist in both.
//!
//! [`say!`](crate::say) makes a [`Said`]: both languages beside each other, with the same named arguments, which the
//! compiler checks. What programs read stays English. Not here: diagnostics of recipes, whose words stand in rule files
//! (`llmc_compiler::diag`).

use std::fmt::{self, Debug, Display, Formatter};
use std::io::{Error, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The variable that hands a language to the programs that `llmc` starts, which `en` or `zh` may also be set in by hand.
pub const VARIABLE: &str = "LLMC_LANG";

/// Language of sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

impl Lang {
    /// Of the environment: [`VARIABLE`], else the locale in the POSIX order, in which the first of LC_ALL, LC_MESSAGES
    /// and LANG that is set and not empty decides.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Lang {
        let names = [VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG"];
        let set = names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
        if set.is_some_and(|value| value.starts_with("zh")) { Lang::Zh } else { Lang::En }
    }

    /// `en`, `zh`.
    pub const fn code(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::Zh => "zh",
        }
    }

    /// One of two.
    pub const fn say<'a>(self, en: &'a str, zh: &'a str) -> &'a str {
        match self {
            Lang::En => en,
            Lang::Zh => zh,
        }
    }
}

impl From<&str> for Lang {
    /// `zh`; everything else is English.
    fn from(code: &str) -> Lang {
        if code == "zh" { Lang::Zh } else { Lang::En }
    }
}

/// A sentence, or a part of one, in both languages. Not `Display`: whoever shows it chooses one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

impl Said {
    /// What reads the same in both: names, figures, another program's words.
    pub fn same(text: impl Display) -> Said {
        let text = text.to_string();
        Said { zh: text.clone(), en: text }
    }

    /// In one language.
    pub fn text(&self, lang: Lang) -> &str {
        lang.say(&self.en, &self.zh)
    }

    /// Several as a list.
    pub fn join(all: &[Said], en: &str, zh: &str) -> Said {
        let of = |text: fn(&Said) -> &str| all.iter().map(text).collect::<Vec<_>>();
        Said { en: of(|said| &said.en).join(en), zh: of(|said| &said.zh).join(zh) }
    }
}

/// A file operation that the system refused, with its reason.
pub fn cannot(action: &str, path: &Path, error: &Error) -> Said {
    let (path, why) = (path.display(), reason(error));
    let verb = ACTIONS.iter().find(|(en, _)| *en == action).map_or(action, |(_, zh)| zh);
    Said {
        en: format!("cannot {action} {path}: {}", why.en), zh: format!("无法{verb} {path}：{}", why.zh)
    }
}

/// Why the system refuses, without its number; what is rare stays in its own words.
pub fn reason(error: &Error) -> Said {
    let (en, zh) = match error.kind() {
        ErrorKind::NotFound => ("there is no such file or folder", "没有这个文件或目录"),
        ErrorKind::PermissionDenied => ("this user has no permission", "当前用户没有权限"),
        ErrorKind::IsADirectory => ("it is a folder: name a file", "这是目录：请给出文件"),
        ErrorKind::NotADirectory => ("a part of the path is no folder", "路径中有一段不是目录"),
        ErrorKind::StorageFull => ("the disk is full", "磁盘已满"),
        ErrorKind::ReadOnlyFilesystem => ("the file system is read-only", "文件系统只读"),
        _ => return Said::same(error),
    };
    Said { en: en.to_owned(), zh: zh.to_owned() }
}

/// The verbs of [`cannot`].
pub const ACTIONS: [(&str, &str); 15] = [
    ("create", "创建"),
    ("find", "找到"),
    ("flush", "写完"),
    ("link", "链接"),
    ("list", "列出"),
    ("lock", "锁定"),
    ("map", "映射"),
    ("measure", "测量"),
    ("open", "打开"),
    ("read", "读取"),
    ("remove", "删除"),
    ("rename", "重命名"),
    ("replace", "替换"),
    ("sync", "同步"),
    ("write", "写入"),
];

/// What an argument of a sentence looks like in a language.
pub trait Speak {
    /// As `Display`, in one language.
    ///
    /// # Errors
    /// As `Display`.
    fn speak(&self, lang: Lang, f: &mut Formatter<'_>) -> fmt::Result;
}

impl<T: Display + ?Sized> Speak for T {
    fn speak(&self, _: Lang, f: &mut Formatter<'_>) -> fmt::Result {
        self.fmt(f)
    }
}

impl Speak for Said {
    fn speak(&self, lang: Lang, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.text(lang))
    }
}

impl Speak for &Said {
    fn speak(&self, lang: Lang, f: &mut Formatter<'_>) -> fmt::Result {
        (**self).speak(lang, f)
    }
}

/// An argument in a language.
pub struct In<'a, T: ?Sized>(pub &'a T, pub Lang);

impl<T: Speak + ?Sized> Display for In<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.speak(self.1, f)
    }
}

impl<T: Debug + ?Sized> Debug for In<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A [`Said`](crate::lang::Said) of an English and a Chinese format string with the same named arguments. An argument is
/// a variable in scope, `name = expression`, or the name of a `Said`, listed so that each language gets its own.
///
/// ```
/// use llmc_plan::say;
/// let (gib, why) = (1.25, say!("it is full", "已满"));
/// let said = say!("{file}: {gib:.1} GiB lost, for {why}", "{file}：丢失 {gib:.1} GiB，{why}", file = "a.bin", why);
/// assert_eq!(said.zh, "a.bin：丢失 1.2 GiB，已满");
/// ```
///
/// Languages that say different things do not compile:
///
/// ```compile_fail
/// let (a, b) = (1, 2);
/// llmc_plan::say!("{a} of {b}", "{b}");
/// ```
#[macro_export]
macro_rules! say {
    ($en:literal, $zh:literal $(, $name:ident $(= $value:expr)?)* $(,)?) => {{
        const _: () = assert!($crate::lang::same_arguments($en, $zh), "the languages have different arguments");
        // A match keeps temporaries of the arguments.
        match ($($crate::say!(@ $name $(= $value)?),)*) {
            ($($name,)*) => $crate::lang::Said {
                en: {
                    $(let $name = $crate::lang::In($name, $crate::lang::Lang::En);)*
                    format!($en)
                },
                zh: {
                    $(let $name = $crate::lang::In($name, $crate::lang::Lang::Zh);)*
                    format!($zh)
                },
            },
        }
    }};
    (@ $name:ident) => { &$name };
    (@ $name:ident = $value:expr) => { &$value };
}

/// Whether two format strings name the same arguments; all must have names.
pub const fn same_arguments(a: &str, b: &str) -> bool {
    names_within(a.as_bytes(), b.as_bytes()) && names_within(b.as_bytes(), a.as_bytes())
}

/// The name that starts at or after `from`: its range, and where to go on. None at the end of the text.
const fn next_name(text: &[u8], from: usize) -> Option<(usize, usize, usize)> {
    let mut i = from;
    while i < text.len() {
        if text[i] == b'{' && i + 1 < text.len() && text[i + 1] == b'{' {
            i += 2;
        } else if text[i] == b'{' {
            let mut end = i + 1;
            while end < text.len() && text[end] != b'}' && text[end] != b':' {
                end += 1;
            }
            let mut after = end;
            while after < text.len() && text[after] != b'}' {
                after += 1;
            }
            return Some((i + 1, end, after + 1));
        } else {
            i += 1;
        }
    }
    None
}

const fn names_within(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while let Some((start, end, after)) = next_name(a, at) {
        if start == end || !is_named(a, start, end, b) {
            return false;
        }
        at = after;
    }
    true
}

/// Whether `b` has an argument of the name `a[start..end]`.
const fn is_named(a: &[u8], start: usize, end: usize, b: &[u8]) -> bool {
    let mut at = 0;
    while let Some((first, last, after)) = next_name(b, at) {
        let mut same = last - first == end - start;
        let mut i = 0;
        while same && i < end - start {
            same = a[start + i] == b[first + i];
            i += 1;
        }
        if same {
            return true;
        }
        at = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_set_variable_decides() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            Lang::of(move |name| set.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
        };
        assert_eq!(with(&[]), Lang::En);
        assert_eq!(with(&[("LANG", "zh_CN.UTF-8")]), Lang::Zh);
        assert_eq!(with(&[("LC_ALL", ""), ("LANG", "zh_CN.UTF-8")]), Lang::Zh);
        assert_eq!(with(&[("LC_ALL", "C"), ("LANG", "zh_CN.UTF-8")]), Lang::En);
        assert_eq!(with(&[("LC_ALL", "C"), (VARIABLE, "zh")]), Lang::Zh);
        assert_eq!(with(&[("LANG", "zh_CN.UTF-8"), (VARIABLE, "en")]), Lang::En);
    }

    #[test]
    fn arguments_are_compared_by_name() {
        for (a, b, same) in [
            ("", "", true),
            ("{a} of {b:.1}", "{b}中的 {a}", true),
            ("{a}{{b}}", "{a}", true),
            ("{a} {a}", "{a}", true),
            ("{a}", "", false),
            ("{a}", "{aa}", false),
            ("{}", "{}", false),
        ] {
            assert_eq!(same_arguments(a, b), same, "{a} {b}");
        }
    }

    #[test]
    fn each_language_gets_its_own_part() {
        let (inner, number) = (say!("full", "已满"), 3);
        let said =
            say!("{what:?} is {inner:>6}, {number}", "{what:?} {inner:>6}，{number}", what = "a", inner);
        assert_eq!((said.en.as_str(), said.zh.as_str()), ("\"a\" is   full, 3", "\"a\"     已满，3"));
        let error = Error::from(ErrorKind::NotFound);
        assert_eq!(cannot("read", Path::new("x"), &error).zh, "无法读取 x：没有这个文件或目录");
    }
}
