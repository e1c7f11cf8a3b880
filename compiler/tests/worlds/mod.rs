//! The world of the examples.

use llmc_compiler::World;
use llmc_planner::hardware::Hardware;

/// Only `corpus/` has files, of which `books` was built; `tables/` is the one of the failing examples; `base-7b` and `models/` hold base models of 7B
/// and 13B with a context of 2,048.
pub struct Examples;

impl World for Examples {
    fn read(&self, path: &str) -> Option<String> {
        if path.starts_with("tables/") {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fail");
            return std::fs::read_to_string(format!("{folder}/{path}")).ok();
        }
        let (layers, hidden, heads, ffn) = match path {
            "base-7b/config.json" => (32, 4096, 32, 11008),
            p if p.starts_with("models/") => (40, 5120, 40, 13824),
            _ => return None,
        };
        Some(format!(
            "{{\"num_hidden_layers\": {layers}, \"hidden_size\": {hidden}, \"num_attention_heads\": {heads}, \
             \"intermediate_size\": {ffn}, \"vocab_size\": 32000, \"max_position_embeddings\": 2048}}"
        ))
    }

    fn matches(&self, glob: &str) -> Option<bool> {
        Some(glob.starts_with("corpus/"))
    }

    fn hardware(&self) -> &[Hardware] {
        &[]
    }

    /// One source was built: `books`, of 5B training tokens.
    fn manifest(&self) -> Option<String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fail/manifest.json");
        std::fs::read_to_string(path).ok()
    }
}
