//! `llmc run`: a plan becomes a folder `runs/NAME`, a corpus and a process a device.
//!
//! Other launchers (`torchrun`, `srun`, Kubernetes) can start `llmc-worker train --run runs/NAME` themselves: it reads
//! the same variables that are set here.

use std::io::IsTerminal;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use llmc_plan::plan::Layout;

use crate::args::{Global, RunArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::prepare::prepare;
use crate::sibling::{DATA, WORKER};
use crate::terminal::Terminal;
use crate::{corpus, files};

/// Compiles, claims the run's folder, builds its corpus and trains.
pub fn run(terminal: &Terminal, global: &Global, args: &RunArgs) -> Outcome {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&args.recipe)?,
    };
    // Found before anything is written: a missing program leaves no trace.
    let mut build = DATA.command(terminal.lang)?;
    WORKER.find()?;
    let Some(prepared) = prepare(terminal, global, &args.recipe)? else { return Ok(Exit::Recipe.into()) };
    let folder = Path::new("runs").join(&name);
    claim(&folder, &prepared.json, args.resume)?;
    files::write(&folder.join("plan.json"), &prepared.json)?;
    let spec = corpus::write_spec(&prepared.data, &prepared.root, &folder)?;

    build.arg("build").arg("--spec").arg(&spec).arg("--out").arg(folder.join("data"));
    if std::io::stderr().is_terminal() {
        build.arg("--progress");
    }
    let built = DATA.run(build)?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let mut workers = Vec::new();
    for place in places(&prepared.plan.layout)? {
        let mut command = WORKER.command(terminal.lang)?;
        command.envs(place);
        command.arg("train").arg("--run").arg(&folder);
        if args.resume {
            command.arg("--resume");
        }
        if args.search_gemm {
            command.arg("--search-gemm");
        }
        if let Some(trace) = &args.trace {
            command.arg("--trace").arg(trace.clone().unwrap_or_else(|| folder.join("trace.jsonl")));
        }
        if let Some(profile) = &args.profile {
            command.arg("--profile").arg(profile);
        }
        if let Some(program) = &args.program {
            command.arg("--program").arg(program);
        }
        workers.push(command);
    }
    WORKER.run_all(workers)
}

/// `recipes/quickstart.llm` is `quickstart`; `runs/quickstart/plan.json` too.
pub fn name_of(recipe: &Path) -> Result<String, Failure> {
    let is_plan = recipe.file_name().is_some_and(|name| name == "plan.json");
    let named = if is_plan { recipe.parent().and_then(Path::file_name) } else { recipe.file_stem() };
    let name = named.and_then(|name| name.to_str()).filter(|name| !name.is_empty() && *name != "-");
    name.map(str::to_owned)
        .ok_or_else(|| Failure::new("this run has no name: add --name", "这次运行没有名称：请加上 --name"))
}

/// A folder belongs to one plan, and a run that has trained is only gone on with on request.
fn claim(folder: &Path, plan: &str, resume: bool) -> Result<(), Failure> {
    let shown = folder.display();
    let existing = folder.join("plan.json");
    if !existing.exists() {
        return Ok(());
    }
    if files::read(&existing)? != plan {
        return Err(Failure::new(
            format!(
                "{shown} holds another plan: choose another --name, or remove the folder (see `llmc diff`)"
            ),
            format!("{shown} 中是另一个计划：请另选 --name，或删除该目录（参见 `llmc diff`）"),
        ));
    }
    let trained =
        std::fs::read_dir(folder.join("checkpoints")).is_ok_and(|mut entries| entries.next().is_some());
    if trained && !resume {
        return Err(Failure::new(
            format!("{shown} has checkpoints: add --resume to go on, or choose another --name"),
            format!("{shown} 中已有检查点：加上 --resume 继续，或另选 --name"),
        ));
    }
    Ok(())
}

/// The variables of each process of this machine, as `torchrun` sets them. On several nodes, start `llmc run` on each
/// with MASTER_ADDR, MASTER_PORT and NODE_RANK set.
pub fn places(layout: &Layout) -> Result<Vec<Vec<(&'static str, String)>>, Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (address, port) = (variable("MASTER_ADDR"), variable("MASTER_PORT"));
    let node: Option<u64> = variable("NODE_RANK").and_then(|rank| rank.parse().ok());
    if layout.nodes > 1
        && (address.is_none() || port.is_none() || node.is_none_or(|node| node >= layout.nodes))
    {
        let nodes = layout.nodes;
        return Err(Failure::new(
            format!(
                "this plan needs {nodes} nodes: run it on each with MASTER_ADDR, MASTER_PORT and NODE_RANK set"
            ),
            format!(
                "该计划需要 {nodes} 个节点：请在每个节点上设置 MASTER_ADDR、MASTER_PORT 和 NODE_RANK 后运行"
            ),
        ));
    }
    let port = match port {
        Some(port) => port,
        None => free_port()?,
    };
    let address = address.unwrap_or_else(|| "127.0.0.1".to_owned());
    let here = layout.gpus / layout.nodes.max(1);
    let first = node.filter(|_| layout.nodes > 1).unwrap_or(0) * here;
    let place = |local: u64| {
        vec![
            ("RANK", (first + local).to_string()),
            ("WORLD_SIZE", layout.gpus.to_string()),
            ("LOCAL_RANK", local.to_string()),
            ("LOCAL_WORLD_SIZE", here.to_string()),
            ("MASTER_ADDR", address.clone()),
            ("MASTER_PORT", port.clone()),
        ]
    };
    Ok((0..here).map(place).collect())
}

/// A port nobody listens on now.
fn free_port() -> Result<String, Failure> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port().to_string()).map_err(|error| {
        Failure::new(format!("cannot open a local port: {error}"), format!("无法打开本地端口：{error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        assert_eq!(name_of(Path::new("recipes/quickstart.llm")).unwrap(), "quickstart");
        assert_eq!(name_of(Path::new("runs/big/plan.json")).unwrap(), "big");
        assert!(name_of(Path::new("-")).is_err());
    }
}
