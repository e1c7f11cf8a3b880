//! llmc
fn main() {}
