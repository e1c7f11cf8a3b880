//! Tables of sources: a number a source, as CSV (`source,number` a line, a heading allowed) or TOML (`source = number`).
//! Of a Parquet table the [`crate::World`] gives the rows as such lines.
//!
//! Not here: where the file lies (the [`crate::World`]), what the numbers mean.

use std::collections::BTreeMap;

/// Largest number of a row.
const MOST: f64 = 1e6;

/// What is wrong with a row, in English and Chinese.
type Wrong = (String, String);

/// The numbers by source, and what does not fit. `known` are the sources; those in `needed` must have a row.
pub fn read(path: &str, text: &str, known: &[&str], needed: &[&str]) -> (BTreeMap<String, f64>, Vec<Wrong>) {
    let path = path.to_ascii_lowercase();
    let (rows, mut wrong) = match path.ends_with(".toml") {
        true => of_toml(text),
        false => of_csv(text, if path.ends_with(".parquet") { row } else { line }),
    };
    let mut numbers = BTreeMap::new();
    for Row { place, name, number } in rows {
        let at = |en: String, zh: String| (format!("{} {en}", place.0), format!("{} {zh}", place.1));
        if !known.contains(&name.as_str()) {
            let near = crate::diag::nearest(&name, known.iter().copied());
            let (en, zh) = near.map_or((String::new(), String::new()), |near| {
                (format!(", did you mean `{near}`?"), format!("，是否想写 `{near}`？"))
            });
            let name = crate::diag::shorten(&name);
            wrong.push(at(
                format!("names `{name}`, which `data` does not have{en}"),
                format!("的 `{name}` 不在 `data` 里{zh}"),
            ));
            continue;
        }
        match number.parse::<f64>().ok().filter(|n| *n > 0.0 && *n <= MOST) {
            None => {
                let number = crate::diag::shorten(&number);
                wrong.push(at(
                    format!("gives `{name}` the number `{number}`"),
                    format!("给 `{name}` 的数值为 `{number}`"),
                ));
            }
            Some(number) => {
                if numbers.insert(name.clone(), number).is_some() {
                    wrong.push(at(format!("gives `{name}` again"), format!("重复给出 `{name}`")));
                }
            }
        }
    }
    let named = |name: &&&str| wrong.iter().any(|(en, _)| en.contains(&format!("`{name}`")));
    let missing: Vec<Wrong> = needed
        .iter()
        .filter(|name| !numbers.contains_key(**name) && !named(name))
        .map(|name| (format!("no row for `{name}`"), format!("缺少 `{name}` 的行")))
        .collect();
    wrong.extend(missing);
    (numbers, wrong)
}

struct Row {
    place: Wrong,
    name: String,
    number: String,
}

fn line(number: usize) -> Wrong {
    (format!("line {number}"), format!("第 {number} 行"))
}

fn row(number: usize) -> Wrong {
    (format!("row {number}"), format!("第 {number} 行"))
}

fn of_csv(text: &str, line: fn(usize) -> Wrong) -> (Vec<Row>, Vec<Wrong>) {
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let lines = lines
        .map(|(i, text)| (i + 1, text.trim()))
        .filter(|(_, text)| !text.is_empty() && !text.starts_with('#'));
    for (order, (number, text)) in lines.enumerate() {
        let mut cells = text.split(',').map(|cell| cell.trim().trim_matches('"').to_owned());
        match (cells.next(), cells.next(), cells.next()) {
            // A heading is a first line whose second cell is a word.
            (Some(_), Some(word), None)
                if order == 0 && word.starts_with(char::is_alphabetic) && word.parse::<f64>().is_err() => {}
            (Some(name), Some(cell), None) => rows.push(Row { place: line(number), name, number: cell }),
            _ => {
                let (place, text) = (line(number), crate::diag::shorten(text));
                wrong.push((
                    format!("{} is no `source,number`: `{text}`", place.0),
                    format!("{} 不是 `source,number`：`{text}`", place.1),
                ));
            }
        }
    }
    (rows, wrong)
}

fn of_toml(text: &str) -> (Vec<Row>, Vec<Wrong>) {
    match text.parse::<toml::Table>() {
        Ok(table) => {
            let row = |(name, value): (&String, &toml::Value)| Row {
                place: (String::from("it"), String::from("其中")),
                name: name.clone(),
                number: match value {
                    toml::Value::Integer(n) => n.to_string(),
                    toml::Value::Float(x) => x.to_string(),
                    other => other.to_string(),
                },
            };
            (table.iter().map(row).collect(), Vec::new())
        }
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let place = line(before.matches('\n').count() + 1);
            (Vec::new(), vec![(format!("{} is no TOML", place.0), format!("{} 不是 TOML", place.1))])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(path: &str, text: &str) -> Vec<String> {
        read(path, text, &["web", "code"], &["web", "code"]).1.into_iter().map(|(en, _)| en).collect()
    }

    #[test]
    fn both_formats_say_the_same() {
        let want = BTreeMap::from([("web".to_owned(), 0.5), ("code".to_owned(), 2.0)]);
        for (path, text) in [
            ("a.csv", "\u{feff}source,weight\r\nweb,0.5\r\n# half\n\n\"code\", 2\n"),
            ("a.txt", "web,.5\ncode,2e0"),
            ("a.TOML", "web = 0.5\ncode = 2"),
        ] {
            assert_eq!(read(path, text, &["web", "code"], &["web"]), (want.clone(), vec![]), "{path}");
        }
    }

    #[test]
    fn bad_rows_are_named() {
        let text = "wbe,1\nweb,-1\nweb\ncode,nan\nweb,2\nweb,3\nweb,2,4";
        assert_eq!(
            wrong("a.csv", text),
            [
                "line 3 is no `source,number`: `web`",
                "line 7 is no `source,number`: `web,2,4`",
                "line 1 names `wbe`, which `data` does not have, did you mean `web`?",
                "line 2 gives `web` the number `-1`",
                "line 4 gives `code` the number `nan`",
                "line 6 gives `web` again",
            ]
        );
        assert_eq!(
            wrong("a.parquet", "web,1\nkode,2"),
            ["row 2 names `kode`, which `data` does not have, did you mean `code`?"]
        );
        assert_eq!(wrong("a.csv", "web,1"), ["no row for `code`"]);
        assert_eq!(
            wrong("a.toml", "web = 1\ncode = "),
            ["line 2 is no TOML", "no row for `web`", "no row for `code`"]
        );
        assert_eq!(wrong("a.toml", "web = 1\ncode = \"x\""), ["it gives `code` the number `\"x\"`"]);
        assert_eq!(wrong("a.csv", "PAR1\u{0}\u{1}").len(), 3);
    }
}
