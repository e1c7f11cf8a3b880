//! LLM0003: a number with a tail that means nothing.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0003",
    severity: Severity::Error,
    args: &["text", "near"],
    message: text("`{text}` is not a number", "`{text}` 不是合法的数"),
    labels: &[text("the tail is neither a suffix nor a unit", "尾部既不是数量后缀，也不是单位")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text(
            "suffixes are `k M B T` and touch the number; units follow after a blank, as in `1T tokens`",
            "数量后缀为 `k M B T`，紧跟数字；单位写在空格之后，例如 `1T tokens`",
        ),
    ],
    page: Page {
        what: text(
            "A number ends in letters that are neither a suffix (`k M B T % x`) nor a unit of the closed list.",
            "数字末尾的字母既不是后缀（`k M B T % x`），也不是已知单位。",
        ),
        why: text(
            "A wrong suffix changes a budget a thousandfold, so none is guessed.",
            "后缀写错会让预算相差千倍，因此绝不猜测。",
        ),
        example: "model llama 7b < ctx 8kk >",
        instead: "model llama 7b < ctx 8k >",
    },
};

/// The bad token, with the spelling that was probably meant.
pub fn found(span: Span, words: &str) -> Diagnostic {
    let digits: String = words.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let near = match words.get(digits.len()..) {
        Some("t") => Some(format!("{digits}T")),
        Some("K" | "kk" | "KK") => Some(format!("{digits}k")),
        Some("b" | "bn" | "BB") => Some(format!("{digits}B")),
        Some("m" | "MM") => Some(format!("{digits}M")),
        _ => chinese(words),
    };
    Diagnostic::new(&RULE).at(span).text("text", crate::diag::shorten(words)).near(span, near.as_deref())
}

/// Chinese magnitudes in the suffixes of the language: 1 万亿 = 10¹², 1 亿 = 10⁸, 1 万 = 10⁴.
const MAGNITUDES: &[(&str, u64, &str)] = &[
    ("万亿", 1, "T"),
    ("千亿", 100, "B"),
    ("百亿", 10, "B"),
    ("亿", 100, "M"),
    ("百万", 1, "M"),
    ("万", 10, "k"),
];
/// Chinese units; a month is taken as 30 days.
const UNITS: &[(&str, u64, &str)] = &[
    ("个词元", 1, " tokens"),
    ("词元", 1, " tokens"),
    ("分钟", 1, " min"),
    ("小时", 1, " h"),
    ("星期", 1, " weeks"),
    ("个月", 30, " days"),
    ("秒", 1, " s"),
    ("天", 1, " days"),
    ("日", 1, " days"),
    ("周", 1, " weeks"),
    ("月", 30, " days"),
    ("步", 1, " steps"),
];

/// `5000亿词元` → `500B tokens`, `60天` → `60 days`, `200万元` → `¥2M`, `¥18/小时` → `¥18/h`, `64张H100` → `64xH100`.
fn chinese(words: &str) -> Option<String> {
    let bare = words.strip_prefix(['¥', '￥']);
    let mut yuan = bare.is_some();
    let rest = bare.unwrap_or(words);
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let mut number: f64 = rest.get(..end)?.parse().ok()?;
    let mut tail = rest.get(end..)?.trim_start();
    if let Some(sku) = tail
        .strip_prefix(['张', '卡', '块'])
        .filter(|sku| sku.starts_with(|c: char| c.is_ascii_alphanumeric()))
    {
        return Some(format!("{number}x{sku}"));
    }
    let (mut suffix, mut unit) = ("", "");
    if let Some((word, times, letter)) = MAGNITUDES.iter().find(|(word, ..)| tail.starts_with(word)) {
        (number, suffix, tail) = (number * *times as f64, *letter, tail.strip_prefix(word)?);
        // 5,000 亿 are 500B, no 500000M.
        for (small, large) in [("k", "M"), ("M", "B"), ("B", "T")] {
            if suffix == small && number >= 1000.0 {
                (number, suffix) = (number / 1000.0, large);
            }
        }
    }
    for word in ["元人民币", "元", "人民币"] {
        if let Some(after) = tail.strip_prefix(word) {
            (yuan, tail) = (true, after);
        }
    }
    if let Some((word, times, name)) = UNITS.iter().find(|(word, ..)| tail.starts_with(word)) {
        (number, unit, tail) = (number * *times as f64, *name, tail.strip_prefix(word)?);
    }
    if unit.is_empty() && tail.starts_with(' ') {
        // A unit of the language after a blank stays.
        (unit, tail) = (tail, "");
    }
    let per = match tail {
        "" => "",
        "/小时" | "/时" | "每小时" | "/h" => "/h",
        "/度" | "/千瓦时" | "每度" | "/kWh" => "/kWh",
        _ => return None,
    };
    let money = if yuan { "¥" } else { "" };
    Some(format!("{money}{number}{suffix}{unit}{per}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chinese_numbers_and_units_are_spelt_out() {
        for (typed, meant) in [
            ("1万亿", "1T"),
            ("1万亿 tokens", "1T tokens"),
            ("5000亿词元", "500B tokens"),
            ("1.5万亿词元", "1.5T tokens"),
            ("60天", "60 days"),
            ("3个月", "90 days"),
            ("200万元", "¥2M"),
            ("￥200万", "¥2M"),
            ("18元/h", "¥18/h"),
            ("¥18/小时", "¥18/h"),
            ("¥0.8/度", "¥0.8/kWh"),
            ("64张H100", "64xH100"),
        ] {
            assert_eq!(chinese(typed).as_deref(), Some(meant), "{typed}");
        }
        for typed in ["8kk", "", "¥", "天", "3匹", "1万亿亿"] {
            assert_eq!(chinese(typed), None, "{typed}");
        }
    }
}
