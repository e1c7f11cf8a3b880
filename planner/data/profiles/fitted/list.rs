/// Written by `llmc calibrate`.
const FITTED: &[&str] = &[];
