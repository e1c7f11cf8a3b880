//! The help in Chinese: what `args` says in English, by the names of commands and options, and what clap says of a command
//! line that it cannot read.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Error};

/// The order of clap's own template, in Chinese.
const TEMPLATE: &str = "{about-with-newline}\n用法：{usage}\n\n{all-args}{after-help}";

/// The command line with Chinese help.
pub fn translated(command: Command) -> Command {
    let after = format!("{}\n\n{}", after("llmc"), CODES);
    let command = of_command(command, "llmc").after_help(after.clone()).after_long_help(after);
    command.disable_version_flag(true).arg(
        Arg::new("version")
            .short('V')
            .long("version")
            .action(ArgAction::Version)
            .help("显示版本")
            .help_heading("选项"),
    )
}

fn of_command(command: Command, name: &str) -> Command {
    let arguments: Vec<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let below: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    let mut command = command
        .about(about(name))
        .help_template(TEMPLATE)
        .subcommand_help_heading("命令")
        .disable_help_flag(true);
    let examples = after(name);
    if !examples.is_empty() {
        command = command.after_help(examples);
    }
    for id in arguments {
        let path = format!("{name}.{id}");
        command = command.mut_arg(id, |arg| of_argument(arg, &path));
    }
    // A changed argument goes to the end, and headings stand in the order of their first ones: help comes after them.
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help).help("显示帮助");
    let command = command.arg(help.help_heading("选项"));
    below.into_iter().fold(command, |command, below| {
        let path = if name == "llmc" { below.clone() } else { format!("{name} {below}") };
        command.mut_subcommand(below, |below| of_command(below, &path))
    })
}

fn of_argument(arg: Arg, path: &str) -> Arg {
    let heading = match () {
        _ if arg.is_positional() => "参数",
        _ if arg.is_global_set() => "所有命令的选项",
        _ => "选项",
    };
    let mut arg = arg.help_heading(heading);
    if arg.get_action().takes_values() {
        arg = arg.hide_possible_values(true).hide_default_value(true);
    }
    match argument(path) {
        Some(help) => arg.help(help).long_help(help),
        None => arg,
    }
}

fn about(name: &str) -> &'static str {
    find(COMMANDS, name).map_or("", |(_, about, _)| about)
}

fn after(name: &str) -> &'static str {
    find(COMMANDS, name).map_or("", |(_, _, after)| after)
}

fn argument(path: &str) -> Option<&'static str> {
    ARGUMENTS.iter().find(|(known, _)| *known == path).map(|(_, help)| *help)
}

fn find(
    table: &[(&'static str, &'static str, &'static str)],
    name: &str,
) -> Option<(&'static str, &'static str, &'static str)> {
    table.iter().find(|(known, _, _)| *known == name).copied()
}

/// What is wrong with a command line; `None` where clap's own words must do.
pub fn error(error: &Error) -> Option<String> {
    let text = |kind| match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join("、")),
        ContextValue::StyledStr(text) => Some(text.to_string()),
        ContextValue::StyledStrs(texts) => {
            Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>().join("、"))
        }
        _ => None,
    };
    let given = |kind| text(kind).unwrap_or_default();
    let near = |kind| text(kind).map_or(String::new(), |near| format!("；是否想写 `{near}`？"));
    let said = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            format!(
                "没有命令 `{}`{}",
                given(ContextKind::InvalidSubcommand),
                near(ContextKind::SuggestedSubcommand)
            )
        }
        ErrorKind::UnknownArgument => {
            format!("没有参数 `{}`{}", given(ContextKind::InvalidArg), near(ContextKind::SuggestedArg))
        }
        ErrorKind::MissingRequiredArgument => format!("缺少参数：{}", given(ContextKind::InvalidArg)),
        ErrorKind::MissingSubcommand => format!("缺少命令：{}", given(ContextKind::ValidSubcommand)),
        ErrorKind::InvalidValue if given(ContextKind::InvalidValue).is_empty() => {
            format!("`{}` 需要取值", given(ContextKind::InvalidArg))
        }
        ErrorKind::InvalidValue => {
            let valid =
                text(ContextKind::ValidValue).map_or(String::new(), |valid| format!("；可选：{valid}"));
            let (arg, value) = (given(ContextKind::InvalidArg), given(ContextKind::InvalidValue));
            format!("`{arg}` 不能取 `{value}`{valid}")
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map_or(String::new(), |why| format!("：{why}"));
            format!("`{}` 不能取 `{}`{why}", given(ContextKind::InvalidArg), given(ContextKind::InvalidValue))
        }
        ErrorKind::ArgumentConflict => {
            format!("`{}` 不能与 `{}` 同用", given(ContextKind::InvalidArg), given(ContextKind::PriorArg))
        }
        _ => return None,
    };
    let usage = text(ContextKind::Usage).unwrap_or_default().replace("Usage:", "用法：").replace("： ", "：");
    let usage = if usage.is_empty() { usage } else { format!("\n\n{usage}") };
    Some(format!("错误：{said}{usage}\n\n更多信息请用 `--help`。\n"))
}

/// What `--help` says about the codes.
const CODES: &str = "退出码：
  0   正常，有警告也算
  1   配方有误，或没有可行的布局
  2   用法、环境，或命令行指定的文件有问题
  3   --against 或 --check 发现差别
  70  llmc 的程序错误；标准错误输出说明应报告什么
  run、eval、data、tokenizer 原样返回其所启动程序的退出码";

/// Command, what it does, what stands below its help.
const COMMANDS: &[(&str, &str, &str)] = &[
    (
        "llmc",
        "大模型训练的编译器：一页配方变成一份可信的计划，以及严格按计划执行的训练",
        "示例：
  llmc plan recipe.llm
  llmc plan recipe.llm --set optimizer.wd=0.05 --format json -o plan.json
  llmc why recipe.llm lr.peak
  llmc run recipe.llm                             # 需要文本，以及 llmc-worker 与 llmc-data：`make worker`",
    ),
    (
        "check",
        "检查配方而不做计划；不需要数据和硬件",
        "示例：
  llmc check recipes/*.llm
  llmc check recipe.llm --format json",
    ),
    (
        "fmt",
        "把配方改写成唯一的规范版式",
        "示例：
  llmc fmt recipes/*.llm
  llmc fmt --check recipes/*.llm",
    ),
    (
        "plan",
        "为一次训练做计划：放不放得下、要多久、花多少钱、损失多少",
        "示例：
  llmc plan recipe.llm --lang zh
  llmc plan recipe.llm -o plan.json
  llmc plan recipe.llm --set model.ctx=4k --against plan.json
  llmc plan recipe.llm --format markdown > report.md",
    ),
    (
        "why",
        "计划中的某个值从何而来：配方原文、预设、规则、论文",
        "示例：
  llmc why recipe.llm memory.device_bytes",
    ),
    (
        "why-not",
        "为何没有采用某个选择，例如 tp=8",
        "示例：
  llmc why-not recipe.llm tp=8
  llmc why-not recipe.llm recompute=full zero=2",
    ),
    (
        "diff",
        "按后果比较两个配方或计划：GiB、词元/秒、天数、金额",
        "示例：
  llmc diff recipes/llama-7b-4k.llm recipes/llama-7b-8k.llm",
    ),
    (
        "cost",
        "配方的花费：卡时、电量、金额；不给配方时列出 3B、7B、13B 在 4k 与 8k 下的费用",
        "示例：
  llmc cost
  llmc cost --set 'price.gpu=¥15/h' --set 'price.electricity=¥0.6/kWh' --set price.pue=1.2
  llmc cost recipe.llm --tokens-per-second 11000
  llmc cost --set 'price.buy=¥250k' --set price.spares=3%",
    ),
    (
        "run",
        "执行计划：构建数据、训练、保存检查点",
        "示例：
  llmc run recipes/quickstart.llm                 # 其文本：`make quickstart-text`
  llmc run runs/quickstart/plan.json --resume     # Ctrl-C 之后继续
  llmc run recipe.llm --profile step.json

训练需要 llmc 旁边有 llmc-worker 与 llmc-data：`make worker` 构建两者。
多节点时，在每个节点上设置 MASTER_ADDR、MASTER_PORT 和 NODE_RANK 后运行。",
    ),
    (
        "sweep",
        "用短训练尝试各种设置，并画出损失图",
        "示例：
  llmc sweep lr recipes/quickstart.llm --lr 3e-4..1e-2 --points 4 --steps 30

每个点都是一次训练，所需与 `llmc run` 相同。",
    ),
    (
        "sweep lr",
        "峰值学习率与批大小：终端热图，以及 sweeps/NAME/sweep.svg 和 sweep.json",
        "示例：
  llmc sweep lr recipe.llm
  llmc sweep lr recipe.llm --lr 1e-4..1e-2 --points 7 --batch 4096,8192,16384
  llmc sweep lr recipe.llm --lr 3e-4,1e-3 --steps 50 --format json

每个点都是一次训练，所需与 `llmc run` 相同；各点训练的词元数相同，配方的调度按此走完。已完成的点不会重跑。",
    ),
    (
        "eval",
        "在文本上评估检查点",
        "不给 DATA 时，用该检查点所属训练的验证文本。DATA：已构建语料的目录（取其验证集），或文本文件。--threads N：一个运算\
可用的线程数。

示例（先运行 `llmc run recipes/quickstart.llm`）：
  llmc eval runs/quickstart
  llmc eval runs/quickstart/checkpoints/step-400 notes.txt",
    ),
    (
        "tokenizer",
        "训练分词器或给出其报告：`tokenizer train RECIPE`（llmc-data）",
        "llmc-data tokenizer 的命令（选项见 llmc tokenizer COMMAND --help）：
  train RECIPE            写出 runs/NAME/tokenizer.json；或用 --spec data.json --out FILE
  report DIR              各来源每词元的字节数、未用与最长的条目、疑似密钥的条目

示例：
  make quickstart-text                            # 该配方所用的文本
  llmc tokenizer train recipes/quickstart.llm
  llmc tokenizer report runs/quickstart/data      # 先运行 `llmc data build`",
    ),
    (
        "data",
        "构建或测量语料：`data build RECIPE`、`data stats|export|dedup|bench`（llmc-data）",
        "llmc-data 的命令（选项见 llmc data COMMAND --help）：
  build RECIPE            把配方的来源分词到 runs/NAME/data；或用 --spec data.json --out DIR
  stats DIR               已构建的目录里有什么：词元、文档、长度、填充
  export DIR --out DIR    把已构建的目录写成 Parquet 或 WebDataset tar
  dedup FILES...          找出相同与相似的文档
  bench DIR               测量磁盘或网络存储的读写

示例：
  make quickstart-text                            # 该配方所用的文本
  llmc data build recipes/quickstart.llm
  llmc data stats runs/quickstart/data            # 构建之后
  llmc data bench /mnt/cpfs --out mount.json",
    ),
    (
        "score",
        "用实测结果给规划器的预测打分",
        "列：layers、hidden、heads、kv_heads、ffn、vocab、seq；hardware、n_gpus；micro_batch_seqs、global_batch_seqs、tp、pp、cp、\
zero_stage、act_ckpt、precision；实测的 tokens_per_s_per_gpu 或 peak_mem_gib。缺少所需内容的行会列出原因。

示例：
  llmc score planner/data/held-out.csv
  llmc score runs.csv --format json",
    ),
    (
        "calibrate",
        "用实测结果拟合档案：一步的各部分达到峰值的多少",
        "示例：
  llmc calibrate runs.csv vtrain.csv -o profiles --report accuracy.md
  llmc calibrate runs/* -o profiles               # `llmc run` 已完成的训练
  llmc calibrate --device -o profiles             # 在本机计时；需要 llmc-worker：`make worker`",
    ),
    (
        "explain",
        "解释诊断代码、关键字、规则、计划中的名称、设备或硬件文件；不给名称时列出全部代码",
        "示例：
  llmc explain LLM0901
  llmc explain budget
  llmc explain H100 > mine.toml          # 用来描述另一种卡",
    ),
    ("schema", "打印 plan.json 的 JSON schema", ""),
    (
        "completions",
        "打印命令补全脚本",
        "示例：
  llmc completions bash > ~/.local/share/bash-completion/completions/llmc
  llmc completions zsh > ~/.zfunc/_llmc        # $fpath 中的一个目录",
    ),
];

/// Command and argument, what it is.
const ARGUMENTS: &[(&str, &str)] = &[
    ("llmc.set", "覆盖配方中的一个值，写法与配方相同：--set lr.peak=3e-4"),
    (
        "llmc.format",
        "标准输出中数据的格式，以及标准错误中诊断的格式：human 给人看，json 给程序（键与消息为英文），markdown 用于报告",
    ),
    ("llmc.lang", "语句的语言：en 或 zh；默认取自系统区域设置"),
    ("llmc.color", "何时使用颜色：auto（终端上，除非设置了 NO_COLOR）、always、never"),
    ("llmc.hardware", "除内置设备外再使用的硬件文件"),
    ("llmc.verbose", "输出更多：计划的搜索过程、所问配方的警告、训练的过程"),
    ("check.recipes", "配方；- 表示标准输入"),
    ("fmt.recipes", "配方；- 读取标准输入并写到标准输出"),
    ("fmt.check", "不写任何文件；有配方不合规范版式时以 3 退出"),
    ("plan.recipe", "配方；- 表示标准输入"),
    ("plan.output", "把 plan.json 写到该文件"),
    ("plan.against", "与先前的计划比较；有差别时以 3 退出"),
    ("why.recipe", "配方"),
    ("why.path", "计划中的路径，例如 lr.peak"),
    ("why-not.recipe", "配方"),
    ("why-not.choice", "一个或多个取值，例如 tp=8 zero=3"),
    ("diff.a", "配方或 plan.json"),
    ("diff.b", "另一个"),
    ("cost.recipes", "配方"),
    ("cost.tokens_per_second", "实测的每卡每秒词元数，代替预测值"),
    ("run.recipe", "配方，或 `llmc plan -o` 写出的 plan.json"),
    ("run.name", "运行名称；默认取自配方文件名"),
    ("run.resume", "从最后一个检查点继续"),
    ("run.search_gemm", "在负载下挑选 GEMM 算法：首次启动多用一分钟，结果存于 runs/NAME/gemm.json"),
    ("run.trace", "记录每条指令；除非给出 =FILE，写到 runs/NAME/trace.jsonl"),
    ("run.profile", "写出某个早期步的时间去向，供 chrome://tracing 或 Perfetto 查看"),
    ("run.program", "执行编辑过的 Program，而不是由计划降级得到的"),
    ("sweep lr.recipe", "配方"),
    ("sweep lr.lr", "学习率：两端，或逐个列出；默认从配方的十分之一到十倍"),
    ("sweep lr.points", "两端之间的学习率个数，按等比分布；默认 5"),
    ("sweep lr.batch", "以词元计的批大小；默认取配方的"),
    ("sweep lr.steps", "按配方的批大小计的步数，其他批大小训练同样多的词元；默认 100，或配方的步数"),
    ("sweep lr.name", "扫描名称；默认取自配方文件名"),
    ("eval.args", "检查点目录，然后是文本以及 llmc-worker eval 的选项"),
    ("tokenizer.args", "命令及其参数"),
    ("data.args", "命令及其参数"),
    ("score.table", "实测结果表"),
    (
        "calibrate.tables",
        "实测结果表、训练目录（runs/NAME）、`llmc-worker bench` 的报告（NAME.json 旁的 NAME.bench.json）",
    ),
    ("calibrate.device", "先在本机为一小组计划计时：cuda（默认）或 cpu"),
    ("calibrate.keep", "这些计时的目录，已有的不再重测；默认 calibration"),
    ("calibrate.output", "档案文件的目录；默认 profiles"),
    ("calibrate.report", "另把误差页写到该文件"),
    ("explain.name", "例如 LLM0101、budget、lr.step_law、straggler、H200 或 hardware"),
    ("completions.shell", "bash、elvish、fish、powershell 或 zsh"),
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    /// Commands by path, and their arguments.
    fn names(command: &Command, name: &str, found: &mut (Vec<String>, Vec<String>)) {
        found.0.push(name.to_owned());
        found.1.extend(command.get_arguments().map(|arg| format!("{name}.{}", arg.get_id())));
        for below in command.get_subcommands() {
            let path = match name {
                "llmc" => below.get_name().to_owned(),
                _ => format!("{name} {}", below.get_name()),
            };
            names(below, &path, found);
        }
    }

    #[test]
    fn every_command_and_argument_has_its_chinese() {
        let mut found = (Vec::new(), Vec::new());
        names(&Cli::command(), "llmc", &mut found);
        for name in &found.0 {
            assert!(!about(name).is_empty(), "{name}");
        }
        for path in &found.1 {
            assert!(argument(path).is_some(), "{path}");
        }
        assert!(
            COMMANDS.iter().all(|(name, ..)| found.0.iter().any(|known| known == name)),
            "a command that is gone"
        );
        assert!(
            ARGUMENTS.iter().all(|(path, _)| found.1.iter().any(|known| known == path)),
            "an option that is gone"
        );
    }

    /// Clap checks a command's definition when it is built.
    #[test]
    fn the_translated_command_line_reads_as_the_other() {
        translated(Cli::command()).debug_assert();
        let read =
            translated(Cli::command()).try_get_matches_from(["llmc", "plan", "a.llm", "--set", "seed=1"]);
        assert_eq!(read.unwrap().subcommand_name(), Some("plan"));
    }
}
