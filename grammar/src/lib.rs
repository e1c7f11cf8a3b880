//! Recipe text to a lossless tree, and back to canonical text.
