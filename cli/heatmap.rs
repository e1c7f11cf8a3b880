//! A grid of losses as people read it: a table with shades on a terminal, a picture in a report.

use llmc_plan::columns::{left, right, width};

use crate::terminal::Lang;

/// Losses over batch (rows) and learning rate (columns).
pub struct Grid<'a> {
    /// What the numbers are.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Names of the rows.
    pub rows: Vec<String>,
    /// Row by row; none where training diverged.
    pub losses: &'a [Vec<Option<f64>>],
    /// Of the words around them.
    pub lang: Lang,
}

/// Ends of the scale, best and worst: two colours that people who see red and green alike tell apart, with the same
/// order in grey (after viridis, van der Walt and Smith 2015).
const BEST: [f64; 3] = [33.0, 78.0, 138.0];
const WORST: [f64; 3] = [250.0, 231.0, 130.0];
const NONE: [f64; 3] = [200.0, 200.0, 200.0];

impl Grid<'_> {
    /// Smallest and largest loss.
    fn range(&self) -> (f64, f64) {
        let all = self.losses.iter().flatten().flatten();
        all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), loss| (low.min(*loss), high.max(*loss)))
    }

    fn colour(&self, loss: Option<f64>) -> [f64; 3] {
        let ((low, high), Some(loss)) = (self.range(), loss) else { return NONE };
        let share = if high > low { (loss - low) / (high - low) } else { 0.0 };
        let mixed = BEST.iter().zip(WORST).map(|(best, worst)| best + share * (worst - best));
        let mut colour = NONE;
        colour.iter_mut().zip(mixed).for_each(|(into, from)| *into = from);
        colour
    }

    fn words(&self, loss: Option<f64>) -> String {
        let mark = if loss.is_some_and(|loss| loss <= self.range().0) { "*" } else { "" };
        loss.map_or(self.lang.say("diverged", "发散").to_owned(), |loss| format!("{loss:.4}{mark}"))
    }

    /// Lines for a terminal; the best is starred, so that no colour is needed.
    pub fn text(&self, colour: bool) -> String {
        let wide = self.columns.iter().map(|column| width(column)).chain([9]).max().unwrap_or(9) + 2;
        let corner = self.lang.say("batch \\ lr", "批 \\ 学习率");
        let first = self.rows.iter().map(|row| width(row)).chain([width(corner)]).max().unwrap_or(0);
        let mut out = format!("{}\n{}", self.title, left(corner, first));
        out.extend(self.columns.iter().map(|column| right(column, wide)));
        out.push('\n');
        for (row, losses) in self.rows.iter().zip(self.losses) {
            out += &left(row, first);
            for loss in losses {
                let cell = right(&self.words(*loss), wide);
                if colour {
                    let [r, g, b] = self.colour(*loss);
                    let ink = if dark([r, g, b]) { "97" } else { "30" };
                    out += &format!("\x1b[48;2;{r:.0};{g:.0};{b:.0};{ink}m{cell}\x1b[0m");
                } else {
                    out += &cell;
                }
            }
            out.push('\n');
        }
        out
    }

    /// A picture.
    pub fn svg(&self) -> String {
        const CELL: (usize, usize) = (96, 40);
        const MARGIN: (usize, usize) = (130, 64);
        let (columns, rows) = (self.columns.len(), self.rows.len());
        let (width, height) = (MARGIN.0 + CELL.0 * columns + 16, MARGIN.1 + CELL.1 * rows + 40);
        let middle = "text-anchor=\"middle\" dominant-baseline=\"central\"";
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"16\" y=\"24\" font-size=\"15\">{}</text>\n",
            escaped(&self.title)
        );
        for (i, column) in self.columns.iter().enumerate() {
            let x = MARGIN.0 + CELL.0 * i + CELL.0 / 2;
            out += &format!("<text x=\"{x}\" y=\"{}\" {middle}>{}</text>\n", MARGIN.1 - 12, escaped(column));
        }
        for (j, (row, losses)) in self.rows.iter().zip(self.losses).enumerate() {
            let y = MARGIN.1 + CELL.1 * j;
            out += &format!(
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" dominant-baseline=\"central\">{}</text>\n",
                MARGIN.0 - 10,
                y + CELL.1 / 2,
                escaped(row)
            );
            for (i, loss) in losses.iter().enumerate() {
                let (x, [r, g, b]) = (MARGIN.0 + CELL.0 * i, self.colour(*loss));
                let ink = if dark([r, g, b]) { "white" } else { "black" };
                out += &format!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"rgb({r:.0},{g:.0},{b:.0})\" \
                     stroke=\"white\"/><text x=\"{}\" y=\"{}\" fill=\"{ink}\" {middle}>{}</text>\n",
                    CELL.0,
                    CELL.1,
                    x + CELL.0 / 2,
                    y + CELL.1 / 2,
                    self.words(*loss)
                );
            }
        }
        let below = MARGIN.1 + CELL.1 * rows + 24;
        out += &format!(
            "<text x=\"{}\" y=\"{below}\" {middle}>{}</text>\n",
            MARGIN.0 + CELL.0 * columns / 2,
            self.lang.say("peak learning rate", "峰值学习率")
        );
        out + "</svg>\n"
    }
}

/// Whether white ink reads better (luma of ITU-R BT.601).
fn dark([r, g, b]: [f64; 3]) -> bool {
    0.299 * r + 0.587 * g + 0.114 * b < 140.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(losses: &[Vec<Option<f64>>]) -> Grid<'_> {
        let names = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        Grid {
            title: "loss < 4".into(),
            columns: names(&["1e-4", "1e-3", "1e-2"]),
            rows: names(&["4,096", "16,384"]),
            losses,
            lang: Lang::En,
        }
    }

    #[test]
    fn a_map_reads_without_colour() {
        let losses = [vec![Some(5.0), Some(4.25), None], vec![Some(5.5), Some(4.5), Some(6.0)]];
        let want = "loss < 4
batch \\ lr       1e-4       1e-3       1e-2
4,096          5.0000    4.2500*   diverged
16,384         5.5000     4.5000     6.0000
";
        assert_eq!(grid(&losses).text(false), want);
        let chinese = Grid { lang: Lang::Zh, ..grid(&losses) }.text(false);
        assert!(
            chinese.contains("批 \\ 学习率       1e-4") && chinese.contains("4.2500*       发散\n"),
            "{chinese}"
        );
        let coloured = grid(&losses).text(true);
        assert!(coloured.contains("\x1b[48;2;33;78;138;97m    4.2500*\x1b[0m"), "{coloured:?}");
        assert!(coloured.contains("\x1b[48;2;250;231;130;30m     6.0000\x1b[0m"), "{coloured:?}");
        let picture = grid(&losses).svg();
        assert_eq!(picture.matches("<rect").count(), 7);
        assert!(
            picture.contains("loss &lt; 4") && picture.contains("diverged") && picture.ends_with("</svg>\n")
        );
    }

    #[test]
    fn one_point_or_none_at_all_still_draws() {
        for loss in [Some(3.0), None] {
            let losses = [vec![loss]];
            let one = Grid { columns: vec!["1e-3".into()], rows: vec!["512".into()], ..grid(&losses) };
            assert!(one.text(true).contains(if loss.is_some() { "3.0000*" } else { "diverged" }));
            assert!(one.svg().contains("<rect"));
        }
    }
}
