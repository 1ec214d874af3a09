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
//! cache line: a decision reads one line a level, and a changed node rewrites one line a level at
//! most. A change of a node is written once, to a log ([`change`]); a class reads on from where it
//! was when it is next asked, and looks at each changed node once. So a decision costs
//! O(changes since this class was last asked + log n), never O(n); the one walk over the fleet is
//! the making of a class. The least used class is dropped when there are too many.
//!
//! What only a few nodes have (a snapshot, a rarely used template, the node of a given sandbox) is
//! no part of a class: those few nodes are looked at one by one, beside what the class answers.
//!
//! # Exactness
//!
//! A request is refused if and only if no node fits, and the chosen node's score is the highest
//! there is minus at most the policy's `tolerance` (best of K and random aside, which choose among
//! nodes that fit by definition of the strategy). [`oracle`] says the same by walking all nodes;
//! the tests hold one against the other.

pub mod amount;
pub mod artifact;
mod change;
mod class;
pub mod constraint;
mod decide;
pub mod decision;
pub mod fleet;
pub mod forecast;
mod intern;
mod judge;
pub mod node;
pub mod oracle;
pub mod policy;
mod protection;
mod query;
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
