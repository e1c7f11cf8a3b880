//! Compiles `shim/core.cpp` against the libtorch that `LIBTORCH` names and sets an rpath, so that the
//! binaries of this crate start without `LD_LIBRARY_PATH`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=shim/core.cpp");
    println!("cargo:rerun-if-changed=shim/core.h");
    match libtorch() {
        Ok(root) => {
            compile(&root);
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

/// The libtorch folder, or the one sentence that says what to do.
fn libtorch() -> Result<PathBuf, String> {
    let Some(root) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        return Err(
            "LIBTORCH is not set: run `make libtorch`, which installs libtorch 2.11.0 into the user \
                    cache and prints the value to export."
                .into(),
        );
    };
    if root.join("include/ATen/ops/_fused_adamw.h").is_file() {
        Ok(root)
    } else {
        Err(format!(
            "LIBTORCH={} holds no libtorch 2.11 headers: run `make libtorch` and export the value it prints.",
            root.display()
        ))
    }
}

fn compile(root: &Path) {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("shim/core.cpp")
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        // libtorch 2.11 wheels are built with the new C++ ABI (torch-sys uses the same).
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        // Warnings of ATen's own headers are not ours to fix.
        .warnings(false)
        .compile("llmc_core");
    let lib = root.join("lib");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // libtorch_cpu of the CUDA wheels needs libcudart and libcupti, which lie in a wheel beside torch's.
    if let Some(site) = root.parent() {
        println!("cargo:rustc-link-arg=-Wl,-rpath-link,{}", site.join("nvidia/cu13/lib").display());
    }
}
