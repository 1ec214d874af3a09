//! Made-up fleets and requests for the measurements of the scheduler: the same for a seed.

use std::time::Duration;

use atoll_core::id::NodeId;
use atoll_core::node::NodeState;
use atoll_core::scheduler::amount::Amount;
use atoll_core::scheduler::artifact::{Artifact, Kind};
use atoll_core::scheduler::constraint::{
    Constraints, DriverNeed, Expression, Operator, Taint, Version,
};
use atoll_core::scheduler::fleet::{Config, Fleet};
use atoll_core::scheduler::node::{Node, Overcommit};
use atoll_core::scheduler::policy::{Policy, Strategy};
use atoll_core::scheduler::request::Request;
use atoll_core::scheduler::score::{Term, Weights};
use atoll_core::time::Timestamp;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

/// Machines that fleets are made of: cores and GiB of memory.
const MACHINES: [(u32, u32); 3] = [(32, 128), (64, 256), (96, 384)];

/// Templates in use; each has a size of its own.
const TEMPLATES: usize = 20;

/// Sizes of sandboxes: cores in thousandths, MiB of memory.
const SIZES: [(u32, u32); 10] = [
    (500, 512),
    (1_000, 512),
    (1_000, 1_024),
    (1_000, 2_048),
    (2_000, 1_024),
    (2_000, 2_048),
    (2_000, 4_096),
    (4_000, 4_096),
    (4_000, 8_192),
    (8_000, 8_192),
];

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mix {
    /// One size, spread over the fleet, nothing else.
    Small,
    /// Twenty templates of as many sizes, packed, rather where the template is.
    Mixed,
    /// The same with labels, architecture, driver, taints, anti-affinity, snapshots and zones.
    Constrained,
}

/// The n-th node's name.
pub(super) fn id(number: usize) -> NodeId {
    let name = format!("node-{number:05}");
    name.parse().expect("it is a slug")
}

/// How large the n-th node's machine is.
pub(super) fn machine(number: usize) -> Amount {
    let (cores, gib) = MACHINES[number % MACHINES.len()];
    Amount::new(cores * 1_000, gib * 1_024, 4_000_000, 25_000)
}

/// A fleet of that many nodes which have been ready for long.
pub(super) fn fleet(nodes: usize, random: &mut StdRng) -> Fleet {
    let mut fleet = Fleet::new(Config::default());
    let start = Timestamp::from_micros(0);
    for number in 0..nodes {
        let mut node = Node::new(id(number), machine(number));
        node.overcommit = Overcommit::new(400, 100, 100, 100);
        node.headroom = Amount::new(1_000, 2_048, 0, 0);
        node.zone = format!("zone-{}", number % 3);
        node.architecture = if number % 5 == 4 { "arm64" } else { "x86_64" }.to_owned();
        node.sandboxes_max = 2_000;
        let labels = [
            ("pool", ["a", "b", "c"][number % 3]),
            ("disk", "nvme"),
            ("rack", "r1"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        node.labels.extend(labels);
        let minor = u32::from(number.is_multiple_of(4));
        node.drivers.insert("jail".to_owned(), Version(1, minor, 0));
        if number % 20 == 19 {
            node.taints.push(Taint {
                key: "gpu".to_owned(),
                value: String::new(),
            });
        }
        fleet.put_node(node, start);
        fleet.set_state(&id(number), NodeState::Ready, start);
        for template in 0..TEMPLATES {
            if random.random_ratio(3, 10) {
                let artifact = Artifact::new(Kind::Template, name(template));
                fleet.set_artifact(&id(number), &artifact, true);
            }
        }
        // One of the snapshots that requests ask for.
        let artifact = Artifact::new(Kind::Snapshot, format!("snapshot-{number}"));
        fleet.set_artifact(&id(number), &artifact, true);
    }
    fleet.advance(begun());
    fleet
}

/// Which node has which template.
pub(super) struct Templates(Vec<[bool; TEMPLATES]>);

impl Templates {
    /// Whether the n-th node has what the request starts from.
    pub(super) fn has(&self, node: usize, request: &Request) -> bool {
        let wanted = (0..TEMPLATES).find(|t| request.template == Some(name(*t)));
        wanted.is_some_and(|template| self.0[node][template])
    }
}

/// A fleet of that many nodes that differ in size and in the templates they have, and in nothing
/// else: what every contender understands.
pub(super) fn plain_fleet(nodes: usize, random: &mut StdRng) -> (Fleet, Templates) {
    let mut fleet = Fleet::new(Config::default());
    let start = Timestamp::from_micros(0);
    let mut templates = Vec::with_capacity(nodes);
    for number in 0..nodes {
        let mut node = Node::new(id(number), machine(number));
        node.overcommit = Overcommit::new(400, 100, 100, 100);
        fleet.put_node(node, start);
        fleet.set_state(&id(number), NodeState::Ready, start);
        let has: [bool; TEMPLATES] = std::array::from_fn(|_| random.random_ratio(3, 10));
        for (template, _) in has.iter().enumerate().filter(|(_, has)| **has) {
            let artifact = Artifact::new(Kind::Template, name(template));
            fleet.set_artifact(&id(number), &artifact, true);
        }
        templates.push(has);
    }
    fleet.advance(begun());
    (fleet, Templates(templates))
}

/// When all nodes have been ready for long.
pub(super) fn begun() -> Timestamp {
    Timestamp::from_micros(0).saturating_add(Duration::from_secs(3_600))
}

fn name(template: usize) -> String {
    format!("template-{template}")
}

/// The policy that goes with a mix.
pub(super) fn policy(mix: Mix) -> Policy {
    match mix {
        Mix::Small => Policy {
            tolerance: 5_000,
            ..Policy::new(Strategy::LeastAllocated)
        },
        Mix::Mixed => Policy {
            preferences: Weights::of(&[(Term::Template, 30)]),
            ..Policy::new(Strategy::BestFit)
        },
        Mix::Constrained => Policy {
            preferences: Weights::of(&[
                (Term::Template, 30),
                (Term::Snapshot, 30),
                (Term::Zones, 20),
                (Term::Reliability, 10),
            ]),
            ..Policy::new(Strategy::LeastAllocated)
        },
    }
}

/// A request of a mix, of a fleet of that many nodes.
pub(super) fn request(mix: Mix, nodes: usize, random: &mut StdRng) -> Request {
    if mix == Mix::Small {
        return Request {
            amount: Amount::new(1_000, 512, 1_024, 10),
            ..Request::default()
        };
    }
    // Few templates are used much, most are used little.
    let template = (0..5).map(|_| random.random_range(0..TEMPLATES)).min();
    let template = template.unwrap_or(0);
    let (cpu, memory) = SIZES[template % SIZES.len()];
    let disk = if template < SIZES.len() { 1_024 } else { 2_048 };
    let mut request = Request {
        amount: Amount::new(cpu, memory, disk, 10),
        template: Some(name(template)),
        ..Request::default()
    };
    if mix == Mix::Constrained {
        constrain(&mut request, template, nodes, random);
    }
    request
}

/// What the template's author asks for, and one request in ten for itself.
fn constrain(request: &mut Request, template: usize, nodes: usize, random: &mut StdRng) {
    let mut wanted = Constraints::default();
    if template.is_multiple_of(2) {
        wanted.architecture = Some("x86_64".to_owned());
        wanted.labels.push(Expression {
            key: "pool".to_owned(),
            operator: Operator::In(vec!["a".to_owned(), "b".to_owned()]),
        });
    }
    if template.is_multiple_of(3) {
        wanted.driver = Some(DriverNeed {
            name: "jail".to_owned(),
            at_least: Version(1, u32::from(template.is_multiple_of(6)), 0),
        });
    }
    match random.random_range(0..30) {
        0..3 => {
            let group = format!("group-{}", random.random_range(0..4));
            if template < 2 {
                wanted.apart_from.push(group.clone());
            }
            request.groups.push(group);
        }
        3..6 => request.snapshot = Some(format!("snapshot-{}", random.random_range(0..nodes))),
        6..9 if template == 0 => {
            request.spread_group = Some("web".to_owned());
            request.groups.push("web".to_owned());
        }
        _ => {}
    }
    request.constraints = wanted;
}
