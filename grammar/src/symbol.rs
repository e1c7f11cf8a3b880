//! What a user calls each rule of the grammar. The match is exhaustive, so a new rule must be named here.

use crate::parse::generated::Rule;
use crate::tree::{LeafKind, Value};

/// The name of a syntactic thing in both languages, fit for "expected {en}".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// English, with its article where it has one.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

pub(crate) fn symbol(rule: Rule) -> Symbol {
    let (en, zh) = match rule {
        Rule::recipe => ("a recipe", "配方"),
        Rule::clause => ("a clause", "子句"),
        Rule::keyword | Rule::kw | Rule::expect => ("a keyword", "关键字"),
        Rule::head => ("a positional value", "位置值"),
        Rule::block | Rule::inner => ("a block `< … >`", "选项块 `< … >`"),
        Rule::option | Rule::leaf => ("an option", "选项"),
        Rule::setting | Rule::values | Rule::value => ("a value", "值"),
        Rule::compare | Rule::strict => ("a bound such as `memory <= 76 GiB`", "界限，如 `memory <= 76 GiB`"),
        Rule::call => ("a choice such as `yarn(s=2)`", "带参数的选择，如 `yarn(s=2)`"),
        Rule::arg => ("an argument", "参数"),
        Rule::callee | Rule::name | Rule::ident | Rule::id_c => ("a name", "名称"),
        Rule::word | Rule::offloads | Rule::optimizer => ("a word", "词"),
        Rule::number | Rule::num | Rule::digits => ("a number", "数字"),
        Rule::quantity => ("a quantity", "数量"),
        Rule::bad_number | Rule::bad | Rule::tail_c => ("a malformed number", "格式错误的数字"),
        Rule::currency => ("a currency sign", "货币符号"),
        Rule::ratio => ("`%` or `x`", "`%` 或 `x`"),
        Rule::suffix => ("one of the suffixes k, M, B, T", "后缀 k、M、B、T 之一"),
        Rule::per | Rule::unit | Rule::unit_word => ("a unit", "单位"),
        Rule::size => ("a model size such as `7b`", "模型规模，如 `7b`"),
        Rule::cluster => ("hardware such as `64xH100`", "硬件，如 `64xH100`"),
        Rule::count => ("a count", "数目"),
        Rule::sku => ("a device name", "设备名称"),
        Rule::x => ("`x`", "`x`"),
        Rule::string => ("a string", "字符串"),
        Rule::cmp => ("`<=` or `>=`", "`<=` 或 `>=`"),
        Rule::strict_cmp => ("a strict comparison", "严格比较"),
        Rule::open | Rule::lt => ("`<`", "`<`"),
        Rule::close | Rule::gt => ("`>`", "`>`"),
        Rule::equals | Rule::eq => ("`=`", "`=`"),
        Rule::lparen => ("`(`", "`(`"),
        Rule::rparen => ("`)`", "`)`"),
        Rule::head_junk | Rule::block_junk | Rule::call_junk | Rule::stray | Rule::raw => {
            ("text that fits nowhere", "无法识别的文本")
        }
        Rule::open_string => ("a string without its closing `\"`", "缺少结尾 `\"` 的字符串"),
        Rule::WHITESPACE | Rule::blank => ("a blank", "空白"),
        Rule::COMMENT => ("a comment", "注释"),
        Rule::EOI => ("the end of the recipe", "配方结尾"),
    };
    Symbol { en, zh }
}

impl LeafKind {
    /// What a user calls it.
    pub fn symbol(self) -> Symbol {
        symbol(match self {
            LeafKind::Keyword => Rule::keyword,
            LeafKind::Name => Rule::name,
            LeafKind::Callee => Rule::callee,
            LeafKind::Quantity => Rule::quantity,
            LeafKind::BadNumber => Rule::bad_number,
            LeafKind::Size => Rule::size,
            LeafKind::Cluster => Rule::cluster,
            LeafKind::String => Rule::string,
            LeafKind::Cmp => Rule::cmp,
            LeafKind::Open => Rule::open,
            LeafKind::Close => Rule::close,
            LeafKind::OpenParen => Rule::lparen,
            LeafKind::CloseParen => Rule::rparen,
            LeafKind::Equals => Rule::equals,
            LeafKind::Junk => Rule::stray,
            LeafKind::Blank | LeafKind::Comma => Rule::blank,
            LeafKind::Comment => Rule::COMMENT,
        })
    }
}

impl Value {
    /// What a user calls it.
    pub fn symbol(&self) -> Symbol {
        symbol(match self {
            Value::Quantity(_) => Rule::quantity,
            Value::BadNumber(_) => Rule::bad_number,
            Value::Size(_) => Rule::size,
            Value::Cluster(_) => Rule::cluster,
            Value::String(_) => Rule::string,
            Value::Call(_) => Rule::call,
            Value::Word(_) => Rule::word,
            Value::Compare(_) => Rule::compare,
        })
    }
}
