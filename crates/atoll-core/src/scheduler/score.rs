//! How good a node is, in named parts.

use std::fmt;

use super::amount::SHARE_MAX;

/// How many terms there are.
pub const TERMS: usize = 12;

/// The highest score.
pub const SCORE_MAX: u32 = SHARE_MAX;

/// What a score is made of. Each term is 0 to [`SCORE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// How much of the scarcest resource stays free, blended with measured use.
    Spread,
    /// How full the node gets in the resource that it is left with least of.
    Pack,
    /// Whether cpu and memory are used up more evenly: what is left behind a full one is stranded.
    Balance,
    /// How little of the node is in use by measurement.
    Usage,
    /// How rarely starts failed on the node lately.
    Reliability,
    /// How many of the node's start slots are free.
    Starts,
    /// Whether the template is there.
    Template,
    /// Whether the snapshot is there.
    Snapshot,
    /// How many of the image's layers are there.
    Layers,
    /// Whether a started instance of the template waits there.
    Warm,
    /// Whether it is the node of the given sandbox.
    Near,
    /// How few of the group's sandboxes are in the node's zone.
    Zones,
}

impl Term {
    /// All, in the order of their index.
    pub const ALL: [Self; TERMS] = [
        Self::Spread,
        Self::Pack,
        Self::Balance,
        Self::Usage,
        Self::Reliability,
        Self::Starts,
        Self::Template,
        Self::Snapshot,
        Self::Layers,
        Self::Warm,
        Self::Near,
        Self::Zones,
    ];

    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spread => "spread",
            Self::Pack => "pack",
            Self::Balance => "balance",
            Self::Usage => "usage",
            Self::Reliability => "reliability",
            Self::Starts => "starts",
            Self::Template => "template",
            Self::Snapshot => "snapshot",
            Self::Layers => "layers",
            Self::Warm => "warm",
            Self::Near => "near",
            Self::Zones => "zones",
        }
    }

    /// The term of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|term| term.as_str() == name)
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// How much each term counts, in any unit: only the proportions matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Weights([u16; TERMS]);

impl Weights {
    /// These terms and no others.
    #[must_use]
    pub fn of(terms: &[(Term, u16)]) -> Self {
        let mut weights = Self::default();
        for (term, weight) in terms {
            weights.0[term.index()] = *weight;
        }
        weights
    }

    /// The weight of a term.
    #[must_use]
    pub const fn get(&self, term: Term) -> u16 {
        self.0[term.index()]
    }

    /// All of those terms together.
    pub(super) fn sum(&self, applies: impl Fn(Term) -> bool) -> u32 {
        let terms = Term::ALL.into_iter().filter(|term| applies(*term));
        terms.map(|term| u32::from(self.get(term))).sum()
    }

    /// Both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| {
            self.0[i].saturating_add(other.0[i])
        }))
    }
}

/// Weights whose sum is [`Mix::WHOLE`], or all 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Mix([u32; TERMS]);

impl Mix {
    /// A power of two: each part of it is exact in single precision. As fine as that gets, so that
    /// the same weights among more of them stay in proportion to less than a millionth.
    const WHOLE: u32 = 1 << 24;

    /// Only the terms that apply, in proportion. What rounding loses goes to the last of them.
    pub(super) fn new(weights: &Weights, applies: impl Fn(Term) -> bool) -> Self {
        let weight = |term: Term| if applies(term) { weights.get(term) } else { 0 };
        let sum = weights.sum(&applies);
        if sum == 0 {
            return Self::default();
        }
        let mut left = Self::WHOLE;
        let mut mix = Self::default();
        let mut last = 0;
        for term in Term::ALL.into_iter().filter(|term| weight(*term) > 0) {
            let part = u64::from(weight(term)) * u64::from(Self::WHOLE) / u64::from(sum);
            let part = u32::try_from(part).unwrap_or(0).min(left);
            mix.0[term.index()] = part;
            left -= part;
            last = term.index();
        }
        mix.0[last] += left;
        mix
    }

    pub(super) const fn get(&self, term: Term) -> u32 {
        self.0[term.index()]
    }

    /// How much a term counts, as a share.
    pub(super) fn weight(&self, term: Term) -> f32 {
        // Exact: a share of a power of two.
        self.get(term) as f32 / Self::WHOLE as f32
    }
}

/// A part of [`Mix::WHOLE`] in thousandths.
fn permille(part: u32) -> u32 {
    let permille = u64::from(part) * 1_000 / u64::from(Mix::WHOLE);
    u32::try_from(permille).unwrap_or(1_000)
}

/// What the scores of a class, which knows only some of the terms, are of whole scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scale {
    known: u32,
    all: u32,
}

impl Scale {
    /// `known` are those of `all` that the class knows.
    pub(super) fn new(known: u32, all: u32) -> Self {
        Self { known, all }
    }

    /// What a class's score is of a whole one.
    pub(super) fn whole(self, score: u32) -> u32 {
        if self.known == self.all {
            return score;
        }
        let whole = u64::from(score) * u64::from(self.known) / u64::from(self.all.max(1));
        u32::try_from(whole).unwrap_or(SCORE_MAX)
    }

    /// What a part of a whole score is of a class's.
    pub(super) fn part(self, score: u32) -> u32 {
        if self.known == self.all {
            return score;
        }
        let part = u64::from(score) * u64::from(self.all) / u64::from(self.known.max(1));
        u32::try_from(part).unwrap_or(SCORE_MAX).min(SCORE_MAX)
    }
}

/// A part of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Of what.
    pub term: Term,
    /// How good the node is in that: 0 to [`SCORE_MAX`].
    pub value: u32,
    /// How much that counts, in thousandths of the whole.
    pub weight_permille: u32,
}

/// A score and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Score {
    pub(super) total: u32,
    pub(super) values: [u32; TERMS],
    pub(super) mix: Mix,
}

impl Score {
    /// All of it: 0 to [`SCORE_MAX`].
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// The parts that count.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        let all = Term::ALL.into_iter();
        all.filter(|term| self.mix.get(*term) > 0).map(|term| Part {
            term,
            value: self.values[term.index()],
            weight_permille: permille(self.mix.get(term)),
        })
    }

    /// The part that adds most.
    #[must_use]
    pub fn leading(&self) -> Option<Part> {
        self.parts()
            .max_by_key(|part| u64::from(part.value) * u64::from(part.weight_permille))
    }
}

/// A score for people: in percent.
pub(super) struct Percent(pub(super) u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}%", self.0 / 10_000, self.0 % 10_000 / 1_000)
    }
}
