//! What happened, line by line, and a digest of it.

use std::collections::VecDeque;

/// Lines that are kept to be shown with a failure.
const TAIL_MAX: usize = 120;

/// The trace of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: u64,
    kept: VecDeque<String>,
    keeps_all: bool,
}

impl Trace {
    pub(crate) const fn new(keeps_all: bool) -> Self {
        Self {
            // FNV-1a: what is compared are two runs on one machine, not files of strangers.
            hash: 0xcbf2_9ce4_8422_2325,
            lines: 0,
            kept: VecDeque::new(),
            keeps_all,
        }
    }

    pub(crate) fn push(&mut self, line: String) {
        for byte in line.bytes().chain(*b"\n") {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if !self.keeps_all && self.kept.len() == TAIL_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn lines(&self) -> u64 {
        self.lines
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.kept).into()
    }
}
