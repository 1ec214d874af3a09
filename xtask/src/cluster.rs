//! `cargo xtask cluster`: a whole fleet with real engines while its parts break, from the command
//! line and as a part of the tests.

use anyhow::Result;

use crate::command::{Tool, headline};
use crate::{provision, workspace};

/// What the tests do to the fleet: all there is, with little work in between.
const SHORT: [&str; 4] = ["--seconds-between", "4", "--users", "4"];

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

/// The run that decides whether a change is good.
pub(crate) fn test() -> Result<()> {
    headline("test: a fleet while its parts break");
    run(&SHORT)
}
