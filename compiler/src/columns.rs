//! Tables of a terminal, as narrow as it is, and of Markdown.

use llmc_plan::columns::{left, right, width};

/// Space between two columns of a table.
const GAP: &str = "  ";

/// A table whose first row names its columns: the first column is aligned left, figures right. Where that is wider than
/// `limit`, it goes on below itself, with the first column again.
pub fn table(rows: &[Vec<String>], limit: Option<usize>) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell)).max().unwrap_or(0);
    let columns: Vec<usize> = (0..count).map(widest).collect();
    let first = columns.first().copied().unwrap_or(0);
    let (mut parts, mut taken): (Vec<Vec<usize>>, usize) = (vec![Vec::new()], first);
    for (at, wide) in columns.iter().enumerate().skip(1) {
        let more = GAP.len() + wide;
        if limit.is_some_and(|limit| taken + more > limit)
            && parts.last().is_some_and(|part| !part.is_empty())
        {
            parts.push(Vec::new());
            taken = first;
        }
        taken += more;
        parts.last_mut().into_iter().for_each(|part| part.push(at));
    }
    let line = |row: &Vec<String>, part: &[usize]| {
        let cell = |at: usize| row.get(at).map_or("", String::as_str);
        let rest = part
            .iter()
            .map(|at| format!("{GAP}{}", right(cell(*at), columns.get(*at).copied().unwrap_or(0))));
        format!("{}\n", format!("{}{}", left(cell(0), first), rest.collect::<String>()).trim_end())
    };
    let table = |part: &Vec<usize>| rows.iter().map(|row| line(row, part)).collect::<String>();
    parts.iter().map(table).collect::<Vec<_>>().join("\n")
}

/// The same as a Markdown table.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let Some((head, rows)) = rows.split_first() else { return String::new() };
    let line = |row: &Vec<String>| {
        let cells = row.iter().map(|cell| cell.replace('|', "\\|"));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = format!("|---|{}\n", "---:|".repeat(head.len().saturating_sub(1)));
    [line(head), rule].into_iter().chain(rows.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stays_one_on_any_terminal() {
        let rows: Vec<Vec<String>> =
            [["配方", "time", "总计"], ["7B", "1.5 天", "9"], ["13B 8k", "2.0 h", "12"]]
                .map(|row| row.map(str::to_owned).to_vec())
                .to_vec();
        let wide = "配方      time  总计\n7B      1.5 天     9\n13B 8k   2.0 h    12\n";
        assert_eq!(table(&rows, None), wide);
        assert_eq!(table(&rows, Some(20)), wide);
        let narrow =
            "配方      time\n7B      1.5 天\n13B 8k   2.0 h\n\n配方    总计\n7B         9\n13B 8k    12\n";
        assert_eq!(table(&rows, Some(19)), narrow);
        assert_eq!(table(&rows, Some(1)), narrow);
        assert_eq!(table(&[], Some(1)), "");
        let short = [vec!["a|b".to_owned(), "x".to_owned()], vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(markdown(&short), "| a\\|b | x |\n|---|---:|\n| 1 | 2 |\n");
    }
}
