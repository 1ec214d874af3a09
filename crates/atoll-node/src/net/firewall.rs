//! The instance's packet filter: one nf_tables table, the same whatever was there before.
//!
//! ```text
//! forward ── from a sandbox ─▶ outbound ─ to another sandbox ─▶ denied
//!    │                            ├ belongs to a connection ─▶ accept
//!    │                            ├ DNS to a resolver ─▶ egress
//!    │                            ├ to an internal range ─▶ denied
//!    │                            └▶ egress ─ by interface ─▶ slot-N: allow, deny, accept, denied
//!    └─ to a sandbox ─▶ inbound: only what belongs to a connection
//! input ── from a sandbox ─▶ local: DNS to a resolver ─▶ egress; else denied
//! postrouting ── from a sandbox's address, outwards ─▶ masquerade
//! ```
//!
//! Invariants: an interface without an entry in the map reaches nothing; a policy is replaced in
//! one transaction; connections that were allowed when they began stay. A denied packet is
//! answered, so that programs fail at once instead of hanging.

use std::io;
use std::net::Ipv4Addr;

use super::cidr::Cidr;
use super::nft::{self, Field, Hook, Rule, Transaction, Verdict};
use super::policy::{INTERNAL, Rules};

/// Map from interface to the slot's chain.
const EGRESS_MAP: &str = "egress-by-link";
const DNS_PORT: u16 = 53;

/// See the module. The functions block, and act in the network namespace of the calling thread.
#[derive(Debug, Clone)]
pub(super) struct Firewall {
    pub(super) handle: nft::Handle,
    pub(super) table: String,
    /// Start of the name of every host-side interface.
    pub(super) link_prefix: String,
    /// The addresses of sandboxes.
    pub(super) range: Cidr,
    /// Resolvers that sandboxes may ask, though their addresses be internal.
    pub(super) resolvers: Vec<Ipv4Addr>,
    /// Ranges denied beside [`INTERNAL`].
    pub(super) denied: Vec<Cidr>,
}

impl Firewall {
    /// Puts the common chains in place and leaves the slots' chains as they are. A table that an
    /// incompatible version left is replaced, which takes all egress from its slots until their
    /// policies are applied again.
    pub(super) fn install(&self) -> io::Result<()> {
        if self.common().commit(&self.handle).is_ok() {
            return Ok(());
        }
        self.remove()?;
        self.common().commit(&self.handle)
    }

    /// Deletes the whole table. That there is none is success.
    pub(super) fn remove(&self) -> io::Result<()> {
        let mut transaction = Transaction::new(&self.table);
        transaction.table().delete_table();
        transaction.commit(&self.handle)
    }

    /// Lets the slot's interface reach what `rules` say, instead of what it could reach before.
    pub(super) fn apply(&self, index: u32, link: &str, rules: &Rules) -> io::Result<()> {
        let chain = slot_chain(index);
        let mut transaction = Transaction::new(&self.table);
        transaction.empty_chain(&chain, None);
        transaction.map_entry(EGRESS_MAP, link, &Verdict::Jump(&chain));
        let mut rule_for = |range: Cidr, verdict: Verdict<'_>| {
            let rule = Rule::new()
                .within(Field::Destination, range)
                .verdict(&verdict);
            transaction.rule(&chain, &rule);
        };
        for range in &rules.allow {
            rule_for(*range, Verdict::Accept);
        }
        for range in &rules.deny {
            rule_for(*range, Verdict::Goto("denied"));
        }
        if rules.is_open {
            transaction.rule(&chain, &Rule::new().verdict(&Verdict::Accept));
        }
        transaction.commit(&self.handle)
    }

    /// Removes the slot's entry and chain. That there are none is success.
    pub(super) fn forget(&self, index: u32, link: &str) -> io::Result<()> {
        let chain = slot_chain(index);
        let mut transaction = Transaction::new(&self.table);
        // What is missing is made first, because removing what is not there fails.
        transaction.empty_chain(&chain, None);
        transaction.map_entry(EGRESS_MAP, link, &Verdict::Jump(&chain));
        transaction.delete_map_entry(EGRESS_MAP, link);
        transaction.delete_chain(&chain);
        transaction.commit(&self.handle)
    }

    fn common(&self) -> Transaction<'_> {
        let mut transaction = Transaction::new(&self.table);
        transaction.table();
        transaction.verdict_map(EGRESS_MAP);
        for chain in ["denied", "egress", "outbound", "inbound", "local"] {
            transaction.empty_chain(chain, None);
        }
        transaction.empty_chain("forward", Some(Hook::Forward));
        transaction.empty_chain("input", Some(Hook::Input));
        transaction.empty_chain("postrouting", Some(Hook::Postrouting));
        for (chain, rule) in self.rules() {
            transaction.rule(chain, &rule);
        }
        transaction
    }

    fn rules(&self) -> Vec<(&'static str, Rule)> {
        let goto = |rule: Rule, chain| rule.verdict(&Verdict::Goto(chain));
        let ours = self.link_prefix.as_bytes();
        let from_us = || Rule::new().equals(Field::InputName, ours);
        let to_us = || Rule::new().equals(Field::OutputName, ours);
        let known = nft::STATE_ESTABLISHED | nft::STATE_RELATED;
        let accept_known = || Rule::new().has_state(known).verdict(&Verdict::Accept);
        let not_ipv4 = Rule::new().differs(Field::NetworkProtocol, &[nft::IPV4]);
        let spoofed = Rule::new().outside(Field::Source, self.range);
        let mut rules = vec![
            ("forward", goto(from_us(), "outbound")),
            ("forward", goto(to_us(), "inbound")),
            ("input", goto(from_us(), "local")),
            ("inbound", accept_known()),
            ("inbound", Rule::new().verdict(&Verdict::Drop)),
            ("outbound", not_ipv4.verdict(&Verdict::Drop)),
            ("outbound", spoofed.verdict(&Verdict::Drop)),
            ("outbound", goto(to_us(), "denied")),
            ("outbound", accept_known()),
            (
                "outbound",
                Rule::new()
                    .has_state(nft::STATE_INVALID)
                    .verdict(&Verdict::Drop),
            ),
        ];
        for resolver in &self.resolvers {
            for protocol in [nft::UDP, nft::TCP] {
                for chain in ["outbound", "local"] {
                    rules.push((chain, goto(dns_to(*resolver, protocol), "egress")));
                }
            }
        }
        for range in INTERNAL.iter().chain(&self.denied) {
            let rule = Rule::new().within(Field::Destination, *range);
            rules.push(("outbound", goto(rule, "denied")));
        }
        let outwards = Rule::new()
            .equals(Field::NetworkProtocol, &[nft::IPV4])
            .within(Field::Source, self.range)
            .differs(Field::OutputName, ours);
        rules.extend([
            ("outbound", goto(Rule::new(), "egress")),
            ("local", goto(Rule::new(), "denied")),
            (
                "egress",
                Rule::new().verdict_by(Field::InputName, EGRESS_MAP),
            ),
            ("egress", goto(Rule::new(), "denied")),
            ("denied", Rule::new().reject()),
            ("postrouting", outwards.masquerade()),
        ]);
        rules
    }
}

/// The family number and table of somebody else's filter that drops forwarded packets by default.
pub(super) fn foreign_drop(own_table: &str) -> Option<(u8, String)> {
    nft::foreign_forward_drop(own_table).ok().flatten()
}

fn dns_to(resolver: Ipv4Addr, protocol: u8) -> Rule {
    Rule::new()
        .equals(Field::NetworkProtocol, &[nft::IPV4])
        .within(Field::Destination, Cidr::new(resolver, 32))
        .equals(Field::TransportProtocol, &[protocol])
        .equals(Field::DestinationPort, &DNS_PORT.to_be_bytes())
}

fn slot_chain(index: u32) -> String {
    format!("slot-{index}")
}
