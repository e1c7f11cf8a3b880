//! The gradient check: a hand-written backward against libtorch's autograd on a formula written independently.

use tch::{Kind, Tensor};

use crate::support::{randn, relative_error};

/// Bars of the project: per tensor, norm-wise.
pub fn bar(kind: Kind) -> f64 {
    match kind {
        Kind::Double => 1e-9,
        Kind::Float => 1e-5,
        // bf16 keeps 8 bits of mantissa; results are rounded once, sums are made in f32.
        _ => 1e-2,
    }
}

/// Runs `formula` on f64 copies of `inputs` with autograd and returns its output and the gradients of
/// `Σ output·dy` with respect to each input.
pub fn autograd(
    inputs: &[&Tensor],
    dy: &Tensor,
    formula: impl Fn(&[Tensor]) -> Tensor,
) -> (Tensor, Vec<Tensor>) {
    tch::with_grad(|| {
        let leaves: Vec<Tensor> =
            inputs.iter().map(|t| t.detach().to_kind(Kind::Double).copy().set_requires_grad(true)).collect();
        let out = formula(&leaves);
        let loss = (&out * dy.to_kind(Kind::Double)).sum(Kind::Double);
        let grads = Tensor::run_backward(&[loss], &leaves, false, false);
        (out.detach(), grads.iter().map(Tensor::detach).collect())
    })
}

/// The error of `got` against `want` as a text when it exceeds the bar of `kind`.
pub fn compare(name: &str, got: &Tensor, want: &Tensor, kind: Kind) -> Result<(), String> {
    let error = relative_error(got, want);
    if error <= bar(kind) { Ok(()) } else { Err(format!("{name} in {kind:?}: relative error {error:.3e}")) }
}

/// [`compare`] that fails the test.
pub fn assert_close(name: &str, got: &Tensor, want: &Tensor, kind: Kind) {
    compare(name, got, want, kind).unwrap_or_else(|problem| panic!("{problem}"));
}

/// f64, f32 and bf16.
pub const KINDS: [Kind; 3] = [Kind::Double, Kind::Float, Kind::BFloat16];

/// The checker must catch a wrong gradient: here silu' without its second term, a scale, a transposed sign.
#[test]
fn a_planted_wrong_gradient_is_caught() {
    let _bench = crate::support::bench();
    let (x, dy) = (randn(&[9, 7], Kind::Double), randn(&[9, 7], Kind::Double));
    let (_, grads) = autograd(&[&x], &dy, |leaves| leaves[0].silu());
    let sigmoid = x.sigmoid();
    let right = &dy * &sigmoid * (&x * (1.0 - &sigmoid) + 1.0);
    compare("silu", &right, &grads[0], Kind::Double).expect("the right gradient passes");
    for wrong in [&dy * &sigmoid, &right * (1.0 + 1e-8), &right * -1.0, right.narrow(0, 0, 9) * f64::NAN] {
        compare("silu", &wrong, &grads[0], Kind::Double).expect_err("a wrong gradient passes the check");
    }
    let one_off = right.copy();
    let _ = one_off.narrow(0, 4, 1).narrow(1, 3, 1).fill_(0.0);
    compare("silu", &one_off, &grads[0], Kind::Double).expect_err("one wrong element passes the check");
}
