//! What there is to type about where sandboxes go.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ServerArgs;

/// A question to the scheduler.
#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Only say where it would go: nothing is made. Sandboxes are made by `run` and by the API.
    #[arg(long, required = true)]
    pub(crate) dry_run: bool,
    /// Template to start from.
    #[arg(long, short, default_value = "base")]
    pub(crate) template: String,
    /// Name or id of the team; the default one unless given.
    #[arg(long)]
    pub(crate) team: Option<String>,
    /// CPU in thousandths of a core; with memory and disk, in the place of the template's.
    #[arg(long, requires = "memory_mib", requires = "disk_mib")]
    pub(crate) cpu_millis: Option<u32>,
    /// Memory in MiB.
    #[arg(long, requires = "cpu_millis", requires = "disk_mib")]
    pub(crate) memory_mib: Option<u32>,
    /// Writable disk in MiB.
    #[arg(long, requires = "cpu_millis", requires = "memory_mib")]
    pub(crate) disk_mib: Option<u32>,
    /// A label of the sandbox; may repeat.
    #[arg(long = "metadata", value_name = "NAME=VALUE", value_parser = super::parse_variable)]
    pub(crate) metadata: Vec<(String, String)>,
    /// File with the request's policy as JSON.
    #[arg(long)]
    pub(crate) policy: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Replace a team's policy by the JSON of a file. It holds from the next placement on.
    Set {
        #[command(flatten)]
        server: ServerArgs,
        /// The team's name or id.
        team: String,
        /// The file.
        file: PathBuf,
    },
    /// Show a team's policy as JSON.
    Show {
        #[command(flatten)]
        server: ServerArgs,
        /// The team's name or id.
        team: String,
    },
    /// Remove a team's policy.
    Clear {
        #[command(flatten)]
        server: ServerArgs,
        /// The team's name or id.
        team: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};

    #[test]
    fn a_schedule_is_a_dry_run_and_amounts_come_together() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let amounts = "--cpu-millis 1 --memory-mib 2 --disk-mib 3";
        let line = format!("atoll schedule --dry-run --metadata a=b {amounts}");
        let Command::Schedule(given) = parse(&line).unwrap().command else {
            panic!("{line}");
        };
        assert_eq!(given.template, "base");
        assert_eq!(given.metadata, [("a".to_owned(), "b".to_owned())]);
        for (line, named) in [
            ("atoll schedule", "--dry-run"),
            ("atoll schedule --dry-run --cpu-millis 1", "--memory-mib"),
            ("atoll team policy set a", "<FILE>"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
