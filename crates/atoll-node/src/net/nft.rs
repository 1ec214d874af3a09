//! nf_tables over netlink: tables, chains, rules, verdict maps, and the few expressions that the
//! rule set uses. The `nft` program is not needed.
//!
//! A [`Transaction`] is applied as a whole or not at all, and packets see either all of it or
//! nothing. Source of the formats: linux/netfilter/nf_tables.h and nfnetlink.h.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::cidr::Cidr;
use super::netlink::{APPEND, CREATE, Family, Message, Socket, attributes};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

/// The family whose chains see IPv4 and IPv6.
const INET: u8 = 1;
const NFGENMSG_LEN: usize = 4;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_ID: u16 = 10;
const SET_USER_DATA: u16 = 13;
/// Tells `nft` to show names and not numbers: keys are in host byte order.
const USER_DATA_HOST_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];
const SET_IS_MAP: u32 = 8;
/// How `nft` shows the keys; the kernel does not care.
const KEY_TYPE_IFNAME: u32 = 41;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;
const IFNAME_LEN: usize = 16;
const POLICY_DROP: u32 = 0;
const POLICY_ACCEPT: u32 = 1;
const HOOK_FORWARD: u32 = 2;

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    Input,
    Forward,
    /// With address translation.
    Postrouting,
}

/// What becomes of a packet.
#[derive(Debug, Clone)]
pub(super) enum Verdict<'a> {
    Accept,
    Drop,
    /// Go on in that chain, and come back if it has no answer.
    Jump(&'a str),
    /// Go on in that chain for good.
    Goto(&'a str),
}

/// A part of a packet or its context.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    InputName,
    OutputName,
    /// IPv4 or IPv6, as in [`IPV4`].
    NetworkProtocol,
    /// As in [`TCP`] and [`UDP`].
    TransportProtocol,
    /// IPv4 only.
    Source,
    /// IPv4 only.
    Destination,
    /// TCP and UDP only.
    DestinationPort,
    /// The state of the connection, a mask of the `STATE_` constants.
    ConnectionState,
}

pub(super) const IPV4: u8 = 2;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const STATE_INVALID: u32 = 1;
pub(super) const STATE_ESTABLISHED: u32 = 2;
pub(super) const STATE_RELATED: u32 = 4;

/// A rule under construction: a packet goes through its expressions until one does not match.
#[derive(Debug)]
pub(super) struct Rule {
    message: Message,
}

impl Rule {
    pub(super) fn new() -> Self {
        Self {
            // A carrier for the list of expressions; its own header is dropped.
            message: Message::new(0, 0),
        }
    }

    /// Matches if the field is exactly `value`, or begins with it.
    pub(super) fn equals(self, field: Field, value: &[u8]) -> Self {
        self.load(field).compare(true, value)
    }

    /// Matches if the field is not `value`, and does not begin with it.
    pub(super) fn differs(self, field: Field, value: &[u8]) -> Self {
        self.load(field).compare(false, value)
    }

    /// Matches IPv4 addresses in the range.
    pub(super) fn within(self, field: Field, range: Cidr) -> Self {
        self.load(field)
            .mask(&range.mask().octets())
            .compare(true, &range.address().octets())
    }

    /// Matches IPv4 addresses outside the range.
    pub(super) fn outside(self, field: Field, range: Cidr) -> Self {
        self.load(field)
            .mask(&range.mask().octets())
            .compare(false, &range.address().octets())
    }

    /// Matches if any of these bits of the connection's state is set.
    pub(super) fn has_state(self, bits: u32) -> Self {
        self.load(Field::ConnectionState)
            .mask(&bits.to_ne_bytes())
            .compare(false, &0u32.to_ne_bytes())
    }

    pub(super) fn verdict(self, verdict: &Verdict<'_>) -> Self {
        self.expression("immediate", |data| {
            data.attr_be32(1, VERDICT_REGISTER);
            data.nest(2, |value| put_verdict(value, verdict));
        })
    }

    /// Looks the field up in a verdict map; without an entry the rule does not match.
    pub(super) fn verdict_by(self, field: Field, map: &str) -> Self {
        self.load(field).expression("lookup", |data| {
            data.attr_str(1, map);
            data.attr_be32(2, REGISTER);
            data.attr_be32(3, VERDICT_REGISTER);
        })
    }

    /// Answers with "administratively prohibited", so that the sender need not wait for a time-out.
    pub(super) fn reject(self) -> Self {
        const BY_FAMILY: u32 = 2;
        const ADMINISTRATIVELY_PROHIBITED: u8 = 3;
        self.expression("reject", |data| {
            data.attr_be32(1, BY_FAMILY);
            data.attr(2, &[ADMINISTRATIVELY_PROHIBITED]);
        })
    }

    /// Gives the packet the address of the interface by which it leaves.
    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", |_| {})
    }

    fn load(self, field: Field) -> Self {
        let (meta, payload) = match field {
            Field::InputName => (6, None),
            Field::OutputName => (7, None),
            Field::NetworkProtocol => (15, None),
            Field::TransportProtocol => (16, None),
            Field::Source => (0, Some((1, 12, 4))),
            Field::Destination => (0, Some((1, 16, 4))),
            Field::DestinationPort => (0, Some((2, 2, 2))),
            Field::ConnectionState => {
                return self.expression("ct", |data| {
                    data.attr_be32(1, REGISTER);
                    data.attr_be32(2, 0);
                });
            }
        };
        match payload {
            None => self.expression("meta", |data| {
                data.attr_be32(1, REGISTER);
                data.attr_be32(2, meta);
            }),
            Some((base, offset, len)) => self.expression("payload", |data| {
                data.attr_be32(1, REGISTER);
                data.attr_be32(2, base);
                data.attr_be32(3, offset);
                data.attr_be32(4, len);
            }),
        }
    }

    fn mask(self, mask: &[u8]) -> Self {
        let len = u32::try_from(mask.len()).expect("masks have four bytes");
        self.expression("bitwise", |data| {
            data.attr_be32(1, REGISTER);
            data.attr_be32(2, REGISTER);
            data.attr_be32(3, len);
            data.nest(4, |value| {
                value.attr(DATA_VALUE, mask);
            });
            data.nest(5, |value| {
                value.attr(DATA_VALUE, &vec![0; mask.len()]);
            });
        })
    }

    fn compare(self, is_equal: bool, value: &[u8]) -> Self {
        self.expression("cmp", |data| {
            data.attr_be32(1, REGISTER);
            data.attr_be32(2, u32::from(!is_equal));
            data.nest(3, |nested| {
                nested.attr(DATA_VALUE, value);
            });
        })
    }

    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Message)) -> Self {
        self.message.nest(LIST_ELEMENT, |element| {
            element.attr_str(EXPRESSION_NAME, name);
            element.nest(EXPRESSION_DATA, fill);
        });
        self
    }
}

/// The socket that transactions go through, opened at the first. Closing one waits until the kernel
/// has cleaned up after everybody's deletions, which takes many milliseconds, so it is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Handle {
    socket: Arc<Mutex<Option<Socket>>>,
}

impl Handle {
    fn lock(&self) -> io::Result<MutexGuard<'_, Option<Socket>>> {
        // A panic in the middle of an exchange may have left replies in the queue.
        let mut socket = self.socket.lock().unwrap_or_else(|poisoned| {
            let mut socket = poisoned.into_inner();
            *socket = None;
            socket
        });
        if socket.is_none() {
            *socket = Some(Socket::open(Family::Netfilter)?);
        }
        Ok(socket)
    }
}

/// Changes to one table, applied together.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    table: &'a str,
    messages: Vec<Message>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(table: &'a str) -> Self {
        Self {
            table,
            messages: Vec::new(),
        }
    }

    /// Makes the table unless it is there.
    pub(super) fn table(&mut self) -> &mut Self {
        let table = self.table;
        self.add(NEW_TABLE, CREATE, |m| {
            m.attr_str(TABLE_NAME, table);
        })
    }

    /// Deletes the table with everything in it; it must be there.
    pub(super) fn delete_table(&mut self) -> &mut Self {
        let table = self.table;
        self.add(DELETE_TABLE, 0, |m| {
            m.attr_str(TABLE_NAME, table);
        })
    }

    /// Makes a chain unless it is there, and empties it.
    pub(super) fn empty_chain(&mut self, name: &str, hook: Option<Hook>) -> &mut Self {
        self.chain(name, hook);
        let table = self.table;
        self.add(DELETE_RULE, 0, |m| {
            m.attr_str(RULE_TABLE, table);
            m.attr_str(RULE_CHAIN, name);
        })
    }

    fn chain(&mut self, name: &str, hook: Option<Hook>) -> &mut Self {
        let table = self.table;
        self.add(NEW_CHAIN, CREATE, |m| {
            m.attr_str(CHAIN_TABLE, table);
            m.attr_str(CHAIN_NAME, name);
            let Some(hook) = hook else { return };
            let (number, priority, kind) = match hook {
                Hook::Input => (1, 0, "filter"),
                Hook::Forward => (HOOK_FORWARD, 0, "filter"),
                Hook::Postrouting => (4, 100, "nat"),
            };
            m.nest(CHAIN_HOOK, |nested| {
                nested.attr_be32(HOOK_NUMBER, number);
                nested.attr_be32(HOOK_PRIORITY, priority);
            });
            m.attr_be32(CHAIN_POLICY, POLICY_ACCEPT);
            m.attr_str(CHAIN_TYPE, kind);
        })
    }

    /// Deletes a chain, which must be there, be empty, and be referred to by nothing.
    pub(super) fn delete_chain(&mut self, name: &str) -> &mut Self {
        let table = self.table;
        self.add(DELETE_CHAIN, 0, |m| {
            m.attr_str(CHAIN_TABLE, table);
            m.attr_str(CHAIN_NAME, name);
        })
    }

    /// Appends a rule to a chain.
    pub(super) fn rule(&mut self, chain: &str, rule: &Rule) -> &mut Self {
        let table = self.table;
        self.add(NEW_RULE, CREATE | APPEND, |m| {
            m.attr_str(RULE_TABLE, table);
            m.attr_str(RULE_CHAIN, chain);
            m.nest(RULE_EXPRESSIONS, |list| {
                list.put(rule.message.body());
            });
        })
    }

    /// Makes a map from interface names to verdicts unless it is there.
    pub(super) fn verdict_map(&mut self, name: &str) -> &mut Self {
        let table = self.table;
        self.add(NEW_SET, CREATE, |m| {
            m.attr_str(SET_TABLE, table);
            m.attr_str(SET_NAME, name);
            m.attr_be32(SET_FLAGS, SET_IS_MAP);
            m.attr_be32(SET_KEY_TYPE, KEY_TYPE_IFNAME);
            m.attr_be32(SET_KEY_LEN, 16);
            m.attr_be32(SET_DATA_TYPE, DATA_TYPE_VERDICT);
            // Only for references within the batch, but the kernel insists on one.
            m.attr_be32(SET_ID, 1);
            m.attr(SET_USER_DATA, &USER_DATA_HOST_ORDER);
        })
    }

    /// Enters a verdict for an interface; the same entry again changes nothing.
    pub(super) fn map_entry(&mut self, map: &str, link: &str, verdict: &Verdict<'_>) -> &mut Self {
        self.element(NEW_ELEMENT, CREATE, map, link, Some(verdict))
    }

    /// Removes an interface's entry, which must be there.
    pub(super) fn delete_map_entry(&mut self, map: &str, link: &str) -> &mut Self {
        self.element(DELETE_ELEMENT, 0, map, link, None)
    }

    fn element(
        &mut self,
        kind: u16,
        flags: u16,
        map: &str,
        link: &str,
        verdict: Option<&Verdict<'_>>,
    ) -> &mut Self {
        let table = self.table;
        let mut key = [0; IFNAME_LEN];
        key[..link.len()].copy_from_slice(link.as_bytes());
        self.add(kind, flags, |m| {
            m.attr_str(ELEMENTS_TABLE, table);
            m.attr_str(ELEMENTS_SET, map);
            m.nest(ELEMENTS_LIST, |list| {
                list.nest(LIST_ELEMENT, |element| {
                    element.nest(ELEMENT_KEY, |data| {
                        data.attr(DATA_VALUE, &key);
                    });
                    if let Some(verdict) = verdict {
                        element.nest(ELEMENT_DATA, |data| put_verdict(data, verdict));
                    }
                });
            });
        })
    }

    /// Applies everything.
    ///
    /// # Errors
    /// The first refusal; nothing has changed then.
    pub(super) fn commit(self, handle: &Handle) -> io::Result<()> {
        let frame = |kind: u16| {
            let mut message = Message::new(kind, super::netlink::REQUEST);
            let subsystem = SUBSYSTEM.to_be_bytes();
            message.put(&[0, 0, subsystem[0], subsystem[1]]);
            message
        };
        let mut socket = handle.lock()?;
        let socket = socket.as_mut().expect("a locked handle is open");
        socket.batch(frame(BATCH_BEGIN), self.messages, frame(BATCH_END))
    }

    fn add(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Message)) -> &mut Self {
        let mut message = Message::new(SUBSYSTEM << 8 | kind, flags);
        message.put(&[INET, 0, 0, 0]);
        fill(&mut message);
        self.messages.push(message);
        self
    }
}

/// A base chain that somebody else hung into the forwarding path and that drops by default: its
/// family number and table.
pub(super) fn foreign_forward_drop(own_table: &str) -> io::Result<Option<(u8, String)>> {
    let mut message = Message::new(SUBSYSTEM << 8 | GET_CHAIN, 0);
    message.put(&[0; NFGENMSG_LEN]);
    let mut found = None;
    Socket::open(Family::Netfilter)?.dump(message, |_, body| {
        let foreign = dropping_forward_chain(body).filter(|(_, table)| table != own_table);
        found = foreign.or_else(|| found.take());
    })?;
    Ok(found)
}

fn dropping_forward_chain(body: &[u8]) -> Option<(u8, String)> {
    let (mut table, mut hook, mut policy) = (None, None, None);
    for (kind, value) in attributes(body.get(NFGENMSG_LEN..)?) {
        match kind {
            CHAIN_TABLE => {
                let text = value.strip_suffix(&[0]).unwrap_or(value);
                table = Some(String::from_utf8_lossy(text).into_owned());
            }
            CHAIN_HOOK => {
                let number = attributes(value).find(|(kind, _)| *kind == HOOK_NUMBER);
                hook = number.and_then(|(_, value)| be_u32(value));
            }
            CHAIN_POLICY => policy = be_u32(value),
            _ => {}
        }
    }
    let drops = hook == Some(HOOK_FORWARD) && policy == Some(POLICY_DROP);
    drops.then_some((*body.first()?, table?))
}

fn be_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

fn put_verdict(message: &mut Message, verdict: &Verdict<'_>) {
    let (code, chain) = match verdict {
        Verdict::Accept => (1, None),
        Verdict::Drop => (0, None),
        Verdict::Jump(chain) => (-3_i32, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    message.nest(DATA_VERDICT, |data| {
        data.attr_be32(VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = chain {
            data.attr_str(VERDICT_CHAIN, chain);
        }
    });
}
