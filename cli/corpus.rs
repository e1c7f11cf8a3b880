//! `llmc data` and `llmc tokenizer`: `llmc-data` with its arguments, a recipe among them turned into a specification.

use std::path::{Component, Path, PathBuf};

use llmc_plan::data::DataSpec;

use crate::args::{Global, PassOn};
use crate::exit::{Exit, Failure, Outcome};
use crate::run::name_of;
use crate::sibling::DATA;
use crate::terminal::Terminal;
use crate::world::Folder;
use crate::{files, prepare};

/// Starts `llmc-data`; `tokenizer` is one of its commands, the commands of `data` are its own. `data build RECIPE` and
/// `tokenizer train RECIPE` write `runs/NAME/data.json` first and build where `llmc run` would.
pub fn run(terminal: &Terminal, global: &Global, command: &str, given: &PassOn) -> Outcome {
    let mut process = DATA.command(terminal.lang)?;
    if command != "data" {
        process.arg(command);
    }
    let out = given.args.iter().any(|arg| arg == "--out" || arg.starts_with("--out="));
    for arg in &given.args {
        let recipe = Path::new(arg);
        if recipe.extension().is_none_or(|extension| extension != "llm") {
            process.arg(arg);
            continue;
        }
        let Some(folder) = spec_of(terminal, global, recipe)? else { return Ok(Exit::Recipe.into()) };
        process.arg("--spec").arg(folder.join("data.json"));
        if !out {
            process.arg("--out").arg(folder.join(if command == "data" { "data" } else { "tokenizer.json" }));
        }
    }
    DATA.run(process)
}

/// Checks a recipe and writes its specification; the folder of its run. `None` when the recipe is wrong.
fn spec_of(terminal: &Terminal, global: &Global, recipe: &Path) -> Result<Option<PathBuf>, Failure> {
    let world = Folder::new(recipe, &global.hardware)?;
    let mut checked = llmc_compiler::check(&prepare::recipe_text(recipe)?, &global.set, &world);
    prepare::demand_files(&mut checked);
    prepare::report(terminal, recipe, &checked);
    let Some(data) = checked.data.as_ref().filter(|_| !checked.failed()) else {
        if !checked.failed() {
            prepare::no_text(terminal);
        }
        return Ok(None);
    };
    let folder = Path::new("runs").join(name_of(recipe)?);
    write_spec(data, world.root(), &folder)?;
    Ok(Some(folder))
}

/// Writes `data.json` into a run's folder, its root rewritten to start from there.
pub fn write_spec(data: &DataSpec, root: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    let absolute = |path: &Path| {
        std::fs::canonicalize(path).map_err(|error| Failure::io(("find", "找到"), path, &error))
    };
    std::fs::create_dir_all(folder).map_err(|error| Failure::io(("create", "创建"), folder, &error))?;
    let root = relative(&absolute(folder)?, &absolute(root)?).to_string_lossy().into_owned();
    let spec = folder.join("data.json");
    files::write(&spec, &prepare::pretty(&DataSpec { root, ..data.clone() })?)?;
    Ok(spec)
}

/// The way from one absolute folder to another.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<Component>, Vec<Component>) =
        (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from.iter().skip(common).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(to.into_iter().skip(common)).collect();
    if way.as_os_str().is_empty() { PathBuf::from(".") } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_between_folders() {
        assert_eq!(relative(Path::new("/a/runs/x"), Path::new("/a/recipes")), Path::new("../../recipes"));
        assert_eq!(relative(Path::new("/a"), Path::new("/a")), Path::new("."));
    }
}
