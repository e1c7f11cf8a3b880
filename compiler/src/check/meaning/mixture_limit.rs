//! LLM0710: what bounds a run whose mixture can be had, and what each bound is worth.

use llmc_planner::data_mix::{Ask, Constraint, Limit, solve};

use super::mixture::{ask, prices, words};
use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;
use crate::unit::human_count;

/// A run that reads this share of what the text allows is told so.
const NEAR: f64 = 0.8;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0710",
    severity: Severity::Advice,
    args: &["longest", "tokens", "worth"],
    message: text(
        "the text allows at most {longest} tokens under this mixture, the run reads {tokens}",
        "此混合下文本最多支持 {longest} 词元，本次训练读取 {tokens}",
    ),
    labels: &[text("{worth}", "{worth}")],
    help: &[text(
        "for a longer run relax the bound that is worth most, or add text of its source",
        "若要训练更久，请放宽价值最高的界限，或为该数据源增加文本",
    )],
    page: Page {
        what: text(
            "The mixture can be had, but quotas and epoch limits over the built corpus leave little more text than the run reads. Each bound that holds the run back is named with its dual price: the tokens that a run may be longer for one more token of a source, or for one percent point of a share.",
            "该混合可行，但在已构建的语料上，配额与轮数上限所允许的文本比本次训练所读的多不了多少。每个起限制作用的界限都给出其对偶价：数据源每多 1 词元，或比例放宽 1 个百分点，训练可延长多少词元。",
        ),
        why: text(
            "A quota of a scarce source costs the length of the run long before it makes the mixture impossible.",
            "稀缺数据源的配额，在使混合不可行之前，早已限制了训练长度。",
        ),
        example: "model llama 7b\nbudget 190B tokens on 64xH100\ndata < web \"corpus/web/*\"  books \"corpus/books/*\" < epochs <= 4 > >\nmix < books >= 10% >",
        instead: "model llama 7b\nbudget 100B tokens on 64xH100\ndata < web \"corpus/web/*\"  books \"corpus/books/*\" < epochs <= 4 > >\nmix < books >= 10% >",
    },
};

/// What a percent point of each share that binds is worth.
fn points(ask: &Ask, limit: &Limit) -> Vec<(String, String)> {
    let price = |(c, gain, raised): &(Constraint, f64, bool)| {
        let ((en, zh), gain) = (words(ask, c), human_count(*gain));
        let (way, direction) = if *raised { ("more", "提高") } else { ("less", "降低") };
        (
            format!("each percent point {way} in `{en}` allows {gain} tokens more"),
            format!("`{zh}` 每{direction} 1 个百分点可多训练 {gain} 词元"),
        )
    };
    limit.shares.iter().map(price).collect()
}

/// Checks it once the corpus was built and the tokens of the run are known.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let Some(ask) = ask(r) else { return };
    let Some((tokens, mix)) = ask.tokens.zip(solve(&ask).ok()) else { return };
    let Some(limit) = mix.limit.filter(|limit| tokens >= NEAR * limit.tokens && limit.tokens >= 1.0) else {
        return;
    };
    let all: Vec<(String, String)> = prices(&ask, &limit).into_iter().chain(points(&ask, &limit)).collect();
    if all.is_empty() {
        return;
    }
    let (en, zh): (Vec<String>, Vec<String>) = all.into_iter().unzip();
    out.push(
        Diagnostic::new(&RULE)
            .at_maybe(r.data.mix_span.or(r.data.span))
            .arg("longest", Value::Large(limit.tokens))
            .arg("tokens", Value::Large(tokens))
            .arg("worth", Value::Both(en.join(", "), zh.join("，"))),
    );
}
