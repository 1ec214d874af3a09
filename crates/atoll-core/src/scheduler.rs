//! Which node a sandbox goes to: a pure decision that is fast, explains itself and reserves what it
//! gives away.
//!
//! A [`fleet::Fleet`] holds the nodes and answers a [`request::Request`] under a
//! [`policy::Policy`]. Time and seed are arguments, so a decision can be repeated.
//!
//! # Speed by structure
//!
//! Requests that ask for the same (size, constraints, weights) form a class. A class keeps one
//! number for each node in a tree of maxima ([`tree`]) that is 16 wide, so that a level is one
//! cache line: a decision reads a few lines a level. Sixteen classes lie side by side in a
//! [`bank`]: a node that changed is judged for all of them in one pass of vector instructions
//! ([`lanes`]), and its leaves and what is known of it are in one piece.
//!
//! A changed node waits in a short list ([`change`]) until the next decision, which looks at it
//! once for every class; if sixteen wait, whoever changes one more does it.
//!
//! A class is not made at once: each request of its kind looks at one chunk of 256 nodes that it
//! has not seen, and takes the best of what it knows. So a decision looks at [`LOOKS_MAX`] nodes at
//! most, whatever was asked before, how many kinds of requests there are and however large the
//! fleet is; but who asks for something new of which nothing fits in those chunks goes on until it
//! does, once. The least used class is dropped when there are too many.
//!
//! [`LOOKS_MAX`]: decide::LOOKS_MAX
//!
//! What only a few nodes have is no part of a class: a snapshot, a rarely used template and the
//! node of a given sandbox are looked at one by one, beside what the class answers, and the nodes
//! of a group to be apart from are hidden from it meanwhile. Nor are preferences that a class does
//! not know of: they leave its order as it is.
//!
//! # Exactness
//!
//! A request is refused if and only if no node fits, and the chosen node's score is the highest
//! there is minus at most the policy's `tolerance` (best of K and random aside, which choose among
//! nodes that fit by definition of the strategy). As long as a class has not seen all nodes, it is
//! the highest of those it has, and the decision says how many it has not. [`oracle`] says the same
//! by walking all nodes; the tests hold one against the other.

pub mod amount;
pub mod artifact;
mod bank;
mod change;
mod class;
pub mod constraint;
pub mod decide;
pub mod decision;
pub mod fleet;
pub mod forecast;
mod intern;
mod judge;
mod lanes;
pub mod node;
pub mod oracle;
pub mod overlay;
pub mod policy;
mod protection;
mod query;
pub mod record;
pub mod replicas;
pub mod request;
mod reservation;
pub mod score;
mod seed;
pub mod shares;
mod table;
pub mod total;
mod tree;

#[cfg(test)]
mod tests;
