//! The compiler's door to the outside: files beside the recipe, and hardware files of the command line.

use std::path::{Path, PathBuf};

use llmc_compiler::world::World;
use llmc_planner::hardware::{self, Hardware};

use crate::exit::Failure;
use crate::files;
use crate::sibling::DATA;
use crate::terminal::{asked, talk};

/// A manifest, a tokenizer or a model's config is smaller; what is larger is not read.
const LARGEST: u64 = 16 << 20;

/// The folder of a recipe.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    hardware: Vec<Hardware>,
    manifest: Option<PathBuf>,
}

impl Folder {
    /// The folder of `recipe` (of stdin: the current one), with the hardware files given.
    pub fn new(recipe: &Path, hardware: &[PathBuf]) -> Result<Folder, Failure> {
        let root = recipe.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let hardware = hardware.iter().map(|path| {
            let read = hardware::read(&files::read(path)?);
            read.map_err(|error| {
                let (path, said) = (path.display(), error.said());
                Failure::new(format!("{path}: {}", said.en), format!("{path}：{}", said.zh))
            })
        });
        let run = crate::run::name_of(recipe).ok().map(|name| Path::new("runs").join(name));
        Ok(Folder {
            root: root.to_owned(),
            hardware: hardware.collect::<Result<_, _>>()?,
            manifest: run.map(|run| run.join("data").join("manifest.json")),
        })
    }

    /// The folder that relative paths of the recipe start from.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// A Parquet table as `name,number` lines: `llmc-data` reads it, `llmc` links no Parquet. Why it cannot is said at once.
fn parquet(path: &Path) -> Option<String> {
    let lang = asked(&std::env::args_os().collect::<Vec<_>>());
    let command = DATA.command(lang).map_err(|failure| talk(&format!("llmc: {}\n", failure.text(lang))));
    let output = command.ok()?.arg("table").arg("--").arg(path).output().ok()?;
    talk(&String::from_utf8_lossy(&output.stderr));
    if output.status.success() { String::from_utf8(output.stdout).ok() } else { None }
}

impl World for Folder {
    fn read(&self, path: &str) -> Option<String> {
        let path = self.root.join(path);
        let small = std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= LARGEST);
        if small && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
            return parquet(&path);
        }
        if small { std::fs::read_to_string(path).ok() } else { None }
    }

    fn matches(&self, pattern: &str) -> Option<bool> {
        // The folder's own name may hold `*` or `[`: only the recipe's part is a pattern.
        let root = glob::Pattern::escape(self.root.to_str()?);
        let pattern = Path::new(&root).join(pattern);
        let mut found = glob::glob(pattern.to_str()?).ok()?;
        Some(found.any(|path| path.is_ok()))
    }

    fn hardware(&self) -> &[Hardware] {
        &self.hardware
    }

    fn manifest(&self) -> Option<String> {
        let path = self.manifest.as_ref()?;
        let small = std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= LARGEST);
        if small { std::fs::read_to_string(path).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_start_from_the_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("odd [name]*");
        std::fs::create_dir_all(root.join("corpus/web")).unwrap();
        std::fs::write(root.join("corpus/web/a.jsonl"), "{}").unwrap();
        let world = Folder::new(&root.join("recipe.llm"), &[]).unwrap();
        assert_eq!(world.matches("corpus/*/*.jsonl"), Some(true));
        assert_eq!(world.matches("corpus/**/*.jsonl"), Some(true));
        assert_eq!(world.matches("corpus/*.txt"), Some(false));
        assert_eq!(world.matches("corpus/[a"), None);
        assert_eq!(world.read("corpus/web/a.jsonl").as_deref(), Some("{}"));
        assert_eq!(world.read("corpus/web"), None);
    }
}
