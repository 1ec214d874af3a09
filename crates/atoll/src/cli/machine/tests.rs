use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};

fn machine(arguments: &[&str]) -> Result<MachineArgs, String> {
    let all = ["atoll", "node", "--server", "http://s:1"]
        .iter()
        .chain(arguments);
    match Cli::try_parse_from(all)
        .map_err(|error| error.to_string())?
        .command
    {
        Command::Node(node) => Ok(node.machine),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_is_described_on_the_command_line() {
    let arguments = "--display-name Rack --label disk=nvme,gpu= --label a=b=c --tag fast \
                     --tag rack=4 --taint gpu=a100:no_schedule --zone eu-1a --sandboxes-max 7 \
                     --starts-max 3 --headroom-memory-mib 512 --overcommit-cpu 1.5";
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let machine = machine(&arguments).unwrap();
    assert_eq!(machine.given.overcommit_cpu, Some(1.5));
    let info = machine.info().unwrap();
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect()
    };
    assert_eq!(info.name, "Rack");
    assert_eq!(info.tags, pairs(&[("fast", ""), ("rack", "4")]));
    let described = info.descriptor;
    assert_eq!(
        described.labels,
        pairs(&[("a", "b=c"), ("disk", "nvme"), ("gpu", "")])
    );
    assert_eq!(described.taints.len(), 1);
    assert_eq!(described.zone, "eu-1a");
    assert_eq!(
        (described.sandboxes_max, described.starts_max),
        (Some(7), Some(3))
    );
    assert_eq!(described.headroom.memory_mib, 512);
}

#[test]
fn what_is_wrong_is_refused_with_the_flags_name() {
    for (arguments, flag, problem) in [
        (["--label", "disk"], "--label", "must be KEY=VALUE"),
        (["--label", "a b=c"], "--label", "a name is 1 to 64"),
        (["--tag", ""], "--tag", "a name is 1 to 64"),
        (["--taint", "gpu"], "--taint", "lacks the effect"),
        (["--taint", "gpu:evict"], "--taint", "the only one"),
        (["--zone", "eu 1"], "--zone", "a name is 1 to 64"),
        (["--sandboxes-max", "0"], "--sandboxes-max", "1..=2000"),
        (["--starts-max", "0"], "--starts-max", "1..=1024"),
        (["--overcommit-cpu", "0"], "--overcommit-cpu", "0.1 to 1000"),
    ] {
        let error = machine(&arguments).unwrap_err();
        assert!(error.contains(flag) && error.contains(problem), "{error}");
    }
    let twice = machine(&["--label", "a=1", "--label", "a=2"]).unwrap();
    let error = twice.info().unwrap_err().to_string();
    assert!(error.contains("--label gives `a` twice"), "{error}");
}
