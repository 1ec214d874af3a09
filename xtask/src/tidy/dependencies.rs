//! Who may depend on whom.
//!
//! The table is the architecture: what a crate may use of ours, and what it may never use of
//! others. It is checked on the graph cargo resolved, so a dependency that arrives by a detour
//! counts where the table says so. Development dependencies are free: a test may use anything.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;

/// The licence every crate carries.
const LICENCE: &str = "Apache-2.0";

/// One crate's row.
struct Row {
    name: &'static str,
    /// Crates of ours that it may name in its manifest.
    may_use: &'static [&'static str],
    /// Crates of others that its manifest may not name.
    may_not_name: &'static [&'static str],
    /// Crates that may not be anywhere below it.
    may_not_reach: &'static [&'static str],
}

const DATABASES: [&str; 4] = ["sqlx", "rusqlite", "libsqlite3-sys", "redis"];

/// What would make the pure crates impure: runtimes, sockets, clocks and chance.
const IMPURE: [&str; 8] = [
    "tokio",
    "mio",
    "async-std",
    "smol",
    "rand",
    "getrandom",
    "chrono",
    "reqwest",
];

const TABLE: [Row; 14] = [
    Row {
        name: "atoll-core",
        may_use: &[],
        may_not_name: &[],
        may_not_reach: &IMPURE,
    },
    Row {
        name: "atoll-proto",
        may_use: &["atoll-core"],
        may_not_name: &["axum", "sqlx"],
        may_not_reach: &DATABASES,
    },
    Row {
        // Clients of other products: they know nothing of ours.
        name: "atoll-discovery",
        may_use: &[],
        may_not_name: &["axum", "hyper"],
        may_not_reach: &DATABASES,
    },
    Row {
        name: "atoll-store",
        may_use: &["atoll-core"],
        may_not_name: &[],
        may_not_reach: &["axum", "connectrpc"],
    },
    Row {
        name: "atoll-control",
        may_use: &["atoll-core", "atoll-store", "atoll-proto"],
        may_not_name: &["axum", "sqlx", "redis", "http", "hyper"],
        may_not_reach: &["axum"],
    },
    Row {
        name: "atoll-api",
        may_use: &["atoll-core", "atoll-control", "atoll-proto"],
        may_not_name: &DATABASES,
        may_not_reach: &[],
    },
    Row {
        name: "atoll-edge",
        may_use: &["atoll-core", "atoll-proto"],
        may_not_name: &[],
        may_not_reach: &DATABASES,
    },
    Row {
        name: "atoll-jail",
        may_use: &[],
        may_not_name: &[],
        may_not_reach: &["tokio"],
    },
    Row {
        name: "atoll-node",
        may_use: &["atoll-core", "atoll-proto", "atoll-jail"],
        may_not_name: &["axum"],
        may_not_reach: &DATABASES,
    },
    Row {
        name: "atoll-envd",
        may_use: &["atoll-proto"],
        may_not_name: &[],
        may_not_reach: &[
            "sqlx",
            "redis",
            "opentelemetry",
            "atoll-store",
            "atoll-control",
        ],
    },
    Row {
        name: "atoll",
        // The guest's two binaries are embedded by its build script, never linked.
        may_use: &[
            "atoll-core",
            "atoll-discovery",
            "atoll-proto",
            "atoll-store",
            "atoll-control",
            "atoll-api",
            "atoll-edge",
            "atoll-node",
        ],
        may_not_name: &DATABASES,
        may_not_reach: &["openssl", "native-tls", "async-std"],
    },
    Row {
        // Not shipped: the control plane in a simulated world.
        name: "atoll-sim",
        may_use: &["atoll-core", "atoll-store", "atoll-control", "atoll-edge"],
        may_not_name: &["axum"],
        may_not_reach: &["axum"],
    },
    Row {
        // Not shipped: a fleet of processes, seen from outside.
        name: "atoll-cluster",
        may_use: &[],
        may_not_name: &DATABASES,
        may_not_reach: &["axum"],
    },
    Row {
        name: "xtask",
        may_use: &[],
        may_not_name: &[],
        may_not_reach: &["tokio"],
    },
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
    dependencies: Vec<Named>,
}

/// A dependency as the manifest names it.
#[derive(Deserialize)]
struct Named {
    name: String,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

/// Judges what `cargo metadata` printed.
pub(super) fn check(metadata: &str) -> Result<Vec<Finding>> {
    let metadata: Metadata = serde_json::from_str(metadata).context("read cargo's metadata")?;
    let names: BTreeMap<&str, &str> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package.name.as_str()))
        .collect();
    let ours: BTreeSet<&str> = metadata
        .workspace_members
        .iter()
        .filter_map(|id| names.get(id.as_str()).copied())
        .collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        if !metadata.workspace_members.contains(&package.id) {
            continue;
        }
        findings.extend(licence(package));
        let Some(row) = TABLE.iter().find(|row| row.name == package.name) else {
            let message = "has no row in the table of dependencies";
            findings.push(Finding::new("dependencies", &package.name, message));
            continue;
        };
        findings.extend(named(row, package, &ours));
        findings.extend(reached(row, &package.id, &metadata.resolve, &names));
    }
    Ok(findings)
}

fn licence(package: &Package) -> Option<Finding> {
    (package.license.as_deref() != Some(LICENCE)).then(|| {
        let message = format!("the manifest's licence is not {LICENCE}");
        Finding::new("licence", &package.name, message)
    })
}

/// What the manifest names, other than for development, against the row.
fn named(row: &Row, package: &Package, ours: &BTreeSet<&str>) -> Vec<Finding> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
        .map(|dependency| dependency.name.as_str())
        .filter(|name| {
            let is_ours = ours.contains(name);
            (is_ours && !row.may_use.contains(name)) || row.may_not_name.contains(name)
        })
        .map(|name| {
            let may = row.may_use.join(", ");
            let message = format!("may not depend on `{name}` (of ours it may use: {may})");
            Finding::new("dependencies", row.name, message)
        })
        .collect()
}

/// What is anywhere below the package, other than for development, against the row.
fn reached(row: &Row, id: &str, resolve: &Resolve, names: &BTreeMap<&str, &str>) -> Vec<Finding> {
    let edges: BTreeMap<&str, &[Edge]> = resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node.deps.as_slice()))
        .collect();
    // From each package to the one that brought it in, to show the way in the message.
    let mut brought_by: BTreeMap<&str, &str> = BTreeMap::new();
    let mut waiting = vec![id];
    let mut findings = Vec::new();
    while let Some(current) = waiting.pop() {
        for edge in edges.get(current).copied().unwrap_or_default() {
            let is_shipped = edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
            let next = edge.pkg.as_str();
            if !is_shipped || next == id || brought_by.contains_key(next) {
                continue;
            }
            brought_by.insert(next, current);
            waiting.push(next);
            let name = names.get(next).copied().unwrap_or(next);
            if row.may_not_reach.contains(&name) {
                let by = names.get(current).copied().unwrap_or(current);
                let message = format!("may not contain `{name}`, which `{by}` brings");
                findings.push(Finding::new("dependencies", row.name, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A package of ours: name, licence, dependencies with their kinds.
    type Ours<'a> = (&'a str, &'a str, &'a [(&'a str, Option<&'a str>)]);

    /// Findings for a workspace of such packages; `below` says what packages of others bring.
    fn findings(ours: &[Ours<'_>], below: &[(&str, &str)]) -> String {
        let mut packages = Vec::new();
        let mut nodes = Vec::new();
        let mut known: BTreeSet<&str> = ours.iter().map(|(name, _, _)| *name).collect();
        for (name, licence, deps) in ours {
            let named: Vec<_> = deps
                .iter()
                .map(|(name, kind)| json!({"name": name, "kind": kind}))
                .collect();
            let edges: Vec<_> = deps
                .iter()
                .map(|(name, kind)| json!({"pkg": name, "dep_kinds": [{"kind": kind}]}))
                .collect();
            packages
                .push(json!({"id": name, "name": name, "license": licence, "dependencies": named}));
            nodes.push(json!({"id": name, "deps": edges}));
        }
        for (name, brings) in below {
            known.insert(brings);
            packages.push(json!({"id": name, "name": name, "license": null, "dependencies": []}));
            let edge = json!({"pkg": brings, "dep_kinds": [{"kind": null}]});
            nodes.push(json!({"id": name, "deps": [edge]}));
        }
        let members: Vec<_> = ours.iter().map(|(name, _, _)| *name).collect();
        let metadata = json!({
            "packages": packages, "workspace_members": members, "resolve": {"nodes": nodes},
        });
        let found = check(&metadata.to_string()).expect("the metadata is well formed");
        let lines: Vec<_> = found
            .iter()
            .map(|finding| format!("{}: {}", finding.place, finding.message))
            .collect();
        lines.join("\n")
    }

    #[test]
    fn the_table_has_each_crate_once() {
        let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn allowed_and_development_dependencies_pass() {
        let core = (
            "atoll-core",
            LICENCE,
            [("proptest", Some("dev"))].as_slice(),
        );
        let store = (
            "atoll-store",
            LICENCE,
            [("atoll-core", None), ("sqlx", None)].as_slice(),
        );
        assert_eq!(findings(&[core, store], &[("proptest", "rand")]), "");
    }

    #[test]
    fn a_forbidden_crate_of_ours_is_found() {
        let core = ("atoll-core", LICENCE, [].as_slice());
        let store = ("atoll-store", LICENCE, [].as_slice());
        let edge = ("atoll-edge", LICENCE, [("atoll-store", None)].as_slice());
        let found = findings(&[core, store, edge], &[]);
        assert!(
            found.starts_with("atoll-edge: may not depend on `atoll-store`"),
            "{found}"
        );
    }

    #[test]
    fn a_build_dependency_counts() {
        let jail = ("atoll-jail", LICENCE, [].as_slice());
        let atoll = ("atoll", LICENCE, [("atoll-jail", Some("build"))].as_slice());
        let found = findings(&[jail, atoll], &[]);
        assert!(
            found.starts_with("atoll: may not depend on `atoll-jail`"),
            "{found}"
        );
    }

    #[test]
    fn a_forbidden_crate_of_others_is_found_by_name_and_by_detour() {
        let control = ("atoll-control", LICENCE, [("sqlx", None)].as_slice());
        let found = findings(&[control], &[]);
        assert!(
            found.starts_with("atoll-control: may not depend on `sqlx`"),
            "{found}"
        );

        let core = ("atoll-core", LICENCE, [("innocent", None)].as_slice());
        let found = findings(&[core], &[("innocent", "tokio")]);
        assert_eq!(
            found,
            "atoll-core: may not contain `tokio`, which `innocent` brings"
        );
    }

    #[test]
    fn a_crate_without_a_row_or_licence_is_found() {
        let found = findings(&[("atoll-new", "MIT", [].as_slice())], &[]);
        let lines: Vec<_> = found.lines().collect();
        assert_eq!(
            lines,
            [
                "atoll-new: the manifest's licence is not Apache-2.0",
                "atoll-new: has no row in the table of dependencies"
            ]
        );
    }
}
