//! Nodes and corrections.

use std::collections::BTreeMap;

use atoll_core::correction::{Correction, CorrectionKind};
use atoll_core::descriptor::Descriptor;
use atoll_core::event::{Cursor, EventKind, Subject};
use atoll_core::id::NodeId;
use atoll_core::node::{DrainMode, NodeInfo};
use atoll_core::resources::Resources;
use atoll_core::scheduler::constraint::{Taint, Version};

use super::at;
use crate::store::Store;
use crate::store::node::CORRECTIONS_MAX;
use crate::store::{EventQuery, EventRow};

pub(super) async fn a_node_keeps_what_was_decided_about_it(store: &dyn Store) {
    let id: NodeId = "node-1".parse().unwrap();
    let mut info = NodeInfo {
        name: "rack 4".to_owned(),
        address: Some("10.0.0.4:7000".to_owned()),
        tags: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        descriptor: descriptor(),
    };
    let event = |kind, second| EventRow {
        subject: Subject::Node(id.clone()),
        team: None,
        at: at(second),
        kind,
        level: "info".to_owned(),
        message: "told".to_owned(),
        fields: BTreeMap::new(),
        decision: None,
    };
    let draining = |second| vec![event(EventKind::NodeDraining, second)];
    let drained = store.node_drain(&id, None, at(1), draining(1)).await;
    assert!(!drained.unwrap());
    let row = store.node_join(&id, &info, at(1)).await.unwrap();
    assert_eq!((&row.info, row.drain), (&info, None));
    for drain in [Some(DrainMode::Wait), Some(DrainMode::Evict)] {
        let drained = store.node_drain(&id, drain, at(2), draining(2)).await;
        assert!(drained.unwrap());
        assert_eq!(store.node_list().await.unwrap()[0].drain, drain);
    }
    info.address = None;
    let row = store.node_join(&id, &info, at(3)).await.unwrap();
    assert_eq!(row.info, info);
    assert_eq!(row.drain, Some(DrainMode::Evict), "it stays drained");
    assert_eq!((row.joined_at, row.updated_at), (at(1), at(3)));
    assert_eq!(store.node_list().await.unwrap(), [row]);
    let left = || vec![event(EventKind::NodeLeft, 4)];
    assert!(store.node_remove(&id, left()).await.unwrap());
    assert!(!store.node_remove(&id, left()).await.unwrap());
    assert!(store.node_list().await.unwrap().is_empty());
    // Each change is told of with it, and what did not happen is not.
    let query = EventQuery {
        subject: Some(Subject::Node(id.clone())),
        ..EventQuery::default()
    };
    let told = store.event_list_after(Cursor::START, &query, 100).await;
    let told = told.unwrap().events;
    let kinds: Vec<_> = told.iter().map(|row| row.event.kind).collect();
    let expected = [
        EventKind::NodeDraining,
        EventKind::NodeDraining,
        EventKind::NodeLeft,
    ];
    assert_eq!(kinds, expected);
}

pub(super) fn descriptor() -> Descriptor {
    let taint = |key: &str, value: &str| Taint {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    Descriptor {
        labels: BTreeMap::from([("disk".to_owned(), "nvme".to_owned())]),
        taints: vec![taint("gpu", "a100"), taint("old", "")],
        zone: "eu-1a".to_owned(),
        architecture: "x86_64".to_owned(),
        cpu_features: ["avx2", "sse2"].map(str::to_owned).into(),
        drivers: BTreeMap::from([("jail".to_owned(), Version(1, 2, 3))]),
        sandboxes_max: Some(7),
        starts_max: Some(3),
        headroom: Resources {
            cpu_millis: 1,
            memory_mib: 2,
            disk_mib: 3,
        },
    }
}

pub(super) async fn corrections_are_kept_in_a_bounded_number(store: &dyn Store) {
    let correction = |second: i64, kind| Correction {
        at: at(second),
        kind,
        node: (second % 2 == 0).then(|| "node-1".parse().unwrap()),
        sandbox: (second % 3 == 0).then(|| "iabc".parse().unwrap()),
        generation: (second % 3 == 0).then(|| atoll_core::id::Generation::new(7)),
        reason: format!("because {second}"),
    };
    let kinds = CorrectionKind::ALL.into_iter().cycle();
    let all: Vec<_> = (0..i64::from(CORRECTIONS_MAX) + 6)
        .zip(kinds)
        .map(|(second, kind)| correction(second, kind))
        .collect();
    store.correction_append(all[..6].to_vec()).await.unwrap();
    let mut newest = store.correction_list(10).await.unwrap();
    newest.reverse();
    assert_eq!(newest, all[..6]);
    store.correction_append(all[6..].to_vec()).await.unwrap();
    let kept = store.correction_list(u32::MAX).await.unwrap();
    assert_eq!(kept.len(), CORRECTIONS_MAX as usize);
    assert_eq!(kept.last(), Some(&all[6]), "the oldest are forgotten");
    assert_eq!(
        store.correction_list(1).await.unwrap(),
        all[all.len() - 1..]
    );
}
