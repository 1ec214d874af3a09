//! `cargo xtask cluster`: a whole fleet with real engines while its parts break.

use anyhow::Result;

use crate::command::Tool;
use crate::{provision, workspace};

/// Builds it and hands it the arguments.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if !provision::is_root() {
        println!("skipped: network namespaces and sandboxes need root");
        return Ok(());
    }
    let packages = ["--package", "atoll", "--package", "atoll-cluster"];
    let build = Tool::cargo().args(["build", "--quiet", "--locked", "--bins"]);
    build.args(packages).run()?;
    let binaries = workspace::target().join("debug");
    Tool::new(binaries.join("atoll-cluster"))
        .args(["--program".as_ref(), binaries.join("atoll").as_os_str()])
        .args(arguments)
        .run()
}
