//! From folders of text to the batch a training step reads.
//!
//! Two halves meet in a folder of files. [`build`] reads sources, trains or imports a tokenizer,
//! splits documents into train and validation, and writes token shards and a manifest. [`Stream`]
//! maps the shards and answers "which tokens are sample number n?" as a pure function of the
//! specification, the seed and n, so that any rank can ask for any part of any step at any time.
//!
//! Not here: the types both sides agree on (`plan::batch`, `plan::data`), copying a batch to a
//! device, and anything that knows of tensors.

// An unreadable document's message is made once for it, and then counted or shown.
#![allow(clippy::result_large_err)]

mod adopt;
pub mod build;
pub mod clean;
pub mod dedup;
mod durable;
pub mod dynamic;
mod encode;
pub mod error;
pub mod export;
pub mod exporting;
pub mod folder;
pub mod indexed;
pub mod inputs;
mod journal;
pub mod loader;
mod mapped;
pub mod mix;
mod npy;
pub mod output;
mod pack;
pub mod packing;
pub mod permute;
pub mod read;
mod sample;
pub mod schedule;
pub mod spec;
pub mod stats;
pub mod stratified;
pub mod stream;
pub mod table;
pub mod tokenizer;
pub mod webdataset;
mod wids;
mod work;

pub use build::{BuildReport, build, build_noting};
pub use error::{Error, Result};
pub use loader::Loader;
pub use stream::{Cursor, Stream, open};
