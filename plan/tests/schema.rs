//! `plan.schema.json` says what the types say: every key and every choice, both ways.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use llmc_plan::plan::*;
use serde_json::{Value, json};

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// A plan in which every optional value and every list holds something.
fn full() -> Plan {
    let mut plan = support::toy();
    plan.layout.stages = vec![StageLayers { layers: 2, selective: 1, full: 1, offload: 0 }];
    plan.optimizer.master = Master::Split;
    plan.optimizer.gradient_dtype = DType::Bf16;
    plan.freeze = vec!["embeddings".to_string()];
    plan.from = Some("models/base".to_string());
    plan.storage = Some(Storage {
        read_bytes_per_second: 1e9,
        write_bytes_per_second: 5e8,
        latency_seconds: 1e-3,
        shard_bytes: 1 << 26,
        read_ahead: 8,
        data_seconds: 0.1,
        exposed_seconds: 0.0,
        checkpoint_seconds: 30.0,
    });
    plan.memory.stages = vec![StageMemory {
        parameters: 1,
        gradients: 2,
        optimizer: 3,
        activations: 4,
        logits: 5,
        buffers: 6,
        allocated: 21,
        reserved: 22,
        device: 23,
    }];
    plan.time.breakdown.insert("compute".to_string(), 0.5);
    plan.cost.assumed = vec!["gpu_per_hour".to_string()];
    plan.cost.ownership = Some(Ownership { gpu_per_hour: 1.0, total: 1.0, break_even_hours: 1.0 });
    plan.search.rejected_by.insert("memory".to_string(), 1);
    plan.search.runner_up = Some(RunnerUp {
        layout: plan.layout.clone(),
        micro_batch_sequences: 1,
        slower_by_seconds: 0.1,
        decided_by: "compute".to_string(),
    });
    plan.search.pareto = vec![ParetoPoint {
        layout: plan.layout.clone(),
        micro_batch_sequences: 1,
        step_seconds: 1.0,
        cost: 1.0,
        margin_bytes: 1,
        tokens: 1,
        train_seconds: 1.0,
        loss: 3.0,
    }];
    plan.search.pruned_by.insert("compute_bound".to_string(), 1);
    plan.search.memory_price =
        Some(MemoryPrice { bytes: 1, step_seconds: 0.1, cost: 1.0, relaxed_step_seconds: 0.1 });
    plan.search.laws = vec![LawValue { path: "lr.peak".into(), law: "step_law".into(), value: 1e-3 }];
    plan.search.exchange =
        vec![Exchange { change: "batch x2".into(), loss: 0.1, tokens: 1.0, seconds: 1.0, cost: 1.0 }];
    plan.search.ramp = vec![RampStep { from_tokens: 0, global_tokens: 24 }];
    plan.search.extrapolated = vec!["hidden".to_string()];
    plan.facts.insert("seed".to_string(), Fact { value: json!(1), why: json!({"kind": "preset"}) });
    plan
}

/// Checks a value against the parts of JSON Schema the file uses, and that the schema names exactly the keys
/// the value has; notes every definition it passes.
fn validate(
    root: &Value,
    schema: &Value,
    value: &Value,
    path: &str,
    seen: &mut BTreeSet<String>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let name = name.strip_prefix("#/$defs/").unwrap();
        seen.insert(name.to_string());
        return validate(root, &root["$defs"][name], value, path, seen);
    }
    if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
        if !choices.iter().any(|c| c["const"] == *value) {
            wrong.push(format!("{path}: {value} is no choice"));
        }
        return wrong;
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let chosen = choices.iter().find(|c| (c["type"] == "null") == value.is_null()).unwrap();
        return validate(root, chosen, value, path, seen);
    }
    let of_type = match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => true,
    };
    if !of_type {
        wrong.push(format!("{path}: {value} is not {}", schema["type"]));
    }
    if let (Some(properties), Some(object)) = (schema.get("properties"), value.as_object()) {
        let properties = properties.as_object().unwrap();
        let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
        for key in keys(properties).symmetric_difference(&keys(object)) {
            wrong.push(format!("{path}.{key} is only in one of schema and plan"));
        }
        for (key, child) in object {
            if let Some(property) = properties.get(key) {
                wrong.extend(validate(root, property, child, &format!("{path}.{key}"), seen));
            }
        }
    }
    if let (Some(inner), Some(object)) = (schema.get("additionalProperties"), value.as_object()) {
        object.iter().for_each(|(k, v)| wrong.extend(validate(root, inner, v, &format!("{path}.{k}"), seen)));
    }
    if let (Some(inner), Some(items)) = (schema.get("items"), value.as_array()) {
        items.iter().for_each(|item| wrong.extend(validate(root, inner, item, &format!("{path}[]"), seen)));
    }
    wrong
}

#[test]
fn a_full_plan_has_exactly_the_keys_of_the_schema() {
    let (root, value) = (schema(), serde_json::to_value(full()).unwrap());
    let mut seen = BTreeSet::new();
    assert_eq!(validate(&root, &root, &value, "", &mut seen), [] as [String; 0]);
    let defined: BTreeSet<String> = root["$defs"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(seen, defined, "a definition nothing refers to, or never reached");
}

#[test]
fn a_wrong_plan_is_refused() {
    let root = schema();
    let mut value = serde_json::to_value(full()).unwrap();
    value["layout"]["schedule"] = json!("sideways");
    value["batch"]["accumulation"] = json!(-1);
    value["seed"] = json!("one");
    assert_eq!(validate(&root, &root, &value, "", &mut BTreeSet::new()).len(), 3);
}

/// What is required is what a reader cannot do without.
#[test]
fn required_keys_are_those_the_reader_requires() {
    let root = schema();
    let value = serde_json::to_value(full()).unwrap();
    let required: BTreeSet<&str> =
        root["required"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
    for key in value.as_object().unwrap().keys() {
        let mut without = value.clone();
        without.as_object_mut().unwrap().remove(key);
        let read = Plan::from_json(&without.to_string());
        assert_eq!(read.is_err(), required.contains(key.as_str()), "{key}");
    }
}

/// Every variant of every choice, as serialised, stands in the schema, and nothing else does.
#[test]
fn choices_agree() {
    fn names<T: serde::Serialize>(variants: &[T]) -> BTreeSet<String> {
        variants.iter().map(|v| serde_json::to_value(v).unwrap().as_str().unwrap().to_string()).collect()
    }
    use llmc_plan::model::RopeMethod;
    let root = schema();
    let expected = [
        (
            "Schedule",
            names(&[Schedule::None, Schedule::OneFOneB, Schedule::Interleaved, Schedule::ZeroBubble]),
        ),
        ("Recompute", names(&[Recompute::None, Recompute::Selective, Recompute::Full])),
        ("Offload", names(&[Offload::None, Offload::Optimizer, Offload::Activations])),
        ("Precision", names(&[Precision::F32, Precision::Bf16, Precision::Fp16, Precision::Fp8])),
        ("Determinism", names(&[Determinism::Fast, Determinism::Bitwise])),
        (
            "OptimizerKind",
            names(&[
                OptimizerKind::Adamw,
                OptimizerKind::Lion,
                OptimizerKind::Adafactor,
                OptimizerKind::PagedAdamw,
            ]),
        ),
        (
            "LrSchedule",
            names(&[
                LrSchedule::Constant,
                LrSchedule::Cosine,
                LrSchedule::Linear,
                LrSchedule::Onecycle,
                LrSchedule::Wsd,
            ]),
        ),
        (
            "DType",
            names(&[
                DType::F64,
                DType::F32,
                DType::Bf16,
                DType::F16,
                DType::F8E4m3,
                DType::F8E5m2,
                DType::I64,
                DType::I32,
                DType::I16,
            ]),
        ),
        ("Master", names(&[Master::F32, Master::Split, Master::Stochastic])),
        (
            "RopeMethod",
            names(&[RopeMethod::None, RopeMethod::Pi, RopeMethod::Ntk, RopeMethod::Yarn, RopeMethod::Llama3]),
        ),
    ];
    for (name, variants) in expected {
        let choices = root["$defs"][name]["oneOf"].as_array().unwrap();
        let written: BTreeSet<String> =
            choices.iter().map(|c| c["const"].as_str().unwrap().to_string()).collect();
        assert_eq!(written, variants, "{name}");
    }
}

#[test]
fn a_plan_survives_json() {
    let text = full().to_json().unwrap();
    let read = Plan::from_json(&text).unwrap();
    assert_eq!(read, full());
    assert_eq!(read.to_json().unwrap(), text);
}

#[test]
fn an_unknown_major_version_is_refused_and_a_minor_is_not() {
    let text = full().to_json().unwrap();
    let newer = text.replacen("\"format_version\": \"1.1\"", "\"format_version\": \"1.7\", \"new\": 1", 1);
    assert!(Plan::from_json(&newer).is_ok());
    let other = text.replacen("\"format_version\": \"1.1\"", "\"format_version\": \"2.0\"", 1);
    assert_eq!(Plan::from_json(&other), Err(ReadError::Version("2.0".to_string())));
}
