//! LLM0712: a run that reads its corpus again and again, and what the repeats are worth.

use llmc_planner::laws;

use super::mixture::ask;
use crate::diag::{Diagnostic, Page, Rule, Severity, Value, short_float, text};
use crate::resolve::Resolved;

/// Readings from which it is said: up to four cost next to nothing (Muennighoff et al. 2023, arXiv 2305.16264, section 5).
const EPOCHS: f64 = 4.0;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0712",
    severity: Severity::Advice,
    args: &["tokens", "unique", "epochs", "worth", "fresh", "loss"],
    message: text(
        "the run reads {unique} tokens of text {epochs} times: its {tokens} are worth {worth} fresh ones",
        "本次训练把 {unique} 词元的文本读 {epochs} 遍：共 {tokens} 词元，相当于 {worth} 不重复的词元",
    ),
    labels: &[text(
        "loss about {loss}, not the plan's {fresh}, which counts every token as fresh",
        "损失约 {loss}，而非计划中按不重复计算的 {fresh}",
    )],
    help: &[text(
        "add text, or train on fewer tokens; up to 4 readings cost next to nothing",
        "请增加文本，或减少词元；4 遍以内几乎没有损失",
    )],
    page: Page {
        what: text(
            "The budget is several times the built corpus. Repeated tokens are worth less and less: U·(1 + R·(1 − e^(−(epochs − 1)/R))) fresh ones of U, R = 15.39 (Muennighoff et al. 2023, arXiv 2305.16264, equation 5). The loss is that of Chinchilla's law (Besiroglu's constants) at so many tokens.",
            "预算是已构建语料的数倍。重复的词元价值递减：U 个词元相当于 U·(1 + R·(1 − e^(−(轮数 − 1)/R))) 个不重复的词元，R = 15.39（Muennighoff 等 2023，arXiv 2305.16264，式 5）。损失按 Chinchilla 定律（Besiroglu 常数）在该词元数下计算。",
        ),
        why: text(
            "The plan does not depend on whether its corpus is there yet, so its loss counts every token as fresh.",
            "计划不因语料是否已构建而改变，因此其损失把每个词元都当作不重复的。",
        ),
        example: "model llama 7b\nbudget 100B tokens on 64xH100\ndata < books \"corpus/books/*\" >",
        instead: "model llama 7b\nbudget 20B tokens on 64xH100\ndata < books \"corpus/books/*\" >",
    },
};

/// Checks it once every source was built and the tokens of the run are known.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let Some(ask) = ask(r) else { return };
    let unique: Option<f64> = ask.sources.iter().map(|source| source.tokens).sum();
    let Some((tokens, unique)) = ask.tokens.zip(unique.filter(|unique| *unique >= 1.0)) else { return };
    let epochs = tokens / unique;
    let model = r.facts.count("model.params").zip(r.facts.count("model.vocab"));
    let Some((params, vocab)) = model.filter(|_| epochs > EPOCHS) else { return };
    let worth = laws::repeated(unique, epochs);
    let loss = |tokens: f64| Value::Text(format!("{:.3}", laws::loss(params as f64, tokens, vocab).0));
    out.push(
        Diagnostic::new(&RULE)
            .at_maybe(r.facts.span("budget.tokens").or(r.data.span))
            .arg("tokens", Value::Large(tokens))
            .arg("unique", Value::Large(unique))
            .arg("epochs", Value::Text(short_float(libm::round(epochs * 10.0) / 10.0)))
            .arg("worth", Value::Large(worth))
            .arg("fresh", loss(tokens))
            .arg("loss", loss(worth)),
    );
}
