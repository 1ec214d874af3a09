//! `cargo xtask sim`: the simulation, from the command line.

use anyhow::Result;

use crate::command::Tool;

/// Builds the simulation and hands it the arguments.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    Tool::cargo()
        .args(["run", "--quiet", "--locked", "--package", "atoll-sim", "--"])
        .args(arguments)
        .run()
}
