//! What each node is worth to [`LANES`] classes, which are judged side by side.

use super::amount::Amount;
use super::constraint::{Constraint, Counts};
use super::lanes::{LANES, Offer, VERDICT_FITS, Wants, leaf};
use super::request::Sparing;
use super::score::Mix;
use super::tree::{CHUNK, Tree, Trees};

/// A verdict: there is no node, or it is in another zone, or there is no class.
pub(super) const VERDICT_ELSEWHERE: u8 = u8::MAX - 1;

#[derive(Debug)]
pub(super) struct Bank {
    wants: Wants<LANES>,
    /// By index.
    sparing: [usize; LANES],
    /// For each slot, side by side, so that a changed node is two cache lines here.
    known: Vec<Known>,
    trees: Trees,
    tallies: Vec<Tally>,
    making: [Making; LANES],
    /// The lanes that have not seen all nodes yet, as bits.
    partial: u16,
}

/// How far a class has been made: the chunks of slots that it has seen, of those that there were
/// when it was begun. Later ones are told as changes.
#[derive(Debug, Clone, Copy)]
struct Making {
    first: u32,
    chunks: u32,
    seen: u32,
}

impl Making {
    const DONE: Self = Self {
        first: 0,
        chunks: 1,
        seen: 1,
    };

    const fn has_seen(&self, slot: u32) -> bool {
        let chunk = slot / CHUNK;
        chunk >= self.chunks || (chunk + self.chunks - self.first) % self.chunks < self.seen
    }

    /// The next chunk.
    const fn next(&mut self) -> Option<u32> {
        if self.seen == self.chunks {
            return None;
        }
        self.seen += 1;
        Some((self.first + self.seen - 1) % self.chunks)
    }
}

/// What the classes know of a node.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Known {
    /// What the artifacts that it has ready add to its score.
    ready: [f32; LANES],
    /// What it falls to as far as that changes seldom, or that it fits.
    fixed: [u8; LANES],
    /// The same with all that counts.
    verdict: [u8; LANES],
}

impl Known {
    const NONE: Self = Self {
        ready: [0.0; LANES],
        fixed: [VERDICT_ELSEWHERE; LANES],
        verdict: [VERDICT_ELSEWHERE; LANES],
    };
}

/// What a class knows of all nodes.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: Counts,
    fitting: u32,
    members: Option<Members>,
}

/// The nodes that fit, to draw from.
#[derive(Debug, Default)]
struct Members {
    slots: Vec<u32>,
    /// Where each slot stands among them.
    places: Vec<u32>,
}

impl Members {
    fn set(&mut self, slot: u32, is_member: bool) {
        if self.places.len() <= slot as usize {
            self.places.resize(slot as usize + 1, u32::MAX);
        }
        let place = self.places[slot as usize];
        match (is_member, place) {
            (true, u32::MAX) => {
                self.places[slot as usize] = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
                self.slots.push(slot);
            }
            (false, place) if place != u32::MAX => {
                self.slots.swap_remove(place as usize);
                if let Some(moved) = self.slots.get(place as usize) {
                    self.places[*moved as usize] = place;
                }
                self.places[slot as usize] = u32::MAX;
            }
            (true | false, _) => {}
        }
    }
}

impl Tally {
    /// Of no node yet.
    pub(super) fn new(is_sampled: bool) -> Self {
        Self {
            members: is_sampled.then(Members::default),
            ..Self::default()
        }
    }

    fn note(&mut self, slot: u32, before: u8, now: u8) {
        match Constraint::ALL.get(usize::from(before)) {
            Some(constraint) => self.counts.subtract(*constraint),
            None => self.fitting -= u32::from(before == VERDICT_FITS),
        }
        match Constraint::ALL.get(usize::from(now)) {
            Some(constraint) => self.counts.add(*constraint, 1),
            None => self.fitting += u32::from(now == VERDICT_FITS),
        }
        if let Some(members) = &mut self.members {
            members.set(slot, now == VERDICT_FITS);
        }
    }
}

/// What a class knows of one node that changes seldom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seldom {
    pub(super) fixed: u8,
    pub(super) ready: f32,
}

impl Seldom {
    pub(super) const ELSEWHERE: Self = Self {
        fixed: VERDICT_ELSEWHERE,
        ready: 0.0,
    };
}

impl Bank {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            wants: Wants::new(),
            sparing: [0; LANES],
            known: vec![Known::NONE; slots],
            trees: Trees::new(slots),
            tallies: Vec::new(),
            making: [Making::DONE; LANES],
            partial: 0,
        }
    }

    /// Takes in slots up to so many.
    pub(super) fn grow(&mut self, slots: usize) {
        if self.known.len() < slots {
            self.known.resize(slots, Known::NONE);
            self.trees.grow(slots);
        }
    }

    /// Puts a class into a lane that has one, or into the next. [`Bank::step`] tells it of the
    /// nodes, beginning at a chunk that `seed` decides: not all classes know the same nodes first.
    pub(super) fn begin(
        &mut self,
        lane: usize,
        (amount, mix, sparing): (Amount, &Mix, Sparing),
        tally: Tally,
        seed: u64,
    ) {
        let slots = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let chunks = slots.div_ceil(CHUNK).max(1);
        let first = u32::try_from(seed % u64::from(chunks)).unwrap_or(0);
        self.making[lane] = Making {
            first,
            chunks,
            seen: 0,
        };
        self.partial |= 1 << lane;
        self.trees.begin(lane);
        self.wants.set(lane, amount, mix);
        self.sparing[lane] = sparing.index();
        match self.tallies.get_mut(lane) {
            Some(before) => *before = tally,
            None => self.tallies.push(tally),
        }
    }

    /// Works out one lane for its next chunk of slots; answers for how many, none if there is no
    /// more.
    pub(super) fn step(
        &mut self,
        lane: usize,
        wants: &Wants<1>,
        mut of: impl FnMut(u32) -> (Seldom, Option<Offer>, u8),
    ) -> Option<u32> {
        let chunk = self.making[lane].next()?;
        let making = self.making[lane];
        if making.seen == making.chunks {
            self.partial &= !(1 << lane);
        }
        let mut leaves = [0.0; CHUNK as usize];
        let begin = chunk as usize * leaves.len();
        let known = self.known.iter_mut().skip(begin);
        let mut count = 0;
        for ((slot, known), number) in (chunk * CHUNK..).zip(known).zip(&mut leaves) {
            let (seldom, offer, live) = of(slot);
            let (verdict, value) = match &offer {
                Some(offer) => judge(wants, offer, &[live], &[seldom.fixed], &[seldom.ready]),
                None => ([seldom.fixed], [0.0]),
            };
            known.fixed[lane] = seldom.fixed;
            known.ready[lane] = seldom.ready;
            known.verdict[lane] = verdict[0];
            self.tallies[lane].note(slot, VERDICT_ELSEWHERE, verdict[0]);
            *number = value[0];
            count += 1;
        }
        self.trees.fill(lane, chunk as usize, &leaves);
        Some(count)
    }

    /// The lanes that have not seen a slot, as bits.
    fn blind(&self, slot: u32) -> u16 {
        let mut open = self.partial;
        let mut blind = 0;
        while open != 0 {
            let lane = open.trailing_zeros();
            open &= open - 1;
            if !self.making[lane as usize % LANES].has_seen(slot) {
                blind |= 1 << lane;
            }
        }
        blind
    }

    /// Hides a slot from one lane's searches; answers what to put back.
    pub(super) fn hide(&mut self, lane: usize, slot: u32) -> Option<f32> {
        if !self.lane(lane).has_seen(slot) {
            return None;
        }
        let value = self.trees.get(lane, slot);
        (value > 0.0).then(|| {
            self.trees.set_one(lane, slot, 0.0);
            value
        })
    }

    /// Puts back what was hidden.
    pub(super) fn show(&mut self, lane: usize, slot: u32, value: f32) {
        self.trees.set_one(lane, slot, value);
    }

    pub(super) fn set_seldom(&mut self, lane: usize, slot: u32, seldom: Seldom) {
        let known = &mut self.known[slot as usize];
        known.fixed[lane] = seldom.fixed;
        known.ready[lane] = seldom.ready;
    }

    /// Judges a slot anew. `live` is what the node falls to for the time being, by what is spared.
    pub(super) fn look(&mut self, slot: u32, offer: &Offer, live: &[u8; 3]) {
        let blind = self.blind(slot);
        let known = &mut self.known[slot as usize];
        let live = match live {
            [VERDICT_FITS, VERDICT_FITS, VERDICT_FITS] => [VERDICT_FITS; LANES],
            _ => self.sparing.map(|step| live[step]),
        };
        let (mut verdict, leaves) = judge(&self.wants, offer, &live, &known.fixed, &known.ready);
        if blind != 0 {
            for lane in (0..LANES).filter(|lane| blind >> lane & 1 == 1) {
                verdict[lane] = known.verdict[lane];
            }
        }
        if verdict != known.verdict {
            let before = std::mem::replace(&mut known.verdict, verdict);
            let lanes = before.into_iter().zip(verdict).zip(&mut self.tallies);
            for ((before, now), tally) in lanes.filter(|((before, now), _)| before != now) {
                tally.note(slot, before, now);
            }
        }
        self.trees.set(slot, &leaves, self.tallies.len(), blind);
    }

    pub(super) const fn lane(&self, lane: usize) -> Lane<'_> {
        Lane { bank: self, lane }
    }

    pub(super) fn bytes(&self) -> usize {
        let members = self.tallies.iter().filter_map(|t| t.members.as_ref());
        let drawn = members.map(|m| (m.slots.capacity() + m.places.capacity()) * 4);
        self.trees.bytes() + self.known.capacity() * size_of::<Known>() + drawn.sum::<usize>()
    }
}

/// The verdicts and the leaves of a node.
#[inline]
fn judge<const N: usize>(
    wants: &Wants<N>,
    offer: &Offer,
    live: &[u8; N],
    fixed: &[u8; N],
    ready: &[f32; N],
) -> ([u8; N], [f32; N]) {
    let mut before = *fixed;
    for lane in 0..N {
        let is_open = before[lane] == VERDICT_FITS;
        before[lane] = if is_open { live[lane] } else { before[lane] };
    }
    if !before.contains(&VERDICT_FITS) {
        return (before, [0.0; N]);
    }
    let fits = wants.fits(offer);
    let sum = wants.sum(&wants.rate(offer), ready);
    let mut verdict = before;
    let mut leaves = fits.closeness;
    for lane in 0..N {
        let has_room = fits.verdict[lane] == VERDICT_FITS;
        let value = leaf(sum[lane]);
        let value = if has_room { value } else { leaves[lane] };
        let is_open = before[lane] == VERDICT_FITS;
        leaves[lane] = if is_open { value } else { 0.0 };
        verdict[lane] = if is_open {
            fits.verdict[lane]
        } else {
            before[lane]
        };
    }
    (verdict, leaves)
}

/// What one class knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane<'a> {
    bank: &'a Bank,
    lane: usize,
}

impl<'a> Lane<'a> {
    pub(super) const fn tree(self) -> Tree<'a> {
        self.bank.trees.tree(self.lane)
    }

    fn tally(self) -> &'a Tally {
        &self.bank.tallies[self.lane]
    }

    pub(super) fn counts(self) -> &'a Counts {
        &self.tally().counts
    }

    /// How many nodes fit.
    pub(super) fn fitting(self) -> u32 {
        self.tally().fitting
    }

    /// Whether not all nodes have been looked at for it.
    pub(super) const fn is_partial(self) -> bool {
        self.bank.partial >> self.lane & 1 == 1
    }

    /// Whether a slot counts in what it knows.
    fn has_seen(self, slot: u32) -> bool {
        (slot as usize) < self.bank.known.len() && self.bank.making[self.lane].has_seen(slot)
    }

    /// Whether a node fits.
    pub(super) fn fits(self, slot: u32) -> bool {
        self.verdict(slot) == VERDICT_FITS
    }

    /// What a node falls to; none if it fits, or there is none.
    pub(super) fn fallen(self, slot: u32) -> Option<Constraint> {
        Constraint::ALL
            .get(usize::from(self.verdict(slot)))
            .copied()
    }

    fn verdict(self, slot: u32) -> u8 {
        if !self.has_seen(slot) {
            return VERDICT_ELSEWHERE;
        }
        self.bank.known[slot as usize].verdict[self.lane]
    }

    /// Whether nothing that changes seldom speaks against a node.
    pub(super) fn is_open(self, slot: u32) -> bool {
        self.has_seen(slot) && self.bank.known[slot as usize].fixed[self.lane] == VERDICT_FITS
    }

    /// The nodes that fit, in no order, if the class draws from them.
    pub(super) fn members(self) -> &'a [u32] {
        let members = self.tally().members.as_ref();
        members.map_or(&[], |members| &members.slots)
    }

    /// What the class knows, for comparison with what it would know if it were made now.
    #[cfg(test)]
    pub(super) fn knowledge(self) -> Knowledge {
        let slots = 0..u32::try_from(self.bank.known.len()).unwrap();
        let leaves = slots.map(|slot| super::lanes::whole(self.tree().get(slot)));
        let mut members = self.members().to_vec();
        members.sort_unstable();
        let known = self.bank.known.iter();
        Knowledge {
            leaves: leaves.collect(),
            verdicts: known.map(|known| known.verdict[self.lane]).collect(),
            counts: *self.counts(),
            fitting: self.fitting(),
            members,
        }
    }
}

/// All that a class knows of the nodes.
#[cfg(test)]
#[derive(Debug, PartialEq)]
pub(super) struct Knowledge {
    leaves: Vec<u32>,
    verdicts: Vec<u8>,
    counts: Counts,
    fitting: u32,
    members: Vec<u32>,
}
