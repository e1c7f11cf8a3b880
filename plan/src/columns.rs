//! Columns of tables for people: what a terminal shows is as wide as its characters, of which Chinese ones take two places.

use unicode_width::UnicodeWidthStr;

/// Places that a terminal gives to a text.
pub fn width(text: &str) -> usize {
    text.width()
}

/// A text and blanks after it, `places` wide at least.
pub fn left(text: &str, places: usize) -> String {
    format!("{text}{}", " ".repeat(places.saturating_sub(width(text))))
}

/// A text and blanks before it, `places` wide at least.
pub fn right(text: &str, places: usize) -> String {
    format!("{}{text}", " ".repeat(places.saturating_sub(width(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chinese_takes_two_places() {
        assert_eq!(
            (left("词元", 6), right("词元", 6), right("± –", 4)),
            ("词元  ".into(), "  词元".into(), " ± –".into())
        );
        assert_eq!(left("longer", 2), "longer");
    }
}
