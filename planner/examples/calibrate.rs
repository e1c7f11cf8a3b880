//! temp: fit and write
use llmc_planner::calibrate::*;
fn main() {
    let tables: Vec<String> = std::env::args().skip(1).map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let rows = rows(&tables).unwrap();
    let mut all = calibrate(&rows); add_slack(&mut all, &peaks(&tables).unwrap());
    let dir = "planner/data/profiles/fitted";
    for f in std::fs::read_dir(dir).unwrap() {
        let p = f.unwrap().path();
        if p.extension().is_some_and(|e| e == "toml") {
            std::fs::remove_file(p).unwrap()
        }
    }
    let mut list = String::from("/// Written by `llmc calibrate`.\nconst FITTED: &[&str] = &[\n");
    for f in &all {
        println!(
            "{:28} rows {:4} in {:.4} cv {:.4} {:?}",
            f.name,
            f.fit.rows,
            f.fit.mape,
            f.fit.cross_validated,
            f.fit.knobs.iter().map(|k| format!("{k:?} {:.2}", f.scale[k])).collect::<Vec<_>>()
        );
        std::fs::write(format!("{dir}/{}.toml", f.name), file(f).unwrap()).unwrap();
        list += &format!("    include_str!(\"{}.toml\"),\n", f.name);
    }
    list += "];\n";
    std::fs::write(format!("{dir}/list.rs"), list).unwrap();
}
