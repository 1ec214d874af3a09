//! Whether what is there afterwards is what the clients were told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::fleet::Fleet;
use crate::load::{Fate, Story};
use crate::member::{Member, cgroups};

/// Compares what clients were told with what the servers list and the nodes hold. Answers with
/// everything that is wrong.
pub(crate) fn accounts(
    stories: &[Story],
    listed: &[(String, String, String)],
    fleet: &Fleet,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, id, _) in listed {
        by_name.entry(name).or_default().push(id);
    }
    for (name, ids) in &by_name {
        if ids.len() > 1 {
            wrong.push(format!("duplicate: {name} is {ids:?}"));
        }
    }
    let listed_ids: BTreeSet<&str> = listed.iter().map(|(_, id, _)| id.as_str()).collect();
    for story in stories {
        let Story { name, fate, .. } = story;
        if let Some(complaint) = &story.complaint {
            wrong.push(format!("{name}: {complaint}"));
        }
        let id = story.access.as_ref().map(|access| access.id.as_str());
        let is_listed = id.is_some_and(|id| listed_ids.contains(id));
        match fate {
            Fate::Lives if !is_listed && !fleet.is_node_lost() => {
                wrong.push(format!(
                    "lost: {name} ({id:?}) was answered and is not there"
                ));
            }
            Fate::Lost if !fleet.is_node_lost() => {
                wrong.push(format!("lost: {name} ({id:?}) was gone while it was used"));
            }
            Fate::Deleted if is_listed => {
                wrong.push(format!("back: {name} ({id:?}) was deleted and is there"));
            }
            _ => {}
        }
    }
    let known: BTreeSet<&str> = stories.iter().map(|story| story.name.as_str()).collect();
    for name in by_name.keys().filter(|name| !known.contains(*name)) {
        wrong.push(format!("strange: nobody asked for {name}"));
    }
    wrong.extend(copies(fleet, &listed_ids));
    wrong
}

/// Sandboxes that two nodes hold, or that a node holds and nobody knows.
fn copies(fleet: &Fleet, listed: &BTreeSet<&str>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut holders: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in fleet.living_nodes() {
        for id in node.ledger() {
            holders.entry(id).or_default().push(&node.site.name);
        }
    }
    for (id, nodes) in holders {
        if nodes.len() > 1 {
            wrong.push(format!("copies: {id} is on {nodes:?}"));
        }
        if !listed.contains(id.as_str()) {
            wrong.push(format!("orphan: {id} is on {nodes:?} and not listed"));
        }
    }
    wrong
}

/// What is left of a node's sandboxes on its machine once all of them were deleted.
pub(crate) fn leftovers(node: &Member, folder: &Path) -> Vec<String> {
    let mut left: Vec<String> = node
        .ledger()
        .iter()
        .map(|id| format!("ledger: {id}"))
        .collect();
    let Some(instance) = node.instance() else {
        return left;
    };
    // Empty ones are the node's stock of places for sandboxes to come.
    let mut groups = cgroups(Path::new("/sys/fs/cgroup"), &instance);
    groups.retain(|path| {
        let inside = std::fs::read_to_string(path.join("cgroup.procs"));
        inside.is_ok_and(|inside| !inside.trim().is_empty())
    });
    left.extend(
        groups
            .iter()
            .map(|path| format!("cgroup: {}", path.display())),
    );
    let sandboxes = node.data.join("node/sandboxes");
    let sandboxes = sandboxes.to_string_lossy();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let held = mounts.lines().filter(|line| line.contains(&*sandboxes));
    left.extend(held.map(|line| format!("mount: {line}")));
    let folder = folder.join(&node.site.name);
    let folder = folder.to_string_lossy();
    let devices = std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten();
    left.extend(devices.filter_map(|device| {
        let file = device.path().join("loop/backing_file");
        let file = std::fs::read_to_string(file).ok()?;
        let is_sandbox = file.contains(&*folder) && file.contains("/sandboxes/");
        is_sandbox.then(|| format!("loop device: {}", file.trim()))
    }));
    left
}
