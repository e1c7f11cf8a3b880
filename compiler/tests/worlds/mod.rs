//! The world of the examples.

use llmc_compiler::World;
use llmc_planner::hardware::Hardware;

/// Only `corpus/` has files; `tables/` has one that fits two sources and one that does not; `base-7b` and `models/` hold base models of 7B and 13B with a context of 2,048.
pub struct Examples;

impl World for Examples {
    fn read(&self, path: &str) -> Option<String> {
        match path {
            "tables/weights.csv" => return Some("source,weight\na,1\nb,2.5\n".to_owned()),
            "tables/bad.csv" => return Some("source,weight\na,-1\nbb,2.5\n".to_owned()),
            _ => {}
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
}
