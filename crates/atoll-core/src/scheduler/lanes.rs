//! The arithmetic of judgement: what one node is worth to several requests side by side.
//!
//! Shares are numbers from 0 to 1 in single precision, and every step is done for all requests
//! before the next one begins, which is what vector instructions want. One request by itself is
//! judged by the same steps ([`Wants::one`]), so both come to the same number to the last bit.
//!
//! A score is a whole number from 0 to 1,000,000, which single precision holds exactly; so do the
//! trees, because every processor has the maximum of such numbers as one vector instruction.

use super::amount::{Amount, DIMENSIONS, SHARE_MAX};
use super::constraint::Constraint;
use super::score::{Mix, SCORE_MAX, Term};
use super::table::Row;

/// Classes that are judged side by side: one cache line of their numbers.
pub(super) const LANES: usize = 16;

/// A node that fits has its score above this. The sum is below 2^24 and above 2^23, where single
/// precision has whole numbers only: adding rounds the score.
pub(super) const FITS: f32 = 8_388_608.0;

/// A verdict: the node fits.
pub(super) const VERDICT_FITS: u8 = u8::MAX;

/// Terms that follow from amounts and measurements, in this order.
pub(super) const RATED: [Term; 6] = [
    Term::Spread,
    Term::Pack,
    Term::Balance,
    Term::Usage,
    Term::Reliability,
    Term::Starts,
];

/// All of it, as a number to reckon with.
const WHOLE: f32 = SCORE_MAX as f32;

/// More than any share: a dimension that is not asked for is never the scarcest.
const SKIPPED: f32 = 4.0;

/// A change by a sixteenth of the node counts in full.
const BALANCE_GAIN: f32 = 8.0;

/// What a node has to offer, worked out once for all requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    free: [u32; DIMENSIONS],
    /// The same as numbers to reckon with.
    room: [f32; DIMENSIONS],
    /// Of the whole, without division.
    inverse: [f32; DIMENSIONS],
    /// How much allocation counts beside measured use, and what that adds.
    allocation: f32,
    measured: [f32; DIMENSIONS],
    /// How little is in use by measurement; none: not measured.
    unused: Option<f32>,
    reliability: f32,
    starts: f32,
    /// How far cpu and memory are apart.
    gap: f32,
}

impl Offer {
    /// `blend` is how much measured use counts, from 0 to 1.
    pub(super) fn of(row: &Row, blend: f32) -> Self {
        let (allocatable, used) = (row.allocatable.values(), row.used.values());
        let free: [u32; DIMENSIONS] =
            std::array::from_fn(|i| allocatable[i].saturating_sub(used[i]));
        let room = free.map(|free| free as f32);
        let load = row.load.map(|load| load as f32 / WHOLE);
        let blend = if row.has_load { blend } else { 0.0 };
        let most = load.into_iter().fold(0.0, larger);
        let starts = row.starts_max.saturating_sub(row.starting);
        let inverse = row.inverse;
        Self {
            free,
            room,
            inverse,
            allocation: 1.0 - blend,
            measured: load.map(|load| (1.0 - load) * blend),
            unused: row.has_load.then_some(1.0 - most),
            reliability: row.reliability as f32 / WHOLE,
            starts: f32::from(starts) / f32::from(row.starts_max.max(1)),
            gap: (room[0] * inverse[0] - room[1] * inverse[1]).abs(),
        }
    }
}

/// What so many requests want, and how much each term counts for them.
#[derive(Debug, Clone)]
pub(super) struct Wants<const N: usize> {
    amount: [[u32; N]; DIMENSIONS],
    /// The same as numbers to reckon with.
    size: [[f32; N]; DIMENSIONS],
    /// Of the amount, without division; 0 if nothing is wanted.
    inverse: [[f32; N]; DIMENSIONS],
    /// [`SKIPPED`] if nothing is wanted.
    skip: [[f32; N]; DIMENSIONS],
    weights: [[f32; N]; RATED.len()],
}

/// How the rooms of a node do for so many requests.
pub(super) struct Fits<const N: usize> {
    /// The first dimension that is short, as a constraint, or [`VERDICT_FITS`].
    pub(super) verdict: [u8; N],
    /// How near the node comes where something is short.
    pub(super) closeness: [f32; N],
}

/// The values of [`RATED`] for so many requests.
pub(super) type Rates<const N: usize> = [[f32; N]; RATED.len()];

impl Wants<1> {
    /// Of one request.
    pub(super) fn one(amount: Amount, mix: &Mix) -> Self {
        let mut wants = Self::new();
        wants.set(0, amount, mix);
        wants
    }
}

impl<const N: usize> Wants<N> {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self {
            amount: [[0; N]; DIMENSIONS],
            size: [[0.0; N]; DIMENSIONS],
            inverse: [[0.0; N]; DIMENSIONS],
            skip: [[SKIPPED; N]; DIMENSIONS],
            weights: [[0.0; N]; RATED.len()],
        }
    }

    /// Takes in a request.
    pub(super) fn set(&mut self, lane: usize, amount: Amount, mix: &Mix) {
        for (i, wanted) in amount.values().iter().enumerate() {
            let size = *wanted as f32;
            self.amount[i][lane] = *wanted;
            self.size[i][lane] = size;
            self.inverse[i][lane] = if *wanted == 0 { 0.0 } else { 1.0 / size };
            self.skip[i][lane] = if *wanted == 0 { SKIPPED } else { 0.0 };
        }
        for (at, term) in RATED.into_iter().enumerate() {
            self.weights[at][lane] = mix.weight(term);
        }
    }

    /// Whether there is room.
    #[inline]
    pub(super) fn fits(&self, offer: &Offer) -> Fits<N> {
        let mut first = [u32::from(VERDICT_FITS); N];
        for i in (0..DIMENSIONS).rev() {
            let short = Constraint::OF_DIMENSIONS[i] as u32;
            for (first, wanted) in first.iter_mut().zip(&self.amount[i]) {
                *first = if *wanted > offer.free[i] {
                    short
                } else {
                    *first
                };
            }
        }
        let mut verdict = [VERDICT_FITS; N];
        let mut is_short = false;
        for (verdict, first) in verdict.iter_mut().zip(first) {
            *verdict = first.to_le_bytes()[0];
            is_short |= *verdict != VERDICT_FITS;
        }
        let mut closeness = [0.0; N];
        if is_short {
            closeness = self.closeness(offer);
        }
        Fits { verdict, closeness }
    }

    fn closeness(&self, offer: &Offer) -> [f32; N] {
        let mut shortage = [0.0; N];
        for i in 0..DIMENSIONS {
            for (lane, shortage) in shortage.iter_mut().enumerate() {
                let short = self.size[i][lane] - offer.room[i];
                *shortage = larger(*shortage, short * self.inverse[i][lane]);
            }
        }
        // Something is missing, so it is not all of it; something was wanted, so it is not nothing.
        shortage.map(|shortage| larger(1.0, ((1.0 - shortage) * WHOLE + FITS) - FITS))
    }

    /// How good the node is in each term.
    #[inline]
    pub(super) fn rate(&self, offer: &Offer) -> Rates<N> {
        let mut rates = [[0.0; N]; RATED.len()];
        let mut least = [1.0; N];
        let mut spread = [1.0; N];
        let mut apart = [0.0; N];
        for i in 0..DIMENSIONS {
            let (room, inverse) = (offer.room[i], offer.inverse[i]);
            let (part, measured) = (offer.allocation, offer.measured[i]);
            for lane in 0..N {
                let free = (room - self.size[i][lane]) * inverse;
                let skip = self.skip[i][lane];
                least[lane] = smaller(least[lane], free + skip);
                spread[lane] = smaller(spread[lane], free * part + measured + skip);
                if i == 0 {
                    apart[lane] = free;
                } else if i == 1 {
                    apart[lane] = (apart[lane] - free).abs();
                }
            }
        }
        let unused = offer.unused.unwrap_or(0.0);
        let guess = if offer.unused.is_some() { 0.0 } else { 1.0 };
        for lane in 0..N {
            let change = (offer.gap - apart[lane]) * BALANCE_GAIN;
            rates[0][lane] = larger(spread[lane], 0.0);
            rates[1][lane] = 1.0 - larger(least[lane], 0.0);
            rates[2][lane] = 0.5 + larger(smaller(change, 0.5), -0.5);
            // What is allocated stands for what was not measured.
            rates[3][lane] = unused + guess * larger(least[lane], 0.0);
            rates[4][lane] = offer.reliability;
            rates[5][lane] = offer.starts;
        }
        rates
    }

    /// What that comes to, with what each request adds.
    #[inline]
    pub(super) fn sum(&self, rates: &Rates<N>, more: &[f32; N]) -> [f32; N] {
        let mut sum = *more;
        for (rates, weights) in rates.iter().zip(&self.weights) {
            for lane in 0..N {
                sum[lane] += rates[lane] * weights[lane];
            }
        }
        sum
    }
}

/// A sum of shares as the number of a node that fits.
#[inline]
pub(super) fn leaf(sum: f32) -> f32 {
    smaller(larger(sum, 0.0), 1.0) * WHOLE + FITS
}

/// A share in millionths.
pub(super) fn millionths(share: f32) -> u32 {
    whole(leaf(share) - FITS)
}

/// A whole number from 0 to below 2^24.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole, not negative and small by where it comes from"
)]
pub(super) const fn whole(number: f32) -> u32 {
    number as u32
}

/// What to divide by a whole without dividing; 0 for a whole of nothing.
pub(super) fn inverse(whole: u32) -> f32 {
    if whole == 0 { 0.0 } else { 1.0 / whole as f32 }
}

/// A share in millionths as a number to reckon with.
pub(super) fn part(share: u32) -> f32 {
    share.min(SHARE_MAX) as f32 / WHOLE
}

/// `f32::max` asks for numbers that are none; there are none here.
#[inline]
pub(super) const fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline]
const fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}
