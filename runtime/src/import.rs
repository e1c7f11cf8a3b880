//! Weights of a base model for continued pre-training: a Hugging Face LLaMA folder with `model.safetensors`, or
//! with `model.safetensors.index.json` and its shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llmc_plan::program::Program;
use llmc_plan::say;
use safetensors::Dtype;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::{MODEL_FILE, TensorFile};
use crate::failure::{Failure, Outcome};
use crate::memory::Memory;
use crate::snapshot::{parameter_tensor, parts, split_into};

const INDEX_FILE: &str = "model.safetensors.index.json";

/// The part of the index that is read.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Fills weights and masters from a base model, in whatever float format its files have.
///
/// # Errors
/// Exit code 2 naming file and tensor when one is missing or has another shape, with both shapes.
pub fn import(program: &Program, memory: &Memory, folder: &Path, vocab: u64) -> Outcome<()> {
    let _no_grad = tch::no_grad_guard();
    let mut files = Files::open(folder)?;
    for param in &program.params {
        let weight = parameter_tensor(program, memory, param, param.buffers.weight)?;
        let master =
            param.buffers.master.map(|id| parameter_tensor(program, memory, param, id)).transpose()?;
        let missing =
            param.buffers.missing.map(|id| parameter_tensor(program, memory, param, id)).transpose()?;
        let whole = match &missing {
            Some(_) => Some(Tensor::f_zeros(weight.size(), (Kind::Float, Device::Cpu))?),
            None => master,
        };
        let target = whole.as_ref().unwrap_or(&weight);
        for (name, start, rows) in parts(param, vocab) {
            let mut block = target.f_narrow(0, start as i64, rows as i64)?;
            block.f_copy_(&files.read(name, &block.size())?)?;
        }
        match (&whole, &missing) {
            (Some(master), Some(missing)) => split_into(master, &weight, missing)?,
            (Some(master), None) => weight.shallow_clone().f_copy_(master)?,
            _ => {}
        }
    }
    Ok(())
}

/// The open files of a folder and which tensor lies where.
struct Files {
    folder: PathBuf,
    /// File of each tensor; empty when there is but one file.
    shards: BTreeMap<String, String>,
    open: BTreeMap<String, TensorFile>,
}

impl Files {
    fn open(folder: &Path) -> Outcome<Files> {
        let index = folder.join(INDEX_FILE);
        let shards = match std::fs::read(&index) {
            Ok(text) => {
                let index: Index = serde_json::from_slice(&text).map_err(|e| {
                    Failure::environment(say!(
                        "{path} is not an index: {e}",
                        "{path} 不是索引：{e}",
                        path = index.display()
                    ))
                })?;
                index.weight_map
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(Failure::io("read", &index, &e)),
        };
        Ok(Files { folder: folder.to_path_buf(), shards, open: BTreeMap::new() })
    }

    /// A tensor of this shape, in its own format.
    fn read(&mut self, name: &str, shape: &[i64]) -> Outcome<Tensor> {
        let file = match self.shards.get(name) {
            Some(file) if !file.contains(['/', '\\']) => file.clone(),
            Some(file) => {
                return Err(Failure::environment(say!(
                    "{index} puts {name} into `{file}`, which is not beside it",
                    "{index} 将 {name} 放在 `{file}` 中，而它不在同一目录",
                    index = self.folder.join(INDEX_FILE).display()
                )));
            }
            None => MODEL_FILE.to_owned(),
        };
        if !self.open.contains_key(&file) {
            self.open.insert(file.clone(), TensorFile::open(&self.folder.join(&file))?);
        }
        let missing = || Failure::bug(format!("{file} was not opened"));
        let tensors = self.open.get_mut(&file).ok_or_else(missing)?;
        let (dtype, found) = tensors.describe(name)?;
        let want: Vec<usize> = shape.iter().map(|d| *d as usize).collect();
        let kind = match dtype {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            other => {
                return Err(Failure::environment(say!(
                    "{path}: {name} has format {other}, a float is needed",
                    "{path}：{name} 的格式为 {other}，需要浮点格式",
                    path = self.folder.join(&file).display()
                )));
            }
        };
        if found != want {
            return Err(Failure::environment(say!(
                "{path}: {name} is {found:?}, the plan's model has {want:?}",
                "{path}：{name} 为 {found:?}，而计划的模型为 {want:?}",
                path = self.folder.join(&file).display()
            )));
        }
        Ok(Tensor::f_from_data_size(&tensors.bytes(name)?, shape, kind)?)
    }
}
